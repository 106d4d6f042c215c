//! Sums, products and other functions element by element. All can be differentiated twice.

use candle_core::{Result, Tensor, bail};

use crate::Var;
use crate::cpu::{Element, by_dtype};
use crate::map::{binary, unary};
use crate::mixed::{fitting, go_together, goes_with, widened};
use crate::portable;
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
    if a.dims() != b.dims() || !go_together(a, b) {
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
    let value = match portable::takes(a.value()) {
        true => portable::elementwise::add(a.value(), b.value())?,
        false => by_dtype!("add", a, T => binary::<T>(a.value(), b.value(), add_slices))?,
    };
    Ok(Var::record("add", value, &[a, b], |grad, _| Ok(vec![Some(grad.clone()), Some(grad.clone())])))
}

/// Difference `a - b` of two values of one shape.
///
/// # Errors
/// When the shapes differ.
pub fn sub(a: &Var, b: &Var) -> Result<Var> {
    same_shape("sub", a, b)?;
    let (a, b) = (&widened(a)?, &widened(b)?);
    let value = match portable::takes(a.value()) {
        true => (a.value() - b.value())?,
        false => by_dtype!("sub", a, T => binary::<T>(a.value(), b.value(), sub_slices))?,
    };
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
    let (a, b) = (&widened(a)?, &widened(b)?);
    let value = match portable::takes(a.value()) {
        true => (a.value() * b.value())?,
        false => by_dtype!("mul", a, T => binary::<T>(a.value(), b.value(), mul_slices))?,
    };
    let (ka, kb) = (a.clone(), b.clone());
    Ok(Var::record("mul", value, &[a, b], move |grad, wants| {
        let da = if wants[0] { Some(mul(grad, &kb)?) } else { None };
        let db = if wants[1] { Some(mul(grad, &ka)?) } else { None };
        Ok(vec![da, db])
    }))
}

fn affine(x: &Tensor, factor: f64, offset: f64) -> Result<Tensor> {
    if portable::takes(x) {
        return x.affine(factor, offset);
    }
    by_dtype!("scale", x, T => unary::<T>(x, |x, out| affine_slice(x, T::lit(factor), T::lit(offset), out)))
}

/// `x * factor` for a constant.
pub fn scale(x: &Var, factor: f64) -> Result<Var> {
    let x = &widened(x)?;
    let value = affine(x.value(), factor, 0.0)?;
    Ok(Var::record("scale", value, &[x], move |grad, _| Ok(vec![Some(scale(grad, factor)?)])))
}

/// `x + offset` for a constant.
pub fn add_scalar(x: &Var, offset: f64) -> Result<Var> {
    let x = &widened(x)?;
    let value = affine(x.value(), 1.0, offset)?;
    Ok(Var::record("add_scalar", value, &[x], |grad, _| Ok(vec![Some(grad.clone())])))
}

/// `x * x` element by element.
pub fn square(x: &Var) -> Result<Var> {
    let x = &widened(x)?;
    let value = match portable::takes(x.value()) {
        true => x.value().sqr()?,
        false => by_dtype!("square", x, T => unary::<T>(x.value(), square_slice))?,
    };
    let kept = x.clone();
    Ok(Var::record("square", value, &[x], move |grad, _| Ok(vec![Some(mul(grad, &scale(&kept, 2.0)?)?)])))
}

/// `x * s` for a value `s` of one element (any number of dimensions), such as a learned gain.
///
/// # Errors
/// When `s` has more than one element, or another element type.
pub fn mul_scalar(x: &Var, s: &Var) -> Result<Var> {
    let (x, s) = (&widened(x)?, &widened(s)?);
    if s.value().elem_count() != 1 || s.dtype() != x.dtype() {
        bail!("mul_scalar: expected one {:?} element, got {:?} {:?}", x.dtype(), s.dims(), s.dtype());
    }
    let value = match portable::takes(x.value()) {
        // Nothing is read back: the device multiplies by what it has.
        true => portable::reduce::scale_all(x.value(), s.value())?,
        false => affine(x.value(), by_dtype!("mul_scalar", s, T => first::<T>(s.value()))?, 0.0)?,
    };
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
    let x = &widened(x)?;
    let value = match portable::takes(x.value()) {
        true => x.value().recip()?,
        false => by_dtype!("recip", x, T => unary::<T>(x.value(), recip_slice))?,
    };
    let kept = x.clone();
    Ok(Var::record("recip", value, &[x], move |grad, _| {
        let slope = scale(&square(&recip(&kept)?)?, -1.0)?;
        Ok(vec![Some(mul(grad, &slope)?)])
    }))
}

