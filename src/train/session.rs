//! What a run of adversarial training is made of: its networks, what it is given beside them, its clock.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use candle_core::Device;

use super::evaluate::Evaluator;
use super::event::Event;
use super::folder::RunFolder;
use super::held_out::HeldOut;
use super::reals::RealImages;
use super::settings::TrainConfig;
use crate::data::Share;
use crate::error::Result;
use crate::models::{Discriminator, Generator};
use crate::ranks::Ranks;

/// The networks of a run.
pub struct Networks {
    /// Draws images; trained.
    pub generator: Generator,
    /// The same architecture, averaged over time; what is kept.
    pub generator_ema: Generator,
    /// Tells real from fake; trained.
    pub discriminator: Discriminator,
}

impl Networks {
    /// Moves all three to a device.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn move_to(&self, device: &Device) -> Result<()> {
        let Self { generator, generator_ema, discriminator } = self;
        let all = [generator.params(), generator_ema.params(), discriminator.params()];
        Ok(all.into_iter().try_for_each(|params| params.move_to(device))?)
    }
}

/// What a run is given, beside its networks.
pub struct Session<'a> {
    /// The settings.
    pub config: &'a TrainConfig,
    /// The whole configuration as text, kept in every snapshot and state.
    pub config_text: &'a str,
    /// Where everything is written.
    pub folder: &'a RunFolder,
    /// The processes that make this run together.
    pub ranks: &'a Ranks,
    /// Which images of a global batch are this one's, from [`super::parallel::share_out`].
    pub share: Share,
    /// Where real images come from: this rank's share of them.
    pub real_images: RealImages,
    /// Real images that are not trained on.
    pub held_out: Option<HeldOut>,
    /// What scores the averaged generator and how many thousand images apart, if anything does. The first score
    /// decides which snapshot is the best.
    pub evaluate: Option<(Evaluator, f64)>,
    /// Set to end the run at the next step.
    pub stop: &'a AtomicBool,
    /// Told what happens.
    pub on_event: &'a mut dyn FnMut(Event),
}

/// Wall time, which decides nothing but the end of a timed run.
pub(super) struct Clock {
    pub(super) session_start: Instant,
    /// Seconds of earlier sessions.
    pub(super) before_secs: f64,
    /// When the running tick began, in seconds of the run.
    pub(super) tick_start_secs: f64,
    /// What scores, pictures and saving took at the end of the last tick; 0 in the first one of a session.
    pub(super) maintenance_secs: f64,
    /// The longest that they have taken so far.
    pub(super) longest_maintenance_secs: f64,
    /// When the memory of a line of progress was read, in seconds of the run: reading it takes longer than queueing work for a GPU.
    pub(super) memory_secs: f64,
}

impl Clock {
    pub(super) fn elapsed_secs(&self) -> f64 {
        self.before_secs + self.session_start.elapsed().as_secs_f64()
    }
}
