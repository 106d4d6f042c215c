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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn whole_samples_are_dropped_and_the_mean_stays() -> Result<()> {
        let x = Var::constant(Tensor::ones((4000, 3), candle_core::DType::F32, &Device::Cpu)?);
        let y = drop_path(&x, 0.25, &mut Rng::new(0))?.value().to_vec2::<f32>()?;
        assert!(y.iter().all(|row| row.iter().all(|&v| v == row[0])));
        let dropped = y.iter().filter(|row| row[0] == 0.0).count();
        assert!(y.iter().all(|row| row[0] == 0.0 || (row[0] - 4.0 / 3.0).abs() < 1e-6));
        // 1000 expected, standard deviation 27.
        assert!(dropped.abs_diff(1000) < 5 * 27, "{dropped}");
        Ok(())
    }
}
