//! Sums and the broadcasts that belong to them.
//!
//! Sums over rows are products with a vector of ones: candle's own reduction over a leading dimension gives each
//! column to one block of threads, whose reads are a row apart. Long sums over the last dimension go in two steps,
//! so that many blocks share them.

use candle_core::{DType, Result, Tensor};

use crate::Var;
use crate::cuda::fused;
use crate::mixed::{factor, widened_value};
use crate::precision::{Precision, current};

/// Elements that one block of threads adds up.
const RUN: usize = 1024;
/// A divisor shorter than this is not worth a step of its own.
const SHORTEST_RUN: usize = 32;

/// `[rows, n] -> [rows]`.
fn sum_last(x: &Tensor) -> Result<Tensor> {
    let (rows, n) = x.dims2()?;
    if n == 0 {
        return Tensor::zeros(rows, x.dtype(), x.device());
    }
    let run = (SHORTEST_RUN..=RUN).rev().find(|run| n.is_multiple_of(*run));
    match run {
        Some(run) if n > RUN => {
            sum_last(&x.reshape((rows * (n / run), run))?.sum(1)?.reshape((rows, n / run))?)
        }
        _ => x.sum(1),
    }
}

/// The sum of all elements, without dimensions.
pub(crate) fn sum_all(x: &Tensor) -> Result<Tensor> {
    if fused::takes(x) {
        return fused::column_sums(&x.contiguous()?.reshape((x.elem_count(), 1))?, None)?.reshape(());
    }
    let (n, x) = (x.elem_count(), widened_value(x)?);
    let flat = x.contiguous()?.reshape((1, n))?;
    let body = n / RUN * RUN;
    if body == 0 || body == n {
        return sum_last(&flat)?.reshape(());
    }
    let rest = flat.narrow(1, body, n - body)?.contiguous()?;
    (sum_last(&flat.narrow(1, 0, body)?.contiguous()?)? + sum_last(&rest)?)?.reshape(())
}

/// `[rows, width] -> [width]`.
pub(crate) fn column_sums(x: &Tensor) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    if rows == 0 || width == 0 {
        return Tensor::zeros(width, x.dtype(), x.device());
    }
    if fused::takes(x) {
        return fused::column_sums(x, None);
    }
    let x = widened_value(x)?;
    Tensor::ones((1, rows), x.dtype(), x.device())?.matmul(&x.contiguous()?)?.reshape(width)
}

/// A gradient `[rows, width]` as the factor of products that it becomes, and its [`column_sums`].
pub(crate) fn factor_with_sums(grad: &Tensor) -> Result<(Tensor, Tensor)> {
    if fused::takes(grad) && grad.dtype() == DType::F32 && current() == Precision::Bf16 {
        let [rounded, sums] = fused::rounded_with_sums(grad)?;
        return Ok((rounded, sums));
    }
    Ok((factor(&Var::constant(grad.clone()))?.into_value(), column_sums(grad)?))
}

/// The column sums of `x * y`.
pub(crate) fn weighted_column_sums(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if fused::takes(x) {
        return fused::column_sums(x, Some(y));
    }
    column_sums(&(widened_value(x)? * widened_value(y)?)?)
}

/// Sums over the leading dimensions; `suffix` are those that stay.
pub(crate) fn sum_leading(x: &Tensor, suffix: &[usize]) -> Result<Tensor> {
    let width: usize = suffix.iter().product();
    if width == 1 {
        return sum_all(x)?.reshape(suffix);
    }
    let rows = x.elem_count() / width.max(1);
    column_sums(&x.contiguous()?.reshape((rows, width))?)?.reshape(suffix)
}

/// `[B, ..] -> [B]`.
pub(crate) fn sum_per_sample(x: &Tensor, batch: usize) -> Result<Tensor> {
    let each = x.elem_count() / batch.max(1);
    sum_last(&widened_value(x)?.contiguous()?.reshape((batch, each))?)
}

/// `[B, .., C] -> [B, C]`.
pub(crate) fn sum_middle(x: &Tensor, batch: usize, channels: usize) -> Result<Tensor> {
    let middle = x.elem_count() / (batch * channels).max(1);
    if middle == 0 {
        return Tensor::zeros((batch, channels), x.dtype(), x.device());
    }
    if fused::takes(x) && batch <= fused::MOST_CHUNKS {
        return fused::middle_sums(x, batch, channels);
    }
    let x = widened_value(x)?;
    let ones = Tensor::ones((1, middle), x.dtype(), x.device())?;
    let x = x.contiguous()?.reshape((batch, middle, channels))?;
    ones.broadcast_left(batch)?.contiguous()?.matmul(&x)?.reshape((batch, channels))
}

/// `x` times a number `s` of one element on its device.
pub(crate) fn scale_all(x: &Tensor, s: &Tensor) -> Result<Tensor> {
    if fused::takes(x) {
        return fused::scale_samples(x, &s.reshape(1)?);
    }
    x.broadcast_mul(&s.reshape(vec![1; x.dims().len()])?)
}

/// `[B] -> dims = [B, ..]`.
pub(crate) fn repeat_per_sample(x: &Tensor, dims: &[usize]) -> Result<Tensor> {
    let mut thin = vec![1; dims.len()];
    thin[0] = x.elem_count();
    x.reshape(thin)?.broadcast_as(dims)?.contiguous()
}

/// `[B, C] -> dims = [B, .., C]`.
pub(crate) fn repeat_middle(x: &Tensor, dims: &[usize]) -> Result<Tensor> {
    let (batch, channels) = x.dims2()?;
    let mut thin = vec![1; dims.len()];
    (thin[0], thin[dims.len() - 1]) = (batch, channels);
    x.reshape(thin)?.broadcast_as(dims)?.contiguous()
}
