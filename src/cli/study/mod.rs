//! `nestgen study`: several arms, several seeds, everything else equal; one page at the end.

mod accuracy;
mod convergence;
mod over_ranks;
mod runs;
mod tune;

use std::path::Path;
use std::process::ExitCode;

use nestgen::data::ImageData;
use nestgen::error::Error;
use nestgen::study::arms::{self, Kept};
use nestgen::study::axis::Axis;
use nestgen::study::comparison::{ArmResult, Question, compare};
use nestgen::study::plan::Plan;
use nestgen::study::settings::SEED_KEY;
use nestgen::study::task::{Ended, Status};
use nestgen::study::{data_efficiency, protocol, report, table, tuned};

use super::compare::{read_runs, write};
use super::ui;

/// Studies of several arms and seeds
#[derive(clap::Subcommand)]
pub(crate) enum StudyVerb {
    Convergence(convergence::Convergence),
    Accuracy(accuracy::Accuracy),
}

/// Runs the verb.
pub(crate) fn run(verb: &StudyVerb) -> anyhow::Result<ExitCode> {
    match verb {
        StudyVerb::Convergence(args) => convergence::run(args),
        StudyVerb::Accuracy(args) => accuracy::run(args),
    }
}

/// Each run of a study has a seed of its own.
fn refuse_seed(settings: &[String]) -> Result<(), Error> {
    match settings.iter().find(|text| text.split('=').next().is_some_and(|key| key.trim() == SEED_KEY)) {
        Some(text) => {
            Err(Error::usage(format!("--set {text}: a study has its own seeds"), "choose them with --seeds"))
        }
        None => Ok(()),
    }
}

/// What images are known by.
fn digests(data: &ImageData) -> Vec<String> {
    [Some(data.digest()), data.packed_from()].into_iter().flatten().map(str::to_owned).collect()
}

fn describe(status: &Status) -> String {
    match status {
        Status::New => "to do".into(),
        Status::Interrupted(point) => format!("goes on in {}", point.run.display()),
        Status::Ended(Ended { diverged: Some(why), .. }) => format!("diverged: {why}"),
        Status::Ended(_) => "done".into(),
    }
}

/// Compares the runs that have ended and writes the page; says what is still missing. Gives the arms that tuning has chosen, by
/// their number in the plan.
fn conclude(outdir: &Path, axis: Axis, plan: &Plan) -> anyhow::Result<Vec<usize>> {
    let (mut folders, mut endings, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let mut names = Vec::new();
    notes.extend(plan.allowed_unfair.iter().map(|reason| format!("unfair, and allowed: {reason}")));
    notes.extend(plan.unequal());
    let mut missing = 0;
    for task in plan.tasks(outdir) {
        match task.status()? {
            Status::Ended(Ended { run, diverged }) => {
                folders.push(task.outdir.join(run));
                names.push(plan.arms[task.arm].name.clone());
                endings.push(diverged);
            }
            Status::New | Status::Interrupted(_) => missing += 1,
        }
    }
    if missing > 0 {
        notes.push(format!("{missing} runs of the study are still to be trained"));
    }
    let mut runs = read_runs(&folders)?;
    for ((run, name), ending) in runs.iter_mut().zip(names).zip(endings) {
        run.arm = Some(name);
        // Runs of before a run folder said so itself.
        run.diverged = run.diverged.take().or(ending);
    }
    let Kept { runs, arms, lost, notes: left_out } = arms::without_diverged(runs)?;
    notes.extend(left_out);
    notes.extend(arms::mixed_settings(&runs, &arms));
    if runs.is_empty() {
        notes.iter().for_each(|note| ui::warn(note));
        if missing > 0 {
            return Ok(Vec::new());
        }
        return Err(Error::usage(
            "every run of the study diverged: there is nothing to compare",
            "give another --outdir and settings that train, lower learning rates for instance",
        )
        .into());
    }
    if runs.iter().all(|run| run.scores.is_empty()) {
        ui::warn("no run has scores: there is nothing to compare");
        return Ok(Vec::new());
    }
    let metric = protocol::usual_metric(&runs)?;
    let mut chosen = Vec::new();
    if let Some(key) = &plan.tuned {
        let question = Question { metric: &metric, axis, threshold: None, notes: &[], lost: &lost };
        let compared = compare(&runs, &arms, &question)?;
        let planned: Vec<&str> = plan.arms.iter().map(|arm| arm.name.as_str()).collect();
        notes.extend(tuned::best_values(&compared, key, &planned));
        let number = |best: &ArmResult| plan.arms.iter().position(|arm| arm.name == best.name);
        chosen = tuned::best_arms(&compared).into_iter().filter_map(number).collect();
    }
    let question = Question { metric: &metric, axis, threshold: None, notes: &notes, lost: &lost };
    let compared = compare(&runs, &arms, &question)?;
    let file = |name: &str| outdir.join(name);
    write(Some(&file("scores.csv")), || Ok(table::csv(&runs, &arms, &metric)))?;
    write(Some(&file("tables.md")), || Ok(table::markdown(&compared, &arms)))?;
    if let Some((figure, rows)) = data_efficiency::figure_and_table(&compared, &arms, &runs) {
        write(Some(&file("data-efficiency.svg")), || Ok(figure))?;
        write(Some(&file("data-efficiency.md")), || Ok(rows))?;
    }
    write(Some(&file("curves.svg")), || Ok(report::figure::svg(&compared)))?;
    write(Some(&file("report.html")), || report::html(&runs, &arms, &question))?;
    // Last: who reads only the first lines of it has all of the files.
    ui::result_line(table::terminal(&compared, &arms).trim_end())?;
    Ok(chosen)
}
