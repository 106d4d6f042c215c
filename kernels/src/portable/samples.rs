//! Some samples of a batch.

use candle_core::{DType, Result, Tensor};

use crate::Samples;
use crate::cuda::fused;
use crate::mixed::widened_value;

/// `scale` times these samples of `x`, of type `to` where there is a kernel of our own.
pub(crate) fn take(x: &Tensor, samples: &Samples, scale: f64, to: DType) -> Result<Tensor> {
    if fused::takes(x) {
        return fused::take_samples(x, samples, scale, to);
    }
    let places = Tensor::new(&samples.places[..], x.device())?;
    widened_value(x)?.contiguous()?.index_select(&places, 0)? * scale
}

/// `x`, or zeros, with `scale` times the rows of `branch` added to these samples, of type `to` where there is a kernel.
pub(crate) fn put(
    x: Option<&Tensor>,
    branch: &Tensor,
    samples: &Samples,
    scale: f64,
    to: DType,
) -> Result<Tensor> {
    if fused::takes(branch) {
        return fused::add_samples(x, branch, samples, scale, to);
    }
    // Behind the branch a row of zeros, for all other samples.
    let branch = (widened_value(branch)?.contiguous()? * scale)?;
    let rows = Tensor::cat(&[&branch, &branch.narrow(0, 0, 1)?.zeros_like()?], 0)?;
    let put = rows.index_select(&Tensor::new(&samples.slots[..], rows.device())?, 0)?;
    match x {
        Some(x) => widened_value(x)? + put,
        None => Ok(put),
    }
}
