//! How fast and how far arms converge along one axis.
//!
//! Everything looks at the stretch that all runs have covered, so that no arm gains by having run longer.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::arms::{Arm, Lost};
use super::axis::Axis;
use super::circumstances;
use super::numbers::digits;
use super::protocol::{self, Protocol};
use super::provenance::THEN;
use super::run::Run;
use super::statistics::{
    Estimate, PairedTest, Reached, between, first_at_or_below, interpolate, mean_between, paired_test,
};
use crate::error::{Error, Result};

/// Points of a curve beyond which neighbours are left out.
const MAX_CURVE_POINTS: usize = 400;

/// What is asked of runs.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The score to compare by.
    pub metric: &'a str,
    /// What to measure convergence against.
    pub axis: Axis,
    /// The score that "time to threshold" waits for, instead of the best one that every run reached.
    pub threshold: Option<f64>,
    /// What readers must know beyond the numbers.
    pub notes: &'a [String],
    /// Arms whose numbers lack runs that diverged.
    pub lost: &'a [Lost],
}

/// Arms compared along one axis.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The score.
    pub metric: String,
    /// Whether higher scores are better.
    pub higher_is_better: bool,
    /// How it was taken in every run.
    pub protocol: Protocol,
    /// What convergence is measured against.
    pub axis: Axis,
    /// The stretch of the axis that all runs have covered.
    pub range: (f64, f64),
    /// The score that "time to threshold" waits for.
    pub threshold: f64,
    /// Each arm.
    pub arms: Vec<ArmResult>,
    /// Every later arm against the first one.
    pub tests: Vec<ArmTest>,
    /// As in [`Question::notes`].
    pub notes: Vec<String>,
    /// As in [`Question::lost`].
    pub lost: Vec<Lost>,
}

/// How an arm did.
#[derive(Clone, Debug, Serialize)]
pub struct ArmResult {
    /// The arm's name.
    pub name: String,
    /// Its runs.
    pub runs: Vec<RunResult>,
    /// x, mean over seeds, half width of its interval.
    pub curve: Vec<(f64, f64, Option<f64>)>,
    /// The score at the end of the common range.
    pub last: Estimate,
    /// The best score of each run within the common range, its ends included; the best of many is better than any one of them can be expected to be.
    pub best: Estimate,
    /// The mean score over the common range: the area under the curve over its width.
    pub area: Estimate,
    /// Where the threshold was reached; the end of the common range stands for runs that did not, so that the mean is too small.
    /// `None` if none did.
    pub to_threshold: Option<Estimate>,
    /// How many runs reached it by the end of the common range.
    pub reached: usize,
    /// Some of them were there at the beginning of the range, so that the mean is too large.
    pub or_before: bool,
    /// Real images a second while training.
    pub images_per_sec: Option<Estimate>,
    /// The most memory that any run used, GiB; `None` if not recorded, or of a process that trained others as well.
    pub peak_memory_gib: Option<f64>,
    /// Parameters of generator and discriminator, or of a classifier and 0; `None` if not recorded.
    pub parameters: Option<(u64, u64)>,
    /// Counted operations for one real image shown, of both networks; `None` if not recorded.
    pub flops_per_image: Option<f64>,
}

/// How a run did.
#[derive(Clone, Debug, Serialize)]
pub struct RunResult {
    /// The folder's name.
    pub name: String,
    /// The seed.
    pub seed: i64,
    /// Scores along the axis.
    pub points: Vec<(f64, f64)>,
    /// Standard errors of the scores, point by point.
    pub standard_errors: Vec<Option<f64>>,
    /// As in [`ArmResult::last`].
    pub last: f64,
    /// Where the best score within the common range was, its ends included, and the score.
    pub best: (f64, f64),
    /// As in [`ArmResult::area`].
    pub area: f64,
    /// Where the threshold was reached, by the end of the common range.
    pub to_threshold: Option<Reached>,
}

