//! Scores that scatter less over seeds than their own errors: all runs of a study are scored against the same images, and what other
//! images would give no scatter over seeds tells.

use std::collections::BTreeSet;

use super::comparison::{ArmResult, Comparison, RunResult};
use super::headline::best_two;
use super::statistics::{Estimate, interpolate, spread};

/// Standard errors of a score below which a scatter over seeds says little of what other images would give.
const STEADY: f64 = 1.5;

/// A number of a run that arms are compared by.
struct Figure {
    /// What is added to the sentence.
    of: &'static str,
    /// `None` where arms are not compared by it.
    value: fn(&RunResult) -> Option<f64>,
    /// Its standard error, from those of the run's scores.
    error: fn(&RunResult, (f64, f64)) -> Option<f64>,
}

const FIGURES: [Figure; 3] = [
    Figure { of: "", value: |run| Some(run.last), error: |run, (_, to)| error_at(run, to) },
    Figure { of: " in the mean over the range", value: |run| Some(run.area), error: error_of_mean },
    Figure {
        of: " in where they reach the threshold",
        value: |run| run.to_threshold.filter(|reached| !reached.or_before).map(|reached| reached.at),
        error: error_of_place,
    },
];

/// The standard error of the score at `x`, read between its neighbours'.
fn error_at(run: &RunResult, x: f64) -> Option<f64> {
    let errors = run.points.iter().zip(&run.standard_errors);
    let errors: Vec<(f64, f64)> = errors.filter_map(|((x, _), error)| Some((*x, (*error)?))).collect();
    interpolate(&errors, x)
}

/// The standard error of the place where the threshold is reached: that of the score over how steeply it falls there.
fn error_of_place(run: &RunResult, _: (f64, f64)) -> Option<f64> {
    let at = run.to_threshold?.at;
    let after = run.points.partition_point(|point| point.0 < at);
    let (before, after) = (run.points.get(after.checked_sub(1)?)?, run.points.get(after)?);
    Some(error_at(run, at)? * ((after.0 - before.0) / (after.1 - before.1)).abs())
        .filter(|error| error.is_finite())
}

/// The standard error of a mean over the range if the scores' errors are independent, so at least this: part of each is that of the real
/// images, which all share.
fn error_of_mean(run: &RunResult, (from, to): (f64, f64)) -> Option<f64> {
    let scores = run.points.iter().zip(&run.standard_errors).filter(|((x, _), _)| (from..=to).contains(x));
    let scores: Vec<(f64, f64)> = scores.map(|((x, _), error)| Some((*x, (*error)?))).collect::<Option<_>>()?;
    let at = |index: usize| scores.get(index.min(scores.len() - 1)).map_or(0.0, |score| score.0);
    let weighed =
        scores.iter().enumerate().map(|(i, score)| (at(i + 1) - at(i.saturating_sub(1))) / 2.0 * score.1);
    let sum: f64 = weighed.map(|error| error * error).sum();
    let width = scores.last()?.0 - scores.first()?.0;
    (width > 0.0).then(|| sum.sqrt() / width)
}

/// What is to be said where scores scatter less over seeds than other images would let them.
pub(super) fn remarks(comparison: &Comparison) -> Vec<String> {
    FIGURES.iter().flat_map(|figure| of_figure(comparison, figure)).collect()
}

fn of_figure(comparison: &Comparison, figure: &Figure) -> Vec<String> {
    let same = if comparison.higher_is_better {
        "all runs are tested on the same images: test on more, if there are (`data.max_test`)"
    } else {
        "all runs are scored against the same real images: take more (`nestgen score --images`)"
    };
    let range = comparison.range;
    let arms = comparison.arms.iter().filter(|arm| figure.is_steadier_than_scores(arm, range));
    let arms: Vec<String> = arms.map(|arm| arm.name.clone()).collect();
    let named = |name: &str| comparison.arms.iter().find(|arm| arm.name == name);
    let tests = comparison.tests.iter().filter_map(|test| Some([named(&test.arm)?, named(&test.against)?]));
    let pairs =
        tests.chain(best_two(comparison)).filter(|[a, b]| figure.differs_steadier_than_scores(a, b, range));
    // A pair may be there twice, either way round.
    let pairs: BTreeSet<[&str; 2]> = pairs
        .map(|[a, b]| if a.name < b.name { [a, b] } else { [b, a] }.map(|arm| arm.name.as_str()))
        .collect();
    let pairs: Vec<String> = pairs.into_iter().map(|[a, b]| format!("{a} and {b}")).collect();
    let said = [(arms, "seeds of", "±"), (pairs, "differences between", "p")];
    let said = said.into_iter().filter(|(names, ..)| !names.is_empty());
    said.map(|(names, what, small)| {
        let (names, of) = (names.join("; "), figure.of);
        format!(
            "{what} {names} scatter less{of} than 1.5 standard errors would, so {small} is too small there; {same}"
        )
    })
    .collect()
}

impl Figure {
    /// Whether an arm's seeds differ by less than 1.5 standard errors. Part of that error is the real images', which all runs share.
    fn is_steadier_than_scores(&self, arm: &ArmResult, range: (f64, f64)) -> bool {
        let values: Option<Vec<f64>> = arm.runs.iter().map(self.value).collect();
        self.standard_error(arm, range)
            .zip(values.and_then(|values| spread(&values)))
            .is_some_and(|(error, spread)| spread < STEADY * error)
    }

    /// Whether one arm differs from another, seed by seed, by less than their errors would let two equal arms differ: a paired test knows
    /// only how the differences scatter, which may be little although the seeds of either arm scatter much. Simulated with two equal arms
    /// of three seeds and an error that all differences share, p is below 0.05 for 44 % where they scatter by 0.4 of it, for 27 % at 0.65
    /// and for 11 % at 1.5.
    fn differs_steadier_than_scores(&self, arm: &ArmResult, other: &ArmResult, range: (f64, f64)) -> bool {
        let of_seed = |seed: i64| other.runs.iter().find(|run| run.seed == seed);
        let pairs = arm.runs.iter().filter_map(|run| Some((run, of_seed(run.seed)?)));
        let differences: Option<Vec<f64>> =
            pairs.map(|(run, other)| Some((self.value)(run)? - (self.value)(other)?)).collect();
        let spread = differences.and_then(|differences| spread(&differences));
        match (self.standard_error(arm, range), self.standard_error(other, range), spread) {
            (Some(own), Some(others), Some(spread)) => spread < STEADY * own.hypot(others),
            _ => false,
        }
    }

    /// The standard error of a run's figure, in the mean over runs.
    fn standard_error(&self, arm: &ArmResult, range: (f64, f64)) -> Option<f64> {
        let errors = arm.runs.iter().filter_map(|run| (self.error)(run, range));
        let errors: Vec<f64> = errors.filter(|error| *error > 0.0).collect();
        Some(Estimate::of(&errors)?.mean)
    }
}
