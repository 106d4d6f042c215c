//! Softmax over the last dimension, its derivatives, and the cross entropy.

use candle_core::{D, Result, Tensor};

use super::reduce::{sum_all, sum_per_sample};
use crate::cuda::fused;
use crate::mixed::widened_value;

const LAST: D = D::Minus1;

/// Probabilities.
pub(crate) fn softmax(x: &Tensor) -> Result<Tensor> {
    if fused::takes(x) {
        return fused::softmax(x, 1.0);
    }
    let x = x.contiguous()?;
    let powers = x.broadcast_sub(&x.max_keepdim(LAST)?)?.exp()?;
    powers.broadcast_mul(&powers.sum_keepdim(LAST)?.recip()?)
}

/// `p * (g - <g, p>)`.
pub(crate) fn softmax_backward(p: &Tensor, g: &Tensor) -> Result<Tensor> {
    if fused::takes(p) {
        return fused::softmax_backward(p, g, 1.0);
    }
    let (p, g) = (&widened_value(p)?, &widened_value(g)?);
    let inner = (g * p)?.sum_keepdim(LAST)?;
    p * g.broadcast_sub(&inner)?
}

/// From the gradient `h` of [`softmax_backward`]: what reaches `g`, and the scores.
pub(crate) fn softmax_twice(p: &Tensor, g: &Tensor, h: &Tensor) -> Result<(Tensor, Tensor)> {
    let (gp, hp) = ((g * p)?.sum_keepdim(LAST)?, (h * p)?.sum_keepdim(LAST)?);
    let dx = ((h * g.broadcast_sub(&gp)?)? - g.broadcast_mul(&hp)?)?;
    Ok(((p * h.broadcast_sub(&hp)?)?, softmax_backward(p, &dx)?))
}

/// Logarithms of probabilities.
pub(crate) fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let below = x.broadcast_sub(&x.max_keepdim(LAST)?)?;
    below.broadcast_sub(&below.exp()?.sum_keepdim(LAST)?.log()?)
}

/// `g - e^y sum(g)`.
pub(crate) fn log_softmax_backward(y: &Tensor, g: &Tensor) -> Result<Tensor> {
    g - y.exp()?.broadcast_mul(&g.contiguous()?.sum_keepdim(LAST)?)?
}

/// From the gradient `h` of [`log_softmax_backward`]: what reaches `g`, and the scores.
pub(crate) fn log_softmax_twice(y: &Tensor, g: &Tensor, h: &Tensor) -> Result<(Tensor, Tensor)> {
    let p = y.exp()?;
    let hp = (h * &p)?.sum_keepdim(LAST)?;
    let total = g.contiguous()?.sum_keepdim(LAST)?;
    // With p = e^y: dg = h - <h, p>, and d/dx of -<h, p> sum(g), taken through the softmax.
    let dx = p.broadcast_mul(&total)?.broadcast_mul(&hp)?;
    let dx = (dx - (&p * h)?.broadcast_mul(&total)?)?;
    Ok((h.broadcast_sub(&hp)?, dx))
}

/// The mean cross entropy of logits `[B, K]`, and its derivative.
pub(crate) fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    let batch = logits.dim(0)?;
    let logs = log_softmax(logits)?;
    // A target of 0 has no term, whatever its logarithm.
    let none = targets.zeros_like()?;
    let terms = targets.ne(&none)?.where_cond(&(&logs * targets)?, &none)?;
    let loss = sum_all(&terms)?.affine(-1.0 / batch as f64, 0.0)?;
    let mass = sum_per_sample(targets, batch)?.reshape((batch, 1))?;
    let slope = (logs.exp()?.broadcast_mul(&mass)? - targets)?.affine(1.0 / batch as f64, 0.0)?;
    Ok((loss, slope))
}