/// An arm against the first one, paired by seed: arm minus first.
#[derive(Clone, Debug, Serialize)]
pub struct ArmTest {
    /// The arm.
    pub arm: String,
    /// What it is compared with.
    pub against: String,
    /// Of the score at the end.
    pub last: Option<PairedTest>,
    /// Of the mean score over the range.
    pub area: Option<PairedTest>,
    /// Of where the threshold was reached; `None` where a run of either arm did not, or was there at the beginning of the range:
    /// without it the others would be a choice.
    pub to_threshold: Option<PairedTest>,
}

/// Compares arms.
///
/// # Errors
/// When protocols differ, the axis was not recorded, or the runs have no stretch of the axis in common.
pub fn compare(runs: &[Run], arms: &[Arm], question: &Question) -> Result<Comparison> {
    let Question { metric, axis, threshold, notes, lost } = *question;
    let protocol = protocol::common(runs, metric)?;
    // Everything below looks for low values: a score of which more is better goes through with its sign changed.
    let higher_is_better = protocol::higher_is_better(metric);
    let sign = if higher_is_better { -1.0 } else { 1.0 };
    let signed = |run| Ok(curve(run, metric, axis)?.into_iter().map(|(x, y)| (x, sign * y)).collect());
    let curves: Vec<Vec<(f64, f64)>> = runs.iter().map(signed).collect::<Result<_>>()?;
    if axis == Axis::Seconds {
        same_device(runs)?;
    }
    let range = common_range(runs, &curves)?;
    let reached = |curve: &Vec<(f64, f64)>| lowest(&between(curve, range)).map_or(f64::INFINITY, |best| best.1);
    let slowest = curves.iter().map(reached).fold(f64::NEG_INFINITY, f64::max);
    // Four digits, upwards: a round number is one that people repeat, and the slowest run must reach it.
    let threshold = threshold.map_or_else(|| round_up(slowest), |threshold| sign * threshold);
    let view = View { runs, curves: &curves, metric, range, threshold };
    let mut results: Vec<ArmResult> = arms.iter().filter_map(|arm| view.arm(arm)).collect();
    let mut tests: Vec<ArmTest> = results
        .first()
        .map_or_else(Vec::new, |first| results.iter().skip(1).map(|arm| test(arm, first)).collect());
    if higher_is_better {
        results.iter_mut().for_each(ArmResult::change_sign);
        tests.iter_mut().for_each(ArmTest::change_sign);
    }
    Ok(Comparison {
        metric: metric.to_owned(),
        higher_is_better,
        protocol,
        axis,
        range,
        threshold: sign * threshold,
        arms: results,
        tests,
        notes: notes.iter().cloned().chain(circumstances::notes(runs, arms, axis, range.1)).collect(),
        lost: lost.to_vec(),
    })
}

/// To four digits, upwards.
fn round_up(value: f64) -> f64 {
    let rounded: f64 = digits(value, 4).parse().unwrap_or(value);
    if rounded >= value {
        return rounded;
    }
    let last_digit = 10f64.powi(value.abs().log10().floor() as i32 - 3);
    digits(rounded + last_digit, 4).parse().unwrap_or(value)
}

impl ArmResult {
    fn change_sign(&mut self) {
        self.curve.iter_mut().for_each(|point| point.1 = -point.1);
        for estimate in [&mut self.last, &mut self.best, &mut self.area] {
            estimate.mean = -estimate.mean;
        }
        for run in &mut self.runs {
            run.points.iter_mut().for_each(|point| point.1 = -point.1);
            (run.last, run.best.1, run.area) = (-run.last, -run.best.1, -run.area);
        }
    }
}

impl ArmResult {
    fn all_were_seen_to_reach(&self) -> bool {
        self.reached == self.runs.len() && !self.or_before
    }
}

impl ArmTest {
    /// Of the scores; places on the axis stay.
    fn change_sign(&mut self) {
        for test in [&mut self.last, &mut self.area].into_iter().flatten() {
            test.difference.mean = -test.difference.mean;
        }
    }
}

