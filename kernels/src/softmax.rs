//! Softmax and log-softmax over the last dimension, and the cross entropy of a classifier.
//!
//! Both can be differentiated twice: their backward passes are operations with a backward rule of their own.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{self, by_dtype};
use crate::map::CHUNK;
use crate::mixed::widened;
use crate::portable;
use crate::simd::multiversion;
use crate::threads::Tasks;
use crate::vmath::Math;
use crate::{Var, rows};

/// Turns one row of scores into probabilities, in place.
#[inline(always)]
fn softmax_row<T: Math>(row: &mut [T]) {
    let top = rows::max(row);
    for x in row.iter_mut() {
        *x = (*x - top).exp();
    }
    let norm = T::one() / rows::sum(row);
    for x in row.iter_mut() {
        *x *= norm;
    }
}

/// `p * (g - <g, p>)`, written over `g`.
#[inline(always)]
fn softmax_backward_row<T: Math>(p: &[T], g: &mut [T]) {
    let inner = rows::dot(p, g);
    for (g, p) in g.iter_mut().zip(p) {
        *g = *p * (*g - inner);
    }
}

/// The largest number of a row, and `ln sum exp` of its differences from it. Not their sum: in front of a large `top` the
/// logarithm would be rounded to the places that `top` has.
#[inline(always)]
fn top_and_log_sum<T: Math>(row: &[T], scratch: &mut [T]) -> (T, T) {
    let top = rows::max(row);
    for (s, x) in scratch.iter_mut().zip(row) {
        *s = (*x - top).exp();
    }
    (top, T::lit(rows::sum(scratch).to_f64().ln()))
}

multiversion! {
    fn softmax_rows<T: Math>(x: &[T], width: usize, out: &mut [T]) {
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            out.copy_from_slice(x);
            softmax_row(out);
        }
    }
    fn softmax_backward_rows<T: Math>(p: &[T], g: &[T], width: usize, out: &mut [T]) {
        for ((out, p), g) in out.chunks_exact_mut(width).zip(p.chunks_exact(width)).zip(g.chunks_exact(width)) {
            out.copy_from_slice(g);
            softmax_backward_row(p, out);
        }
    }
    fn log_softmax_rows<T: Math>(x: &[T], width: usize, out: &mut [T]) {
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let (top, log_sum) = top_and_log_sum(x, out);
            for (out, x) in out.iter_mut().zip(x) {
                *out = (*x - top) - log_sum;
            }
        }
    }
    fn log_softmax_backward_rows<T: Math>(y: &[T], g: &[T], width: usize, out: &mut [T]) {
        for ((out, y), g) in out.chunks_exact_mut(width).zip(y.chunks_exact(width)).zip(g.chunks_exact(width)) {
            let total = rows::sum(g);
            for ((out, y), g) in out.iter_mut().zip(y).zip(g) {
                *out = *g - y.exp() * total;
            }
        }
    }
    /// From the gradient `h` of `p * (g - <g, p>)`: what reaches `g` (into `dg`) and the scores (into `dx`).
    fn softmax_twice_rows<T: Math>(p: &[T], g: &[T], h: &[T], width: usize, dg: &mut [T], dx: &mut [T]) {
        for (i, p) in p.chunks_exact(width).enumerate() {
            let row = i * width..(i + 1) * width;
            let (g, h) = (&g[row.clone()], &h[row.clone()]);
            let (dg, dx) = (&mut dg[row.clone()], &mut dx[row]);
            let (gp, hp) = (rows::dot(g, p), rows::dot(h, p));
            for (((dg, dx), p), (g, h)) in dg.iter_mut().zip(dx.iter_mut()).zip(p).zip(g.iter().zip(h)) {
                *dg = *p * (*h - hp);
                *dx = *h * (*g - gp) - *g * hp;
            }
            softmax_backward_row(p, dx);
        }
    }
    /// The sum of `target * y`, where a target is not 0, and `(e^y sum(target) - target) * factor`.
    fn cross_entropy_rows<T: Math>(y: &[T], targets: &[T], width: usize, factor: T, out: &mut [T]) -> f64 {
        let mut total = 0.0;
        for ((out, y), t) in out.chunks_exact_mut(width).zip(y.chunks_exact(width)).zip(targets.chunks_exact(width)) {
            let mass = rows::sum(t);
            for ((out, y), t) in out.iter_mut().zip(y).zip(t) {
                *out = (y.exp() * mass - *t) * factor;
            }
            for (y, t) in y.iter().zip(t) {
                total += if *t == T::zero() { 0.0 } else { y.to_f64() * t.to_f64() };
            }
        }
        total
    }
    /// From the gradient `h` of `g - e^y sum(g)`: what reaches `g` (into `dg`) and the scores (into `dx`).
    fn log_softmax_twice_rows<T: Math>(y: &[T], g: &[T], h: &[T], width: usize, dg: &mut [T], dx: &mut [T]) {
        for (i, y) in y.chunks_exact(width).enumerate() {
            let row = i * width..(i + 1) * width;
            let (g, h) = (&g[row.clone()], &h[row.clone()]);
            let (dg, dx) = (&mut dg[row.clone()], &mut dx[row]);
            for (dg, y) in dg.iter_mut().zip(y) {
                *dg = y.exp();
            }
            let (total, hp) = (rows::sum(g), rows::dot(h, dg));
            for ((dg, dx), h) in dg.iter_mut().zip(dx.iter_mut()).zip(h) {
                // d/dp of -h p sum(g), taken through the softmax.
                *dx = *dg * total * (hp - *h);
                *dg = *h - hp;
            }
        }
    }
}

