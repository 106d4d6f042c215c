//! Linear layers with what follows them: bias, activation or residual. The product's rows are finished while they are in
//! the cache.

use candle_core::{Result, Tensor, bail};

use crate::activation::Smooth;
use crate::cpu::by_dtype;
use crate::linear_value::{Then, value};
use crate::matmul::matmul_to;
use crate::mixed::{factor, go_together, goes_with};
use crate::reduce::times_with_column_sums;
use crate::vmath::Math;
use crate::{Activation, Var, autograd, fused, matmul, portable, reshape};

/// `activation(x w^T + b)`: `x [.., C_in]`, `w [C_out, C_in]`, `b [C_out]`, result `[.., C_out]`.
///
/// Can be differentiated twice with an activation of the relu family.
///
/// # Errors
/// When the channels disagree.
pub fn linear(x: &Var, w: &Var, b: Option<&Var>, activation: Activation) -> Result<Var> {
    check(x, w, b)?;
    match fused::slope(activation) {
        Some(slope) => linear_leak(x, w, b, slope),
        None if portable::takes(x.value()) => linear_smooth_portable(x, w, b, activation),
        None => by_dtype!("linear", x, T => match Smooth::<T>::of(activation) {
            Some(smooth) => linear_smooth(x, w, b, smooth),
            None => bail!("linear: {activation:?} is neither smooth nor of the relu family"),
        }),
    }
}

/// `residual + x w^T + b`: as [`linear`] without an activation, and `residual [.., C_out]`. Can be differentiated twice.
///
/// # Errors
/// When the channels disagree, or the residual has another shape than the result.
pub fn linear_residual(x: &Var, w: &Var, b: Option<&Var>, residual: &Var) -> Result<Var> {
    let c_out = check(x, w, b)?;
    let added = check_residual(x, residual, c_out)?;
    let (x, w) = (&factor(x)?, &factor(w)?);
    let value = match portable::takes(x.value()) {
        true => portable::linear::add_residual(product(x, w)?, b.map(Var::value), &added)?,
        false => by_dtype!("linear_residual", x, T => value::<T>(x, w, b, &Then::Add(&added)))?.0,
    };
    let (kept_x, kept_w) = (x.clone(), w.clone());
    let inputs: Vec<&Var> = [x, w, residual].into_iter().chain(b).collect();
    Ok(Var::record("linear_residual", value, &inputs, move |grad, wants| {
        let wants_bias = wants.get(3) == Some(&true);
        // In one pass where nobody will differentiate it again.
        let (rounded, db) = match wants_bias && portable::takes(grad.value()) && !autograd::is_recorded(&[grad])
        {
            true => {
                let flat = grad.value().contiguous()?.reshape(((), c_out))?;
                let (rounded, sums) = portable::reduce::factor_with_sums(&flat)?;
                (&Var::constant(rounded.reshape(grad.dims())?), Some(Var::constant(sums)))
            }
            false if wants_bias => (grad, Some(crate::reduce::sum_leading(grad, &[c_out])?)),
            false => (grad, None),
        };
        let [dx, dw] = gradients(rounded, &kept_x, &kept_w, wants)?;
        let bias = if wants.len() > 3 { vec![db] } else { Vec::new() };
        Ok([vec![dx, dw, Some(grad.clone())], bias].concat())
    }))
}

/// The residual, contiguous, if it fits.
pub(crate) fn check_residual(x: &Var, residual: &Var, c_out: usize) -> Result<Tensor> {
    let dims = result_dims(x, c_out);
    if residual.dims() != dims || !go_together(residual, x) {
        bail!("linear: expected a residual {dims:?} {:?}, got {residual:?}", x.dtype());
    }
    residual.value().contiguous()
}

/// Channels of the result.
pub(crate) fn check(x: &Var, w: &Var, b: Option<&Var>) -> Result<usize> {
    check_wide(x, x.dims().last().copied(), w, b)
}

