//! Stochastic depth (Huang et al., arXiv 1603.09382), per sample.

use candle_core::{Result, bail};
use nestgen_kernels::{self as k, Samples, Var};

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

    /// `x [B, ..]` with a branch beside it that each sample skips with this probability. What the branch gives the others is scaled
    /// by `1 / (1 - p)`, so that the mean stays, and it is computed for them alone.
    ///
    /// # Errors
    /// When these are not as many samples as there are places, a place is outside the batch, or the branch fails.
    pub fn beside(
        &mut self,
        x: &Var,
        probability: f64,
        branch: impl FnOnce(&Var) -> Result<Var>,
    ) -> Result<Var> {
        let skips: Vec<bool> = (0..self.batch).map(|_| self.rng.uniform() < probability).collect();
        let own: Option<Vec<bool>> = self.places.iter().map(|&place| skips.get(place).copied()).collect();
        let Some(own) = own.filter(|own| x.dims().first() == Some(&own.len())) else {
            bail!("drop-path: {} places in a batch of {} for {:?}", self.places.len(), self.batch, x.dims())
        };
        let mut kept: Vec<usize> = (0..own.len()).filter(|&sample| !own[sample]).collect();
        let mut scale = 1.0 / (1.0 - probability);
        if kept.is_empty() {
            // Parameters have a gradient all the same, of zeros, as optimizers and other processes expect.
            (kept, scale) = (vec![0], 0.0);
        }
        let samples = Samples::new(&kept, own.len(), x.device())?;
        k::add_samples(x, &branch(&k::take_samples(x, &samples)?)?, &samples, scale)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    fn ones(dims: (usize, usize)) -> Result<Var> {
        Ok(Var::constant(Tensor::ones(dims, DType::F32, &Device::Cpu)?))
    }

    /// What a branch gives that gives what it gets.
    fn of_itself(drop: &mut DropPath, x: &Var, probability: f64) -> Result<Tensor> {
        drop.beside(x, probability, |x| Ok(x.clone()))?.value() - x.value()
    }

    #[test]
    fn whole_samples_skip_and_the_mean_stays() -> Result<()> {
        let mut drop = DropPath::new(Rng::new(0), 4000, (0..4000).collect());
        let y = of_itself(&mut drop, &ones((4000, 3))?, 0.25)?.to_vec2::<f32>()?;
        assert!(y.iter().all(|row| row.iter().all(|&v| v == row[0])));
        let dropped = y.iter().filter(|row| row[0] == 0.0).count();
        assert!(y.iter().all(|row| row[0] == 0.0 || (row[0] - 4.0 / 3.0).abs() < 1e-6));
        // 1000 expected, standard deviation 27.
        assert!(dropped.abs_diff(1000) < 5 * 27, "{dropped}");
        Ok(())
    }

    #[test]
    fn a_branch_is_computed_for_those_alone_that_keep_it() -> Result<()> {
        let x = ones((100, 2))?;
        let mut drop = DropPath::new(Rng::new(1), 100, (0..100).collect());
        let mut computed = 0;
        let y = drop.beside(&x, 0.5, |x| {
            computed = x.value().dim(0)?;
            Ok(x.clone())
        })?;
        let kept = y.value().to_vec2::<f32>()?.iter().filter(|row| row[0] != 1.0).count();
        assert!(kept == computed && computed < 100, "{kept} of {computed}");
        Ok(())
    }

    #[test]
    fn where_all_skip_a_parameter_has_a_gradient_of_zeros() -> Result<()> {
        let (x, factor) = (ones((2, 3))?, Var::leaf(Tensor::ones((2, 3), DType::F32, &Device::Cpu)?));
        let mut drop = DropPath::new(Rng::new(2), 2, vec![0, 1]);
        let y = drop.beside(&x, 1.0 - 1e-9, |x| k::mul(x, &k::narrow(&factor, 0, 0, x.value().dim(0)?)?))?;
        assert_eq!(y.value().to_vec2::<f32>()?, [[1.0; 3]; 2]);
        let gradients = k::backward(k::sum_all(&y)?)?;
        let gradient = gradients.leaf(&factor).map(Tensor::to_vec2::<f32>).transpose()?;
        assert_eq!(gradient, Some(vec![vec![0.0; 3]; 2]));
        Ok(())
    }

    #[test]
    fn a_part_of_a_batch_sees_the_decisions_of_the_whole() -> Result<()> {
        let decisions = |places: Vec<usize>| -> Result<Vec<Vec<f32>>> {
            let x = ones((places.len(), 1))?;
            let mut drop = DropPath::new(Rng::new(3), 16, places);
            // Two layers.
            (0..2).map(|_| of_itself(&mut drop, &x, 0.5)?.flatten_all()?.to_vec1()).collect()
        };
        let whole = decisions((0..16).collect())?;
        for (whole, part) in whole.iter().zip(decisions(vec![1, 2, 14])?) {
            assert_eq!([whole[1], whole[2], whole[14]], *part);
        }
        assert!(decisions(vec![16]).is_err());
        Ok(())
    }
}
