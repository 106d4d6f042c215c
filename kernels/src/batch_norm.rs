//! Batch normalisation over every dimension but the last (Ioffe and Szegedy, 2015, arXiv:1502.03167).
//!
//! Differs from PyTorch: the caller keeps the running statistics; [`batch_norm`] returns those of the batch.

use std::rc::Rc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{self, Element, by_dtype};
use crate::cuda::fused;
use crate::map::CHUNK;
use crate::mixed::goes_with;
use crate::portable;
use crate::reduce::{accumulate_rows, column_reduce, reduce_width};
use crate::simd::multiversion;
use crate::threads::Tasks;
use crate::{Var, add, scale};

multiversion! {
    fn add_squares<T: Element>(x: &[T], mean: &[T], sums: &mut [T]) {
        for row in x.chunks_exact(sums.len()) {
            for ((sum, x), mean) in sums.iter_mut().zip(row).zip(mean) {
                let d = *x - *mean;
                *sum = d.fma(d, *sum);
            }
        }
    }
    /// Adds `grad * (x - mean)` and `grad` to the column sums.
    fn add_gradients<T: Element>(x: &[T], grad: &[T], mean: &[T], dw: &mut [T], db: &mut [T]) {
        let width = dw.len();
        for (row, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
            for ((((dw, db), x), g), mean) in dw.iter_mut().zip(db.iter_mut()).zip(row).zip(grad).zip(mean) {
                *dw = (*x - *mean).fma(*g, *dw);
                *db += *g;
            }
        }
    }
    /// `out = x * scale + offset`, by column.
    fn scale_rows<T: Element>(x: &[T], scale: &[T], offset: &[T], out: &mut [T]) {
        let width = scale.len();
        for (out, row) in out.chunks_mut(width).zip(x.chunks(width)) {
            for (((out, x), scale), offset) in out.iter_mut().zip(row).zip(scale).zip(offset) {
                *out = x.fma(*scale, *offset);
            }
        }
    }
    /// `out = grad * a + x * b + c`, by column.
    fn combine_rows<T: Element>(grad: &[T], x: &[T], a: &[T], b: &[T], c: &[T], out: &mut [T]) {
        let width = a.len();
        for ((out, grad), row) in out.chunks_mut(width).zip(grad.chunks(width)).zip(x.chunks(width)) {
            for (((((out, g), x), a), b), c) in out.iter_mut().zip(grad).zip(row).zip(a).zip(b).zip(c) {
                *out = g.fma(*a, x.fma(*b, *c));
            }
        }
    }
}

/// A vector of C numbers repeated to the width that the row loops work on.
fn widen<T: Element>(v: &[f64]) -> Vec<T> {
    v.iter().cycle().take(reduce_width(v.len())).map(|x| T::lit(*x)).collect()
}

/// Elements of a chunk that is a whole number of wide rows.
fn chunk(wide: usize) -> usize {
    (CHUNK / wide.max(1)).max(1) * wide.max(1)
}

fn check(name: &str, x: &Var, vectors: &[(&str, &Tensor)]) -> Result<usize> {
    let Some(&channels) = x.dims().last() else { bail!("{name}: expected x [.., C], got []") };
    for (what, v) in vectors {
        if v.dims() != [channels] || !goes_with(v.dtype(), x) {
            let (dims, ty) = (v.dims(), v.dtype());
            bail!("{name}: expected {what} [{channels}] of type {:?}, got {dims:?} {ty:?}", x.dtype());
        }
    }
    Ok(channels)
}

fn floats<T: Element>(x: &Tensor) -> Result<Vec<f64>> {
    cpu::with_slice::<T, _>(&x.contiguous()?, |x| Ok(x.iter().map(|x| x.to_f64()).collect()))
}

/// Replaces each number by its sum over all who hold a part of a batch, for example the processes of data-parallel
/// training. All of them call it, in the same order.
pub type SumOverParts = Rc<dyn Fn(&mut [f64])>;

/// What [`batch_norm`] found out about a batch.
#[derive(Clone, Debug)]
pub struct BatchStatistics {
    /// The mean of each channel, `[C]`.
    pub mean: Tensor,
    /// Its biased variance, `[C]`.
    pub var: Tensor,
    /// How many rows these are of.
    pub rows: f64,
}

