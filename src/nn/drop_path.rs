//! Stochastic depth (Huang et al., arXiv 1603.09382), per sample.

use candle_core::{DType, Result, Tensor, bail};
use nestgen_kernels::{self as k, Var};

use crate::rng::Rng;

/// The decisions of one step. Each is drawn for a whole batch, in the order of layers, so that it does not depend on how
/// many processes share the batch.
#[derive(Clone, Debug)]
pub struct DropPath {
    rng: Rng,
    batch: usize,
    /// Where in the batch the samples at hand are.
    places: Vec<usize>,
}

impl DropPath {
    /// For a step on the samples at these `places` of a batch of so many.
    pub fn new(rng: Rng, batch: usize, places: Vec<usize>) -> Self {
        Self { rng, batch, places }
    }

    /// Zeroes whole samples of `x` (`[B, ..]`) with this probability and scales the others by `1 / (1 - p)`, so that the
    /// mean stays.
    ///
    /// # Errors
    /// When these are not as many samples as there are places, or a place is outside the batch.
    pub fn apply(&mut self, x: &Var, probability: f64) -> Result<Var> {
        let kept = (1.0 / (1.0 - probability)) as f32;
        let mut factor = || if self.rng.uniform() < probability { 0.0 } else { kept };
        let all: Vec<f32> = (0..self.batch).map(|_| factor()).collect();
        let own: Option<Vec<f32>> = self.places.iter().map(|&place| all.get(place).copied()).collect();
        match own {
            Some(own) if x.dims().first() == Some(&own.len()) => {
                let own = Tensor::from_slice(&own, own.len(), x.device())?;
                let dtype = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
                k::mul_samples(x, &own.to_dtype(dtype)?)
            }
            _ => {
                bail!("drop-path: {} places in a batch of {} for {:?}", self.places.len(), self.batch, x.dims())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn whole_samples_are_dropped_and_the_mean_stays() -> Result<()> {
        let x = Var::constant(Tensor::ones((4000, 3), candle_core::DType::F32, &Device::Cpu)?);
        let mut drop = DropPath::new(Rng::new(0), 4000, (0..4000).collect());
        let y = drop.apply(&x, 0.25)?.value().to_vec2::<f32>()?;
        assert!(y.iter().all(|row| row.iter().all(|&v| v == row[0])));
        let dropped = y.iter().filter(|row| row[0] == 0.0).count();
        assert!(y.iter().all(|row| row[0] == 0.0 || (row[0] - 4.0 / 3.0).abs() < 1e-6));
        // 1000 expected, standard deviation 27.
        assert!(dropped.abs_diff(1000) < 5 * 27, "{dropped}");
        Ok(())
    }

    #[test]
    fn a_part_of_a_batch_sees_the_decisions_of_the_whole() -> Result<()> {
        let ones = |count: usize| Tensor::ones((count, 1), candle_core::DType::F32, &Device::Cpu);
        let decisions = |places: Vec<usize>| -> Result<Vec<Vec<f32>>> {
            let x = Var::constant(ones(places.len())?);
            let mut drop = DropPath::new(Rng::new(3), 16, places);
            // Two layers.
            (0..2).map(|_| drop.apply(&x, 0.5)?.value().flatten_all()?.to_vec1()).collect()
        };
        let whole = decisions((0..16).collect())?;
        for (whole, part) in whole.iter().zip(decisions(vec![1, 2, 14])?) {
            assert_eq!([whole[1], whole[2], whole[14]], *part);
        }
        assert!(decisions(vec![16]).is_err());
        Ok(())
    }
}
