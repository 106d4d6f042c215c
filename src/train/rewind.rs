//! Back to a saved state: the networks, and what the run has written since.

use super::adversarial::Training;
use super::score;
use super::state::{Position, SavedState};
use super::stats::{STATS, rewind_lines};
use crate::error::{Error, Result};

impl Training<'_> {
    /// Goes to a saved state.
    pub(super) fn restore(&mut self, state: &SavedState) -> Result<()> {
        let tensors = |name: &str| state.tensors.get(name).map(Vec::as_slice).unwrap_or_default();
        for (name, params) in [
            ("generator", self.networks.generator.params()),
            ("discriminator", self.networks.discriminator.params()),
            ("generator-ema", self.networks.generator_ema.params()),
        ] {
            params.load(&tensors(name).iter().cloned().collect())?;
        }
        self.adam_g.load_state(&tensors("generator-adam").iter().cloned().collect())?;
        self.adam_d.load_state(&tensors("discriminator-adam").iter().cloned().collect())?;
        self.position = Position {
            elapsed_secs: self.position.elapsed_secs.max(state.position.elapsed_secs),
            ..state.position.clone()
        };
        Ok(())
    }

    /// Cuts off what will be written again: what is of later kimg, and where the tick that ends here was stopped while it was scored,
    /// its own lines, which another session may have written before it was killed.
    pub(super) fn rewind(&self) -> Result<()> {
        let kimg = self.position.kimg();
        let over = self.length.is_over(self.position.cur_nimg, self.position.elapsed_secs);
        let own_kimg = if self.tick_is_due(over) { self.position.tick_start_nimg as f64 / 1e3 } else { kimg };
        let evaluate = self.session.evaluate.as_ref().map(|(evaluate, _)| evaluate);
        let dir = self.session.folder.path();
        for entry in std::fs::read_dir(dir).map_err(Error::io("read", dir))? {
            let path = entry.map_err(Error::io("read", dir))?.path();
            if path.ends_with(STATS) {
                rewind_lines(&path, own_kimg)?;
            } else if score::is_metric_file(&path) {
                let is_of = |metric: &String| path.ends_with(score::file_name(metric));
                let ours = evaluate.is_some_and(|evaluate| evaluate.metrics().iter().any(is_of));
                rewind_lines(&path, if ours { own_kimg } else { kimg })?;
                let Some(evaluate) = evaluate else { continue };
                let space = ours.then(|| evaluate.space());
                if let Some(warning) = score::put_aside_others(&path, space.as_deref())? {
                    self.session.folder.log(&warning)?;
                }
            }
        }
        Ok(())
    }
}
