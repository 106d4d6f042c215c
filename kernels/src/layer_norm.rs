//! Layer normalisation over the last dimension (Ba, Kiros, Hinton 2016).

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{self, Element, by_dtype};
use crate::map::CHUNK;
use crate::mixed::goes_with;
use crate::simd::multiversion;
use crate::threads::Tasks;
use crate::{Var, portable, rows};

/// Rows of one task: fixed, so that sums over rows do not depend on the number of threads.
fn rows_a_task(width: usize) -> usize {
    (2 * CHUNK / width).max(1)
}

/// Mean and reciprocal standard deviation of a row.
///
/// Two passes over a row that sits in the level-1 cache: one pass with `E[x^2] - E[x]^2` would cancel.
#[inline(always)]
fn moments<T: Element>(x: &[T], eps: T) -> (T, T) {
    let inverse = T::lit(1.0 / x.len() as f64);
    let mean = rows::sum(x) * inverse;
    let variance = rows::sum_squares_about(x, mean) * inverse;
    (mean, T::one() / (variance + eps).sqrt())
}

multiversion! {
    /// Normalises rows of `x`; `stats` receives (mean, 1 / standard deviation) of each.
    fn forward_rows<T: Element>(x: &[T], w: &[T], b: &[T], eps: T, out: &mut [T], stats: &mut [[T; 2]]) {
        let width = w.len();
        let b = &b[..width];
        for ((x, out), stats) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(stats) {
            let (mean, rstd) = moments(x, eps);
            *stats = [mean, rstd];
            for ((out, x), (w, b)) in out.iter_mut().zip(x).zip(w.iter().zip(b)) {
                *out = ((*x - mean) * rstd).fma(*w, *b);
            }
        }
    }
    /// The gradients of rows of `x`, with `other` added unless it is empty; adds these rows' share to `dw` and `db`.
    fn backward_rows<T: Element>(
        x: &[T], w: &[T], stats: &[[T; 2]], g: &[T], other: &[T], dx: &mut [T], dw: &mut [T], db: &mut [T],
    ) {
        let width = w.len();
        let (dw, db) = (&mut dw[..width], &mut db[..width]);
        let inverse = T::lit(1.0 / width as f64);
        for (i, &[mean, rstd]) in stats.iter().enumerate() {
            let row = i * width..(i + 1) * width;
            let (x, g, dx) = (&x[row.clone()], &g[row.clone()], &mut dx[row]);
            let (sum, inner) = rows::layer_norm_sums(x, g, w, mean, rstd);
            let (sum, inner) = (sum * inverse, inner * inverse);
            for c in 0..width {
                let normal = (x[c] - mean) * rstd;
                dw[c] += g[c] * normal;
                db[c] += g[c];
                dx[c] = (g[c] * w[c] - sum - normal * inner) * rstd;
            }
            if !other.is_empty() {
                rows::add_assign(dx, &other[i * width..(i + 1) * width]);
            }
        }
    }
}

/// `(x - mean) / sqrt(variance + eps) * w + b` over the last dimension: `[.., C]` with `w` and `b` `[C]`.
/// The variance is the biased one, as in PyTorch and Flax.
///
/// # Errors
/// When C is 0, `w` or `b` is not `[C]`, or the element types differ.
pub fn layer_norm(x: &Var, w: &Var, b: &Var, eps: f64) -> Result<Var> {
    check(x, w, b)?;
    if portable::takes(x.value()) {
        return portable::norm::layer_norm(x, w, b, eps);
    }
    let input = x.value().contiguous()?;
    let (w_value, b_value) = (w.value().contiguous()?, b.value().contiguous()?);
    by_dtype!("layer_norm", x, T => {
        let (out, stats) = forward::<T>(&input, &w_value, &b_value, eps)?;
        Ok(Var::record_adding("layer_norm", out, &[x, w, b], move |grad, _, other| {
            let other = match other {
                Some(other) => other.contiguous()?,
                None => Tensor::zeros(0, grad.dtype(), grad.device())?,
            };
            backward::<T>(&input, &w_value, &stats, &grad.contiguous()?, &other)
        }))
    })
}

fn check(x: &Var, w: &Var, b: &Var) -> Result<()> {
    let width = x.dims().last().copied().unwrap_or(0);
    if width == 0 || w.dims() != [width] || b.dims() != [width] {
        bail!(
            "layer_norm: expected x [.., C], w [C], b [C] with C at least 1, got {:?}, {:?}, {:?}",
            x.dims(),
            w.dims(),
            b.dims()
        );
    }
    if !goes_with(w.dtype(), x) || !goes_with(b.dtype(), x) {
        bail!("layer_norm: expected one element type, got {:?}, {:?}, {:?}", x.dtype(), w.dtype(), b.dtype());
    }
    Ok(())
}

/// The output, and (mean, 1 / standard deviation) of every row.
fn forward<T: Element>(x: &Tensor, w: &Tensor, b: &Tensor, eps: f64) -> Result<(Tensor, Vec<[T; 2]>)> {
    let (out, stats) = cpu::with_slice::<T, _>(x, |x| {
        cpu::with_slice::<T, _>(w, |w| {
            cpu::with_slice::<T, _>(b, |b| {
                let (width, task) = (w.len(), rows_a_task(w.len()));
                let mut out = cpu::uninit(x.len());
                let mut stats = vec![[T::zero(); 2]; x.len() / width];
                out.par_chunks_mut(task * width)
                    .zip(stats.par_chunks_mut(task))
                    .zip(x.par_chunks(task * width))
                    .one_by_one()
                    .for_each(|((out, stats), x)| forward_rows(x, w, b, T::lit(eps), out, stats));
                Ok((out, stats))
            })
        })
    })?;
    Ok((Tensor::from_vec(out, x.shape(), x.device())?, stats))
}

