//! Matrix products and what follows them.

use candle_core::{DType, Result, Tensor};

use super::elementwise::{add, leak};
use crate::cuda::fused;
use crate::mixed::{convert, widened_value};
use crate::precision::{Precision, current};

/// Products over the last two dimensions of contiguous matrices or stacks of them, stored transposed where `transposed`
/// says so. In bf16 the factors are rounded; the result is bf16 too, unless it is to be `wide`.
pub(crate) fn product(a: &Tensor, b: &Tensor, transposed: (bool, bool), wide: bool) -> Result<Tensor> {
    let sizes = |x: &Tensor, transposed: bool| match (x.dims(), transposed) {
        (&[.., rows, columns], false) => Ok((rows, columns)),
        (&[.., columns, rows], true) => Ok((rows, columns)),
        (dims, _) => candle_core::bail!("product: expected matrices, got {dims:?}"),
    };
    let ((m, k), (_, n)) = (sizes(a, transposed.0)?, sizes(b, transposed.1)?);
    let lead = &a.dims()[..a.rank() - 2];
    let (batch, dims) = (lead.iter().product(), [lead, &[m, n]].concat());
    matmul(&a.contiguous()?, &b.contiguous()?, transposed, (batch, m, n, k), &dims, wide)
}

/// [`product`] of contiguous tensors whose sizes are known, `dims` the shape of the result. candle and cuBLAS take a
/// transposed operand as it lies.
pub(crate) fn matmul(
    a: &Tensor,
    b: &Tensor,
    (trans_a, trans_b): (bool, bool),
    (batch, m, n, k): (usize, usize, usize, usize),
    dims: &[usize],
    wide: bool,
) -> Result<Tensor> {
    if batch * m * n * k == 0 {
        return Tensor::zeros(dims, a.dtype(), a.device());
    }
    let rough = current() == Precision::Bf16 && a.dtype() != DType::F64;
    let dtype = if rough { DType::BF16 } else { a.dtype() };
    let (mut a, mut b) = (convert(a, dtype)?, convert(b, dtype)?);
    #[cfg(feature = "cuda")]
    if a.device().is_cuda() && a.dtype() != DType::F64 {
        return crate::cuda::gemm::product(&a, &b, (trans_a, trans_b), (batch, m, n, k), wide)?.reshape(dims);
    }
    if rough {
        // The processor has no units for it: the same numbers, multiplied in f32.
        (a, b) = (widened_value(&a)?, widened_value(&b)?);
    }
    let stored = |rows, columns, transposed| if transposed { (columns, rows) } else { (rows, columns) };
    let matrices = |x: &Tensor, (rows, columns), transposed: bool| -> Result<Tensor> {
        let x = if batch == 1 { x.reshape((rows, columns))? } else { x.reshape((batch, rows, columns))? };
        if transposed { x.t() } else { Ok(x) }
    };
    let a = matrices(&a, stored(m, k, trans_a), trans_a)?;
    let b = matrices(&b, stored(k, n, trans_b), trans_b)?;
    let product = a.matmul(&b)?.reshape(dims)?;
    if rough && !wide { product.to_dtype(DType::BF16) } else { Ok(product) }
}

/// `residual + (y + b)`, `b [c_out]` over the last dimension.
pub(crate) fn add_residual(y: Tensor, b: Option<&Tensor>, residual: &Tensor) -> Result<Tensor> {
    if fused::takes(&y) {
        return fused::bias_residual(&y, b, residual);
    }
    add(residual, &epilogue(y, b, 1.0)?)
}

/// Bias `[c_out]` over the last dimension, then an activation of the relu family.
pub(crate) fn epilogue(y: Tensor, b: Option<&Tensor>, slope: f32) -> Result<Tensor> {
    if b.is_none() && slope == 1.0 {
        return Ok(y);
    }
    if fused::takes(&y) {
        return fused::bias_leak(&y, b, slope);
    }
    let y = widened_value(&y)?;
    let y = b.map_or(Ok(y.clone()), |b| y.broadcast_add(b))?;
    leak(&y, slope)
}
