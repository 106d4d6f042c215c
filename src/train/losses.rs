//! The adversarial losses: what each network tries to make small, from logits alone.
//!
//! - hinge: Lim & Ye, "Geometric GAN", arXiv 1705.02894; used by SAGAN, arXiv 1805.08318
//! - non-saturating logistic: Goodfellow et al., "Generative Adversarial Nets", arXiv 1406.2661
//! - relativistic pairing: Jolicoeur-Martineau, arXiv 1807.00734; with R1 and R2 it is the loss of R3GAN,
//!   Huang et al., "The GAN is dead; long live the GAN!", arXiv 2501.05441
//!
//! All means are over the batch, so a loss does not change its scale with the batch size.

use candle_core::Result;
use nestgen_kernels::{Activation, Var, activate, add, add_scalar, mean_all, scale, softplus, sub};
use serde::{Deserialize, Serialize};

/// Which game the two networks play.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Margins: real logits above 1, fake ones below -1.
    #[default]
    Hinge,
    /// `softplus(-logit)` for what should look real.
    NonSaturating,
    /// `softplus(fake - real)` over pairs: only the difference counts.
    Relativistic,
}

/// `max(0, x)`.
pub(super) fn relu(x: &Var) -> Result<Var> {
    activate(x, Activation::Relu)
}

impl Loss {
    /// What the discriminator minimises. Logits: `[B]` each.
    pub fn discriminator(self, real_logits: &Var, fake_logits: &Var) -> Result<Var> {
        match self {
            Self::Hinge => {
                let real = mean_all(&relu(&add_scalar(&scale(real_logits, -1.0)?, 1.0)?)?)?;
                add(&real, &mean_all(&relu(&add_scalar(fake_logits, 1.0)?)?)?)
            }
            Self::NonSaturating => {
                let real = mean_all(&softplus(&scale(real_logits, -1.0)?)?)?;
                add(&real, &mean_all(&softplus(fake_logits)?)?)
            }
            Self::Relativistic => mean_all(&softplus(&sub(fake_logits, real_logits)?)?),
        }
    }

    /// What the generator minimises. `real_logits` are looked at only by [`Loss::Relativistic`].
    pub fn generator(self, fake_logits: &Var, real_logits: Option<&Var>) -> Result<Var> {
        match (self, real_logits) {
            (Self::Hinge, _) => scale(&mean_all(fake_logits)?, -1.0),
            (Self::NonSaturating, _) => mean_all(&softplus(&scale(fake_logits, -1.0)?)?),
            (Self::Relativistic, Some(real)) => mean_all(&softplus(&sub(real, fake_logits)?)?),
            (Self::Relativistic, None) => {
                candle_core::bail!("the relativistic loss needs the logits of real images")
            }
        }
    }

    /// Whether the generator's step needs real images too.
    pub fn pairs(self) -> bool {
        self == Self::Relativistic
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use nestgen_kernels::grad;

    /// f32 arithmetic on numbers of size 1.
    const TOLERANCE: f32 = 1e-6;

    fn logits(values: &[f32]) -> Result<Var> {
        Ok(Var::leaf(Tensor::new(values, &Device::Cpu)?))
    }

    fn number(x: &Var) -> Result<f32> {
        x.value().to_scalar::<f32>()
    }

    #[test]
    fn values_match_the_formulas() -> Result<()> {
        let (real, fake) = (logits(&[2.0, 0.5])?, logits(&[-3.0, 0.25])?);
        let softplus = |x: f32| x.exp().ln_1p();
        let cases = [
            (Loss::Hinge, 0.25 + 0.625, 1.375),
            (
                Loss::NonSaturating,
                (softplus(-2.0) + softplus(-0.5) + softplus(-3.0) + softplus(0.25)) / 2.0,
                (softplus(3.0) + softplus(-0.25)) / 2.0,
            ),
            (
                Loss::Relativistic,
                (softplus(-5.0) + softplus(-0.25)) / 2.0,
                (softplus(5.0) + softplus(0.25)) / 2.0,
            ),
        ];
        for (loss, discriminator, generator) in cases {
            assert!(
                (number(&loss.discriminator(&real, &fake)?)? - discriminator).abs() < TOLERANCE,
                "{loss:?}"
            );
            assert!((number(&loss.generator(&fake, Some(&real))?)? - generator).abs() < TOLERANCE, "{loss:?}");
        }
        Ok(())
    }

    #[test]
    fn hinge_stops_pushing_beyond_the_margin() -> Result<()> {
        let (real, fake) = (logits(&[2.0, 0.5])?, logits(&[-3.0, 0.25])?);
        let loss = Loss::Hinge.discriminator(&real, &fake)?;
        let grads = grad(&loss, &[&real, &fake], false)?;
        assert_eq!(grads[0].value().to_vec1::<f32>()?, [0.0, -0.5]);
        assert_eq!(grads[1].value().to_vec1::<f32>()?, [0.0, 0.5]);
        Ok(())
    }

    #[test]
    fn relativistic_needs_real_logits() -> Result<()> {
        assert!(Loss::Relativistic.generator(&logits(&[1.0])?, None).is_err());
        Ok(())
    }
}