impl BatchStatistics {
    /// What running averages of the mean and of the unbiased variance are after this batch, whose weight is `momentum`, outside
    /// any graph.
    ///
    /// # Errors
    /// When shapes or types disagree.
    pub fn move_averages(&self, mean: &Tensor, var: &Tensor, momentum: f64) -> Result<[Tensor; 2]> {
        let unbiased = self.rows / (self.rows - 1.0).max(1.0);
        let moved = |running: &Tensor, now: &Tensor, factor: f64| -> Result<Tensor> {
            let (keep, take) = (1.0 - momentum, factor * momentum);
            if fused::takes(running) {
                return fused::blend(running, keep, now, take);
            }
            let [running, now] = [running, now].map(|x| Var::constant(x.clone()));
            Ok(add(&scale(&running, keep)?, &scale(&now, take)?)?.into_value())
        };
        Ok([moved(mean, &self.mean, 1.0)?, moved(var, &self.var, unbiased)?])
    }
}

/// Normalises each channel of `x [.., C]` by the statistics of the batch, then applies gain `w [C]` and offset
/// `b [C]`.
///
/// With `parts`, `x` is a part of the batch, and others hold the rest: the statistics and the gradient of `x` are those
/// of the whole batch for a loss that is the sum of everybody's, the gradients of `w` and `b` those of this part.
///
/// # Errors
/// When the channels disagree, or there is not a single row to take statistics of.
pub fn batch_norm(
    x: &Var,
    w: &Var,
    b: &Var,
    eps: f64,
    parts: Option<&SumOverParts>,
) -> Result<(Var, BatchStatistics)> {
    let channels = check("batch_norm", x, &[("w", w.value()), ("b", b.value())])?;
    if x.value().elem_count() == 0 {
        bail!("batch_norm: expected at least one row, got {:?}", x.dims());
    }
    if portable::takes(x.value()) {
        return portable::norm::batch_norm(x, w, b, eps, parts);
    }
    let (mean, var, rows) = by_dtype!("batch_norm", x, T => statistics::<T>(x.value(), channels, parts))?;
    let rstd: Vec<f64> = var.iter().map(|v| 1.0 / (v + eps).sqrt()).collect();
    let value = by_dtype!("batch_norm", x, T => normalise::<T>(x.value(), w.value(), b.value(), &mean, &rstd))?;
    let vector = |v: &[f64]| Tensor::from_slice(v, v.len(), x.device())?.to_dtype(x.dtype());
    let statistics = BatchStatistics { mean: vector(&mean)?, var: vector(&var)?, rows };
    let (kept_x, kept_w) = (x.value().clone(), w.value().clone());
    let batch = Batch { rows, parts: parts.cloned() };
    let y = Var::record_once(
        "batch_norm",
        value,
        &[x, w, b],
        move |grad, wants| by_dtype!("batch_norm", grad, T => backward::<T>(grad, &kept_x, &kept_w, &mean, &rstd, Some(&batch), wants)),
    );
    Ok((y, statistics))
}

/// The batch that statistics were taken of.
pub(crate) struct Batch {
    /// All its rows.
    pub(crate) rows: f64,
    /// Where others hold the rest of it.
    pub(crate) parts: Option<SumOverParts>,
}

/// Sums over the whole batch, from those over this part.
pub(crate) fn add_up(mut sums: Vec<f64>, parts: Option<&SumOverParts>) -> Vec<f64> {
    if let Some(sum) = parts {
        sum(&mut sums);
    }
    sums
}

/// [`batch_norm`] with given statistics `mean [C]` and `var [C]`.
///
/// # Errors
/// When the channels disagree.
pub fn batch_norm_eval(x: &Var, w: &Var, b: &Var, mean: &Tensor, var: &Tensor, eps: f64) -> Result<Var> {
    check("batch_norm_eval", x, &[("w", w.value()), ("b", b.value()), ("mean", mean), ("var", var)])?;
    if portable::takes(x.value()) {
        return portable::norm::normalise(x, w, b, mean, var, eps, None);
    }
    let mean = by_dtype!("batch_norm_eval", x, T => floats::<T>(mean))?;
    let var = by_dtype!("batch_norm_eval", x, T => floats::<T>(var))?;
    let rstd: Vec<f64> = var.iter().map(|v| 1.0 / (v + eps).sqrt()).collect();
    let value =
        by_dtype!("batch_norm_eval", x, T => normalise::<T>(x.value(), w.value(), b.value(), &mean, &rstd))?;
    let (kept_x, kept_w) = (x.value().clone(), w.value().clone());
    Ok(Var::record_once(
        "batch_norm_eval",
        value,
        &[x, w, b],
        move |grad, wants| by_dtype!("batch_norm_eval", grad, T => backward::<T>(grad, &kept_x, &kept_w, &mean, &rstd, None, wants)),
    ))
}