/// Channels of the result for an input like `x` that has other `channels`.
pub(crate) fn check_wide(x: &Var, channels: Option<usize>, w: &Var, b: Option<&Var>) -> Result<usize> {
    let (&[c_out, c_in], Some(channels)) = (w.dims(), channels) else {
        bail!("linear: expected x [.., C_in] and w [C_out, C_in], got {:?} and {:?}", x.dims(), w.dims())
    };
    let bias_fits = b.is_none_or(|b| b.dims() == [c_out] && goes_with(b.dtype(), x));
    if channels != c_in || !bias_fits || !goes_with(w.dtype(), x) {
        let bias = b.map(Var::dims);
        bail!(
            "linear: expected x [.., {c_in}] and b [{c_out}], got [.., {channels}] and {bias:?}, of one type"
        );
    }
    Ok(c_out)
}

fn result_dims(x: &Var, c_out: usize) -> Vec<usize> {
    let mut dims = x.dims().to_vec();
    dims.pop();
    dims.push(c_out);
    dims
}

/// With an activation of the relu family, whose derivative can be read off the output.
fn linear_leak(x: &Var, w: &Var, b: Option<&Var>, slope: f32) -> Result<Var> {
    let c_out = w.dims()[0];
    let (x, w) = (&factor(x)?, &factor(w)?);
    let value = match portable::takes(x.value()) {
        true => portable::linear::epilogue(product(x, w)?, b.map(Var::value), slope)?,
        false => by_dtype!("linear", x, T => value::<T>(x, w, b, &Then::Leak(slope)))?.0,
    };
    let (kept_x, kept_w, output) = (x.clone(), w.clone(), fused::kept_output(&value, slope));
    let inputs: Vec<&Var> = [x, w].into_iter().chain(b).collect();
    Ok(Var::record("linear", value, &inputs, move |grad, wants| {
        let grad = fused::activation_backward(grad, output.as_ref(), slope)?;
        let mut grads = gradients(&grad, &kept_x, &kept_w, wants)?.to_vec();
        if let Some(&want) = wants.get(2) {
            grads.push(if want { Some(crate::reduce::sum_leading(&grad, &[c_out])?) } else { None });
        }
        Ok(grads)
    }))
}

/// `x w^T` on the portable path, with the dimensions of `x` but the last.
fn product(x: &Var, w: &Var) -> Result<Tensor> {
    let (c_out, c_in) = w.value().dims2()?;
    let rows = x.value().elem_count() / c_in.max(1);
    let flat = x.value().contiguous()?.reshape((rows, c_in))?;
    portable::linear::product(&flat, w.value(), (false, true), false)?.reshape(result_dims(x, c_out))
}

/// With an activation whose derivative needs its input, on the portable path: the product is kept, the bias added again.
fn linear_smooth_portable(x: &Var, w: &Var, b: Option<&Var>, activation: Activation) -> Result<Var> {
    let c_out = w.dims()[0];
    let (x, w) = (&factor(x)?, &factor(w)?);
    let (before, bias) = (product(x, w)?, b.map(|b| b.value().clone()));
    let value = portable::elementwise::activate(&before, bias.as_ref(), activation)?;
    let (kept_x, kept_w) = (x.clone(), w.clone());
    let inputs: Vec<&Var> = [x, w].into_iter().chain(b).collect();
    Ok(Var::record_once("linear", value, &inputs, move |grad, wants| {
        let grad = portable::elementwise::activate_backward(&before, bias.as_ref(), grad, activation)?;
        let grad = Var::constant(grad);
        let mut grads = gradients(&grad, &kept_x, &kept_w, wants)?.to_vec();
        if let Some(&want) = wants.get(2) {
            grads.push(if want { Some(crate::reduce::sum_leading(&grad, &[c_out])?) } else { None });
        }
        Ok(grads.into_iter().map(|grad| grad.map(Var::into_value)).collect())
    }))
}

