//! A comparison as text: aligned for a terminal, as Markdown, and every score as CSV.

use super::arms::{Arm, differences};
use super::axis::Axis;
use super::comparison::{ArmResult, Comparison};
use super::headline::headline;
use super::numbers::{digits, p_value, short, with_interval};
use super::protocol::{self, FeatureSpace};
use super::run::Run;
use super::statistics::{Estimate, PairedTest};
use super::steadiness;

/// Rows of text under a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Names of the columns.
    pub header: Vec<String>,
    /// One text for each column.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|&name| name.to_owned()).collect(), rows: Vec::new() }
    }

    /// Columns padded to equal width, two spaces between them.
    pub fn aligned(&self) -> String {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let width = |column: usize| {
            lines().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let line = |cells: &Vec<String>| {
            let padded = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        lines().map(line).collect()
    }

    /// A Markdown table.
    pub fn markdown(&self) -> String {
        let line = |cells: &Vec<String>| {
            let escaped: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", escaped.join(" | "))
        };
        let rule = format!("|{}\n", " --- |".repeat(self.header.len()));
        line(&self.header) + &rule + &self.rows.iter().map(line).collect::<String>()
    }
}

const UNKNOWN: &str = "-";

fn estimate(value: &Estimate) -> String {
    with_interval(value.mean, value.half_width)
}

fn or_unknown<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.into(), show)
}

/// One row an arm: how far, how fast, at what cost.
pub fn summary(comparison: &Comparison) -> Table {
    let to = format!("{} to {}", comparison.axis.name(), digits(comparison.threshold, 4));
    let one_network = comparison.arms.iter().all(|arm| arm.parameters.is_some_and(|(_, second)| second == 0));
    let networks = if one_network { vec!["params"] } else { vec!["G params", "D params"] };
    // Runs of a study have no memory of their own.
    let memory = comparison.arms.iter().any(|arm| arm.peak_memory_gib.is_some());
    let mut header = vec!["arm", "seeds", &comparison.metric, "best of run", "mean over range", &to, "img/s"];
    header.extend(memory.then_some("memory"));
    header.extend(&networks);
    header.push("FLOPs/img");
    let mut table = Table::new(&header);
    table.rows = comparison.arms.iter().map(|arm| summary_row(arm, memory, networks.len())).collect();
    table
}

fn summary_row(arm: &ArmResult, memory: bool, networks: usize) -> Vec<String> {
    let seeds = arm.runs.len();
    let reached = or_unknown(arm.to_threshold.as_ref(), |reached| match (arm.or_before, arm.reached < seeds) {
        (false, false) => estimate(reached),
        (true, false) => format!("≤ {}", short(reached.mean)),
        (false, true) => format!("≥ {} ({} of {seeds})", short(reached.mean), arm.reached),
        (true, true) => format!("about {} ({} of {seeds})", short(reached.mean), arm.reached),
    });
    let parameters = [arm.parameters.map(|p| p.0), arm.parameters.map(|p| p.1)];
    let parameters = parameters.into_iter().take(networks).map(|p| or_unknown(p, |p| short(p as f64)));
    let mut row = vec![
        arm.name.clone(),
        seeds.to_string(),
        estimate(&arm.last),
        estimate(&arm.best),
        estimate(&arm.area),
        reached,
        or_unknown(arm.images_per_sec.as_ref(), estimate),
    ];
    row.extend(memory.then(|| or_unknown(arm.peak_memory_gib, |gib| format!("{gib:.2} GiB"))));
    row.extend(parameters);
    row.push(or_unknown(arm.flops_per_image, short));
    row
}

/// One row for each quantity in which an arm is tested against the first one.
pub fn tests(comparison: &Comparison) -> Table {
    let mut table = Table::new(&["difference", "in", "pairs", "mean ± 95 %", "p"]);
    for test in &comparison.tests {
        let to = format!("{} to threshold", comparison.axis.name());
        let tested =
            [("final score", &test.last), ("mean score", &test.area), (to.as_str(), &test.to_threshold)];
        table.rows.extend(tested.iter().map(|(what, result)| {
            let mut row = vec![format!("{} - {}", test.arm, test.against), (*what).to_owned()];
            row.extend(test_cells(result.as_ref()));
            row
        }));
    }
    table
}

fn test_cells(test: Option<&PairedTest>) -> [String; 3] {
    match test {
        Some(test) => {
            [test.difference.count.to_string(), estimate(&test.difference), or_unknown(test.p, p_value)]
        }
        None => ["0".into(), UNKNOWN.into(), UNKNOWN.into()],
    }
}

/// The settings that differ, one column an arm.
pub fn settings(arms: &[Arm]) -> Table {
    let mut header = vec!["setting"];
    header.extend(arms.iter().map(|arm| arm.name.as_str()));
    let mut table = Table::new(&header);
    table.rows = differences(arms)
        .into_iter()
        .map(|difference| {
            let values = difference.values.into_iter().map(|value| value.unwrap_or_else(|| UNKNOWN.into()));
            std::iter::once(difference.key).chain(values).collect()
        })
        .collect();
    table
}