/// The square root of every element (its derivative at 0 is infinite).
pub fn sqrt(x: &Var) -> Result<Var> {
    let x = &widened(x)?;
    let value = match portable::takes(x.value()) {
        true => x.value().sqrt()?,
        false => by_dtype!("sqrt", x, T => unary::<T>(x.value(), sqrt_slice))?,
    };
    let kept = x.clone();
    Ok(Var::record("sqrt", value, &[x], move |grad, _| {
        let slope = scale(&recip(&sqrt(&kept)?)?, 0.5)?;
        Ok(vec![Some(mul(grad, &slope)?)])
    }))
}

/// `x + b`, where the dimensions of `b` are the last ones of `x`: a bias `[C]`, or a position embedding
/// `[T, N, C]` shared by the images of a batch. The sum has the type of `b`.
///
/// # Errors
/// When the dimensions of `b` are not a suffix of those of `x`.
pub fn add_broadcast(x: &Var, b: &Var) -> Result<Var> {
    let x = &fitting(x)?;
    if !x.dims().ends_with(b.dims()) || !goes_with(b.dtype(), x) {
        bail!(
            "add_broadcast: expected a suffix of {:?} {:?}, got {:?} {:?}",
            x.dims(),
            x.dtype(),
            b.dims(),
            b.dtype()
        );
    }
    let value = match portable::takes(x.value()) {
        true => portable::elementwise::add_suffix(x.value(), b.value())?,
        false => by_dtype!("add_broadcast", x, T => crate::reduce::add_suffix::<T>(x.value(), b.value()))?,
    };
    let suffix = b.dims().to_vec();
    Ok(Var::record("add_broadcast", value, &[x, b], move |grad, wants| {
        let db = if wants[1] { Some(sum_leading(grad, &suffix)?) } else { None };
        Ok(vec![Some(grad.clone()), db])
    }))
}

/// `log(1 + exp(x))`, without overflow for any `x`.
pub fn softplus(x: &Var) -> Result<Var> {
    let x = &widened(x)?;
    let f = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let value = match portable::takes(x.value()) {
        true => portable::elementwise::softplus(x.value())?,
        false => by_dtype!("softplus", x, T => unary::<T>(x.value(), |x, out| through_f64(x, out, f)))?,
    };
    let kept = x.clone();
    Ok(Var::record("softplus", value, &[x], move |grad, _| Ok(vec![Some(mul(grad, &sigmoid(&kept)?)?)])))
}