/// With an activation whose derivative needs its input: it is found with the value where somebody will ask for it.
fn linear_smooth<T: Math>(x: &Var, w: &Var, b: Option<&Var>, smooth: Smooth<T>) -> Result<Var> {
    let c_out = w.dims()[0];
    let inputs: Vec<&Var> = [x, w].into_iter().chain(b).collect();
    let then = Then::Smooth { smooth, slopes: autograd::is_recorded(&inputs) };
    let (value, slopes) = value::<T>(x, w, b, &then)?;
    let Some(slopes) = slopes else { return Ok(Var::constant(value)) };
    let (kept_x, kept_w) = (x.clone(), w.clone());
    Ok(Var::record_once("linear", value, &inputs, move |grad, wants| {
        let (grad, db) = times_with_column_sums::<T>(grad, &slopes, c_out)?;
        let [dx, dw] = gradients(&Var::constant(grad), &kept_x, &kept_w, wants)?;
        Ok([dx, dw].into_iter().map(|d| d.map(Var::into_value)).chain([Some(db)]).take(wants.len()).collect())
    }))
}

/// Gradients of x and w, from that of the product.
fn gradients(grad: &Var, x: &Var, w: &Var, wants: &[bool]) -> Result<[Option<Var>; 2]> {
    let (c_out, c_in) = w.value().dims2()?;
    let rows = grad.value().elem_count() / c_out.max(1);
    // Rounded once for both products.
    let grad = reshape(&factor(grad)?, &[rows, c_out])?;
    let dx = match wants[0] {
        true => Some(reshape(&matmul(&grad, w, false, false)?, x.dims())?),
        false => None,
    };
    let dw = match wants[1] {
        true => Some(matmul_to(&grad, &reshape(x, &[rows, c_in])?, true, false, true)?),
        false => None,
    };
    Ok([dx, dw])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradients, check_second_order, pattern};

    #[test]
    fn linear_gradients_match_differences() -> Result<()> {
        for dims in [vec![5], vec![3, 5], vec![2, 2, 3, 5]] {
            for activation in [Activation::None, Activation::Relu, Activation::LeakyRelu(0.1)] {
                let f = |v: &[Var]| linear(&v[0], &v[1], Some(&v[2]), activation);
                let inputs = [pattern(&dims, 1)?, pattern(&[4, 5], 2)?, pattern(&[4], 3)?];
                check_gradients(f, &inputs)?;
                check_second_order(f, &inputs)?;
            }
        }
        let smooth = |v: &[Var]| linear(&v[0], &v[1], None, Activation::Tanh);
        check_gradients(smooth, &[pattern(&[3, 5], 1)?, pattern(&[4, 5], 2)?])?;
        let with_bias = |v: &[Var]| linear(&v[0], &v[1], Some(&v[2]), Activation::GeluErf);
        check_gradients(with_bias, &[pattern(&[7, 3, 5], 1)?, pattern(&[4, 5], 2)?, pattern(&[4], 3)?])
    }

    #[test]
    fn residual_gradients_match_differences() -> Result<()> {
        for dims in [vec![3], vec![7, 2, 3]] {
            let mut result = dims.clone();
            result.pop();
            result.push(5);
            let inputs = [pattern(&dims, 1)?, pattern(&[5, 3], 2)?, pattern(&result, 3)?, pattern(&[5], 4)?];
            let f = |v: &[Var]| linear_residual(&v[0], &v[1], Some(&v[3]), &v[2]);
            check_gradients(f, &inputs)?;
            check_second_order(|v: &[Var]| crate::square(&f(v)?), &inputs)?;
            check_gradients(|v: &[Var]| linear_residual(&v[0], &v[1], None, &v[2]), &inputs[..3])?;
        }
        Ok(())
    }

    /// What is fused gives what the operations one by one give, whether or not a gradient will be asked for.
    #[test]
    fn fused_operations_agree_with_their_parts() -> Result<()> {
        use candle_core::DType;
        for dtype in [DType::F32, DType::F64] {
            for (rows, c_in, c_out) in [(1, 1, 1), (13, 7, 33), (300, 40, 80)] {
                let tensor = |dims: &[usize], seed| pattern(dims, seed)?.to_dtype(dtype);
                let (x, w) = (Var::leaf(tensor(&[rows, c_in], 1)?), Var::constant(tensor(&[c_out, c_in], 2)?));
                let (b, r) = (Var::constant(tensor(&[c_out], 3)?), Var::constant(tensor(&[rows, c_out], 4)?));
                let plain = linear(&x, &w, Some(&b), Activation::None)?;
                let gelu = || linear(&x, &w, Some(&b), Activation::GeluTanh);
                let pairs = [
                    (gelu()?, crate::activate(&plain, Activation::GeluTanh)?),
                    (crate::no_grad(gelu)?, crate::activate(&plain, Activation::GeluTanh)?),
                    (linear_residual(&x, &w, Some(&b), &r)?, crate::add(&plain, &r)?),
                ];
                for (found, want) in pairs {
                    let error = (found.value() - want.value())?.abs()?.max_all()?.to_dtype(DType::F64)?;
                    assert!(error.to_scalar::<f64>()? <= 1e-6, "{dtype:?} {rows} {c_in} {c_out}");
                }
            }
        }
        Ok(())
    }

    /// The f32 kernels against the f64 ones: sizes that fill no block, panel or strip of rows.
    #[test]
    fn single_precision_agrees_with_double() -> Result<()> {
        use candle_core::DType;
        for (rows, c_in, c_out) in [(1, 1, 1), (13, 7, 33), (700, 40, 50), (1100, 16, 3), (97, 129, 65)] {
            let inputs = [pattern(&[rows, c_in], 1)?, pattern(&[c_out, c_in], 2)?, pattern(&[c_out], 3)?];
            let run = |dtype: DType| -> Result<Vec<Tensor>> {
                let leaves: Vec<Var> =
                    inputs.iter().map(|x| Ok(Var::leaf(x.to_dtype(dtype)?))).collect::<Result<_>>()?;
                let y = linear(&leaves[0], &leaves[1], Some(&leaves[2]), Activation::LeakyRelu(0.2))?;
                let weights = Var::constant(pattern(y.dims(), 4)?.to_dtype(dtype)?);
                let gradients = crate::backward(crate::sum_all(&crate::mul(&y, &weights)?)?)?;
                let mut all = vec![y.into_value()];
                all.extend(leaves.iter().filter_map(|leaf| gradients.leaf(leaf).cloned()));
                all.iter().map(|t| t.to_dtype(DType::F64)).collect()
            };
            let (single, double) = (run(DType::F32)?, run(DType::F64)?);
            for (single, double) in single.iter().zip(&double) {
                let error = (single - double)?.abs()?.max_all()?.to_scalar::<f64>()?;
                let largest = double.abs()?.max_all()?.to_scalar::<f64>()?;
                // Sums of up to 1100 products in f32.
                assert!(error <= 1e-5 * largest, "{rows} {c_in} {c_out}: {error} of {largest}");
            }
        }
        Ok(())
    }

    #[test]
    fn shape_errors_are_errors() -> Result<()> {
        let var = |dims: &[usize]| pattern(dims, 1).map(Var::constant);
        assert!(linear(&var(&[2, 3])?, &var(&[4, 5])?, None, Activation::None).is_err());
        assert!(linear(&var(&[2, 5])?, &var(&[4, 5])?, Some(&var(&[5])?), Activation::None).is_err());
        assert!(linear(&var(&[])?, &var(&[4, 5])?, None, Activation::None).is_err());
        assert!(linear_residual(&var(&[2, 5])?, &var(&[4, 5])?, None, &var(&[2, 5])?).is_err());
        Ok(())
    }
}
