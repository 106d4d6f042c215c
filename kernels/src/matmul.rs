//! Matrix products, batched or not. They can be differentiated twice.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::Var;
use crate::cpu::{self, Element, by_dtype};
use crate::gemm::{self, Mat};
use crate::mixed::factor;
use crate::portable;

/// A product over the last two dimensions, batched over the leading ones: `op(a) op(b)`, where `op`
/// transposes if asked. `a: [.., m, k]` (`[.., k, m]` transposed), `b: [.., k, n]`, result `[.., m, n]`.
///
/// # Errors
/// When the leading dimensions or the inner dimension disagree.
pub fn matmul(a: &Var, b: &Var, trans_a: bool, trans_b: bool) -> Result<Var> {
    matmul_to(a, b, trans_a, trans_b, false)
}

/// [`matmul`], whose result is not rounded where the factors are if it is `wide`.
pub(crate) fn matmul_to(a: &Var, b: &Var, trans_a: bool, trans_b: bool, wide: bool) -> Result<Var> {
    let (a, b) = (&factor(a)?, &factor(b)?);
    let size = MatmulSize::of(a.dims(), b.dims(), trans_a, trans_b)?;
    if a.dtype() != b.dtype() {
        bail!("matmul: expected one element type, got {:?} and {:?}", a.dtype(), b.dtype());
    }
    let value = match portable::takes(a.value()) {
        true => {
            let (a, b) = (a.value().contiguous()?, b.value().contiguous()?);
            let (dims, MatmulSize { batch, m, n, k }) = (size.dims(&a), size);
            portable::linear::matmul(&a, &b, (trans_a, trans_b), (batch, m, n, k), &dims, wide)?
        }
        false => by_dtype!("matmul", a, T => matmul_value::<T>(a.value(), b.value(), trans_a, trans_b, size))?,
    };
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

    /// The shape of the result for a left factor `a`.
    fn dims(&self, a: &Tensor) -> Vec<usize> {
        let mut dims = a.dims()[..a.dims().len() - 2].to_vec();
        dims.extend([self.m, self.n]);
        dims
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
    let dims = size.dims(&a);
    #[cfg(target_arch = "x86_64")]
    if batch == 1 && k > 0 && n > 0 && !(trans_a && trans_b) && crate::micro::takes(&a) {
        let out = cpu::with_slice::<f32, _>(&a, |a| {
            cpu::with_slice::<f32, _>(&b, |b| Ok(crate::product::matmul((m, n, k), a, b, trans_a, trans_b)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradients, check_second_order, pattern};

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

    /// More columns and rows than an output tile has, where there are no vector units, and in f64.
    #[test]
    fn wide_and_high_products_agree_with_candles() -> Result<()> {
        for (m, n, k) in [(3, 600, 4), (140, 5, 4)] {
            let (a, b) = (pattern(&[m, k], 1)?, pattern(&[k, n], 2)?);
            let want = a.matmul(&b)?;
            let found = matmul(&Var::constant(a), &Var::constant(b), false, false)?.into_value();
            let error = (found - want)?.abs()?.max_all()?.to_scalar::<f64>()?;
            assert!(error < 1e-14, "{m} {n} {k}: {error:e}");
        }
        Ok(())
    }

    /// Gradients of weights: strips, parts and chunks of every kind, exact for small whole numbers.
    #[test]
    fn products_with_a_transposed_left_are_exact() -> Result<()> {
        for (m, n, k) in
            [(1, 1, 1), (13, 40, 7), (300, 33, 517), (700, 64, 300), (24, 700, 3100), (640, 704, 2100)]
        {
            let numbers = |rows: usize, columns: usize, seed: usize| {
                let values = (0..rows * columns).map(|i| ((i * 7919 + seed) % 5) as f32 - 2.0).collect();
                Tensor::from_vec(values, (rows, columns), &candle_core::Device::Cpu)
            };
            let (a, b) = (numbers(k, m, 1)?, numbers(k, n, 3)?);
            let got = matmul(&Var::constant(a.clone()), &Var::constant(b.clone()), true, false)?.into_value();
            let want = a.t()?.contiguous()?.matmul(&b)?;
            assert_eq!((got - want)?.abs()?.max_all()?.to_scalar::<f32>()?, 0.0, "{m} {n} {k}");
        }
        Ok(())
    }

    #[test]
    fn shape_errors_are_errors() -> Result<()> {
        let var = |dims: &[usize]| pattern(dims, 1).map(Var::constant);
        assert!(matmul(&var(&[2, 3])?, &var(&[2, 3])?, false, false).is_err());
        assert!(matmul(&var(&[2, 2, 3])?, &var(&[3, 3, 2])?, false, false).is_err());
        assert!(matmul(&var(&[3])?, &var(&[3])?, false, false).is_err());
        Ok(())
    }
}
