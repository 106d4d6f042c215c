//! Spectral normalisation (Miyato et al., arXiv 1802.05957): a weight over an estimate of its largest singular value.

use candle_core::{Result, Tensor, bail};

use crate::cuda::fused;
use crate::portable::linear::product;
use crate::precision::{Precision, with};
use crate::{Var, add_scalar, matmul, mul_scalar, no_grad, recip, reshape, sqrt, square, sum_all};

/// Keeps the division defined for a weight of zeros.
const EPS: f64 = 1e-12;

/// What [`spectral_norm`] gives: the normalised weight, and the vectors of the iteration.
pub struct Normalised {
    /// In the weight's shape.
    pub weight: Var,
    /// `[out, 1]`, unit length.
    pub u: Tensor,
    /// `[everything else, 1]`, unit length.
    pub v: Tensor,
}

/// `w / (u^T W v)`, where `W` is `w [out, ..]` as a matrix. With `step`, one step of power iteration comes first:
/// `v = W^T u` and `u = W v`, each over its length. Gradients flow through the division and through the estimate, not through
/// `u [out, 1]` and `v [everything else, 1]`. In f32 whatever the precision: the norm decides about the whole layer.
///
/// On a GPU it can be differentiated once.
///
/// # Errors
/// When `u` and `v` do not fit.
pub fn spectral_norm(w: &Var, u: &Tensor, v: &Tensor, step: bool) -> Result<Normalised> {
    let sides = (u.elem_count(), v.elem_count());
    if w.dims().first() != Some(&sides.0) || sides.0 * sides.1 != w.value().elem_count() || sides.1 == 0 {
        bail!("spectral_norm: expected w [out, ..], u [out, 1] and v of the rest, got {w:?}, {u:?}, {v:?}");
    }
    let (u, v) = (u.reshape((sides.0, 1))?, v.reshape((sides.1, 1))?);
    with(Precision::F32, || match fused::takes(w.value()) {
        true => by_kernels(w, u, v, step),
        false => composed(w, u, v, step),
    })
}

fn composed(w: &Var, u: Tensor, v: Tensor, step: bool) -> Result<Normalised> {
    let matrix = reshape(w, &[u.elem_count(), v.elem_count()])?;
    let (mut u, mut v) = (Var::constant(u), Var::constant(v));
    if step {
        (u, v) = no_grad(|| {
            let v = unit(&matmul(&matrix, &u, true, false)?)?;
            Ok::<_, candle_core::Error>((unit(&matmul(&matrix, &v, false, false)?)?, v))
        })?;
    }
    let norm = matmul(&u, &matmul(&matrix, &v, false, false)?, true, false)?;
    Ok(Normalised { weight: mul_scalar(w, &recip(&norm)?)?, u: u.into_value(), v: v.into_value() })
}

fn unit(x: &Var) -> Result<Var> {
    let length = sqrt(&sum_all(&square(x)?)?)?;
    mul_scalar(x, &recip(&add_scalar(&length, EPS)?)?)
}

fn by_kernels(w: &Var, mut u: Tensor, mut v: Tensor, step: bool) -> Result<Normalised> {
    let value = w.value().contiguous()?;
    let matrix = value.reshape((u.elem_count(), v.elem_count()))?;
    let inverse = if step {
        [v, _] = fused::unit_vector(&product(&matrix, &u, (true, false), true)?, EPS)?;
        let [now, inverse] = fused::unit_vector(&product(&matrix, &v, (false, false), true)?, EPS)?;
        u = now;
        inverse
    } else {
        product(&u, &product(&matrix, &v, (false, false), true)?, (true, false), true)?.recip()?.reshape(1)?
    };
    let normalised =
        fused::scale_samples(&value.flatten_all()?.unsqueeze(0)?, &inverse)?.reshape(value.shape())?;
    let vectors = (u.clone(), v.clone());
    let weight = Var::record_once("spectral_norm", normalised, &[w], move |grad, _| {
        let grad = grad.contiguous()?;
        let parts = fused::inner_parts(&grad, &value)?;
        Ok(vec![Some(fused::spectral_gradient(&grad, &vectors.0, &vectors.1, &inverse, &parts)?)])
    });
    Ok(Normalised { weight, u, v })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradients, check_second_order, pattern};

    #[test]
    fn the_estimate_becomes_the_norm() -> Result<()> {
        // Rank one: the norm is the product of the lengths, found in one step.
        let (a, b) = (pattern(&[4, 1], 1)?, pattern(&[1, 6], 2)?);
        let w = Var::constant(a.matmul(&b)?.reshape((4, 2, 3))?);
        let found = spectral_norm(&w, &pattern(&[4, 1], 3)?, &pattern(&[6, 1], 4)?, true)?;
        let norm = (a.sqr()?.sum_all()?.sqrt()? * b.sqr()?.sum_all()?.sqrt()?)?;
        let worst = (found.weight.value().broadcast_mul(&norm)? - w.value())?.abs()?.max_all()?;
        assert!(worst.to_scalar::<f64>()? < 1e-12);
        Ok(())
    }

    #[test]
    fn gradients_agree_with_differences() -> Result<()> {
        let (u, v) = (pattern(&[3, 1], 5)?, pattern(&[4, 1], 6)?);
        let f = |x: &[Var]| Ok(spectral_norm(&x[0], &u, &v, false)?.weight);
        check_gradients(f, &[pattern(&[3, 2, 2], 1)?])?;
        check_second_order(f, &[pattern(&[3, 2, 2], 1)?])
    }

    #[test]
    fn vectors_that_do_not_fit_are_errors() -> Result<()> {
        let w = Var::constant(pattern(&[3, 4], 1)?);
        assert!(spectral_norm(&w, &pattern(&[4, 1], 2)?, &pattern(&[3, 1], 3)?, true).is_err());
        Ok(())
    }
}
