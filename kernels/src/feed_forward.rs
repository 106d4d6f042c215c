//! The two layers of a transformer's feed-forward part as one operation: on the way back, the gradient of the hidden layer
//! is multiplied by the activation's derivative while it is in the cache.

use candle_core::Result;

use crate::{Activation, Var, linear, linear_residual};

/// Weight `[C_out, C_in]` and bias `[C_out]` of a layer.
pub type Layer<'a> = (&'a Var, Option<&'a Var>);

/// `residual + activation(x w1^T + b1) w2^T + b2`: `x [.., C]`, hidden layer of any width, `residual` of the result's shape
/// or none.
///
/// Can be differentiated once with a smooth activation.
///
/// # Errors
/// When channels or shapes disagree.
pub fn feed_forward(
    x: &Var,
    first: Layer<'_>,
    activation: Activation,
    second: Layer<'_>,
    residual: Option<&Var>,
) -> Result<Var> {
    #[cfg(target_arch = "x86_64")]
    if let (Some(b1), Some(b2)) = (first.1, second.1)
        && let Some(smooth) = fused::fitting(x, activation, &[x, first.0, b1, second.0, b2])
    {
        return fused::feed_forward(x, (first.0, b1), smooth, (second.0, b2), residual);
    }
    let hidden = linear(x, first.0, first.1, activation)?;
    match residual {
        Some(residual) => linear_residual(&hidden, second.0, second.1, residual),
        None => linear(&hidden, second.0, second.1, Activation::None),
    }
}

#[cfg(target_arch = "x86_64")]
mod fused {
    use candle_core::Tensor;

    use super::*;
    use crate::activation::Smooth;
    use crate::cpu;
    use crate::gemm::Shared;
    use crate::linear::{check, check_residual};
    use crate::linear_value::{Then, value};
    use crate::micro::{self, Added, Epilogue};
    use crate::product::{self, Packed};
    use crate::reduce::{sum_leading, times_rows_in_place};
    use crate::{autograd, matmul, reshape};

    /// The activation's loops, where there is a derivative to keep and a kernel for these tensors.
    pub(super) fn fitting(x: &Var, activation: Activation, inputs: &[&Var]) -> Option<Smooth<f32>> {
        let ours = !crate::portable::takes(x.value()) && micro::takes(x.value());
        let fits = ours && autograd::is_recorded(inputs) && inputs.iter().all(|v| v.value().elem_count() > 0);
        Smooth::of(activation).filter(|_| fits)
    }

    pub(super) fn feed_forward(
        x: &Var,
        (w1, b1): (&Var, &Var),
        smooth: Smooth<f32>,
        (w2, b2): (&Var, &Var),
        residual: Option<&Var>,
    ) -> Result<Var> {
        check(x, w1, Some(b1))?;
        let (hidden, slopes) = value(x, w1, Some(b1), &Then::Smooth { smooth, slopes: true })?;
        let hidden = Var::constant(hidden);
        let c_out = check(&hidden, w2, Some(b2))?;
        let added = residual.map(|residual| check_residual(&hidden, residual, c_out)).transpose()?;
        let out = value::<f32>(&hidden, w2, Some(b2), &added.as_ref().map_or(Then::Leak(1.0), Then::Add))?.0;
        let inputs: Vec<&Var> = [x, w1, b1, w2, b2].into_iter().chain(residual).collect();
        let (x, w1, w2) = (x.detach(), w1.detach(), w2.detach());
        Ok(Var::record_once("feed_forward", out, &inputs, move |grad, wants| {
            let dims = grad.dims().to_vec();
            let width = w2.dims()[1];
            let rows = hidden.value().elem_count() / width;
            let flat = Var::constant(grad.contiguous()?.reshape((rows, c_out))?);
            let slopes = slopes.as_ref().unwrap_or(hidden.value());
            let (before, db1) = hidden_gradient(flat.value(), w2.value(), slopes)?;
            let before = Var::constant(before);
            let when =
                |wanted: bool, f: &dyn Fn() -> Result<Var>| if wanted { f().map(Some) } else { Ok(None) };
            let (flat_x, flat_hidden) =
                (reshape(&x, &[rows, w1.dims()[1]])?, reshape(&hidden, &[rows, width])?);
            let mut grads = vec![
                when(wants[0], &|| reshape(&matmul(&before, &w1, false, false)?, x.dims()))?,
                when(wants[1], &|| matmul(&before, &flat_x, true, false))?,
                Some(Var::constant(db1)),
                when(wants[3], &|| matmul(&flat, &flat_hidden, true, false))?,
                when(wants[4], &|| sum_leading(&flat, &[c_out]))?,
            ];
            if wants.len() > 5 {
                grads.push(Some(reshape(&flat, &dims)?));
            }
            Ok(grads.into_iter().map(|grad| grad.map(Var::into_value)).collect())
        }))
    }

