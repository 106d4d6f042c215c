//! Functions element by element: contiguous passes, no comparisons with constants (candle uploads those).

use candle_core::{DType, Result, Tensor};

use crate::Activation;
use crate::cuda::fused;
use crate::mixed::widened_value;

/// The sum of two tensors of one shape, of the wider type.
pub(crate) fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if fused::takes(x) { fused::add(x, y) } else { widened_value(x)? + widened_value(y)? }
}

/// `x + b`, where the dimensions of `b` are the last ones of `x`; of the type of `b`.
pub(crate) fn add_suffix(x: &Tensor, b: &Tensor) -> Result<Tensor> {
    if fused::takes(x) && b.dtype() == DType::F32 && b.elem_count() > 0 {
        return fused::add_vector(x, b);
    }
    widened_value(x)?.broadcast_add(b)
}

/// `1 / (1 + exp(-x))` as `exp(min(x, 0)) / (1 + exp(-|x|))`: nothing overflows, small results are kept.
pub(crate) fn sigmoid(x: &Tensor) -> Result<Tensor> {
    if fused::takes(x) {
        return fused::activate(x, None, fused::SIGMOID, x.dtype());
    }
    let below = x.neg()?.relu()?.neg()?.exp()?;
    below / x.abs()?.neg()?.exp()?.affine(1.0, 1.0)?
}

/// `log(1 + exp(x))` without overflow or loss of small results.
pub(crate) fn softplus(x: &Tensor) -> Result<Tensor> {
    if fused::takes(x) {
        return fused::activate(x, None, fused::SOFTPLUS, x.dtype());
    }
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
    widened_value(grad)? * leak_factor(&widened_value(output)?, slope)?
}

/// `sqrt(2 / pi)` and GELU's cubic coefficient: the argument of the sigmoid is `a x + b x^3`.
fn gelu_tanh_gate(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let a = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
    let b = a * 0.044715;
    let square = x.sqr()?;
    let gate = sigmoid(&(x * square.affine(b, a)?)?)?;
    Ok((gate, square.affine(3.0 * b, a)?))
}

/// The value of a smooth activation of `x + b`, `b [C]` over the last dimension. The hyperbolic tangent, the last operation
/// of generators, is f32.
pub(crate) fn activate(x: &Tensor, b: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
    if let (true, Some(kind)) = (fused::takes(x), fused::smooth_kind(activation)) {
        let to = if activation == Activation::Tanh { DType::F32 } else { x.dtype() };
        return fused::activate(x, b, kind, to);
    }
    let x = &with_bias(x, b)?;
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

/// `grad` times the derivative of a smooth activation at `x + b`.
pub(crate) fn activate_backward(
    x: &Tensor,
    b: Option<&Tensor>,
    grad: &Tensor,
    activation: Activation,
) -> Result<Tensor> {
    if let (true, Some(kind)) = (fused::takes(x), fused::smooth_kind(activation)) {
        return fused::activate_backward(x, b, grad, kind);
    }
    let (x, grad) = (&with_bias(x, b)?, &widened_value(grad)?);
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

/// `x + b`, f32 where `x` is bf16.
fn with_bias(x: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let x = widened_value(x)?;
    b.map_or(Ok(x.clone()), |b| x.broadcast_add(b))
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
