//! What keeps the discriminator smooth, beside the spectral norm that lives in its layers.
//!
//! - R1: half the squared length of the gradient of D at *real* images; R2: the same at fakes.
//!   Mescheder et al., "Which Training Methods for GANs do actually Converge?", arXiv 1801.04406
//! - lazily, every k-th step with k times the weight: Karras et al., arXiv 1912.04958, appendix B
//! - LeCam: logits stay near a moving average of the opposite side's.
//!   Tseng et al., "Regularizing Generative Adversarial Networks under Limited Data", arXiv 2104.03310

use candle_core::Result;
use nestgen_kernels::{Var, add, add_scalar, grad, mean_all, scale, square, sum_all, sum_per_sample};
use serde::{Deserialize, Serialize};

use super::losses::relu;

/// Half the mean squared gradient length: `1/2 E |dD/dx|^2`, differentiable with respect to D's weights.
///
/// `images` must be a leaf ([`Var::leaf`]) `[B, H, W, 3]` and `logits` `[B]` what D made of them.
pub fn gradient_penalty(logits: &Var, images: &Var) -> Result<Var> {
    // The sum over the batch: sample i's logit depends on image i alone, so this is every sample's gradient at once.
    let grads = grad(&sum_all(logits)?, &[images], true)?;
    let Some(gradient) = grads.first() else { candle_core::bail!("gradient penalty: no gradient") };
    scale(&mean_all(&sum_per_sample(&square(gradient)?)?)?, 0.5)
}

/// The moving averages of logits that LeCam anchors to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeCam {
    real: f64,
    fake: f64,
    started: bool,
}

impl LeCam {
    /// The decay of the averages a discriminator step (the authors' value).
    const DECAY: f64 = 0.99;

    /// Takes the mean logits of one step into the averages.
    pub fn update(&mut self, real_mean: f64, fake_mean: f64) {
        let decay = if self.started { Self::DECAY } else { 0.0 };
        self.real += (1.0 - decay) * (real_mean - self.real);
        self.fake += (1.0 - decay) * (fake_mean - self.fake);
        self.started = true;
    }

    /// `E relu(D(real) - average fake)^2 + E relu(average real - D(fake))^2`, a number.
    pub fn penalty(&self, real_logits: &Var, fake_logits: &Var) -> Result<Var> {
        let real = mean_all(&square(&relu(&add_scalar(real_logits, -self.fake)?)?)?)?;
        let fake = mean_all(&square(&relu(&add_scalar(&scale(fake_logits, -1.0)?, self.real)?)?)?)?;
        add(&real, &fake)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use nestgen_kernels::{Param, backward, mul};

    /// f32 arithmetic on numbers of size 10.
    const TOLERANCE: f64 = 1e-5;

    #[test]
    fn penalty_of_a_quadratic_is_known() -> Result<()> {
        // D(x) = sum(w * x^2): dD/dx = 2 w x, penalty = 2 mean(sum(w^2 x^2)), its slope in w = 4 w mean(sum x^2).
        let w = Param::new("w", Tensor::new(&[[[[3f32]]], [[[3f32]]]], &Device::Cpu)?);
        let x = Var::leaf(Tensor::new(&[[[[1f32]]], [[[2f32]]]], &Device::Cpu)?);
        let logits = sum_per_sample(&mul(&w.var(), &square(&x)?)?)?;
        let penalty = gradient_penalty(&logits, &x)?;
        let value = f64::from(penalty.value().to_scalar::<f32>()?);
        assert!((value - 2.0 * 9.0 * 5.0 / 2.0).abs() < TOLERANCE, "{value}");
        let grads = backward(penalty)?;
        let Some(slope) = grads.param(&w) else { candle_core::bail!("no gradient") };
        let slope = slope.flatten_all()?.to_vec1::<f32>()?;
        assert!((f64::from(slope[0]) - 2.0 * 3.0).abs() < TOLERANCE, "{slope:?}");
        assert!((f64::from(slope[1]) - 2.0 * 3.0 * 4.0).abs() < TOLERANCE, "{slope:?}");
        Ok(())
    }

    #[test]
    fn lecam_starts_at_the_first_means_and_then_moves_slowly() -> Result<()> {
        let mut lecam = LeCam::default();
        lecam.update(2.0, -1.0);
        lecam.update(3.0, -1.0);
        assert!((lecam.real - 2.01).abs() < TOLERANCE);
        let real = Var::leaf(Tensor::new(&[1f32, -2.0], &Device::Cpu)?);
        let fake = Var::leaf(Tensor::new(&[0.01f32, 5.0], &Device::Cpu)?);
        let value = f64::from(lecam.penalty(&real, &fake)?.value().to_scalar::<f32>()?);
        assert!((value - (4.0 / 2.0 + 4.0 / 2.0)).abs() < TOLERANCE, "{value}");
        Ok(())
    }
}