fn curve(run: &Run, metric: &str, axis: Axis) -> Result<Vec<(f64, f64)>> {
    run.curve(metric, axis).filter(|curve| !curve.is_empty()).ok_or_else(|| Error::Usage {
        message: format!("`{}` does not record {}", run.path.display(), axis.name()),
        hint: Some("choose another --x: kimg is always there".into()),
    })
}

fn same_device(runs: &[Run]) -> Result<()> {
    let device = |run: &Run| run.provenance.as_ref().map(|p| p.device.clone()).unwrap_or_default();
    let devices: BTreeSet<String> = runs.iter().map(device).collect();
    // Two runs on the same two may have changed at different times.
    if devices.len() < 2 && !devices.iter().any(|device| device.contains(THEN)) {
        return Ok(());
    }
    let listed = devices.iter().map(|d| if d.is_empty() { "not recorded" } else { d }).collect::<Vec<_>>();
    Err(Error::Usage {
        message: format!("seconds on different devices cannot be compared: {}", listed.join(" / ")),
        hint: Some("use --x kimg, steps or flops".into()),
    })
}

/// From the latest first score to the earliest last one.
fn common_range(runs: &[Run], curves: &[Vec<(f64, f64)>]) -> Result<(f64, f64)> {
    let ends = |curve: &Vec<(f64, f64)>| Some((curve.first()?.0, curve.last()?.0));
    let ends: Vec<(f64, f64)> = curves.iter().filter_map(ends).collect();
    let from = ends.iter().map(|end| end.0).fold(f64::NEG_INFINITY, f64::max);
    let to = ends.iter().map(|end| end.1).fold(f64::INFINITY, f64::min);
    if from <= to {
        return Ok((from, to));
    }
    let run_whose = |is_it: &dyn Fn(&(f64, f64)) -> bool| {
        let found = ends.iter().position(is_it).and_then(|index| runs.get(index));
        found.map_or_else(String::new, |run| run.path.display().to_string())
    };
    Err(Error::Usage {
        message: format!(
            "the runs have no stretch in common: the last score of `{}` (at {to}) comes before the first one of `{}` (at {from})",
            run_whose(&|end| end.1 == to),
            run_whose(&|end| end.0 == from)
        ),
        hint: Some("let the first one train longer, or leave one of them out".into()),
    })
}

fn lowest(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    points.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1))
}

/// What the results of every arm are computed from.
struct View<'a> {
    runs: &'a [Run],
    curves: &'a [Vec<(f64, f64)>],
    metric: &'a str,
    range: (f64, f64),
    threshold: f64,
}

