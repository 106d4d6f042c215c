//! Scores that scatter less over seeds than their own errors: all runs of a study are scored against the same images, and what other
//! images would give no scatter over seeds tells.

use std::collections::BTreeSet;

use super::comparison::{ArmResult, Comparison};
use super::headline::best_two;
use super::statistics::{Estimate, spread};

/// Standard errors of a score below which a scatter over seeds says little of what other images would give.
const STEADY: f64 = 1.5;

/// What is to be said where scores scatter less over seeds than other images would let them.
pub(super) fn remarks(comparison: &Comparison) -> Vec<String> {
    let same = if comparison.higher_is_better {
        "all runs are tested on the same images: test on more, if there are (`data.max_test`)"
    } else {
        "all runs are scored against the same real images: take more (`nestgen score --images`)"
    };
    let arms = comparison.arms.iter().filter(|arm| arm.is_steadier_than_its_scores());
    let arms: Vec<String> = arms.map(|arm| arm.name.clone()).collect();
    let named = |name: &str| comparison.arms.iter().find(|arm| arm.name == name);
    let tests = comparison.tests.iter().filter_map(|test| Some([named(&test.arm)?, named(&test.against)?]));
    let pairs = tests.chain(best_two(comparison)).filter(|[a, b]| a.differs_steadier_than_scores(b));
    // A pair may be there twice, either way round.
    let pairs: BTreeSet<[&str; 2]> = pairs
        .map(|[a, b]| if a.name < b.name { [a, b] } else { [b, a] }.map(|arm| arm.name.as_str()))
        .collect();
    let pairs: Vec<String> = pairs.into_iter().map(|[a, b]| format!("{a} and {b}")).collect();
    let said = [(arms, "seeds of", "±"), (pairs, "differences between", "p")];
    let said = said.into_iter().filter(|(names, ..)| !names.is_empty());
    said.map(|(names, what, small)| {
        let names = names.join("; ");
        format!(
            "{what} {names} scatter less than 1.5 standard errors would, so {small} is too small there; {same}"
        )
    })
    .collect()
}

impl ArmResult {
    /// Whether its final scores differ by less than 1.5 standard errors of a score. Part of that error is the real images', which all
    /// runs share.
    fn is_steadier_than_its_scores(&self) -> bool {
        let last: Vec<f64> = self.runs.iter().map(|run| run.last).collect();
        self.standard_error().zip(spread(&last)).is_some_and(|(error, spread)| spread < STEADY * error)
    }

    /// Whether final scores differ by less from those of `other`, seed by seed, than their errors would let two equal arms differ: a
    /// paired test knows only how the differences scatter, which may be little although the seeds of either arm scatter much. Simulated
    /// with two equal arms of three seeds and an error that all differences share, p is below 0.05 for 44 % where they scatter by 0.4 of
    /// it, for 27 % at 0.65 and for 11 % at 1.5.
    fn differs_steadier_than_scores(&self, other: &Self) -> bool {
        let of_seed = |seed: i64| other.runs.iter().find(|run| run.seed == seed);
        let differences = self.runs.iter().filter_map(|run| Some(run.last - of_seed(run.seed)?.last));
        let differences: Vec<f64> = differences.collect();
        match (self.standard_error(), other.standard_error(), spread(&differences)) {
            (Some(own), Some(others), Some(spread)) => spread < STEADY * own.hypot(others),
            _ => false,
        }
    }

    /// The standard error of a run's last score, in the mean over runs.
    fn standard_error(&self) -> Option<f64> {
        let errors = self.runs.iter().filter_map(|run| *run.standard_errors.last()?);
        let errors: Vec<f64> = errors.filter(|error| *error > 0.0).collect();
        Some(Estimate::of(&errors)?.mean)
    }
}
