//! `nestgen compare`: which arm learns faster, over seeds.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nestgen::error::{Error, Result};
use nestgen::study::arms::{self, Kept};
use nestgen::study::axis::Axis;
use nestgen::study::comparison::{Question, compare};
use nestgen::study::run::Run;
use nestgen::study::{protocol, report, table};
use nestgen::train::files::write_atomic;
use rayon::prelude::*;

use super::ui;

/// Compare runs: mean and interval over seeds, time to a score, tests
#[derive(clap::Args)]
pub(crate) struct Compare {
    /// Run folders; runs that differ only in their seed form an arm, and the first arm is what others are tested
    /// against
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// What to measure convergence against: kimg, steps, seconds (of training), flops (counted) or epochs
    #[arg(long, default_value = "kimg", value_name = "AXIS")]
    x: Axis,
    /// The score to compare by; lower is better, but for accuracies (top1, top5) [default: one that all runs have: FID if it has 10,000 images, else KID]
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,
    /// The score that "time to" waits for [default: the best one that every run reached]
    #[arg(long, value_name = "SCORE", value_parser = finite)]
    threshold: Option<f64>,
    /// Write a page with curves, sample grids and provenance that opens without a network
    #[arg(long, value_name = "FILE.html", value_parser = ui::file_to_write(&["html", "htm"]))]
    report: Option<PathBuf>,
    /// Write every score as CSV
    #[arg(long, value_name = "FILE.csv", value_parser = ui::file_to_write(&["csv"]))]
    csv: Option<PathBuf>,
    /// Write the tables as Markdown
    #[arg(long, value_name = "FILE.md", value_parser = ui::file_to_write(&["md", "markdown", "txt"]))]
    markdown: Option<PathBuf>,
    /// Write the curves as a picture
    #[arg(long, value_name = "FILE.svg", value_parser = ui::file_to_write(&["svg"]))]
    figure: Option<PathBuf>,
}

fn finite(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|value: &f64| value.is_finite()).ok_or_else(|| "not a finite number".into())
}

/// Runs the verb.
pub(crate) fn run(args: &Compare) -> anyhow::Result<ExitCode> {
    let Kept { runs, arms, lost, notes } = arms::without_diverged(read_runs(&args.runs)?)?;
    if runs.is_empty() {
        return Err(Error::Usage {
            message: notes.join("; "),
            hint: Some("give runs that did not diverge as well".into()),
        }
        .into());
    }
    let metric = match &args.metric {
        Some(name) => name.clone(),
        None => protocol::usual_metric(&runs)?,
    };
    let question =
        Question { metric: &metric, axis: args.x, threshold: args.threshold, notes: &notes, lost: &lost };
    let compared = compare(&runs, &arms, &question)?;
    // Files first: whoever reads the table may close the pipe after its first line.
    write(args.csv.as_deref(), || Ok(table::csv(&runs, &arms, &metric)))?;
    write(args.markdown.as_deref(), || Ok(table::markdown(&compared, &arms)))?;
    write(args.figure.as_deref(), || Ok(report::figure::svg(&compared)))?;
    write(args.report.as_deref(), || report::html(&runs, &arms, &question))?;
    ui::result_line(table::terminal(&compared, &arms).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// Reads run folders side by side.
pub(super) fn read_runs(paths: &[PathBuf]) -> Result<Vec<Run>> {
    paths.par_iter().map(|path| Run::read(path)).collect()
}

/// Writes a file if one was asked for, and says so.
pub(super) fn write(path: Option<&Path>, text: impl FnOnce() -> Result<String>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = text()?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    write_atomic(path, |file| file.write_all(text.as_bytes()))?;
    ui::note(&format!("wrote {}", path.display()));
    Ok(())
}