/// A kernel over whole rows: (inputs.., width, outputs..).
type Rows1<T> = fn(&[T], usize, &mut [T]);
type Rows2<T> = fn(&[T], &[T], usize, &mut [T]);
type RowsTwice<T> = fn(&[T], &[T], &[T], usize, &mut [T], &mut [T]);

fn last_dim(name: &str, x: &Var) -> Result<usize> {
    match x.dims().last() {
        Some(&width) if width > 0 => Ok(width),
        _ => bail!("{name}: expected a last dimension of at least 1, got shape {:?}", x.dims()),
    }
}

/// Elements of a chunk of whole rows.
fn chunk_of_rows(width: usize) -> usize {
    (CHUNK / width).max(1) * width
}

fn each_row<T: Math>(x: &Tensor, width: usize, f: Rows1<T>) -> Result<Tensor> {
    let x = x.contiguous()?;
    let out = cpu::with_slice::<T, _>(&x, |x| {
        let (mut out, chunk) = (cpu::uninit(x.len()), chunk_of_rows(width));
        out.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).one_by_one().for_each(|(out, x)| f(x, width, out));
        Ok(out)
    })?;
    Tensor::from_vec(out, x.shape(), x.device())
}

fn each_row2<T: Math>(a: &Tensor, b: &Tensor, width: usize, f: Rows2<T>) -> Result<Tensor> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let out = cpu::with_slice::<T, _>(&a, |a| {
        cpu::with_slice::<T, _>(&b, |b| {
            let (mut out, chunk) = (cpu::uninit(a.len()), chunk_of_rows(width));
            let inputs = a.par_chunks(chunk).zip(b.par_chunks(chunk));
            out.par_chunks_mut(chunk).zip(inputs).one_by_one().for_each(|(out, (a, b))| f(a, b, width, out));
            Ok(out)
        })
    })?;
    Tensor::from_vec(out, a.shape(), a.device())
}

