//! Matrix products: linear layers and batched `matmul`. Both can be differentiated twice.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{self, Element, by_dtype};
use crate::gemm::{self, Mat, Shared};
use crate::portable;
use crate::{Activation, Var};

/// A product over the last two dimensions, batched over the leading ones: `op(a) op(b)`, where `op`
/// transposes if asked. `a: [.., m, k]` (`[.., k, m]` transposed), `b: [.., k, n]`, result `[.., m, n]`.
///
/// # Errors
/// When the leading dimensions or the inner dimension disagree.
pub fn matmul(a: &Var, b: &Var, trans_a: bool, trans_b: bool) -> Result<Var> {
    let size = MatmulSize::of(a.dims(), b.dims(), trans_a, trans_b)?;
    if a.dtype() != b.dtype() {
        bail!("matmul: expected one element type, got {:?} and {:?}", a.dtype(), b.dtype());
    }
    let value = by_dtype!("matmul", a, T => matmul_value::<T>(a.value(), b.value(), trans_a, trans_b, size))?;
    let (ka, kb) = (a.clone(), b.clone());
    Ok(Var::record("matmul", value, &[a, b], move |grad, wants| {
        let da = match (wants[0], trans_a) {
            (false, _) => None,
            (true, false) => Some(matmul(grad, &kb, false, !trans_b)?),
            (true, true) => Some(matmul(&kb, grad, trans_b, true)?),
        };
        let db = match (wants[1], trans_b) {
            (false, _) => None,
            (true, false) => Some(matmul(&ka, grad, !trans_a, false)?),
            (true, true) => Some(matmul(grad, &ka, true, trans_a)?),
        };
        Ok(vec![da, db])
    }))
}

#[derive(Clone, Copy)]
struct MatmulSize {
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
}

impl MatmulSize {
    fn of(a: &[usize], b: &[usize], trans_a: bool, trans_b: bool) -> Result<Self> {
        if let ([lead_a @ .., a0, a1], [lead_b @ .., b0, b1]) = (a, b) {
            let (m, ka) = if trans_a { (*a1, *a0) } else { (*a0, *a1) };
            let (kb, n) = if trans_b { (*b1, *b0) } else { (*b0, *b1) };
            if lead_a == lead_b && ka == kb {
                return Ok(Self { batch: lead_a.iter().product(), m, n, k: ka });
            }
        }
        bail!(
            "matmul: expected [.., m, k] and [.., k, n], got {a:?} (transposed: {trans_a}) and {b:?} ({trans_b})"
        )
    }
}

fn matmul_value<T: Element>(
    a: &Tensor,
    b: &Tensor,
    trans_a: bool,
    trans_b: bool,
    size: MatmulSize,
) -> Result<Tensor> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let MatmulSize { batch, m, n, k } = size;
    let (a_cols, b_cols) = (if trans_a { m } else { k }, if trans_b { k } else { n });
    let mut dims = a.dims()[..a.dims().len() - 2].to_vec();
    dims.extend([m, n]);
    if portable::takes(&a) {
        return portable::linear::matmul(&a, &b, (trans_a, trans_b), (batch, m, n, k), &dims);
    }
    #[cfg(target_arch = "x86_64")]
    if batch == 1 && k > 0 && n > 0 && !trans_a && crate::micro::takes(&a) {
        let out = cpu::with_slice::<f32, _>(&a, |a| {
            cpu::with_slice::<f32, _>(&b, |b| Ok(crate::product::matmul((m, n, k), a, b, trans_b)))
        })?;
        return Tensor::from_vec(out, dims, a.device());
    }
    let out = cpu::with_slice::<T, _>(&a, |a| {
        cpu::with_slice::<T, _>(&b, |b| {
            let view = |i: usize| {
                let a = Mat::rows(&a[i * m * k..(i + 1) * m * k], a_cols).t_if(trans_a);
                (a, Mat::rows(&b[i * k * n..(i + 1) * k * n], b_cols).t_if(trans_b))
            };
            if batch == 1 {
                let (a, b) = view(0);
                return Ok(gemm::matmul((m, n, k), a, b));
            }
            let mut out = cpu::uninit(batch * m * n);
            out.par_chunks_mut((m * n).max(1)).enumerate().for_each(|(i, out)| {
                let (a, b) = view(i);
                gemm::gemm((m, n, k), a, b, out, n, false);
            });
            Ok(out)
        })
    })?;
    Tensor::from_vec(out, dims, a.device())
}

