//! Scaled dot-product attention inside blocks of tokens (Vaswani et al. 2017), with one key and value head
//! for each query head or one shared by all (multi-query: Shazeer 2019).
//!
//! One head of one block at a time: scores, softmax and weighted sum stay in the cache, heads are read where the
//! projection left them (nothing is permuted or copied but the transpose of one key head), and the backward
//! pass computes the probabilities again from two numbers a row instead of keeping them.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::Var;
use crate::cpu::{self, by_dtype};
use crate::gemm::Mat;
use crate::map::CHUNK;
use crate::mixed::go_together;
use crate::portable;
use crate::rows::{self, LANES};
use crate::scratch::scratch;
use crate::simd::multiversion;
use crate::small_gemm::{small_gemm, transpose};
use crate::threads::Tasks;
use crate::vmath::Math;

/// Where the heads of one block are: queries in rows of `q_row` elements, keys and values in rows of `kv_row`.
#[derive(Clone, Copy, Debug)]
struct Heads {
    tokens: usize,
    heads: usize,
    head_dim: usize,
    q_row: usize,
    kv_row: usize,
    /// Columns of the first key and value head.
    first: (usize, usize),
    /// Whether all query heads use the first key and value head.
    shared: bool,
}

impl Heads {
    fn channels(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns where key and value head `head` start.
    fn kv_at(&self, head: usize) -> (usize, usize) {
        let skip = if self.shared { 0 } else { head * self.head_dim };
        (self.first.0 + skip, self.first.1 + skip)
    }

    /// Row length of the score matrix: whole vectors.
    fn score_row(&self) -> usize {
        self.tokens.next_multiple_of(LANES)
    }

    fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }

    /// Blocks of one task.
    fn task(&self) -> usize {
        (CHUNK / (self.tokens * self.channels())).max(1)
    }
}

// Working memory comes from outside: a closure that `scratch` calls would be compiled without the instruction set.
/// One block: writes the output rows, and two numbers for every head and row (see [`probability_rows`]).
fn forward_block<T: Math>(h: Heads, q: &[T], kv: &[T], out: &mut [T], stats: &mut [[T; 2]]) {
    let (n, hd, row) = (h.tokens, h.head_dim, h.score_row());
    scratch((hd + n) * row, |working| {
        let (keys, scores) = working.split_at_mut(hd * row);
        for (head, stats) in stats.chunks_exact_mut(n).enumerate() {
            let (k_at, v_at) = h.kv_at(head);
            if head == 0 || !h.shared {
                transpose((n, hd), &kv[k_at..], h.kv_row, keys, row);
            }
            let queries = Mat::rows(&q[head * hd..], h.q_row);
            small_gemm((n, row, hd), queries, Mat::rows(keys, row), scores, row, false);
            probability_rows(scores, n, T::lit(h.scale()), stats);
            let values = Mat::rows(&kv[v_at..], h.kv_row);
            small_gemm((n, hd, n), Mat::rows(scores, row), values, &mut out[head * hd..], h.channels(), false);
        }
    });
}

/// One block: from the gradient `g` of the output to those of the queries (`dq`), keys and values (`dkv`, or inside
/// `dq` if the three are packed).
fn backward_block<T: Math>(
    h: Heads,
    (q, kv, stats, g): (&[T], &[T], &[[T; 2]], &[T]),
    dq: &mut [T],
    mut dkv: Option<&mut [T]>,
) {
    let (n, hd, row) = (h.tokens, h.head_dim, h.score_row());
    scratch(2 * (hd + n) * row, |working| {
        let (keys, working) = working.split_at_mut(hd * row);
        let (values, working) = working.split_at_mut(hd * row);
        let (p, dp) = working.split_at_mut(n * row);
        for (head, stats) in stats.chunks_exact(n).enumerate() {
            let (k_at, v_at) = h.kv_at(head);
            if head == 0 || !h.shared {
                transpose((n, hd), &kv[k_at..], h.kv_row, keys, row);
                transpose((n, hd), &kv[v_at..], h.kv_row, values, row);
            }
            let (queries, g) = (Mat::rows(&q[head * hd..], h.q_row), Mat::rows(&g[head * hd..], h.channels()));
            small_gemm((n, row, hd), queries, Mat::rows(keys, row), p, row, false);
            small_gemm((n, row, hd), g, Mat::rows(values, row), dp, row, false);
            probability_rows_backward(p, dp, n, T::lit(h.scale()), stats);
            let (add, p, ds) = (h.shared && head > 0, Mat::rows(p, row), Mat::rows(dp, row));
            small_gemm((n, hd, n), ds, Mat::rows(&kv[k_at..], h.kv_row), &mut dq[head * hd..], h.q_row, false);
            let dkv = match &mut dkv {
                Some(dkv) => &mut **dkv,
                None => &mut *dq,
            };
            small_gemm((n, hd, n), ds.t(), queries, &mut dkv[k_at..], h.kv_row, add);
            small_gemm((n, hd, n), p.t(), g, &mut dkv[v_at..], h.kv_row, add);
        }
    });
}