fn each_row_twice<T: Math>(
    p: &Tensor,
    g: &Tensor,
    h: &Tensor,
    width: usize,
    f: RowsTwice<T>,
) -> Result<Vec<Option<Tensor>>> {
    let (g, h) = (g.contiguous()?, h.contiguous()?);
    let (dg, dx) = cpu::with_slice::<T, _>(p, |p| {
        cpu::with_slice::<T, _>(&g, |g| {
            cpu::with_slice::<T, _>(&h, |h| {
                let (mut dg, mut dx, chunk) =
                    (cpu::uninit(p.len()), cpu::uninit(p.len()), chunk_of_rows(width));
                let inputs = p.par_chunks(chunk).zip(g.par_chunks(chunk)).zip(h.par_chunks(chunk));
                dg.par_chunks_mut(chunk)
                    .zip(dx.par_chunks_mut(chunk))
                    .zip(inputs)
                    .one_by_one()
                    .for_each(|((dg, dx), ((p, g), h))| f(p, g, h, width, dg, dx));
                Ok((dg, dx))
            })
        })
    })?;
    let tensor = |data| Tensor::from_vec(data, p.shape(), p.device()).map(Some);
    Ok(vec![tensor(dg)?, tensor(dx)?])
}

/// Softmax over the last dimension. Can be differentiated twice.
///
/// # Errors
/// When the last dimension is missing or empty, or the element type has no kernel.
pub fn softmax(x: &Var) -> Result<Var> {
    let x = &widened(x)?;
    let width = last_dim("softmax", x)?;
    let p = match portable::takes(x.value()) {
        true => portable::softmax::softmax(x.value())?,
        false => by_dtype!("softmax", x, T => each_row::<T>(x.value(), width, softmax_rows))?,
    };
    let (probabilities, scores) = (p.clone(), x.clone());
    Ok(Var::record("softmax", p, &[x], move |grad, _| {
        let (p, g) = (probabilities.clone(), grad.value().clone());
        let dx = match portable::takes(&p) {
            true => portable::softmax::softmax_backward(&p, &g)?,
            false => by_dtype!("softmax", p, T => each_row2::<T>(&p, &g, width, softmax_backward_rows))?,
        };
        let dx = Var::record_once("softmax_backward", dx, &[grad, &scores], move |h, _| {
            if portable::takes(&p) {
                let (dg, dx) = portable::softmax::softmax_twice(&p, &g, h)?;
                return Ok(vec![Some(dg), Some(dx)]);
            }
            by_dtype!("softmax", p, T => each_row_twice::<T>(&p, &g, h, width, softmax_twice_rows))
        });
        Ok(vec![Some(dx)])
    }))
}

/// `ln(softmax(x))` over the last dimension, without overflow. Can be differentiated twice.
///
/// # Errors
/// When the last dimension is missing or empty, or the element type has no kernel.
pub fn log_softmax(x: &Var) -> Result<Var> {
    let x = &widened(x)?;
    let width = last_dim("log_softmax", x)?;
    let y = match portable::takes(x.value()) {
        true => portable::softmax::log_softmax(x.value())?,
        false => by_dtype!("log_softmax", x, T => each_row::<T>(x.value(), width, log_softmax_rows))?,
    };
    let (logs, scores) = (y.clone(), x.clone());
    Ok(Var::record("log_softmax", y, &[x], move |grad, _| {
        let (y, g) = (logs.clone(), grad.value().clone());
        let dx = match portable::takes(&y) {
            true => portable::softmax::log_softmax_backward(&y, &g)?,
            false => {
                by_dtype!("log_softmax", y, T => each_row2::<T>(&y, &g, width, log_softmax_backward_rows))?
            }
        };
        let dx = Var::record_once("log_softmax_backward", dx, &[grad, &scores], move |h, _| {
            if portable::takes(&y) {
                let (dg, dx) = portable::softmax::log_softmax_twice(&y, &g, h)?;
                return Ok(vec![Some(dg), Some(dx)]);
            }
            by_dtype!("log_softmax", y, T => each_row_twice::<T>(&y, &g, h, width, log_softmax_twice_rows))
        });
        Ok(vec![Some(dx)])
    }))
}