/// `activation(x w^T + b)`: `x [.., C_in]`, `w [C_out, C_in]`, `b [C_out]`, result `[.., C_out]`.
///
/// Can be differentiated twice with an activation of the relu family.
///
/// # Errors
/// When the channels disagree.
pub fn linear(x: &Var, w: &Var, b: Option<&Var>, activation: Activation) -> Result<Var> {
    let (&[c_out, c_in], Some(&channels)) = (w.dims(), x.dims().last()) else {
        bail!("linear: expected x [.., C_in] and w [C_out, C_in], got {:?} and {:?}", x.dims(), w.dims())
    };
    let bias_fits = b.is_none_or(|b| b.dims() == [c_out] && b.dtype() == x.dtype());
    if channels != c_in || !bias_fits || w.dtype() != x.dtype() {
        let bias = b.map(Var::dims);
        bail!("linear: expected x [.., {c_in}] and b [{c_out}], got {:?} and {bias:?}, of one type", x.dims());
    }
    let Some(slope) = crate::fused::slope(activation) else {
        return crate::activate(&linear(x, w, b, Activation::None)?, activation);
    };
    let bias = b.map(Var::value);
    let value = by_dtype!("linear", x, T => linear_value::<T>(x.value(), w.value(), bias, slope))?;
    let (kept_x, kept_w, output) = (x.clone(), w.clone(), value.clone());
    let inputs: Vec<&Var> = [x, w].into_iter().chain(b).collect();
    Ok(Var::record("linear", value, &inputs, move |grad, wants| {
        let grad = crate::fused::activation_backward(grad, &output, slope)?;
        let rows = grad.value().elem_count() / c_out.max(1);
        let flat_grad = crate::reshape(&grad, &[rows, c_out])?;
        let flat_x = crate::reshape(&kept_x, &[rows, c_in])?;
        let dx = match wants[0] {
            true => Some(crate::reshape(&matmul(&flat_grad, &kept_w, false, false)?, kept_x.dims())?),
            false => None,
        };
        let dw = if wants[1] { Some(matmul(&flat_grad, &flat_x, true, false)?) } else { None };
        let mut grads = vec![dx, dw];
        if let Some(&want) = wants.get(2) {
            grads.push(if want { Some(crate::reduce::sum_leading(&grad, &[c_out])?) } else { None });
        }
        Ok(grads)
    }))
}

/// Rows of `x` that one task multiplies, adds the bias to and activates while they are in its cache.
const ROWS: usize = 128;

fn linear_value<T: Element>(x: &Tensor, w: &Tensor, b: Option<&Tensor>, slope: f32) -> Result<Tensor> {
    let (c_out, c_in) = w.dims2()?;
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    let rows = x.elem_count() / c_in.max(1);
    let mut dims = x.dims()[..x.dims().len() - 1].to_vec();
    dims.push(c_out);
    if portable::takes(&x) {
        return portable::linear::linear(&x.reshape((rows, c_in))?, &w, b, slope)?.reshape(dims);
    }
    let bias: Option<Vec<T>> = b.map(Tensor::to_vec1).transpose()?;
    #[cfg(target_arch = "x86_64")]
    if crate::micro::takes(&x) && c_in > 0 && c_out > 0 {
        let out = linear_f32(&x, &w, b, slope, rows)?;
        return Tensor::from_vec(out, dims, x.device());
    }
    let out = cpu::with_slice::<T, _>(&x, |x| {
        cpu::with_slice::<T, _>(&w, |w| {
            let mut out = cpu::uninit(rows * c_out);
            let shared = Shared::new(&mut out);
            (0..rows.div_ceil(ROWS)).into_par_iter().for_each(|task| {
                let (r0, r) = (task * ROWS, ROWS.min(rows - task * ROWS));
                // SAFETY: each task has its own rows.
                let out = unsafe { shared.range(r0 * c_out, r * c_out) };
                gemm::gemm(
                    (r, c_out, c_in),
                    Mat::rows(&x[r0 * c_in..], c_in),
                    Mat::rows(w, c_in).t(),
                    out,
                    c_out,
                    false,
                );
                crate::fused::epilogue(out, bias.as_deref(), slope, c_out);
            });
            Ok(out)
        })
    })?;
    Tensor::from_vec(out, dims, x.device())
}

