//! Accuracy against the number of training images: what a study with several shares of a set adds to its curves.

use std::collections::BTreeMap;

use super::arms::Arm;
use super::comparison::{ArmResult, Comparison};
use super::numbers::with_interval;
use super::report::figure::{Plot, draw};
use super::run::Run;
use super::settings::Settings;
use super::statistics::Estimate;

/// The setting that shares differ in.
const FRACTION: &str = "data.fraction";

/// A classifier with the final score for each number of training images.
struct Line {
    name: String,
    /// Images, mean, half width.
    points: Vec<(f64, f64, Option<f64>)>,
    /// Seeds of each point, and how many diverged.
    seeds: Vec<String>,
}

/// A figure and a Markdown table; `None` where every arm has the same share of the images.
pub fn figure_and_table(compared: &Comparison, arms: &[Arm], runs: &[Run]) -> Option<(String, String)> {
    let mut lines: BTreeMap<String, Line> = BTreeMap::new();
    for (arm, result) in arms.iter().zip(&compared.arms) {
        let images =
            arm.runs.iter().find_map(|&i| runs.get(i)?.provenance.as_ref()).map(|p| p.data_images as f64)?;
        let without: Settings = arm.settings.iter().filter(|(key, _)| *key != FRACTION).map(own).collect();
        let key = format!("{without:?}");
        let name = without_share(&arm.name, arm.settings.get(FRACTION).map_or("", String::as_str));
        let line = lines.entry(key).or_insert(Line { name, points: Vec::new(), seeds: Vec::new() });
        let last = last_scores(result)?;
        let place = line.points.partition_point(|point| point.0 < images);
        line.points.insert(place, (images, last.mean, last.half_width));
        line.seeds.insert(place, seeds(compared, result));
    }
    let several = lines.values().any(|line| line.points.len() > 1);
    let metric = &compared.metric;
    several.then(|| {
        let plot = Plot {
            title: format!("{metric} against training images"),
            x_label: "training images",
            y_label: format!("final {metric} (higher is better"),
            curves: lines.values().map(|line| (line.name.as_str(), line.points.as_slice())).collect(),
        };
        (draw(&plot), table(metric, lines.values()) + &losses(compared))
    })
}

/// The last scores of an arm's runs. Runs on fewer images are shorter in images and steps, so that the end of the stretch that all
/// arms cover would be the end of the shortest ones.
fn last_scores(arm: &ArmResult) -> Option<Estimate> {
    let last = arm.runs.iter().filter_map(|run| run.points.last()).map(|point| point.1);
    Estimate::of(&last.collect::<Vec<_>>())
}

/// How many runs a mean is of: without word of it, an arm would gain by losing its worst seeds.
fn seeds(compared: &Comparison, arm: &ArmResult) -> String {
    match compared.lost.iter().find(|lost| lost.arm == arm.name) {
        Some(lost) => format!("{} ({} more diverged)", arm.runs.len(), lost.diverged),
        None => arm.runs.len().to_string(),
    }
}

/// The arms of which nothing is left.
fn losses(compared: &Comparison) -> String {
    let whole = compared.lost.iter().filter(|lost| lost.diverged == lost.of);
    let lines = whole.map(|lost| format!("\nAll {} runs of {} diverged.\n", lost.of, lost.arm));
    lines.collect()
}

/// An arm's name less the share that a study appends to it (run folders spell `@` as `_`).
fn without_share(name: &str, share: &str) -> String {
    let same = |tail: &str| tail.parse::<f64>().is_ok_and(|tail| share.parse() == Ok(tail));
    name.rsplit_once(['@', '_']).filter(|(_, tail)| same(tail)).map_or(name, |(start, _)| start).to_owned()
}

fn own((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

fn table<'a>(metric: &str, lines: impl Iterator<Item = &'a Line>) -> String {
    let mut text =
        format!("| classifier | training images | seeds | final {metric} |\n| --- | --- | --- | --- |\n");
    for line in lines {
        for (&(images, mean, half), seeds) in line.points.iter().zip(&line.seeds) {
            text += &format!("| {} | {images} | {seeds} | {} |\n", line.name, with_interval(mean, half));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_share_only() {
        assert_eq!(without_share("scenes-nest_xs_0.1", "0.1"), "scenes-nest_xs");
        assert_eq!(without_share("scenes-nest_xs_1", "1.0"), "scenes-nest_xs");
        assert_eq!(without_share("nest_xs", "0.5"), "nest_xs");
        assert_eq!(without_share("nest", ""), "nest");
    }
}