/// Mean over the batch of `-sum_k target_k ln softmax(logits)_k`: logits and target probabilities are `[B, K]`.
///
/// Targets need not be one-hot (label smoothing, MixUp) nor sum to 1. A class with target 0 has no term: its logit may be
/// minus infinity.
///
/// # Errors
/// When the shapes or element types differ, or are not `[B, K]` with B and K at least 1.
pub fn cross_entropy(logits: &Var, targets: &Tensor) -> Result<Var> {
    let logits = &widened(logits)?;
    let &[batch, classes] = logits.dims() else {
        bail!("cross_entropy: expected logits [B, K], got {:?}", logits.dims())
    };
    if batch == 0 || classes == 0 {
        bail!("cross_entropy: expected at least one sample and one class, got {:?}", logits.dims());
    }
    if targets.dims() != logits.dims() || targets.dtype() != logits.dtype() {
        bail!(
            "cross_entropy: expected targets {:?} {:?}, got {:?} {:?}",
            logits.dims(),
            logits.dtype(),
            targets.dims(),
            targets.dtype()
        );
    }
    let targets = targets.contiguous()?;
    let (loss, slope) = match portable::takes(logits.value()) {
        true => portable::softmax::cross_entropy(logits.value(), &targets)?,
        false => by_dtype!("cross_entropy", targets, T => {
            cross_entropy_value::<T>(logits.value(), &targets, batch, classes)
        })?,
    };
    Ok(Var::record_once("cross_entropy", loss, &[logits], move |grad, _| {
        Ok(vec![Some(slope.broadcast_mul(grad)?)])
    }))
}

