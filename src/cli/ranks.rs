//! Verbs that several processes carry out together, started by mpirun or srun.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use candle_core::Device;
use nestgen::error::{Error, Result};
use nestgen::ranks::Ranks;
use nestgen::train::resume_point::{ResumePoint, resume_point};

use super::{report, ui};

/// Seconds that ranks wait for one another in a step.
const TIMEOUT_SECS: u64 = 600;

/// How long ranks wait.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct RankArgs {
    /// Seconds that the processes of a run under mpirun or srun wait for one another before they give it up
    #[cfg(feature = "mpi")]
    #[arg(long, value_name = "SECS", default_value_t = TIMEOUT_SECS, value_parser = clap::value_parser!(u64).range(1..))]
    rank_timeout: u64,
}

impl RankArgs {
    /// Joins the processes that were launched together, if any were, and works with them. One of them speaks; one that
    /// fails ends them all, since the others wait for it.
    pub(super) fn run(self, work: impl FnOnce(&Ranks) -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
        #[cfg(feature = "mpi")]
        let timeout_secs = self.rank_timeout;
        #[cfg(not(feature = "mpi"))]
        let timeout_secs = TIMEOUT_SECS;
        let on_lost = |rank, size, error: Error| report::failure_of_rank(rank, size, error.into());
        let ranks = Ranks::join(Duration::from_secs(timeout_secs), on_lost)?;
        if !ranks.is_first() {
            ui::mute();
        }
        match work(&ranks) {
            Err(error) if ranks.size() > 1 => {
                ranks.abort(report::failure_of_rank(ranks.rank(), ranks.size(), error))
            }
            ended => ended,
        }
    }
}

/// The point to go on from. Finding it tidies the folder up, which is for one process to do.
pub(super) fn find_point(outdir: &Path, what: &str, ranks: &Ranks) -> Result<ResumePoint> {
    let found = if ranks.is_first() { Some(resume_point(outdir, what)?) } else { None };
    let found: Option<ResumePoint> = ranks.first_tells(found)?;
    found.ok_or_else(|| Error::Usage { message: "rank 0 found no state".into(), hint: None })
}

/// Says where the ranks run.
pub(super) fn describe_ranks(ranks: &Ranks) {
    if ranks.size() > 1 {
        ui::note(&format!("{} ranks: {}", ranks.size(), ranks.names().join("; ")));
    }
}

/// Connects the GPUs of ranks that train one run together; says how its gradients travel.
pub(super) fn connect_gpus(ranks: &Ranks, device: &Device) -> Result<()> {
    // Each has read its images, some from a slower disk.
    ranks.wait_for_all();
    if let Some(how) = ranks.connect_gpus(device)? {
        ui::note(&how);
    }
    Ok(())
}