/// Gradients of x, with `other` added unless it is empty, w and b.
fn backward<T: Element>(
    x: &Tensor,
    w: &Tensor,
    stats: &[[T; 2]],
    g: &Tensor,
    other: &Tensor,
) -> Result<Vec<Option<Tensor>>> {
    let (dx, dw, db) = cpu::with_slice::<T, _>(x, |x| {
        cpu::with_slice::<T, _>(w, |w| {
            cpu::with_slice::<T, _>(g, |g| {
                cpu::with_slice::<T, _>(other, |other| Ok(backward_slices(x, w, stats, g, other)))
            })
        })
    })?;
    let row = |data| Tensor::from_vec(data, w.shape(), w.device()).map(Some);
    Ok(vec![Some(Tensor::from_vec(dx, x.shape(), x.device())?), row(dw)?, row(db)?])
}

/// The same on slices.
fn backward_slices<T: Element>(
    x: &[T],
    w: &[T],
    stats: &[[T; 2]],
    g: &[T],
    other: &[T],
) -> (Vec<T>, Vec<T>, Vec<T>) {
    let (width, task) = (w.len(), rows_a_task(w.len()));
    let mut dx = cpu::uninit(x.len());
    let partial: Vec<(Vec<T>, Vec<T>)> = dx
        .par_chunks_mut(task * width)
        .zip(x.par_chunks(task * width))
        .zip(g.par_chunks(task * width))
        .zip(stats.par_chunks(task))
        .enumerate()
        .one_by_one()
        .map(|(i, (((dx, x), g), stats))| {
            let (mut dw, mut db) = (vec![T::zero(); width], vec![T::zero(); width]);
            let other = if other.is_empty() { other } else { &other[i * task * width..][..x.len()] };
            backward_rows(x, w, stats, g, other, dx, &mut dw, &mut db);
            (dw, db)
        })
        .collect();
    let (mut dw, mut db) = (vec![T::zero(); width], vec![T::zero(); width]);
    for (w, b) in &partial {
        rows::add_assign(&mut dw, w);
        rows::add_assign(&mut db, b);
    }
    (dx, dw, db)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradients, pattern};

    #[test]
    fn gradients_agree_with_differences() -> Result<()> {
        for dims in [vec![2, 3, 5, 16], vec![7, 33], vec![1]] {
            let width = dims[dims.len() - 1];
            let inputs = [pattern(&dims, 1)?, pattern(&[width], 2)?, pattern(&[width], 3)?];
            check_gradients(|x| layer_norm(&x[0], &x[1], &x[2], 1e-3), &inputs)?;
            // Beside a skip connection, whose gradient the layer norm's backward pass adds to its own.
            check_gradients(|x| crate::add(&x[0], &layer_norm(&x[0], &x[1], &x[2], 1e-3)?), &inputs)?;
        }
        Ok(())
    }

    /// More rows than a task has, beside a skip connection, against the composition of tensor operations.
    #[test]
    fn gradients_over_several_tasks_agree_with_the_composition() -> Result<()> {
        let dims = [400, 96];
        assert!(rows_a_task(dims[1]) < dims[0]);
        let weights = Var::constant(pattern(&dims, 4)?);
        let run = |f: fn(&Var, &Var, &Var, f64) -> Result<Var>| -> Result<Vec<Tensor>> {
            let v =
                [Var::leaf(pattern(&dims, 1)?), Var::leaf(pattern(&[96], 2)?), Var::leaf(pattern(&[96], 3)?)];
            let y = crate::add(&v[0], &f(&v[0], &v[1], &v[2], 1e-3)?)?;
            let gradients = crate::backward(crate::sum_all(&crate::mul(&y, &weights)?)?)?;
            let gradients = v.iter().filter_map(|leaf| gradients.leaf(leaf).cloned());
            Ok([y.into_value()].into_iter().chain(gradients).collect())
        };
        let (found, want) = (run(layer_norm)?, run(portable::norm::layer_norm)?);
        assert_eq!((found.len(), want.len()), (4, 4));
        for (i, (found, want)) in found.iter().zip(&want).enumerate() {
            let error = (found - want)?.abs()?.max_all()?.to_scalar::<f64>()?;
            assert!(error < 1e-10, "output {i}: {error:e}");
        }
        Ok(())
    }

    #[test]
    fn a_large_mean_does_not_swallow_the_variance() -> Result<()> {
        let x = Tensor::new(&[[4096.0f32, 4097.0, 4098.0, 4099.0]], &crate::gradcheck::device())?;
        let (w, b) =
            (Var::constant(x.ones_like()?.flatten_all()?), Var::constant(x.zeros_like()?.flatten_all()?));
        let y = layer_norm(&Var::constant(x), &w, &b, 0.0)?.into_value().flatten_all()?.to_vec1::<f32>()?;
        for (y, want) in y.iter().zip([-1.5f32, -0.5, 0.5, 1.5]) {
            assert!((y - want / 1.25f32.sqrt()).abs() < 1e-6, "{y}");
        }
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() -> Result<()> {
        let (x, w) = (Var::constant(pattern(&[2, 4], 1)?), Var::constant(pattern(&[3], 1)?));
        assert!(layer_norm(&x, &w, &w, 1e-6).is_err());
        Ok(())
    }
}
