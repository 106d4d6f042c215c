//! Sums, products and other functions element by element. All can be differentiated twice.

use candle_core::{Result, Tensor, bail};

use crate::Var;
use crate::cpu::{Element, by_dtype};
use crate::map::{binary, unary};
use crate::reduce::{sum_all, sum_leading};
use crate::simd::multiversion;

multiversion! {
    fn add_slices<T: Element>(a: &[T], b: &[T], out: &mut [T]) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = *a + *b;
        }
    }
    fn sub_slices<T: Element>(a: &[T], b: &[T], out: &mut [T]) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = *a - *b;
        }
    }
    fn mul_slices<T: Element>(a: &[T], b: &[T], out: &mut [T]) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = *a * *b;
        }
    }
    fn affine_slice<T: Element>(x: &[T], factor: T, offset: T, out: &mut [T]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x.fma(factor, offset);
        }
    }
    fn square_slice<T: Element>(x: &[T], out: &mut [T]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = *x * *x;
        }
    }
    fn sqrt_slice<T: Element>(x: &[T], out: &mut [T]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x.sqrt();
        }
    }
    fn recip_slice<T: Element>(x: &[T], out: &mut [T]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = T::one() / *x;
        }
    }
}

/// The common shape and element type of two operands, or an error that names both.
fn same_shape(name: &str, a: &Var, b: &Var) -> Result<()> {
    if a.dims() != b.dims() || a.dtype() != b.dtype() {
        bail!(
            "{name}: expected two equal shapes and types, got {:?} {:?} and {:?} {:?}",
            a.dims(),
            a.dtype(),
            b.dims(),
            b.dtype()
        );
    }
    Ok(())
}

/// Sum of two values of one shape.
///
/// # Errors
/// When the shapes differ.
pub fn add(a: &Var, b: &Var) -> Result<Var> {
    same_shape("add", a, b)?;
    let value = by_dtype!("add", a, T => binary::<T>(a.value(), b.value(), add_slices))?;
    Ok(Var::record("add", value, &[a, b], |grad, _| Ok(vec![Some(grad.clone()), Some(grad.clone())])))
}

/// Difference `a - b` of two values of one shape.
///
/// # Errors
/// When the shapes differ.
pub fn sub(a: &Var, b: &Var) -> Result<Var> {
    same_shape("sub", a, b)?;
    let value = by_dtype!("sub", a, T => binary::<T>(a.value(), b.value(), sub_slices))?;
    Ok(Var::record("sub", value, &[a, b], |grad, wants| {
        let db = if wants[1] { Some(scale(grad, -1.0)?) } else { None };
        Ok(vec![Some(grad.clone()), db])
    }))
}

/// Product of two values of one shape.
///
/// # Errors
/// When the shapes differ.
pub fn mul(a: &Var, b: &Var) -> Result<Var> {
    same_shape("mul", a, b)?;
    let value = by_dtype!("mul", a, T => binary::<T>(a.value(), b.value(), mul_slices))?;
    let (ka, kb) = (a.clone(), b.clone());
    Ok(Var::record("mul", value, &[a, b], move |grad, wants| {
        let da = if wants[0] { Some(mul(grad, &kb)?) } else { None };
        let db = if wants[1] { Some(mul(grad, &ka)?) } else { None };
        Ok(vec![da, db])
    }))
}

fn affine(x: &Tensor, factor: f64, offset: f64) -> Result<Tensor> {
    by_dtype!("scale", x, T => unary::<T>(x, |x, out| affine_slice(x, T::lit(factor), T::lit(offset), out)))
}

/// `x * factor` for a constant.
pub fn scale(x: &Var, factor: f64) -> Result<Var> {
    let value = affine(x.value(), factor, 0.0)?;
    Ok(Var::record("scale", value, &[x], move |grad, _| Ok(vec![Some(scale(grad, factor)?)])))
}

/// `x + offset` for a constant.
pub fn add_scalar(x: &Var, offset: f64) -> Result<Var> {
    let value = affine(x.value(), 1.0, offset)?;
    Ok(Var::record("add_scalar", value, &[x], |grad, _| Ok(vec![Some(grad.clone())])))
}

/// `x * x` element by element.
pub fn square(x: &Var) -> Result<Var> {
    let value = by_dtype!("square", x, T => unary::<T>(x.value(), square_slice))?;
    let kept = x.clone();
    Ok(Var::record("square", value, &[x], move |grad, _| Ok(vec![Some(mul(grad, &scale(&kept, 2.0)?)?)])))
}

