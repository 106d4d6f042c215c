//! The runs of a study, dealt over the processes of a job: each trains whole runs alone.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use nestgen::error::Result;
use nestgen::ranks::Ranks;
use nestgen::study::axis::Axis;
use nestgen::study::plan::Plan;
use nestgen::study::task::{Status, Task};

use super::conclude;
use crate::cli::{interrupt, report, ui};

/// Opens the study's folder, which the first rank does and holds until the file is dropped, and deals out what is left to train.
pub(super) fn open_and_deal(plan: &Plan, outdir: &Path, ranks: &Ranks) -> Result<(Vec<Task>, Option<File>)> {
    let tasks = plan.tasks(outdir);
    let (mut left, mut held) = (Vec::new(), None);
    if ranks.is_first() {
        held = Some(plan.open(outdir)?);
        for (number, task) in tasks.iter().enumerate() {
            if !matches!(task.status()?, Status::Ended(_)) {
                left.push(number);
            }
        }
    }
    let left = ranks.first_tells(left)?;
    let own = left.into_iter().enumerate().filter(|&(turn, _)| player(turn, ranks.size()) == ranks.rank());
    Ok((own.filter_map(|(_, number)| tasks.get(number).cloned()).collect(), held))
}

/// Who gets what is dealt in a turn: back and forth, so that of two arms none is always the same rank's.
fn player(turn: usize, ranks: usize) -> usize {
    let (round, place) = (turn / ranks, turn % ranks);
    if round % 2 == 1 { ranks - 1 - place } else { place }
}

/// How a study ended, on every rank.
pub(super) struct Concluded {
    /// What the process ends with.
    pub(super) exit: ExitCode,
    /// The arms that tuning has chosen, by their number in the plan; none unless every run of the study was trained.
    pub(super) chosen: Vec<usize>,
}

/// Waits for all ranks; the first one writes the page. `trained` is how this rank's runs ended: whether all of them did,
/// or the error of one, which has its name. An error ends the runs of its rank alone; the page says what is missing.
pub(super) fn conclude_together(
    trained: anyhow::Result<bool>,
    plan: &Plan,
    outdir: &Path,
    axis: Axis,
    ranks: &Ranks,
) -> anyhow::Result<Concluded> {
    if ranks.size() == 1 {
        let all = trained?;
        let chosen = conclude_alone(all, plan, outdir, axis)?;
        let exit = if all { ExitCode::SUCCESS } else { interrupt::exit_code(ranks) };
        return Ok(Concluded { exit, chosen });
    }
    let (all, failed) = match trained {
        Ok(all) => (all, false),
        Err(error) => {
            report::failure_of_rank(ranks.rank(), ranks.size(), error);
            (false, true)
        }
    };
    ranks.wait_for_all();
    let (stopped, failed) = (ranks.any(!all && !failed), ranks.any(failed));
    let mut chosen = Vec::new();
    if ranks.is_first() {
        // Of a failure, its rank has told; `stopped` would have Slurm's script begin a job that meets it again.
        chosen = conclude_alone(!stopped, plan, outdir, axis)?;
    }
    // The others stay until the page is written: a launcher ends the job when one of them fails.
    let mut chosen = ranks.first_tells(chosen)?;
    if failed {
        chosen.clear();
    }
    Ok(Concluded { exit: if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }, chosen })
}

fn conclude_alone(all: bool, plan: &Plan, outdir: &Path, axis: Axis) -> anyhow::Result<Vec<usize>> {
    let chosen = conclude(outdir, axis, plan)?;
    if !all {
        ui::result_line("stopped; the same command goes on with the study")?;
        return Ok(Vec::new());
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_gets_runs_of_every_arm() {
        let dealt: Vec<usize> = (0..8).map(|turn| player(turn, 2)).collect();
        assert_eq!(dealt, [0, 1, 1, 0, 0, 1, 1, 0]);
        assert_eq!((0..3).map(|turn| player(turn, 1)).collect::<Vec<_>>(), [0, 0, 0]);
    }
}