/// `1 / (1 + exp(-x))`.
pub fn sigmoid(x: &Var) -> Result<Var> {
    let x = &widened(x)?;
    let f = |x: f64| {
        let small = (-x.abs()).exp();
        if x >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) }
    };
    let value = match portable::takes(x.value()) {
        true => portable::elementwise::sigmoid(x.value())?,
        false => by_dtype!("sigmoid", x, T => unary::<T>(x.value(), |x, out| through_f64(x, out, f)))?,
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradients, check_second_order, pattern};
    use crate::{cat, narrow, permute, reshape, sum_per_sample};

    fn check(f: impl Fn(&[Var]) -> Result<Var>, dims: &[&[usize]]) -> Result<()> {
        let inputs: Vec<Tensor> =
            dims.iter().zip(1..).map(|(dims, seed)| pattern(dims, seed)).collect::<Result<_>>()?;
        check_gradients(&f, &inputs)?;
        check_second_order(&f, &inputs)
    }

    #[test]
    fn gradients_match_differences() -> Result<()> {
        let d: &[usize] = &[2, 3, 5];
        check(|v| add(&v[0], &v[1]), &[d, d])?;
        check(|v| sub(&v[0], &v[1]), &[d, d])?;
        check(|v| mul(&v[0], &v[1]), &[d, d])?;
        check(|v| mul(&v[0], &v[0]), &[d])?;
        check(|v| scale(&v[0], -2.5), &[d])?;
        check(|v| add_scalar(&v[0], 0.3), &[d])?;
        check(|v| square(&v[0]), &[d])?;
        check(|v| recip(&v[0]), &[d])?;
        check(|v| sqrt(&add_scalar(&square(&v[0])?, 0.1)?), &[d])?;
        check(|v| softplus(&v[0]), &[d])?;
        check(|v| sigmoid(&v[0]), &[d])?;
        check(|v| mul_scalar(&v[0], &v[1]), &[d, &[1]])?;
        check(|v| mul_scalar(&v[0], &v[1]), &[d, &[]])?;
        check(|v| add_broadcast(&v[0], &v[1]), &[d, &[5]])?;
        check(|v| add_broadcast(&v[0], &v[1]), &[d, &[3, 5]])?;
        check(|v| sum_all(&square(&v[0])?), &[d])?;
        check(|v| mean_all(&square(&v[0])?), &[d])?;
        check(|v| sum_per_sample(&square(&v[0])?), &[d])
    }

    #[test]
    fn shape_changes_carry_gradients() -> Result<()> {
        let d: &[usize] = &[2, 3, 4];
        check(|v| reshape(&square(&v[0])?, &[6, 4]), &[d])?;
        check(|v| permute(&square(&v[0])?, &[2, 0, 1]), &[d])?;
        check(|v| narrow(&square(&v[0])?, 1, 1, 2), &[d])?;
        check(|v| cat(&[&v[0], &square(&v[1])?], 1), &[d, &[2, 5, 4]])
    }

    #[test]
    fn extreme_logits_stay_finite() -> Result<()> {
        let x = Var::constant(Tensor::new(&[-1e4f32, -90.0, 0.0, 90.0, 1e4], &crate::gradcheck::device())?);
        assert_eq!(softplus(&x)?.value().to_vec1::<f32>()?, [0.0, 8.194013e-40, 0.6931472, 90.0, 1e4]);
        assert_eq!(sigmoid(&x)?.value().to_vec1::<f32>()?, [0.0, 8.194013e-40, 0.5, 1.0, 1.0]);
        Ok(())
    }

    /// Longer than one chunk, with a width that no vector divides.
    #[test]
    fn long_sums_agree_with_f64() -> Result<()> {
        let x = pattern(&[20_011, 7], 3)?;
        let single = Var::constant(x.to_dtype(candle_core::DType::F32)?);
        let exact = x.sum(0)?.to_vec1::<f64>()?;
        let sums = sum_leading(&single, &[7])?.into_value().to_vec1::<f32>()?;
        for (got, exact) in sums.iter().zip(exact) {
            // 20 000 numbers of size 1: the sum is of size 100, the error of f32 a few 1e-6 of the path to it.
            assert!((*got as f64 - exact).abs() < 0.01, "{got} {exact}");
        }
        let total = sum_all(&single)?.into_value().to_scalar::<f32>()? as f64;
        assert!((total - x.sum_all()?.to_scalar::<f64>()?).abs() < 0.01);
        Ok(())
    }

    #[test]
    fn shape_errors_are_errors() -> Result<()> {
        let var = |dims: &[usize]| pattern(dims, 1).map(Var::constant);
        let (x, y) = (var(&[2, 3])?, var(&[3, 2])?);
        assert!(add(&x, &y).is_err() && sub(&x, &y).is_err() && mul(&x, &y).is_err());
        assert!(add_broadcast(&x, &var(&[2])?).is_err() && mul_scalar(&x, &y).is_err());
        assert!(reshape(&x, &[5]).is_err() && narrow(&x, 1, 2, 2).is_err() && narrow(&x, 2, 0, 1).is_err());
        assert!(permute(&x, &[0, 0]).is_err() && permute(&x, &[0]).is_err() && permute(&x, &[0, 2]).is_err());
        assert!(cat(&[], 0).is_err() && cat(&[&x, &y], 0).is_err() && cat(&[&x], 2).is_err());
        Ok(())
    }
}