/// Mean and biased variance of each channel, in two passes (one pass loses the variance of large means), and the rows
/// that they are of.
fn statistics<T: Element>(
    x: &Tensor,
    channels: usize,
    parts: Option<&SumOverParts>,
) -> Result<(Vec<f64>, Vec<f64>, f64)> {
    cpu::with_slice::<T, _>(&x.contiguous()?, |x| {
        let mut sums = column_reduce(x.len(), channels, 1, |r, _, sums| accumulate_rows(&x[r], sums));
        sums.push((x.len() / channels) as f64);
        let mut sums = add_up(sums, parts);
        let rows = sums.pop().unwrap_or_default();
        let mean: Vec<f64> = sums.iter().map(|s| s / rows).collect();
        let wide = widen::<T>(&mean);
        let squares = column_reduce(x.len(), channels, 1, |r, _, sums| add_squares(&x[r], &wide, sums));
        let var = add_up(squares, parts).iter().map(|s| s / rows).collect();
        Ok((mean, var, rows))
    })
}

fn normalise<T: Element>(x: &Tensor, w: &Tensor, b: &Tensor, mean: &[f64], rstd: &[f64]) -> Result<Tensor> {
    let (w, b) = (floats::<T>(w)?, floats::<T>(b)?);
    let scale: Vec<f64> = w.iter().zip(rstd).map(|(w, r)| w * r).collect();
    let offset: Vec<f64> = b.iter().zip(&scale).zip(mean).map(|((b, s), m)| b - m * s).collect();
    let (scale, offset) = (widen::<T>(&scale), widen::<T>(&offset));
    let out = cpu::with_slice::<T, _>(&x.contiguous()?, |x| {
        let mut out = cpu::uninit(x.len());
        let chunk = chunk(scale.len());
        out.par_chunks_mut(chunk)
            .zip(x.par_chunks(chunk))
            .one_by_one()
            .for_each(|(out, x)| scale_rows(x, &scale, &offset, out));
        Ok(out)
    })?;
    Tensor::from_vec(out, x.shape(), x.device())
}

