//! Activation functions, chosen by an [`Activation`] value.
//!
//! Only the input is kept for the backward pass, which computes the derivative again: cheaper than writing and
//! reading one more tensor.

use candle_core::{Result, Tensor, bail};

use crate::Var;
use crate::cpu::by_dtype;
use crate::fused::activation_backward;
use crate::map::{binary, unary};
use crate::mixed::fitting;
use crate::portable;
use crate::simd::multiversion;
use crate::vmath::Math;

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// The identity.
    None,
    /// `max(x, 0)`.
    Relu,
    /// `x` where positive, the given slope times `x` elsewhere.
    LeakyRelu(f32),
    /// `x * Phi(x)` with the exact normal distribution function (Hendrycks and Gimpel 2016).
    GeluErf,
    /// GELU's tanh approximation.
    GeluTanh,
    /// `x * sigmoid(x)`.
    Silu,
    /// The hyperbolic tangent.
    Tanh,
}

/// Each function returns (value, derivative) at `x`; a caller's unused half is never computed.
#[inline(always)]
fn gelu_erf<T: Math>(x: T) -> (T, T) {
    let (cdf, pdf) = x.normal_cdf_pdf();
    (x * cdf, x.fma(pdf, cdf))
}

#[inline(always)]
fn gelu_tanh<T: Math>(x: T) -> (T, T) {
    // 0.5 (1 + tanh(u)) = sigmoid(2u) with 2u = a x + b x^3.
    let a = T::lit(2.0 * (2.0 / std::f64::consts::PI).sqrt());
    let b = T::lit(2.0 * (2.0 / std::f64::consts::PI).sqrt() * 0.044715);
    let square = x * x;
    let s = (x * square.fma(b, a)).sigmoid();
    let slope = square.fma(T::lit(3.0) * b, a);
    (x * s, (x * s * (T::one() - s)).fma(slope, s))
}

#[inline(always)]
fn silu<T: Math>(x: T) -> (T, T) {
    let s = x.sigmoid();
    (x * s, (x * s).fma(T::one() - s, s))
}

#[inline(always)]
fn tanh<T: Math>(x: T) -> (T, T) {
    let y = Math::tanh(x);
    (y, T::one() - y * y)
}

macro_rules! loops {
    ($($function:ident: $forward:ident, $backward:ident, $both:ident;)*) => {
        multiversion! {$(
            fn $forward<T: Math>(x: &[T], out: &mut [T]) {
                for (out, x) in out.iter_mut().zip(x) {
                    *out = $function(*x).0;
                }
            }
            fn $backward<T: Math>(x: &[T], grad: &[T], out: &mut [T]) {
                for ((out, x), grad) in out.iter_mut().zip(x).zip(grad) {
                    *out = *grad * $function(*x).1;
                }
            }
            fn $both<T: Math>(x: &mut [T], out: &mut [T]) {
                for (out, x) in out.iter_mut().zip(x) {
                    (*out, *x) = $function(*x);
                }
            }
        )*}
    };
}
loops! {
    gelu_erf: gelu_erf_forward, gelu_erf_backward, gelu_erf_both;
    gelu_tanh: gelu_tanh_forward, gelu_tanh_backward, gelu_tanh_both;
    silu: silu_forward, silu_backward, silu_both;
    tanh: tanh_forward, tanh_backward, tanh_both;
}

multiversion! {
    fn leak_forward<T: Math>(x: &[T], slope: T, out: &mut [T]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = if *x > T::zero() { *x } else { *x * slope };
        }
    }
}

/// Applies `activation` to every element. The relu family can be differentiated twice; its derivative at 0 is the
/// one from the left, as in PyTorch.
///
/// # Errors
/// When the element type is neither f32 nor f64.
pub fn activate(x: &Var, activation: Activation) -> Result<Var> {
    match activation {
        Activation::None => Ok(x.clone()),
        Activation::Relu => leak(x, 0.0),
        Activation::LeakyRelu(slope) => leak(x, slope),
        _ if portable::takes(x.value()) => smooth_portable(x, activation),
        _ => by_dtype!("activate", x, T => match Smooth::<T>::of(activation) {
            Some(smooth) => smooth.apply(x),
            None => bail!("activate: {activation:?} is not smooth"),
        }),
    }
}

fn leak(x: &Var, slope: f32) -> Result<Var> {
    let x = &fitting(x)?;
    let input = x.value().clone();
    let value = match portable::takes(&input) {
        true => portable::elementwise::leak(&input, slope)?,
        false => by_dtype!("activate", x, T => {
            unary::<T>(&input, |x, out| leak_forward(x, slope as T, out))
        })?,
    };
    // Only the sign of the second operand counts, so the input serves as well as the output.
    Ok(Var::record("leaky_relu", value, &[x], move |grad, _| {
        Ok(vec![Some(activation_backward(grad, Some(&input), slope)?)])
    }))
}