multiversion! {
    /// Softmax of `scale * s` over the first `n` of each row of whole vectors, in place; the rest becomes 0. `stats`
    /// receives (`scale` times the largest score, 1 / sum of exponentials).
    fn probability_rows<T: Math>(s: &mut [T], n: usize, scale: T, stats: &mut [[T; 2]]) {
        for (s, stats) in s.chunks_exact_mut(n.next_multiple_of(LANES)).zip(stats) {
            s[n..].fill(T::lit(f64::NEG_INFINITY));
            let top = rows::max(s) * scale;
            for s in s.iter_mut() {
                *s = (s.fma(scale, -top)).exp();
            }
            let norm = T::one() / rows::sum(s);
            for s in s.iter_mut() {
                *s *= norm;
            }
            *stats = [top, norm];
        }
    }
    /// Turns the scores `p` into the probabilities that [`probability_rows`] found, and their gradients `dp` into
    /// the gradients of the scores before scaling.
    fn probability_rows_backward<T: Math>(p: &mut [T], dp: &mut [T], n: usize, scale: T, stats: &[[T; 2]]) {
        let width = n.next_multiple_of(LANES);
        for ((p, dp), &[top, norm]) in p.chunks_exact_mut(width).zip(dp.chunks_exact_mut(width)).zip(stats) {
            p[n..].fill(T::lit(f64::NEG_INFINITY));
            for p in p.iter_mut() {
                *p = (p.fma(scale, -top)).exp() * norm;
            }
            let inner = rows::dot(p, dp);
            for (dp, p) in dp.iter_mut().zip(p.iter()) {
                *dp = *p * (*dp - inner) * scale;
            }
        }
    }
}

/// Attention among the N tokens of each block: `qkv` is `[B, T, N, 3C]`, queries, keys and values of C =
/// `num_heads` * head dimension channels each, head after head. Returns `[B, T, N, C]`.
///
/// # Errors
/// When the last dimension is not a multiple of 3 `num_heads`, or a dimension is 0.
pub fn attention(qkv: &Var, num_heads: usize) -> Result<Var> {
    let &[batch, blocks, tokens, channels] = qkv.dims() else {
        bail!("attention: expected qkv [B, T, N, 3C], got {:?}", qkv.dims())
    };
    if num_heads == 0 || channels == 0 || tokens == 0 || channels % (3 * num_heads) != 0 {
        bail!("attention: expected [B, T, N, 3C] with C a multiple of {num_heads} heads, got {:?}", qkv.dims());
    }
    if portable::takes(qkv.value()) {
        return portable::attention::attention(qkv, num_heads);
    }
    let c = channels / 3;
    let heads = Heads {
        tokens,
        heads: num_heads,
        head_dim: c / num_heads,
        q_row: channels,
        kv_row: channels,
        first: (c, 2 * c),
        shared: false,
    };
    let input = qkv.value().contiguous()?;
    by_dtype!("attention", qkv, T => {
        let (out, stats) = forward::<T>(heads, &input, &input, &[batch, blocks, tokens, c])?;
        Ok(Var::record_once("attention", out, &[qkv], move |grad, _| {
            let (dqkv, _) = backward::<T>(heads, &input, &input, &stats, grad)?;
            Ok(vec![Some(dqkv)])
        }))
    })
}

