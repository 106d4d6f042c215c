//! The result of a comparison in one or two sentences, whichever way it fell.

use std::collections::BTreeSet;

use super::comparison::{ArmResult, Comparison, RunResult};
use super::numbers::{p_value, short, with_interval};
use super::statistics::{Estimate, paired_test};

/// The level of the test that the sentence speaks of.
const LEVEL: f64 = 0.05;
/// Pairs below which the sentence speaks of no test.
const MIN_PAIRS: usize = 3;

/// What came out, with the numbers that carry it.
pub fn headline(comparison: &Comparison) -> String {
    let seeds = common_seeds(comparison);
    let arms = ranked(comparison, &seeds);
    let unequal = comparison.arms.iter().any(|arm| arm.runs.len() != seeds.len());
    let over = match (seeds.len(), unequal) {
        (0, _) => "; no seed is common to all arms".into(),
        (1, true) => " on the one seed that all arms have".into(),
        (count, true) => format!(" over the {count} seeds that all arms have"),
        (_, false) => String::new(),
    };
    let end = format!("{} {}{over}", short(comparison.range.1), comparison.axis.name());
    let found = match arms.as_slice() {
        [] => return String::new(),
        [only] => format!("{} has a {} of {} at {end}. ", only.0.name, comparison.metric, score(&only.1)),
        // An arm that lost its worst seeds looks better than it is.
        _ if !comparison.lost.is_empty() => format!("{} at {end}: {}. ", comparison.metric, listed(&arms)),
        [best, second, ..] if best.1.mean == second.1.mean => {
            let (best, second) = (&best.0.name, &second.0.name);
            format!("{best} and {second} have the same {} at {end}: {}. ", comparison.metric, score(&arms[0].1))
        }
        [best, second, ..] => {
            let first = if comparison.higher_is_better { "highest" } else { "lowest" };
            format!(
                "{} has the {first} {} at {end}: {}, against {} for {}{}",
                best.0.name,
                comparison.metric,
                score(&best.1),
                score(&second.1),
                second.0.name,
                verdict(best.0, second.0, &seeds)
            )
        }
    };
    format!("{found}{}{}", losses(comparison), speed(comparison, arms.iter().map(|arm| arm.0)))
}

/// All arms with their final scores, the best one first.
fn ranked<'a>(comparison: &'a Comparison, seeds: &BTreeSet<i64>) -> Vec<(&'a ArmResult, Estimate)> {
    let mut arms: Vec<(&ArmResult, Estimate)> =
        comparison.arms.iter().map(|arm| (arm, last_over(arm, seeds))).collect();
    arms.sort_by(|a, b| a.1.mean.total_cmp(&b.1.mean));
    if comparison.higher_is_better {
        arms.reverse();
    }
    arms
}

/// The two arms that the sentence tests.
pub(super) fn best_two(comparison: &Comparison) -> Option<[&ArmResult; 2]> {
    match ranked(comparison, &common_seeds(comparison)).as_slice() {
        [best, second, ..] if comparison.lost.is_empty() => Some([best.0, second.0]),
        _ => None,
    }
}

fn score(estimate: &Estimate) -> String {
    with_interval(estimate.mean, estimate.half_width)
}

/// The seeds that all arms have.
fn common_seeds(comparison: &Comparison) -> BTreeSet<i64> {
    let of = |arm: &ArmResult| arm.runs.iter().map(|run| run.seed).collect::<BTreeSet<_>>();
    let all = comparison.arms.iter().map(of);
    all.reduce(|common, seeds| &common & &seeds).unwrap_or_default()
}

/// An arm's final score over some seeds, over all of its own where there are none: arms are ranked as they are tested, on the
/// same seeds.
fn last_over(arm: &ArmResult, seeds: &BTreeSet<i64>) -> Estimate {
    let chosen = arm.runs.iter().filter(|run| seeds.contains(&run.seed)).map(|run| run.last);
    Estimate::of(&chosen.collect::<Vec<_>>()).unwrap_or(arm.last)
}

fn listed(arms: &[(&ArmResult, Estimate)]) -> String {
    let each = arms.iter().map(|(arm, last)| format!("{} {}", arm.name, score(last)));
    each.collect::<Vec<_>>().join(", ")
}

/// Which arms lost runs, and what that means.
fn losses(comparison: &Comparison) -> String {
    let each = comparison
        .lost
        .iter()
        .map(|lost| format!("{} of {} runs of {} diverged", lost.diverged, lost.of, lost.arm))
        .collect::<Vec<_>>();
    if each.is_empty() {
        return String::new();
    }
    format!("{}; without them no arm is called the better one. ", each.join(", "))
}

/// What a paired test says about the best two arms, on the seeds that ranked them. That they were chosen for being the best needs no
/// correction: the choice takes the smallest difference to the best, and of two equal arms far ahead of all others, the worst case, p
/// is that of the two alone (Gutmann and Maymin 1987).
fn verdict(best: &ArmResult, second: &ArmResult, seeds: &BTreeSet<i64>) -> String {
    let of_seed = |seed: i64| second.runs.iter().find(|run| run.seed == seed);
    let pair = |run: &RunResult| Some((run.last, of_seed(run.seed)?.last));
    let pairs: Vec<(f64, f64)> =
        best.runs.iter().filter(|run| seeds.contains(&run.seed)).filter_map(pair).collect();
    let p = paired_test(&pairs).and_then(|test| test.p);
    match (pairs.len(), p) {
        (count, _) if count < MIN_PAIRS => {
            "; with this few seeds in common nothing can be said about luck. ".into()
        }
        (_, None) => "; the difference is the same for every seed, which no t-test can weigh. ".into(),
        (count, Some(p)) if p < LEVEL => {
            let p = p_value(p);
            let p = if p.starts_with('<') { p } else { format!("= {p}") };
            format!(" (paired over {count} seeds, p {p}). ")
        }
        (count, Some(p)) => {
            format!("; over {count} paired seeds that cannot be told from luck (p = {p:.2}). ")
        }
    }
}

/// How far along the axis each arm was when it reached the threshold.
fn speed<'a>(comparison: &Comparison, arms: impl Iterator<Item = &'a ArmResult>) -> String {
    let place = |arm: &ArmResult| {
        let (place, runs) = (arm.to_threshold?, arm.runs.len());
        // A mean over some of the seeds would be that of a choice.
        if arm.reached < runs {
            return Some(format!("{} in {} of {runs} seeds", arm.name, arm.reached));
        }
        let when = if arm.or_before { "at or before" } else { "after" };
        Some(format!("{} {when} {} {}", arm.name, short(place.mean), comparison.axis.name()))
    };
    let places: Vec<String> = arms.filter_map(place).collect();
    let threshold = short(comparison.threshold);
    if places.is_empty() {
        return format!("No run reached {threshold}.");
    }
    format!("A score of {threshold} was reached by {}.", places.join(", "))
}