fn smooth_portable(x: &Var, activation: Activation) -> Result<Var> {
    let input = x.value().clone();
    let value = portable::elementwise::activate(&input, None, activation)?;
    Ok(Var::record_once("activate", value, &[x], move |grad: &Tensor, _| {
        Ok(vec![Some(portable::elementwise::activate_backward(&input, None, grad, activation)?)])
    }))
}

type Loops<T> = (fn(&[T], &mut [T]), fn(&[T], &[T], &mut [T]), fn(&mut [T], &mut [T]));

/// The loops of an activation whose derivative needs its input.
#[derive(Clone, Copy)]
pub(crate) struct Smooth<T> {
    /// Writes the activation of the first argument.
    pub(crate) forward: fn(&[T], &mut [T]),
    /// From input and gradient of the output to the gradient of the input.
    backward: fn(&[T], &[T], &mut [T]),
    /// Writes the activation of the first argument, whose place the derivative takes.
    pub(crate) both: fn(&mut [T], &mut [T]),
}

impl<T: Math> Smooth<T> {
    /// `None` for the relu family.
    pub(crate) fn of(activation: Activation) -> Option<Self> {
        let (forward, backward, both): Loops<T> = match activation {
            Activation::None | Activation::Relu | Activation::LeakyRelu(_) => return None,
            Activation::GeluErf => (gelu_erf_forward, gelu_erf_backward, gelu_erf_both),
            Activation::GeluTanh => (gelu_tanh_forward, gelu_tanh_backward, gelu_tanh_both),
            Activation::Silu => (silu_forward, silu_backward, silu_both),
            Activation::Tanh => (tanh_forward, tanh_backward, tanh_both),
        };
        Some(Self { forward, backward, both })
    }

    fn apply(self, x: &Var) -> Result<Var> {
        let input = x.value().clone();
        let value = unary::<T>(&input, self.forward)?;
        Ok(Var::record_once("activate", value, &[x], move |grad: &Tensor, _| {
            Ok(vec![Some(binary::<T>(&input, grad, self.backward)?)])
        }))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::gradcheck::{check_gradients, check_second_order, pattern};

    /// Rounding of the argument (x^2 or x^3 inside an exponential) costs up to 1e-6 where the function is near x.
    const TOLERANCE: f64 = 3e-6;

    const ALL: [Activation; 7] = [
        Activation::None,
        Activation::Relu,
        Activation::LeakyRelu(0.2),
        Activation::GeluErf,
        Activation::GeluTanh,
        Activation::Silu,
        Activation::Tanh,
    ];

    #[test]
    fn gradients_agree_with_differences() -> Result<()> {
        for activation in ALL {
            check_gradients(|x| activate(&x[0], activation), &[pattern(&[3, 37], 1)?])?;
        }
        for activation in &ALL[..3] {
            check_second_order(|x| activate(&crate::square(&x[0])?, *activation), &[pattern(&[5], 2)?])?;
        }
        Ok(())
    }

    #[test]
    fn f32_agrees_with_f64_over_the_whole_range() -> Result<()> {
        let x: Vec<f64> = (-2000..2000).map(|i| f64::from(i) * 0.01).collect();
        for activation in ALL {
            let run = |dtype: DType| -> Result<Vec<f64>> {
                let leaf = Var::leaf(Tensor::new(x.as_slice(), &crate::gradcheck::device())?.to_dtype(dtype)?);
                let y = activate(&leaf, activation)?;
                let value = y.value().to_dtype(DType::F64)?.to_vec1()?;
                let gradients = crate::backward(crate::sum_all(&y)?)?;
                let slope = gradients.leaf(&leaf).cloned().unwrap_or(x_zeros(&x)?);
                Ok([value, slope.to_dtype(DType::F64)?.to_vec1()?].concat())
            };
            for (i, (found, want)) in run(DType::F32)?.iter().zip(run(DType::F64)?).enumerate() {
                assert!(
                    (found - want).abs() <= TOLERANCE * want.abs().max(1.0),
                    "{activation:?} {i}: {found} {want}"
                );
            }
        }
        Ok(())
    }

    fn x_zeros(x: &[f64]) -> Result<Tensor> {
        Tensor::zeros(x.len(), DType::F64, &crate::gradcheck::device())
    }

    #[test]
    fn derivative_at_zero_is_the_one_from_the_left() -> Result<()> {
        for (activation, want) in [(Activation::Relu, 0.0), (Activation::LeakyRelu(0.25), 0.25)] {
            let leaf = Var::leaf(Tensor::zeros(1, DType::F32, &crate::gradcheck::device())?);
            let gradients = crate::backward(activate(&leaf, activation)?)?;
            let Some(slope) = gradients.leaf(&leaf) else { panic!("no gradient") };
            assert_eq!(slope.to_vec1::<f32>()?, [want]);
        }
        Ok(())
    }
}