/// The loss and its derivative, `(softmax(logits) * sum(target) - target) / B`.
fn cross_entropy_value<T: Math>(
    logits: &Tensor,
    targets: &Tensor,
    batch: usize,
    classes: usize,
) -> Result<(Tensor, Tensor)> {
    let logs = each_row::<T>(logits, classes, log_softmax_rows)?;
    let (total, slope) = cpu::with_slice::<T, _>(&logs, |logs| {
        cpu::with_slice::<T, _>(targets, |targets| {
            let (mut slope, chunk) = (cpu::uninit(logs.len()), chunk_of_rows(classes));
            let inverse = T::lit(1.0 / batch as f64);
            let inputs = logs.par_chunks(chunk).zip(targets.par_chunks(chunk));
            let rows = slope.par_chunks_mut(chunk).zip(inputs).one_by_one();
            let sums = rows.map(|(slope, (y, t))| cross_entropy_rows(y, t, classes, inverse, slope));
            Ok((sums.collect::<Vec<f64>>().iter().sum::<f64>(), slope))
        })
    })?;
    let loss = Tensor::from_vec(vec![T::lit(-total / batch as f64)], (), logits.device())?;
    Ok((loss, Tensor::from_vec(slope, logits.shape(), logits.device())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradients, check_second_order, pattern};

    #[test]
    fn first_and_second_derivatives_agree_with_differences() -> Result<()> {
        for dims in [vec![2, 3, 17], vec![4, 1], vec![33]] {
            let x = [pattern(&dims, 1)?];
            check_gradients(|x| softmax(&x[0]), &x)?;
            check_gradients(|x| log_softmax(&x[0]), &x)?;
            check_second_order(|x| softmax(&x[0]), &x)?;
            check_second_order(|x| log_softmax(&x[0]), &x)?;
        }
        Ok(())
    }

    #[test]
    fn cross_entropy_gradient_agrees_with_differences() -> Result<()> {
        // Targets of any sum, negative ones included.
        let targets = pattern(&[3, 7], 5)?;
        check_gradients(|x| cross_entropy(&x[0], &targets), &[pattern(&[3, 7], 1)?])
    }

    #[test]
    fn large_scores_do_not_overflow() -> Result<()> {
        let x = Tensor::new(&[[1000.0f32, 999.0, -1000.0]], &crate::gradcheck::device())?;
        let one_hot = Tensor::new(&[[1.0f32, 0.0, 0.0]], &crate::gradcheck::device())?;
        let x = Var::constant(x);
        let p = softmax(&x)?.into_value().flatten_all()?.to_vec1::<f32>()?;
        let want = 1.0 / (1.0 + (-1.0f32).exp());
        assert!((p[0] - want).abs() < 1e-6 && p[2] == 0.0, "{p:?}");
        let loss = cross_entropy(&x, &one_hot)?.into_value().to_scalar::<f32>()?;
        assert!((f64::from(loss) - (-1f64).exp().ln_1p()).abs() < 1e-7, "{loss}");
        Ok(())
    }

    /// Rows of 3 and of 35 numbers, in one vector or several: what matters is how far the logits are apart.
    #[test]
    fn large_logits_keep_their_small_differences() -> Result<()> {
        for (width, top) in [(3, 0.0f32), (3, 3e3), (35, 1e4), (3, -1e6)] {
            let logits: Vec<f32> =
                (0..width).map(|i| top - [0.0, 8.0, 9.0].get(i).copied().unwrap_or(40.0)).collect();
            let one_hot: Vec<f32> = (0..width).map(|i| f32::from(u8::from(i == 0))).collect();
            let row = |x| Tensor::from_vec(x, (1, width), &crate::gradcheck::device());
            let (x, one_hot) = (Var::leaf(row(logits)?), row(one_hot)?);
            let rest = (-8f64).exp() + (-9f64).exp();
            let logs = log_softmax(&x)?.into_value().flatten_all()?.to_vec1::<f32>()?;
            let loss = cross_entropy(&x, &one_hot)?;
            let value = loss.value().to_scalar::<f32>()?;
            // f32: the sum of powers is next to 1, the others next to -8 and -9.
            for (found, want, tolerance) in [
                (value, rest.ln_1p(), 1.2e-7),
                (logs[0], -rest.ln_1p(), 1.2e-7),
                (logs[1], -8.0 - rest.ln_1p(), 1e-6),
                (logs[2], -9.0 - rest.ln_1p(), 1e-6),
            ] {
                assert!((f64::from(found) - want).abs() < tolerance, "{width}, {top}: {found} {want}");
            }
            let found = crate::backward(loss)?;
            let Some(slope) = found.leaf(&x) else { bail!("cross_entropy: no gradient") };
            let slope = f64::from(slope.flatten_all()?.to_vec1::<f32>()?[0]);
            assert!((slope + rest / (1.0 + rest)).abs() < 3e-7, "{width}, {top}: {slope}");
        }
        Ok(())
    }

    #[test]
    fn an_impossible_class_has_no_term_unless_it_is_the_target() -> Result<()> {
        let x = Tensor::new(&[[0.0f32, f32::NEG_INFINITY, 0.0]], &crate::gradcheck::device())?;
        let loss = |targets: [f32; 3]| -> Result<(f32, Vec<f32>)> {
            let (x, targets) = (Var::leaf(x.clone()), Tensor::new(&[targets], x.device())?);
            let loss = cross_entropy(&x, &targets)?;
            let value = loss.value().to_scalar::<f32>()?;
            let found = crate::backward(loss)?;
            let Some(slope) = found.leaf(&x) else { bail!("cross_entropy: no gradient") };
            Ok((value, slope.flatten_all()?.to_vec1()?))
        };
        let (value, slope) = loss([1.0, 0.0, 0.0])?;
        assert!((value - 2f32.ln()).abs() < 1e-6, "{value}");
        assert!(slope.iter().zip([-0.5, 0.0, 0.5]).all(|(x, want)| (x - want).abs() < 1e-6), "{slope:?}");
        assert_eq!(loss([0.0, 1.0, 0.0])?.0, f32::INFINITY);
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() -> Result<()> {
        let x = Var::constant(pattern(&[2, 3], 1)?);
        assert!(softmax(&Var::constant(pattern(&[], 1)?)).is_err());
        assert!(softmax(&Var::constant(pattern(&[2, 0], 1)?)).is_err());
        assert!(cross_entropy(&x, &pattern(&[3, 2], 1)?).is_err());
        Ok(())
    }
}
