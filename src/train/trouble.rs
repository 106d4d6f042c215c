//! Answers to trouble: what a run does that has gone wrong, and how it is known before it is saved as good.

use std::path::{Path, PathBuf};

use candle_core::{DType, Result as TensorResult, Tensor};

use super::adversarial::Training;
use super::event::{Event, Outcome};
use super::folder::snapshot_name;
use super::guard::{Guard, OnDivergence, Trouble};
use super::state::{self, SavedState};
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
    /// `over` where the run is as long as it should be.
    pub(super) fn respond(&mut self, trouble: Trouble, over: bool) -> Result<Option<Outcome>> {
        let guard = &self.session.config.guard;
        let broken = matches!(trouble, Trouble::NonFinite { .. });
        if self.goes_on(&trouble) {
            self.tell_trouble(&trouble, "going on".into())?;
            return Ok(None);
        }
        let found = if self.session.ranks.is_first() { self.last_good()? } else { None };
        let (last_good, loaded) = found.unzip();
        let last_good = self.session.ranks.first_tells(last_good)?;
        let action = match &last_good {
            Some(path)
                if guard.on_divergence == OnDivergence::Rollback
                    && self.position.rollbacks < guard.max_rollbacks =>
            {
                self.roll_back(path, loaded.flatten())?;
                let action = format!("back to `{}` with half the learning rate", path.display());
                self.tell_trouble(&trouble, action)?;
                return Ok(None);
            }
            // All that was asked for has been trained: it is kept, whatever it is worth.
            _ if over && !broken => {
                self.tell_trouble(&trouble, "the run is at its end".into())?;
                return Ok(None);
            }
            Some(path) => format!("stopped; the last good state is `{}`", path.display()),
            None => "stopped; no state had been saved yet".into(),
        };
        let kept = format!("diverged-{}", snapshot_name(self.position.cur_nimg));
        let action = if broken { action } else { format!("{action}; the generator of now is `{kept}`") };
        self.tell_trouble(&trouble, action)?;
        if self.session.ranks.is_first() {
            if !broken {
                self.write_snapshot(&kept)?;
            }
            self.session.folder.mark_diverged(&trouble.to_string())?;
        }
        Ok(Some(Outcome::Diverged { trouble, last_good }))
    }

    /// Whether the settings say to go on as if nothing were: with numbers that are not finite nothing can.
    pub(super) fn goes_on(&self, trouble: &Trouble) -> bool {
        self.session.config.guard.on_divergence == OnDivergence::Warn
            && !matches!(trouble, Trouble::NonFinite { .. })
    }

    /// The newest whole state that was saved while nothing was suspected; the oldest one where there is none, which is the farthest from the
    /// trouble. With what it holds, where that was read.
    fn last_good(&self) -> Result<Option<(PathBuf, Option<SavedState>)>> {
        let states = state::list(self.session.folder.path())?;
        for path in states.iter().rev() {
            let calm = state::load(path).ok().filter(|state| state.position.guard.is_calm());
            if calm.is_some() {
                return Ok(Some((path.clone(), calm)));
            }
        }
        Ok(states.into_iter().next().map(|oldest| (oldest, None)))
    }

    /// Goes to a saved state (`loaded` is what it holds, where that was read): with half the rate, other random numbers, and the
    /// patience of a new run. What was written since steps aside. The best generator so far stays the best, wherever the run
    /// has gone since.
    fn roll_back(&mut self, path: &Path, loaded: Option<SavedState>) -> Result<()> {
        let state = loaded.map_or_else(|| state::load(path), Ok)?;
        let (rollbacks, best) = (self.position.rollbacks + 1, self.position.best.take());
        // The state may be of a time before the run was made longer.
        let total_nimg = self.position.total_nimg;
        self.restore(&state)?;
        (self.position.rollbacks, self.position.total_nimg) = (rollbacks, total_nimg);
        self.position.guard = Guard::default();
        self.position.best = best.or(self.position.best.take());
        if self.session.ranks.is_first() {
            self.session.folder.set_aside_after(self.position.cur_nimg)?;
        }
        Ok(())
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