/// Gradients for x, w and b. With `batch` the mean and the variance are functions of all its rows.
fn backward<T: Element>(
    grad: &Tensor,
    x: &Tensor,
    w: &Tensor,
    mean: &[f64],
    rstd: &[f64],
    batch: Option<&Batch>,
    wants: &[bool],
) -> Result<Vec<Option<Tensor>>> {
    let (grad, x) = (grad.contiguous()?, x.contiguous()?);
    let gain = floats::<T>(w)?;
    let channels = mean.len();
    cpu::with_slice::<T, _>(&grad, |g| {
        cpu::with_slice::<T, _>(&x, |data| {
            let wide_mean = widen::<T>(mean);
            let sums = column_reduce(g.len(), channels, 2, |r, width, sums: &mut [T]| {
                let (dw, db) = sums.split_at_mut(width);
                add_gradients(&data[r.clone()], &g[r], &wide_mean, dw, db);
            });
            let (centred, db) = sums.split_at(channels);
            let dw: Vec<f64> = centred.iter().zip(rstd).map(|(s, r)| s * r).collect();
            let vector = |v: &[f64]| Tensor::from_slice(v, v.len(), x.device())?.to_dtype(x.dtype());
            let mut dx = None;
            if wants[0] {
                // What the statistics pass on is the sum over everybody's rows.
                let (whole, on) = match batch {
                    Some(batch) => (add_up(sums.clone(), batch.parts.as_ref()), 1.0 / batch.rows),
                    None => (vec![0.0; 2 * channels], 0.0),
                };
                let (centred, db) = whole.split_at(channels);
                let a: Vec<f64> = gain.iter().zip(rstd).map(|(w, r)| w * r).collect();
                // dx = a (g - db / rows - xhat dw / rows), as g * a + x * b + c.
                let b: Vec<f64> =
                    (0..channels).map(|c| -a[c] * rstd[c] * (centred[c] * rstd[c]) * on).collect();
                let c: Vec<f64> = (0..channels).map(|c| -a[c] * db[c] * on - b[c] * mean[c]).collect();
                let (a, b, c) = (widen::<T>(&a), widen::<T>(&b), widen::<T>(&c));
                let mut out = cpu::uninit(g.len());
                let chunk = chunk(a.len());
                out.par_chunks_mut(chunk)
                    .zip(g.par_chunks(chunk))
                    .zip(data.par_chunks(chunk))
                    .one_by_one()
                    .for_each(|((out, g), x)| combine_rows(g, x, &a, &b, &c, out));
                dx = Some(Tensor::from_vec(out, x.shape(), x.device())?);
            }
            Ok(vec![dx, Some(vector(&dw)?), Some(vector(db)?)])
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradients, pattern};

    #[test]
    fn gradients_match_differences() -> Result<()> {
        for dims in [vec![6, 3], vec![2, 3, 3, 5], vec![70, 1]] {
            let c = *dims.last().unwrap_or(&1);
            let inputs = [pattern(&dims, 1)?, pattern(&[c], 2)?, pattern(&[c], 3)?];
            check_gradients(|v| Ok(batch_norm(&v[0], &v[1], &v[2], 1e-3, None)?.0), &inputs)?;
            let (mean, var) = (pattern(&[c], 4)?, pattern(&[c], 5)?.sqr()?);
            check_gradients(|v| batch_norm_eval(&v[0], &v[1], &v[2], &mean, &var, 1e-3), &inputs)?;
        }
        Ok(())
    }

    /// More rows than a chunk has, of channels that do not divide it, against the composition of tensor operations.
    #[test]
    fn chunks_are_whole_rows() -> Result<()> {
        for (rows, channels) in [(200, 96), (100, 192), (6000, 3)] {
            assert!(rows * channels > CHUNK && !CHUNK.is_multiple_of(channels));
            let weights = Var::constant(pattern(&[rows, channels], 4)?);
            let run = |composed: bool| -> Result<Vec<Tensor>> {
                let leaf = |dims: &[usize], seed| pattern(dims, seed).map(Var::leaf);
                let v = [leaf(&[rows, channels], 1)?, leaf(&[channels], 2)?, leaf(&[channels], 3)?];
                let y = match composed {
                    true => portable::norm::batch_norm(&v[0], &v[1], &v[2], 1e-3, None)?.0,
                    false => batch_norm(&v[0], &v[1], &v[2], 1e-3, None)?.0,
                };
                let gradients = crate::backward(crate::sum_all(&crate::mul(&y, &weights)?)?)?;
                let gradients = v.iter().filter_map(|leaf| gradients.leaf(leaf).cloned());
                Ok([y.into_value()].into_iter().chain(gradients).collect())
            };
            let (found, want) = (run(false)?, run(true)?);
            assert_eq!((found.len(), want.len()), (4, 4));
            for (i, (found, want)) in found.iter().zip(&want).enumerate() {
                let error = (found - want)?.abs()?.max_all()?.to_scalar::<f64>()?;
                assert!(error < 1e-9, "{channels} channels, output {i}: {error:e}");
            }
        }
        Ok(())
    }

    /// A mean 1000 times the deviation must not swallow the variance, in f32 and over many chunks.
    #[test]
    fn large_means_keep_their_variance() -> Result<()> {
        let x = (pattern(&[50_000, 3], 1)? + 1000.0)?;
        let exact = x.broadcast_sub(&x.mean_keepdim(0)?)?.sqr()?.mean(0)?.to_vec1::<f64>()?;
        let x = Var::constant(x.to_dtype(candle_core::DType::F32)?);
        let one = Var::constant(Tensor::ones(3, candle_core::DType::F32, x.device())?);
        let (_, found) = batch_norm(&x, &one, &one, 1e-5, None)?;
        for (got, exact) in found.var.to_vec1::<f32>()?.iter().zip(exact) {
            assert!((*got as f64 - exact).abs() < 1e-3 * exact, "{got} {exact}");
        }
        assert!(found.mean.to_vec1::<f32>()?.iter().all(|m| (m - 1000.0).abs() < 0.1));
        Ok(())
    }

    /// Two threads with a part of the rows each, and one with all: what differs is the order of sums.
    #[test]
    fn parts_of_a_batch_are_normalised_as_the_whole() -> Result<()> {
        const ROWS: [usize; 2] = [5, 3];
        type Found = [Vec<f64>; 6];
        let run = |rows: std::ops::Range<usize>, parts: Option<&SumOverParts>| -> Result<Found> {
            let (all, weights) = (pattern(&[8, 4], 1)?, pattern(&[8, 4], 4)?);
            let x = Var::leaf(all.narrow(0, rows.start, rows.len())?);
            let (w, b) = (Var::leaf(pattern(&[4], 2)?), Var::leaf(pattern(&[4], 3)?));
            let (y, found) = batch_norm(&x, &w, &b, 1e-3, parts)?;
            assert_eq!(found.rows, 8.0);
            let weights = Var::constant(weights.narrow(0, rows.start, rows.len())?);
            let grads = crate::backward(crate::sum_all(&crate::mul(&crate::square(&y)?, &weights)?)?)?;
            let grad = |leaf| grads.leaf(leaf).cloned().ok_or_else(|| candle_core::Error::Msg("none".into()));
            let numbers = |x: &Tensor| x.flatten_all()?.to_vec1::<f64>();
            Ok([
                numbers(y.value())?,
                numbers(&grad(&x)?)?,
                numbers(&grad(&w)?)?,
                numbers(&grad(&b)?)?,
                numbers(&found.mean)?,
                numbers(&found.var)?,
            ])
        };
        let (barrier, shared) = (std::sync::Barrier::new(2), std::sync::Mutex::new(Vec::new()));
        let (barrier, shared) = (std::sync::Arc::new(barrier), std::sync::Arc::new(shared));
        let part = |rows: std::ops::Range<usize>| {
            let (barrier, shared) = (barrier.clone(), shared.clone());
            let sum = move |values: &mut [f64]| {
                shared.lock().unwrap().push(values.to_vec());
                barrier.wait();
                let sums = shared.lock().unwrap().clone();
                values.iter_mut().enumerate().for_each(|(i, value)| *value = sums[0][i] + sums[1][i]);
                if barrier.wait().is_leader() {
                    shared.lock().unwrap().clear();
                }
                barrier.wait();
            };
            run(rows, Some(&(Rc::new(sum) as SumOverParts))).unwrap()
        };
        let (first, second) = std::thread::scope(|scope| {
            let second = scope.spawn(|| part(ROWS[0]..8));
            (part(0..ROWS[0]), second.join().unwrap())
        });
        let add = |i: usize| first[i].iter().zip(&second[i]).map(|(a, b)| a + b).collect();
        let both = |i: usize| [first[i].clone(), second[i].clone()].concat();
        let joined: Found = [both(0), both(1), add(2), add(3), first[4].clone(), second[5].clone()];
        for (i, (joined, whole)) in joined.iter().zip(run(0..8, None)?).enumerate() {
            assert_eq!(joined.len(), whole.len());
            let apart = joined.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(apart < 1e-12, "{i}: {apart:e}");
        }
        Ok(())
    }

    #[test]
    fn shape_errors_are_errors() -> Result<()> {
        let var = |dims: &[usize]| pattern(dims, 1).map(Var::constant);
        let (x, w) = (var(&[4, 3])?, var(&[3])?);
        assert!(batch_norm(&x, &var(&[4])?, &w, 1e-5, None).is_err());
        assert!(batch_norm(&var(&[])?, &w, &w, 1e-5, None).is_err());
        assert!(batch_norm(&var(&[0, 3])?, &w, &w, 1e-5, None).is_err());
        assert!(batch_norm_eval(&x, &w, &w, &pattern(&[2], 1)?, &pattern(&[3], 1)?, 1e-5).is_err());
        Ok(())
    }
}
