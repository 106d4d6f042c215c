//! Matrix products and what follows them.

use candle_core::{Result, Tensor};

use super::elementwise::leak;
use crate::cuda::fused;
use crate::precision::product;

/// A product over the last two dimensions of contiguous tensors, `dims` its shape; candle and cuBLAS take a
/// transposed operand as it lies.
pub(crate) fn matmul(
    a: &Tensor,
    b: &Tensor,
    (trans_a, trans_b): (bool, bool),
    (batch, m, n, k): (usize, usize, usize, usize),
    dims: &[usize],
) -> Result<Tensor> {
    if batch * m * n * k == 0 {
        return Tensor::zeros(dims, a.dtype(), a.device());
    }
    let stored = |rows, columns, transposed| if transposed { (columns, rows) } else { (rows, columns) };
    let matrices = |x: &Tensor, (rows, columns), transposed: bool| -> Result<Tensor> {
        let x = if batch == 1 { x.reshape((rows, columns))? } else { x.reshape((batch, rows, columns))? };
        if transposed { x.t() } else { Ok(x) }
    };
    let a = matrices(a, stored(m, k, trans_a), trans_a)?;
    let b = matrices(b, stored(k, n, trans_b), trans_b)?;
    product(&a, &b)?.reshape(dims)
}

/// `leak(x w^T + b)`: `x [rows, c_in]`, `w [c_out, c_in]`.
pub(crate) fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>, slope: f32) -> Result<Tensor> {
    let ((rows, c_in), c_out) = (x.dims2()?, w.dim(0)?);
    let y = matmul(x, w, (false, true), (1, rows, c_out, c_in), &[rows, c_out])?;
    epilogue(y, b, slope)
}

/// Bias `[c_out]` over the last dimension, then an activation of the relu family.
pub(crate) fn epilogue(y: Tensor, b: Option<&Tensor>, slope: f32) -> Result<Tensor> {
    if fused::takes(&y) {
        return if b.is_none() && slope == 1.0 { Ok(y) } else { fused::bias_leak(&y, b, slope) };
    }
    let y = b.map_or(Ok(y.clone()), |b| y.broadcast_add(b))?;
    leak(&y, slope)
}