impl View<'_> {
    fn arm(&self, arm: &Arm) -> Option<ArmResult> {
        let results: Vec<RunResult> = arm.runs.iter().filter_map(|&index| self.run(index)).collect();
        let over = |value: fn(&RunResult) -> f64| Estimate::of(&results.iter().map(value).collect::<Vec<_>>());
        let reached: Vec<Reached> = results.iter().filter_map(|run| run.to_threshold).collect();
        let places = results.iter().map(|run| run.to_threshold.map_or(self.range.1, |reached| reached.at));
        let places = if reached.is_empty() { Vec::new() } else { places.collect() };
        let members = || arm.runs.iter().filter_map(|&index| self.runs.get(index));
        let speeds: Vec<f64> = members().filter_map(Run::images_per_sec).collect();
        let memory = members().map(Run::peak_memory_gib).collect::<Option<Vec<f64>>>();
        let record = members().find_map(|run| run.provenance.as_ref());
        let flops = members().find_map(|run| run.position(Axis::Flops, 1e-3)).filter(|&flops| flops > 0.0);
        Some(ArmResult {
            name: arm.name.clone(),
            curve: self.mean_curve(arm),
            last: over(|run| run.last)?,
            best: over(|run| run.best.1)?,
            area: over(|run| run.area)?,
            to_threshold: Estimate::of(&places),
            reached: reached.len(),
            or_before: reached.iter().any(|reached| reached.or_before),
            images_per_sec: Estimate::of(&speeds),
            peak_memory_gib: memory.and_then(|all| all.into_iter().reduce(f64::max)),
            parameters: record
                .map(|p| {
                    (p.generator.parameters.saturating_add(p.classifier.parameters), p.discriminator.parameters)
                })
                .filter(|p| p.0 > 0),
            flops_per_image: flops,
            runs: results,
        })
    }

    fn run(&self, index: usize) -> Option<RunResult> {
        let (run, points) = (self.runs.get(index)?, self.curves.get(index)?);
        let scores = &run.scores.get(self.metric)?.points;
        let within = between(points, self.range);
        Some(RunResult {
            name: run.name.clone(),
            seed: run.seed,
            last: interpolate(points, self.range.1)?,
            best: lowest(&within)?,
            area: mean_between(points, self.range.0, self.range.1)?,
            to_threshold: first_at_or_below(&within, self.threshold),
            standard_errors: scores.iter().map(|score| score.standard_error).collect(),
            points: points.clone(),
        })
    }

    /// The mean over seeds wherever one of them was scored and all of them have scores around.
    fn mean_curve(&self, arm: &Arm) -> Vec<(f64, f64, Option<f64>)> {
        let curves: Vec<&Vec<(f64, f64)>> =
            arm.runs.iter().filter_map(|&index| self.curves.get(index)).collect();
        let from = curves.iter().filter_map(|c| c.first()).map(|p| p.0).fold(f64::NEG_INFINITY, f64::max);
        let to = curves.iter().filter_map(|c| c.last()).map(|p| p.0).fold(f64::INFINITY, f64::min);
        let mut xs: Vec<f64> = curves.iter().flat_map(|curve| curve.iter().map(|point| point.0)).collect();
        xs.retain(|&x| x >= from && x <= to);
        xs.sort_by(f64::total_cmp);
        xs.dedup_by(|later, earlier| (*later - *earlier).abs() <= 1e-9 * earlier.abs());
        let every = xs.len().div_ceil(MAX_CURVE_POINTS).max(1);
        let last = xs.len().saturating_sub(1);
        let kept = xs.into_iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last).map(|(_, x)| x);
        kept.filter_map(|x| {
            let values: Vec<f64> = curves.iter().filter_map(|curve| interpolate(curve, x)).collect();
            Estimate::of(&values).map(|estimate| (x, estimate.mean, estimate.half_width))
        })
        .collect()
    }
}

fn test(arm: &ArmResult, first: &ArmResult) -> ArmTest {
    let by_seed = |value: fn(&RunResult) -> Option<f64>| {
        let of = |arm: &ArmResult| -> BTreeMap<i64, f64> {
            arm.runs.iter().filter_map(|run| Some((run.seed, value(run)?))).collect()
        };
        let theirs = of(first);
        let pairs = of(arm).into_iter().filter_map(|(seed, value)| Some((value, *theirs.get(&seed)?)));
        paired_test(&pairs.collect::<Vec<_>>())
    };
    ArmTest {
        arm: arm.name.clone(),
        against: first.name.clone(),
        last: by_seed(|run| Some(run.last)),
        area: by_seed(|run| Some(run.area)),
        to_threshold: if arm.all_were_seen_to_reach() && first.all_were_seen_to_reach() {
            by_seed(|run| run.to_threshold.map(|reached| reached.at))
        } else {
            None
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_have_four_digits_and_are_not_below() {
        for (value, expected) in [
            (2.438, 2.438),
            (2.4381, 2.439),
            (9.0001, 9.001),
            (9.9996, 10.0),
            (123_456.7, 123_457.0),
            (-60.4567, -60.45),
            (-0.949_831, -0.9498),
            (0.000_123_41, 0.000_123_5),
            (0.0, 0.0),
        ] {
            let found = round_up(value);
            assert!(found >= value && (found - expected).abs() <= 1e-9 * expected.abs(), "{value}: {found}");
        }
    }
}
