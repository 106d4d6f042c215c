//! The two layers of a transformer's feed-forward part as one operation: on the way back, the gradient of the hidden layer
//! is multiplied by the activation's derivative while it is in the cache; where there is no way back, the hidden layer never
//! leaves it.

use candle_core::Result;

use crate::{Activation, Var, linear, linear_residual, portable};

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
    if portable::feed_forward::takes(x, activation) {
        return portable::feed_forward::feed_forward(x, first, activation, second, residual);
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
    use crate::linear::{check, check_residual, check_wide};
    use crate::linear_value::{Then, in_place, value};
    use crate::micro::{self, Added, Epilogue};
    use crate::product::{self, Packed};
    use crate::reduce::{sum_leading, times_rows_in_place};
    use crate::scratch::scratch;
    use crate::{autograd, matmul, reshape};

    /// The activation's loops, where there is a kernel for these tensors.
    pub(super) fn fitting(x: &Var, activation: Activation, inputs: &[&Var]) -> Option<Smooth<f32>> {
        let ours = !crate::portable::takes(x.value()) && micro::takes(x.value());
        let fits = ours && inputs.iter().all(|v| v.value().elem_count() > 0);
        Smooth::of(activation).filter(|_| fits)
    }

    pub(super) fn feed_forward(
        x: &Var,
        (w1, b1): (&Var, &Var),
        smooth: Smooth<f32>,
        (w2, b2): (&Var, &Var),
        residual: Option<&Var>,
    ) -> Result<Var> {
        let width = check(x, w1, Some(b1))?;
        let c_out = check_wide(x, Some(width), w2, Some(b2))?;
        let added = residual.map(|residual| check_residual(x, residual, c_out)).transpose()?;
        let inputs: Vec<&Var> = [x, w1, b1, w2, b2].into_iter().chain(residual).collect();
        if !autograd::is_recorded(&inputs) {
            return value_only(x.value(), (w1, b1), smooth, (w2, b2), added);
        }
        let (hidden, slopes) = value(x, w1, Some(b1), &Then::Smooth { smooth, slopes: true })?;
        let hidden = Var::constant(hidden);
        let out = value::<f32>(&hidden, w2, Some(b2), &added.as_ref().map_or(Then::Leak(1.0), Then::Add))?.0;
        let (x, w1, w2) = (x.detach(), w1.detach(), w2.detach());
        Ok(Var::record_once("feed_forward", out, &inputs, move |grad, wants| {
            let dims = grad.dims().to_vec();
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

    /// Where nothing is recorded: each task takes its rows through both layers. The shapes were checked.
    fn value_only(
        x: &Tensor,
        (w1, b1): (&Var, &Var),
        smooth: Smooth<f32>,
        (w2, b2): (&Var, &Var),
        residual: Option<Tensor>,
    ) -> Result<Var> {
        let ((width, c_in), c_out) = (w1.value().dims2()?, w2.dims()[0]);
        let rows = x.elem_count() / c_in;
        let mut dims = x.dims().to_vec();
        dims.pop();
        dims.push(c_out);
        let pack = |w: &Var, n, depth| {
            cpu::with_slice::<f32, _>(&w.value().contiguous()?, |w| Ok(Packed::from_transposed(w, n, depth)))
        };
        let (packed1, packed2) = (pack(w1, width, c_in)?, pack(w2, c_out, width)?);
        let (bias1, bias2): (Vec<f32>, Vec<f32>) = (b1.value().to_vec1()?, b2.value().to_vec1()?);
        let epilogue = |bias| Epilogue { bias: Some(bias), slope: 1.0 };
        let nothing = Tensor::zeros(0, x.dtype(), x.device())?;
        let mut out = cpu::uninit(rows * c_out);
        let to = Shared::new(&mut out);
        cpu::with_slice::<f32, _>(residual.as_ref().unwrap_or(&nothing), |residual| {
            let added = if residual.is_empty() { Added::Nothing } else { Added::Tensor(residual) };
            cpu::with_slice::<f32, _>(&x.contiguous()?, |x| {
                product::by_shares(rows, packed1.unit().max(packed2.unit()), |_, mine| {
                    scratch(mine.len() * width, |hidden| {
                        let (x, to_hidden) = (&x[mine.start * c_in..], Shared::new(hidden));
                        let each = 0..mine.len();
                        let first = epilogue(&bias1);
                        product::some_rows(x, each.clone(), &packed1, first, Added::Nothing, to_hidden);
                        in_place(smooth.forward, hidden);
                        let (start, len) = (mine.start * c_out, mine.len() * c_out);
                        // SAFETY: each task has its own rows.
                        let out = Shared::new(unsafe { to.range(start, len) });
                        let second = epilogue(&bias2);
                        product::some_rows(hidden, each, &packed2, second, added.starting_at(start), out);
                    });
                });
                Ok(())
            })
        })?;
        Ok(Var::constant(Tensor::from_vec(out, dims, x.device())?))
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

    /// Without a backward pass tasks go through both layers.
    #[test]
    fn constants_give_the_same_values() -> Result<()> {
        for size in SIZES {
            for residual in [true, false] {
                let single =
                    inputs(size)?.into_iter().map(|x| x.to_dtype(DType::F32)).collect::<Result<Vec<_>>>()?;
                let of = |make: fn(Tensor) -> Var| -> Result<Vec<f32>> {
                    let v: Vec<Var> = single.iter().cloned().map(make).collect();
                    run(&v, residual)?.value().flatten_all()?.to_vec1()
                };
                let (found, recorded) = (of(Var::constant)?, of(Var::leaf)?);
                let largest = recorded.iter().fold(0f32, |max, x| max.max(x.abs()));
                for (i, (x, y)) in found.iter().zip(&recorded).enumerate() {
                    assert!((x - y).abs() <= 1e-6 * largest, "{size:?} {i}: {x} and {y}");
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
            let single = v.iter().map(|v| v.value().to_dtype(DType::F32)).collect::<Result<Vec<_>>>()?;
            for make in [Var::leaf, Var::constant] {
                let v: Vec<Var> = single.iter().cloned().map(make).collect();
                assert!(run(&v, true).is_err(), "{wrong} in f32");
            }
        }
        Ok(())
    }
}