    /// `(grad w2) * slopes`, for `grad [rows, c_out]`, and its column sums.
    fn hidden_gradient(grad: &Tensor, w2: &Tensor, slopes: &Tensor) -> Result<(Tensor, Tensor)> {
        let ((c_out, width), rows) = (w2.dims2()?, grad.dim(0)?);
        let w2 = w2.contiguous()?;
        let packed = cpu::with_slice::<f32, _>(&w2, |w| Ok(Packed::from_rows(w, c_out, width)))?;
        let (mut out, mut sums) = (cpu::uninit(rows * width), vec![0f32; packed.tasks(rows) * width]);
        let (to, to_sums) = (Shared::new(&mut out), Shared::new(&mut sums));
        cpu::with_slice::<f32, _>(slopes, |slopes| {
            cpu::with_slice::<f32, _>(grad, |grad| {
                product::rows(rows, grad, &packed, Epilogue::NONE, Added::Nothing, to, |task, mine| {
                    let (start, len) = (mine.start * width, mine.len() * width);
                    // SAFETY: each task has its own rows, and a row of sums.
                    let (out, sums) = unsafe { (to.range(start, len), to_sums.range(task * width, width)) };
                    times_rows_in_place(out, &slopes[start..start + len], sums);
                });
                Ok(())
            })
        })?;
        let mut total = vec![0f64; width];
        for sums in sums.chunks_exact(width) {
            total.iter_mut().zip(sums).for_each(|(total, x)| *total += f64::from(*x));
        }
        let total: Vec<f32> = total.into_iter().map(|x| x as f32).collect();
        Ok((
            Tensor::from_vec(out, (rows, width), grad.device())?,
            Tensor::from_vec(total, width, grad.device())?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Tensor};

    use super::*;
    use crate::gradcheck::{check_gradients, pattern};

    const SIZES: [(usize, usize, usize, usize); 3] = [(1, 1, 1, 1), (7, 5, 9, 3), (210, 40, 80, 33)];

    fn inputs((rows, c_in, width, c_out): (usize, usize, usize, usize)) -> Result<Vec<Tensor>> {
        let dims: [&[usize]; 6] =
            [&[1, rows, c_in], &[width, c_in], &[width], &[c_out, width], &[c_out], &[1, rows, c_out]];
        dims.into_iter().zip(1..).map(|(dims, seed)| pattern(dims, seed)).collect()
    }

    fn run(v: &[Var], residual: bool) -> Result<Var> {
        let residual = residual.then(|| &v[5]);
        feed_forward(&v[0], (&v[1], Some(&v[2])), Activation::GeluTanh, (&v[3], Some(&v[4])), residual)
    }

    #[test]
    fn gradients_match_differences() -> Result<()> {
        check_gradients(|v| run(v, true), &inputs(SIZES[1])?)?;
        check_gradients(|v| run(v, false), &inputs(SIZES[1])?[..5])
    }

    /// f64 takes the operations one by one, f32 the fused ones.
    #[test]
    fn single_precision_agrees_with_double() -> Result<()> {
        for size in SIZES {
            for residual in [true, false] {
                let all = |dtype: DType| -> Result<Vec<Tensor>> {
                    let leaves = inputs(size)?.into_iter().map(|x| Ok(Var::leaf(x.to_dtype(dtype)?)));
                    let leaves: Vec<Var> = leaves.collect::<Result<_>>()?;
                    let y = run(&leaves, residual)?;
                    let weights = Var::constant(pattern(y.dims(), 9)?.to_dtype(dtype)?);
                    let grads = crate::backward(crate::sum_all(&crate::mul(&y, &weights)?)?)?;
                    let found = leaves.iter().filter_map(|leaf| grads.leaf(leaf).cloned());
                    [y.into_value()].into_iter().chain(found).map(|t| t.to_dtype(DType::F64)).collect()
                };
                let (single, double) = (all(DType::F32)?, all(DType::F64)?);
                assert_eq!(
                    (single.len(), double.len()),
                    (6 + usize::from(residual), 6 + usize::from(residual))
                );
                for (i, (single, double)) in single.iter().zip(&double).enumerate() {
                    let error = (single - double)?.abs()?.max_all()?.to_scalar::<f64>()?;
                    let largest = double.abs()?.max_all()?.to_scalar::<f64>()?;
                    assert!(error <= 1e-5 * largest, "{size:?} {i}: {error} of {largest}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() -> Result<()> {
        for wrong in 0..6 {
            let mut v: Vec<Var> = inputs(SIZES[1])?.into_iter().map(Var::leaf).collect();
            v[wrong] = Var::leaf(pattern(&[2, 2], 1)?);
            assert!(run(&v, true).is_err(), "{wrong}");
            let single = v.iter().map(|v| Ok(Var::leaf(v.value().to_dtype(DType::F32)?)));
            assert!(run(&single.collect::<Result<Vec<_>>>()?, true).is_err(), "{wrong} in f32");
        }
        Ok(())
    }
}