/// Attention with one key and one value head for all query heads: `q` is `[B, T, N, C]`, C = `num_heads` * hd,
/// head after head; `kv` is `[B, T, N, 2 hd]`, keys first. Returns `[B, T, N, C]`.
///
/// # Errors
/// When C is not a multiple of `num_heads`, `kv` does not fit `q`, or a dimension is 0.
pub fn multi_query_attention(q: &Var, kv: &Var, num_heads: usize) -> Result<Var> {
    let &[batch, blocks, tokens, channels] = q.dims() else {
        bail!("multi_query_attention: expected q [B, T, N, C], got {:?}", q.dims())
    };
    if num_heads == 0 || channels == 0 || tokens == 0 || channels % num_heads != 0 {
        bail!(
            "multi_query_attention: expected q [B, T, N, C], C a multiple of {num_heads}, got {:?}",
            q.dims()
        );
    }
    let head_dim = channels / num_heads;
    let expected = [batch, blocks, tokens, 2 * head_dim];
    if kv.dims() != expected || !go_together(kv, q) {
        bail!("multi_query_attention: expected kv {expected:?} {:?}, got {kv:?}", q.dtype());
    }
    if portable::takes(q.value()) {
        return portable::attention::multi_query_attention(q, kv, num_heads);
    }
    let heads = Heads {
        tokens,
        heads: num_heads,
        head_dim,
        q_row: channels,
        kv_row: 2 * head_dim,
        first: (0, head_dim),
        shared: true,
    };
    let (q_value, kv_value) = (q.value().contiguous()?, kv.value().contiguous()?);
    by_dtype!("multi_query_attention", q, T => {
        let (out, stats) = forward::<T>(heads, &q_value, &kv_value, q.dims())?;
        Ok(Var::record_once("multi_query_attention", out, &[q, kv], move |grad, _| {
            let (dq, dkv) = backward::<T>(heads, &q_value, &kv_value, &stats, grad)?;
            Ok(vec![Some(dq), dkv])
        }))
    })
}

/// The output, and two numbers for every block, head and token (see [`probability_rows`]).
fn forward<T: Math>(h: Heads, q: &Tensor, kv: &Tensor, dims: &[usize]) -> Result<(Tensor, Vec<[T; 2]>)> {
    let (out, stats) = cpu::with_slice::<T, _>(q, |q| {
        cpu::with_slice::<T, _>(kv, |kv| {
            let (q_block, kv_block) = (h.tokens * h.q_row, h.tokens * h.kv_row);
            let (out_block, stats_block) = (h.tokens * h.channels(), h.tokens * h.heads);
            let blocks = q.len() / q_block;
            let mut out = cpu::uninit(blocks * out_block);
            let mut stats = vec![[T::zero(); 2]; blocks * stats_block];
            out.par_chunks_mut(h.task() * out_block)
                .zip(stats.par_chunks_mut(h.task() * stats_block))
                .zip(q.par_chunks(h.task() * q_block).zip(kv.par_chunks(h.task() * kv_block)))
                .one_by_one()
                .for_each(|((out, stats), (q, kv))| {
                    let outputs = out.chunks_exact_mut(out_block).zip(stats.chunks_exact_mut(stats_block));
                    let inputs = q.chunks_exact(q_block).zip(kv.chunks_exact(kv_block));
                    for ((out, stats), (q, kv)) in outputs.zip(inputs) {
                        forward_block(h, q, kv, out, stats);
                    }
                });
            Ok((out, stats))
        })
    })?;
    Ok((Tensor::from_vec(out, dims, q.device())?, stats))
}

/// Gradients of `q` and `kv`; of the packed tensor alone if the two are one.
fn backward<T: Math>(
    h: Heads,
    q: &Tensor,
    kv: &Tensor,
    stats: &[[T; 2]],
    grad: &Tensor,
) -> Result<(Tensor, Option<Tensor>)> {
    let grad = grad.contiguous()?;
    let (dq, dkv) = cpu::with_slice::<T, _>(q, |q| {
        cpu::with_slice::<T, _>(kv, |kv| {
            cpu::with_slice::<T, _>(&grad, |g| {
                let mut dq = cpu::uninit(q.len());
                let mut dkv = cpu::uninit(if h.shared { kv.len() } else { 0 });
                backward_slices(h, (q, kv, stats, g), &mut dq, &mut dkv);
                Ok((dq, dkv))
            })
        })
    })?;
    let dkv = if h.shared { Some(Tensor::from_vec(dkv, kv.shape(), kv.device())?) } else { None };
    Ok((Tensor::from_vec(dq, q.shape(), q.device())?, dkv))
}