#[cfg(target_arch = "x86_64")]
fn linear_f32(x: &Tensor, w: &Tensor, b: Option<&Tensor>, slope: f32, rows: usize) -> Result<Vec<f32>> {
    use crate::micro::{Epilogue, Panels};
    let (c_out, c_in) = w.dims2()?;
    let bias: Option<Vec<f32>> = b.map(Tensor::to_vec1).transpose()?;
    let epilogue = Epilogue { bias: bias.as_deref(), slope };
    let panels = cpu::with_slice::<f32, _>(w, |w| Ok(Panels::from_transposed(w, c_out, c_in)))?;
    cpu::with_slice::<f32, _>(x, |x| {
        let mut out = cpu::uninit(rows * c_out);
        crate::product::rows(rows, x, &panels, epilogue, Shared::new(&mut out));
        Ok(out)
    })
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
        check_gradients(smooth, &[pattern(&[3, 5], 1)?, pattern(&[4, 5], 2)?])
    }

    #[test]
    fn matmul_gradients_match_differences() -> Result<()> {
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
            for lead in [vec![], vec![2], vec![2, 3]] {
                let dims = |t: bool, rows: usize, cols: usize| {
                    let last = if t { [cols, rows] } else { [rows, cols] };
                    lead.iter().copied().chain(last).collect::<Vec<_>>()
                };
                let inputs = [pattern(&dims(ta, 3, 4), 1)?, pattern(&dims(tb, 4, 2), 2)?];
                let f = |v: &[Var]| matmul(&v[0], &v[1], ta, tb);
                check_gradients(f, &inputs)?;
                check_second_order(f, &inputs)?;
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

    /// The inner dimension is cut into parts when there are few tiles; their sum is the plain product.
    #[test]
    fn deep_products_agree_with_f64() -> Result<()> {
        let (a, b) = (pattern(&[3, 5000], 1)?, pattern(&[5000, 7], 2)?);
        let exact = a.matmul(&b)?;
        let [a, b] = [a, b].map(|x| x.to_dtype(candle_core::DType::F32).map(Var::constant));
        let got = matmul(&a?, &b?, false, false)?.into_value().to_dtype(candle_core::DType::F64)?;
        let error = (got - exact)?.abs()?.max_all()?.to_scalar::<f64>()?;
        // 5000 products of size 1 in f32: 6e-8 * sqrt(5000) * a few.
        assert!(error < 1e-3, "{error}");
        Ok(())
    }

    #[test]
    fn shape_errors_are_errors() -> Result<()> {
        let var = |dims: &[usize]| pattern(dims, 1).map(Var::constant);
        assert!(linear(&var(&[2, 3])?, &var(&[4, 5])?, None, Activation::None).is_err());
        assert!(linear(&var(&[2, 5])?, &var(&[4, 5])?, Some(&var(&[5])?), Activation::None).is_err());
        assert!(linear(&var(&[])?, &var(&[4, 5])?, None, Activation::None).is_err());
        assert!(matmul(&var(&[2, 3])?, &var(&[2, 3])?, false, false).is_err());
        assert!(matmul(&var(&[2, 2, 3])?, &var(&[3, 3, 2])?, false, false).is_err());
        assert!(matmul(&var(&[3])?, &var(&[3])?, false, false).is_err());
        Ok(())
    }
}