/// `x * s` for a value `s` of one element (any number of dimensions), such as a learned gain.
///
/// # Errors
/// When `s` has more than one element, or another element type.
pub fn mul_scalar(x: &Var, s: &Var) -> Result<Var> {
    if s.value().elem_count() != 1 || s.dtype() != x.dtype() {
        bail!("mul_scalar: expected one {:?} element, got {:?} {:?}", x.dtype(), s.dims(), s.dtype());
    }
    let factor: f64 = by_dtype!("mul_scalar", s, T => first::<T>(s.value()))?;
    let value = affine(x.value(), factor, 0.0)?;
    let (kept_x, kept_s) = (x.clone(), s.clone());
    Ok(Var::record("mul_scalar", value, &[x, s], move |grad, wants| {
        let dx = if wants[0] { Some(mul_scalar(grad, &kept_s)?) } else { None };
        let ds =
            if wants[1] { Some(crate::reshape(&sum_all(&mul(grad, &kept_x)?)?, kept_s.dims())?) } else { None };
        Ok(vec![dx, ds])
    }))
}

fn first<T: Element>(x: &Tensor) -> Result<f64> {
    crate::cpu::with_slice::<T, _>(&x.contiguous()?, |x| Ok(x.first().map_or(0.0, |x| x.to_f64())))
}

/// `1 / x` element by element.
pub fn recip(x: &Var) -> Result<Var> {
    let value = by_dtype!("recip", x, T => unary::<T>(x.value(), recip_slice))?;
    let kept = x.clone();
    Ok(Var::record("recip", value, &[x], move |grad, _| {
        let slope = scale(&square(&recip(&kept)?)?, -1.0)?;
        Ok(vec![Some(mul(grad, &slope)?)])
    }))
}

/// The square root of every element (its derivative at 0 is infinite).
pub fn sqrt(x: &Var) -> Result<Var> {
    let value = by_dtype!("sqrt", x, T => unary::<T>(x.value(), sqrt_slice))?;
    let kept = x.clone();
    Ok(Var::record("sqrt", value, &[x], move |grad, _| {
        let slope = scale(&recip(&sqrt(&kept)?)?, 0.5)?;
        Ok(vec![Some(mul(grad, &slope)?)])
    }))
}

/// `x + b`, where the dimensions of `b` are the last ones of `x`: a bias `[C]`, or a position embedding
/// `[T, N, C]` shared by the images of a batch.
///
/// # Errors
/// When the dimensions of `b` are not a suffix of those of `x`.
pub fn add_broadcast(x: &Var, b: &Var) -> Result<Var> {
    if !x.dims().ends_with(b.dims()) || x.dtype() != b.dtype() {
        bail!(
            "add_broadcast: expected a suffix of {:?} {:?}, got {:?} {:?}",
            x.dims(),
            x.dtype(),
            b.dims(),
            b.dtype()
        );
    }
    let value = by_dtype!("add_broadcast", x, T => crate::reduce::add_suffix::<T>(x.value(), b.value()))?;
    let suffix = b.dims().to_vec();
    Ok(Var::record("add_broadcast", value, &[x, b], move |grad, wants| {
        let db = if wants[1] { Some(sum_leading(grad, &suffix)?) } else { None };
        Ok(vec![Some(grad.clone()), db])
    }))
}

/// `log(1 + exp(x))`, without overflow for any `x`.
pub fn softplus(x: &Var) -> Result<Var> {
    let f = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let value = by_dtype!("softplus", x, T => unary::<T>(x.value(), |x, out| through_f64(x, out, f)))?;
    let kept = x.clone();
    Ok(Var::record("softplus", value, &[x], move |grad, _| Ok(vec![Some(mul(grad, &sigmoid(&kept)?)?)])))
}

/// `1 / (1 + exp(-x))`.
pub fn sigmoid(x: &Var) -> Result<Var> {
    let f = |x: f64| {
        let small = (-x.abs()).exp();
        if x >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) }
    };
    let value = by_dtype!("sigmoid", x, T => unary::<T>(x.value(), |x, out| through_f64(x, out, f)))?;
    let kept = x.clone();
    Ok(Var::record("sigmoid", value, &[x], move |grad, _| {
        let s = sigmoid(&kept)?;
        let slope = sub(&s, &square(&s)?)?;
        Ok(vec![Some(mul(grad, &slope)?)])
    }))
}

/// For functions of a few numbers (logits), where the exact library function matters more than speed.
fn through_f64<T: Element>(x: &[T], out: &mut [T], f: impl Fn(f64) -> f64) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = T::lit(f(x.to_f64()));
    }
}

/// Mean of all elements, as a tensor without dimensions.
pub fn mean_all(x: &Var) -> Result<Var> {
    scale(&sum_all(x)?, 1.0 / x.value().elem_count().max(1) as f64)
}