fn backward_slices<T: Math>(
    h: Heads,
    (q, kv, stats, g): (&[T], &[T], &[[T; 2]], &[T]),
    dq: &mut [T],
    dkv: &mut [T],
) {
    let (q_block, kv_block) = (h.tokens * h.q_row, h.tokens * h.kv_row);
    let (out_block, stats_block) = (h.tokens * h.channels(), h.tokens * h.heads);
    let tasks = q.len().div_ceil(h.task() * q_block);
    let mut dkv_tasks: Vec<Option<&mut [T]>> = dkv.chunks_mut(h.task() * kv_block).map(Some).collect();
    dkv_tasks.resize_with(tasks, || None);
    dq.par_chunks_mut(h.task() * q_block)
        .zip(dkv_tasks)
        .zip(q.par_chunks(h.task() * q_block).zip(kv.par_chunks(h.task() * kv_block)))
        .zip(stats.par_chunks(h.task() * stats_block).zip(g.par_chunks(h.task() * out_block)))
        .one_by_one()
        .for_each(|(((dq, mut dkv), (q, kv)), (stats, g))| {
            for (i, dq) in dq.chunks_exact_mut(q_block).enumerate() {
                let (q, kv) = (&q[i * q_block..][..q_block], &kv[i * kv_block..][..kv_block]);
                let (stats, g) = (&stats[i * stats_block..][..stats_block], &g[i * out_block..][..out_block]);
                let dkv = dkv.as_deref_mut().map(|dkv| &mut dkv[i * kv_block..][..kv_block]);
                backward_block(h, (q, kv, stats, g), dq, dkv);
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradients, pattern};
    use crate::{narrow, permute, reshape};

    /// Attention spelled out in other operations, for one key and value head a query head.
    fn composed(qkv: &Var, heads: usize) -> Result<Var> {
        let &[b, t, n, c3] = qkv.dims() else { bail!("rank") };
        let hd = c3 / 3 / heads;
        let split = permute(&reshape(qkv, &[b * t, n, 3, heads, hd])?, &[2, 0, 3, 1, 4])?;
        let part = |i| reshape(&narrow(&split, 0, i, 1)?, &[b * t, heads, n, hd]);
        let scores =
            crate::scale(&crate::matmul(&part(0)?, &part(1)?, false, true)?, 1.0 / (hd as f64).sqrt())?;
        let out = crate::matmul(&crate::softmax(&scores)?, &part(2)?, false, false)?;
        reshape(&permute(&out, &[0, 2, 1, 3])?, &[b, t, n, heads * hd])
    }

    #[test]
    fn gradients_agree_with_differences() -> Result<()> {
        for (dims, heads) in [([1, 1, 16, 12], 1), ([2, 3, 5, 24], 2), ([1, 2, 17, 18], 3)] {
            check_gradients(|x| attention(&x[0], heads), &[pattern(&dims, 1)?])?;
        }
        let inputs = [pattern(&[2, 2, 7, 12], 2)?, pattern(&[2, 2, 7, 8], 3)?];
        check_gradients(|x| multi_query_attention(&x[0], &x[1], 3), &inputs)
    }

    #[test]
    fn agrees_with_the_composed_operation_at_odd_sizes() -> Result<()> {
        for (tokens, heads, hd) in [(16, 3, 64), (49, 2, 24), (64, 4, 32), (65, 3, 48), (196, 1, 16), (1, 1, 1)]
        {
            let x = pattern(&[2, 1, tokens, 3 * heads * hd], 4)?.to_dtype(candle_core::DType::F32)?;
            let weights = Var::constant(pattern(&[2, 1, tokens, heads * hd], 5)?.to_dtype(x.dtype())?);
            let run = |f: &dyn Fn(&Var) -> Result<Var>| -> Result<[Tensor; 2]> {
                let leaf = Var::leaf(x.clone());
                let out = f(&leaf)?;
                let value = out.value().clone();
                let gradients = crate::backward(crate::sum_all(&crate::mul(&out, &weights)?)?)?;
                Ok([value, gradients.leaf(&leaf).cloned().unwrap_or(x.zeros_like()?)])
            };
            let (found, want) = (run(&|x| attention(x, heads))?, run(&|x| composed(x, heads))?);
            for (found, want) in found.iter().zip(&want) {
                let worst = (found - want)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(worst < 1e-4, "{tokens} tokens, {heads} heads of {hd}: off by {worst}");
            }
        }
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() -> Result<()> {
        let x = Var::constant(pattern(&[1, 1, 4, 10], 1)?);
        assert!(attention(&x, 2).is_err());
        assert!(attention(&x, 0).is_err());
        assert!(multi_query_attention(&x, &x, 5).is_err());
        Ok(())
    }
}
