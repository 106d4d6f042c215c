//! Answers to trouble: what a run does that has gone wrong, and how it is known before it is saved as good.

use candle_core::{DType, Result as TensorResult, Tensor};

use super::adversarial::Training;
use super::event::{Event, Outcome};
use super::guard::{OnDivergence, Trouble};
use super::state;
use crate::error::Result;

impl Training<'_> {
    /// Weights that are no finite numbers. Losses tell of them a step later, when they may have been saved as a good state, to which
    /// every rollback would go. The averaged generator, which the first rank alone has, is as finite as the generator.
    pub(super) fn broken_weights(&self) -> Result<Option<Trouble>> {
        let networks = &self.networks;
        for (whose, params) in
            [("generator", networks.generator.params()), ("discriminator", networks.discriminator.params())]
        {
            for (name, tensor) in params.tensors() {
                if !is_finite(&tensor)? {
                    return Ok(Some(Trouble::NonFinite { what: format!("{whose}'s {name}") }));
                }
            }
        }
        Ok(None)
    }

    /// Does about trouble what the settings say; an outcome when that ends the run.
    pub(super) fn respond(&mut self, trouble: Trouble) -> Result<Option<Outcome>> {
        let guard = &self.session.config.guard;
        let last_good = state::list(self.session.folder.path())?.pop();
        let last_good = self.session.ranks.first_tells(last_good)?;
        let broken = matches!(trouble, Trouble::NonFinite { .. });
        let action = match (guard.on_divergence, &last_good) {
            (OnDivergence::Warn, _) if !broken => {
                self.tell_trouble(&trouble, "going on".into())?;
                return Ok(None);
            }
            (OnDivergence::Rollback, Some(path)) if self.position.rollbacks < guard.max_rollbacks => {
                let rollbacks = self.position.rollbacks + 1;
                let state = state::load(path)?;
                self.restore(&state)?;
                self.position.rollbacks = rollbacks;
                let action = format!("back to `{}` with half the learning rate", path.display());
                self.tell_trouble(&trouble, action)?;
                return Ok(None);
            }
            (_, Some(path)) => format!("stopped; the last good state is `{}`", path.display()),
            (_, None) => "stopped; no state had been saved yet".into(),
        };
        self.tell_trouble(&trouble, action)?;
        if self.session.ranks.is_first() {
            self.session.folder.mark_diverged(&trouble.to_string())?;
        }
        Ok(Some(Outcome::Diverged { trouble, last_good }))
    }

    fn tell_trouble(&mut self, trouble: &Trouble, action: String) -> Result<()> {
        if !self.session.ranks.is_first() {
            return Ok(());
        }
        self.session.folder.log(&format!("warning: {trouble}; {action}"))?;
        (self.session.on_event)(Event::Trouble { trouble: trouble.clone(), action });
        Ok(())
    }
}

/// Whether all numbers are finite: one that is not makes their sum so.
fn is_finite(tensor: &Tensor) -> TensorResult<bool> {
    Ok(tensor.to_dtype(DType::F64)?.abs()?.sum_all()?.to_scalar::<f64>()?.is_finite())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn one_number_is_enough() {
        let finite = |numbers: &[f32]| is_finite(&Tensor::new(numbers, &Device::Cpu).unwrap()).unwrap();
        assert!(finite(&[0.0, -f32::MAX, f32::MAX, f32::MAX, f32::MIN_POSITIVE]));
        assert!(!finite(&[0.0, f32::NAN]) && !finite(&[f32::INFINITY, 1.0]));
        assert!(!finite(&[f32::INFINITY, f32::NEG_INFINITY]));
    }
}
