//! Back to a saved state: the networks, and what the run has written since.

use super::adversarial::Training;
use super::score;
use super::state::{Position, SavedState};
use super::stats::{STATS, rewind_lines};
use super::tick::is_scored;
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

    /// Cuts off what will be written again: what is of later kimg; and where the tick that ends here was stopped while it was scored,
    /// its own lines, which another session may have written before it was killed. After a rollback those may be of the stretch that
    /// was given up, which stays.
    pub(super) fn rewind(&self) -> Result<()> {
        const HALF_AN_IMAGE_KIMG: f64 = 5e-4;
        let over = self.length.is_over(self.position.cur_nimg, self.position.elapsed_secs);
        let comes_again = self.tick_is_due(over) && self.position.rollbacks == 0;
        let up_to = |own: bool| self.position.kimg() - if own { HALF_AN_IMAGE_KIMG } else { 0.0 };
        let evaluate = self.session.evaluate.as_ref();
        let dir = self.session.folder.path();
        for entry in std::fs::read_dir(dir).map_err(Error::io("read", dir))? {
            let path = entry.map_err(Error::io("read", dir))?.path();
            if path.ends_with(STATS) {
                rewind_lines(&path, up_to(comes_again))?;
            } else if score::is_metric_file(&path) {
                let is_of = |metric: &String| path.ends_with(score::file_name(metric));
                let own = evaluate.filter(|(evaluate, _)| evaluate.metrics().iter().any(is_of));
                // Of a tick that is not scored, somebody has scored the snapshot.
                let scored = own.is_some_and(|(_, every_kimg)| is_scored(&self.position, *every_kimg, over));
                rewind_lines(&path, up_to(comes_again && scored))?;
                if evaluate.is_none() {
                    continue;
                }
                let space = own.map(|(evaluate, _)| evaluate.space());
                if let Some(warning) = score::put_aside_others(&path, space.as_deref())? {
                    self.session.folder.log(&warning)?;
                }
            }
        }
        Ok(())
    }
}
