//! A factor for each sample: drop-path (stochastic depth) and other per-sample scalings.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::Var;
use crate::cpu::{self, Element, by_dtype};
use crate::map::CHUNK;
use crate::mixed::goes_with;
use crate::portable;
use crate::simd::multiversion;

multiversion! {
    fn scale_slice<T: Element>(x: &[T], factor: T, out: &mut [T]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = *x * factor;
        }
    }
}

/// `x[b, ..] * factors[b]`: `x` is `[B, ..]`, `factors` a constant `[B]`. Can be differentiated any number of times.
///
/// # Errors
/// When `factors` is not `[B]` or of another element type.
pub fn mul_samples(x: &Var, factors: &Tensor) -> Result<Var> {
    let fits = x.dims().first() == factors.dims().first() && factors.dims().len() == 1;
    if !fits || !goes_with(factors.dtype(), x) {
        bail!("mul_samples: expected x [B, ..] and factors [B], got {x:?} and {factors:?}");
    }
    let factors = factors.contiguous()?;
    let value = match portable::takes(x.value()) {
        true => portable::reduce::scale_samples(x.value(), &factors)?,
        false => by_dtype!("mul_samples", x, T => scale_samples::<T>(x.value(), &factors))?,
    };
    Ok(Var::record("mul_samples", value, &[x], move |grad, _| Ok(vec![Some(mul_samples(grad, &factors)?)])))
}

fn scale_samples<T: Element>(x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let out = cpu::with_slice::<T, _>(&x, |x| {
        cpu::with_slice::<T, _>(factors, |factors| {
            let mut out = cpu::uninit(x.len());
            let each = x.len() / factors.len().max(1);
            if each == 0 {
                return Ok(out);
            }
            let samples = out.par_chunks_mut(each).zip(x.par_chunks(each)).zip(factors.par_iter());
            samples.for_each(|((out, x), factor)| {
                for (out, x) in out.chunks_mut(CHUNK).zip(x.chunks(CHUNK)) {
                    scale_slice(x, *factor, out);
                }
            });
            Ok(out)
        })
    })?;
    Tensor::from_vec(out, x.shape(), x.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradients, check_second_order, pattern};

    #[test]
    fn scales_each_sample_and_its_gradient() -> Result<()> {
        let factors = Tensor::new(&[0.0, 1.25, 2.0], &crate::gradcheck::device())?;
        let x = Var::constant(pattern(&[3, 2, 2], 1)?);
        let want = x.value().broadcast_mul(&factors.reshape((3, 1, 1))?)?;
        let worst = (mul_samples(&x, &factors)?.value() - want)?.abs()?.max_all()?.to_scalar::<f64>()?;
        assert_eq!(worst, 0.0);
        check_gradients(|x| mul_samples(&x[0], &factors), &[pattern(&[3, 5], 2)?])?;
        check_second_order(|x| mul_samples(&x[0], &factors), &[pattern(&[3, 5], 2)?])?;
        assert!(mul_samples(&Var::constant(pattern(&[2, 5], 2)?), &factors).is_err());
        Ok(())
    }
}
