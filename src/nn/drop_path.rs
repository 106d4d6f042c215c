//! Stochastic depth (Huang et al., arXiv 1603.09382), per sample.

use candle_core::{Result, Tensor};
use nestgen_kernels::{self as k, Var};

use crate::rng::Rng;

/// Zeroes whole samples of `x` (`[B, ..]`) with this probability and scales the others by `1 / (1 - p)`, so
/// that the mean stays.
pub fn drop_path(x: &Var, probability: f64, rng: &mut Rng) -> Result<Var> {
    let Some(&batch) = x.dims().first() else { return Ok(x.clone()) };
    let kept = (1.0 / (1.0 - probability)) as f32;
    let factors = (0..batch).map(|_| if rng.uniform() < probability { 0.0 } else { kept }).collect();
    k::mul_samples(x, &Tensor::from_vec(factors, batch, x.device())?.to_dtype(x.dtype())?)
}