/// The lines that say what the numbers are.
pub fn remarks(comparison: &Comparison) -> Vec<String> {
    let (from, to) = comparison.range;
    let protocol: Vec<String> =
        comparison.protocol.0.iter().map(|(key, value)| format!("{key} {value}")).collect();
    let better = if comparison.higher_is_better { "higher" } else { "lower" };
    let mut remarks = vec![
        format!("{}: {better} is better; {}", comparison.metric, protocol.join(", ")),
        format!(
            "compared from {} to {} {}, which every run covers; ± is half of a 95 % t interval over seeds",
            short(from),
            short(to),
            comparison.axis.name()
        ),
    ];
    let limit = nestgen_fid::BIASED_BELOW;
    if protocol::is_biased(&comparison.metric, &comparison.protocol) {
        remarks.push(format!(
            "the bias of a Frechet distance of fewer than {limit} images differs between generators and can turn their order round: KID has \
             none"
        ));
    }
    if FeatureSpace::of(&comparison.metric, &comparison.protocol) == FeatureSpace::Random {
        remarks.push(
            "random features tell trained generators from untrained ones, not better from worse: score the snapshots in others with \
             `nestgen score --features …` before you call an arm better"
                .into(),
        );
    }
    if comparison.arms.iter().any(|arm| arm.or_before) {
        remarks.push("≤: a run was there when the range begins; then speed is not tested".into());
    }
    if comparison.arms.iter().any(|arm| arm.to_threshold.is_some() && arm.reached < arm.runs.len()) {
        remarks.push(
            "≥: runs that never came there count with the end of the range; then speed is not tested".into(),
        );
    }
    remarks.extend(steadiness::remarks(comparison));
    let tests = comparison.tests.iter().flat_map(|test| [test.last, test.area, test.to_threshold]);
    let tested = tests.flatten().filter(|test| test.p.is_some()).count();
    if tested > 0 {
        remarks.push(format!(
            "p is that of each test by itself: where nothing differs, each of the {tested} is below 0.05 with a chance of one in \
             twenty, and with a greater one if seeds were added until it was"
        ));
    }
    if !comparison.lost.is_empty() && !comparison.tests.is_empty() {
        remarks.push(
            "tests leave out the seeds that diverged, the worst ones perhaps: an arm that lost some looks better in them than it is".into(),
        );
    }
    if comparison.arms.iter().any(|arm| arm.runs.len() < 3) {
        remarks.push("fewer than 3 seeds in an arm: too few to tell a difference from luck".into());
    }
    remarks.extend(comparison.notes.iter().cloned());
    remarks
}

/// The whole comparison for a terminal.
pub fn terminal(comparison: &Comparison, arms: &[Arm]) -> String {
    let mut text = format!("{}\n\n{}\n", headline(comparison), summary(comparison).aligned());
    text += &remarks(comparison).iter().map(|remark| format!("{remark}\n")).collect::<String>();
    if !comparison.tests.is_empty() {
        text += &format!("\npaired over seeds (two-sided t-test)\n{}", tests(comparison).aligned());
    }
    let settings = settings(arms);
    if !settings.rows.is_empty() {
        text += &format!("\nsettings that differ\n{}", settings.aligned());
    }
    text
}

/// The whole comparison as Markdown.
pub fn markdown(comparison: &Comparison, arms: &[Arm]) -> String {
    let mut text = format!("# {} against {}\n\n", comparison.metric, comparison.axis.name());
    text += &format!("{}\n\n{}\n", headline(comparison), summary(comparison).markdown());
    text += &remarks(comparison).iter().map(|remark| format!("- {remark}\n")).collect::<String>();
    if !comparison.tests.is_empty() {
        text += &format!("\n## Paired over seeds\n\n{}", tests(comparison).markdown());
    }
    let settings = settings(arms);
    if !settings.rows.is_empty() {
        text += &format!("\n## Settings that differ\n\n{}", settings.markdown());
    }
    text
}

/// Every score of every run, one line each, with its place on every axis that was recorded.
pub fn csv(runs: &[Run], arms: &[Arm], metric: &str) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    let mut text = String::from("arm,run,seed,metric,kimg,steps,seconds,flops,epochs,value,standard_error\n");
    for (arm, run) in
        arms.iter().flat_map(|arm| arm.runs.iter().filter_map(move |&i| Some((arm, runs.get(i)?))))
    {
        for point in run.scores.get(metric).iter().flat_map(|scores| &scores.points) {
            let places = Axis::ALL.map(|axis| number(run.position(axis, point.kimg))).join(",");
            let start = [quoted(&arm.name), quoted(&run.name), run.seed.to_string(), quoted(metric)].join(",");
            text += &format!("{start},{places},{},{}\n", point.value, number(point.standard_error));
        }
    }
    text
}
