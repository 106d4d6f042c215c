//! Activation functions, chosen by an [`Activation`] value.

use candle_core::{Result, Tensor};

use crate::cpu::{self, Element, by_dtype};
use crate::{Var, mul};

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// The identity.
    None,
    /// `max(x, 0)`.
    Relu,
    /// `x` where positive, the given slope times `x` elsewhere.
    LeakyRelu(f32),
    /// `x * Phi(x)` with the exact normal distribution function.
    GeluErf,
    /// GELU's tanh approximation.
    GeluTanh,
    /// `x * sigmoid(x)`.
    Silu,
    /// The hyperbolic tangent.
    Tanh,
}

impl Activation {
    /// The value and the derivative at `x`. The derivative of the relu family at 0 is the one from the left,
    /// as in PyTorch.
    fn at(self, x: f64) -> (f64, f64) {
        use std::f64::consts::{FRAC_1_SQRT_2, PI};
        match self {
            Activation::None => (x, 1.0),
            Activation::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
            Activation::LeakyRelu(slope) => {
                let d = if x > 0.0 { 1.0 } else { slope as f64 };
                (x * d, d)
            }
            Activation::GeluErf => {
                let phi = 0.5 * (1.0 + candle_core::cpu::erf::erf_f64(x * FRAC_1_SQRT_2));
                (x * phi, phi + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt())
            }
            Activation::GeluTanh => {
                let s = (2.0 / PI).sqrt();
                let t = (s * (x + 0.044715 * x * x * x)).tanh();
                let d = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * s * (1.0 + 3.0 * 0.044715 * x * x);
                (0.5 * x * (1.0 + t), d)
            }
            Activation::Silu => {
                let s = 1.0 / (1.0 + (-x).exp());
                (x * s, s * (1.0 + x * (1.0 - s)))
            }
            Activation::Tanh => (x.tanh(), 1.0 - x.tanh() * x.tanh()),
        }
    }

    /// Whether the function is piecewise linear: its backward pass can be differentiated again.
    fn is_piecewise_linear(self) -> bool {
        matches!(self, Activation::None | Activation::Relu | Activation::LeakyRelu(_))
    }
}

/// Applies `activation` to every element. The relu family can be differentiated twice.
///
/// # Errors
/// When the element type is neither f32 nor f64.
pub fn activate(x: &Var, activation: Activation) -> Result<Var> {
    if activation == Activation::None {
        return Ok(x.clone());
    }
    let input = x.value().contiguous()?;
    let (value, slope) = by_dtype!("activate", input, T => evaluate::<T>(&input, activation))?;
    if activation.is_piecewise_linear() {
        let slope = Var::constant(slope);
        return Ok(Var::record("activate", value, &[x], move |grad, _| Ok(vec![Some(mul(grad, &slope)?)])));
    }
    Ok(Var::record_once("activate", value, &[x], move |grad, _| Ok(vec![Some((grad * &slope)?)])))
}

fn evaluate<T: Element>(x: &Tensor, activation: Activation) -> Result<(Tensor, Tensor)> {
    let (value, slope): (Vec<T>, Vec<T>) = cpu::with_slice::<T, _>(x, |x| {
        Ok(x.iter()
            .map(|x| {
                let (y, d) = activation.at(x.to_f64());
                (T::lit(y), T::lit(d))
            })
            .unzip())
    })?;
    Ok((Tensor::from_vec(value, x.shape(), x.device())?, Tensor::from_vec(slope, x.shape(), x.device())?))
}
