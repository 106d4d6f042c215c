//! What a matrix product does to its output while it is still in the cache: bias and an activation of the
//! relu family; and the matching first step of the backward pass.
//!
//! `relu` and `leaky_relu` with a slope that is not negative keep the sign, so their derivative can be read
//! off the output: the value before the activation is never stored.

use candle_core::{Result, Tensor, bail};

use crate::cpu::{Element, by_dtype};
use crate::map::binary;
use crate::portable;
use crate::simd::multiversion;
use crate::{Activation, Var};

/// The slope for negative inputs of an activation that can be fused (1 for the identity).
pub(crate) fn slope(activation: Activation) -> Option<f32> {
    match activation {
        Activation::None => Some(1.0),
        Activation::Relu => Some(0.0),
        Activation::LeakyRelu(slope) if slope >= 0.0 => Some(slope),
        _ => None,
    }
}

multiversion! {
    fn add_bias_rows<T: Element>(out: &mut [T], bias: &[T]) {
        for row in out.chunks_exact_mut(bias.len()) {
            for (out, b) in row.iter_mut().zip(bias) {
                *out += *b;
            }
        }
    }
    fn leak<T: Element>(out: &mut [T], slope: T) {
        for out in out {
            *out = if *out > T::zero() { *out } else { *out * slope };
        }
    }
    fn leak_backward<T: Element>(grad: &[T], output: &[T], slope: T, out: &mut [T]) {
        for ((out, grad), y) in out.iter_mut().zip(grad).zip(output) {
            *out = if *y > T::zero() { *grad } else { *grad * slope };
        }
    }
}

/// Adds the bias to every row of `c_out` elements and applies the activation.
pub(crate) fn epilogue<T: Element>(out: &mut [T], bias: Option<&[T]>, slope: f32, c_out: usize) {
    if let Some(bias) = bias
        && c_out > 0
    {
        add_bias_rows(out, bias);
    }
    if slope != 1.0 {
        leak(out, T::lit(slope as f64));
    }
}

/// The gradient before the activation, from the gradient after it and the output. Linear in `grad`, so it
/// can be differentiated any number of times (the second derivative of the activation is 0).
pub(crate) fn activation_backward(grad: &Var, output: Option<&Tensor>, slope: f32) -> Result<Var> {
    if slope == 1.0 {
        return Ok(grad.clone());
    }
    let Some(output) = output else { bail!("activation_backward: the output was not kept") };
    let backward = |grad: &Tensor| -> Result<Tensor> {
        if portable::takes(grad) {
            return portable::elementwise::leak_backward(grad, output, slope);
        }
        by_dtype!("activation_backward", grad, T => {
            let slope = T::lit(slope as f64);
            binary::<T>(grad, output, |grad, output, out| leak_backward(grad, output, slope, out))
        })
    };
    let value = backward(grad.value())?;
    let output = output.clone();
    Ok(Var::record("activation_backward", value, &[grad], move |grad, _| {
        Ok(vec![Some(activation_backward(grad, Some(&output), slope)?)])
    }))
}

/// What [`activation_backward`] will need of an operation's output: nothing where there is no activation.
pub(crate) fn kept_output(output: &Tensor, slope: f32) -> Option<Tensor> {
    (slope != 1.0).then(|| output.clone())
}
