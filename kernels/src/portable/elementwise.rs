//! Functions element by element: contiguous passes, no comparisons with constants (candle uploads those).

use candle_core::{Result, Tensor};

use crate::Activation;
use crate::cuda::fused;

/// `1 / (1 + exp(-x))` as `exp(min(x, 0)) / (1 + exp(-|x|))`: nothing overflows, small results are kept.
pub(crate) fn sigmoid(x: &Tensor) -> Result<Tensor> {
    let below = x.neg()?.relu()?.neg()?.exp()?;
    below / x.abs()?.neg()?.exp()?.affine(1.0, 1.0)?
}

/// `log(1 + exp(x))` without overflow or loss of small results.
pub(crate) fn softplus(x: &Tensor) -> Result<Tensor> {
    let small = x.abs()?.neg()?.exp()?;
    let sum = small.affine(1.0, 1.0)?;
    // log(1 + s) with what rounding took from 1 + s put back.
    let lost = (small - sum.affine(1.0, -1.0)?)?;
    x.relu()? + (sum.log()? + (lost / &sum)?)?
}

/// 1 where `x` is positive, `slope` elsewhere.
fn leak_factor(x: &Tensor, slope: f32) -> Result<Tensor> {
    let slope = f64::from(slope);
    x.sign()?.relu()?.affine(1.0 - slope, slope)
}

/// `x` where positive, `slope * x` elsewhere.
pub(crate) fn leak(x: &Tensor, slope: f32) -> Result<Tensor> {
    if fused::takes(x) && slope != 1.0 {
        return fused::bias_leak(x, None, slope);
    }
    if slope == 1.0 { Ok(x.clone()) } else { x * leak_factor(x, slope)? }
}

/// `grad` where `output` is positive, `slope * grad` elsewhere.
pub(crate) fn leak_backward(grad: &Tensor, output: &Tensor, slope: f32) -> Result<Tensor> {
    if fused::takes(grad) {
        return fused::leak_backward(grad, output, slope);
    }
    grad * leak_factor(output, slope)?
}

/// `sqrt(2 / pi)` and GELU's cubic coefficient: the argument of the sigmoid is `a x + b x^3`.
fn gelu_tanh_gate(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let a = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
    let b = a * 0.044715;
    let square = x.sqr()?;
    let gate = sigmoid(&(x * square.affine(b, a)?)?)?;
    Ok((gate, square.affine(3.0 * b, a)?))
}

/// The value of a smooth activation.
pub(crate) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    if let (true, Some(kind)) = (fused::takes(x), fused::smooth_kind(activation)) {
        return fused::activate(x, kind);
    }
    match activation {
        Activation::None => Ok(x.clone()),
        Activation::Relu => leak(x, 0.0),
        Activation::LeakyRelu(slope) => leak(x, slope),
        Activation::GeluErf => x * normal_cdf(x)?,
        Activation::GeluTanh => x * gelu_tanh_gate(x)?.0,
        Activation::Silu => x * sigmoid(x)?,
        Activation::Tanh => x.tanh(),
    }
}

/// `grad` times the derivative of a smooth activation at `x`.
pub(crate) fn activate_backward(x: &Tensor, grad: &Tensor, activation: Activation) -> Result<Tensor> {
    if let (true, Some(kind)) = (fused::takes(x), fused::smooth_kind(activation)) {
        return fused::activate_backward(x, grad, kind);
    }
    match activation {
        Activation::None => Ok(grad.clone()),
        Activation::Relu => leak_backward(grad, x, 0.0),
        Activation::LeakyRelu(slope) => leak_backward(grad, x, slope),
        Activation::GeluErf => {
            let density = x.sqr()?.affine(-0.5, 0.0)?.exp()?;
            let density = density.affine(1.0 / (2.0 * std::f64::consts::PI).sqrt(), 0.0)?;
            grad * ((x * density)? + normal_cdf(x)?)?
        }
        Activation::GeluTanh => {
            let (gate, slope) = gelu_tanh_gate(x)?;
            grad * gated_slope(x, &gate, Some(&slope))?
        }
        Activation::Silu => grad * gated_slope(x, &sigmoid(x)?, None)?,
        Activation::Tanh => grad * x.tanh()?.sqr()?.affine(-1.0, 1.0)?,
    }
}

/// The derivative of `x s(u(x))` for a sigmoid `s`: `s + x s (1 - s) u'`.
fn gated_slope(x: &Tensor, gate: &Tensor, inner: Option<&Tensor>) -> Result<Tensor> {
    let bend = ((x * gate)? * gate.affine(-1.0, 1.0)?)?;
    let bend = inner.map_or(Ok(bend.clone()), |inner| bend * inner)?;
    bend + gate
}

/// The normal distribution function.
fn normal_cdf(x: &Tensor) -> Result<Tensor> {
    x.affine(std::f64::consts::FRAC_1_SQRT_2, 0.0)?.erf()?.affine(0.5, 0.5)
}
