//! What a run tells its caller while it goes on. The library prints nothing itself.

use std::path::PathBuf;

use super::guard::Trouble;

/// Where a run is: enough for one line of progress.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Thousands of real images shown.
    pub kimg: f64,
    /// Thousands of images that the whole run will show, estimated if it is timed.
    pub total_kimg: f64,
    /// Seconds of training so far, over all sessions.
    pub elapsed_secs: f64,
    /// Seconds a thousand images, over the last tick or so.
    pub sec_per_kimg: f64,
    /// Seconds to the end, estimated.
    pub eta_secs: f64,
    /// Memory of the process, GiB.
    pub memory_gib: f64,
    /// The generator's loss in the last step.
    pub generator_loss: f64,
    /// The discriminator's loss in the last step, penalties included.
    pub discriminator_loss: f64,
    /// Probability of augmentation.
    pub augment: f64,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A step was made.
    Progress(Progress),
    /// A line for people: a tick, a score, a file. It is in `log.txt` as well.
    Line(String),
    /// Something is wrong, and what was done about it. It is in `log.txt` as well.
    Trouble {
        /// What is wrong.
        trouble: Trouble,
        /// What was done.
        action: String,
    },
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is as long as it should be.
    Finished {
        /// The averaged generator.
        snapshot: PathBuf,
    },
    /// It was asked to stop, and saved.
    Interrupted {
        /// What to resume from.
        state: PathBuf,
    },
    /// The guard ended it.
    Diverged {
        /// Why.
        trouble: Trouble,
        /// The last good state, if one was saved.
        last_good: Option<PathBuf>,
    },
}
