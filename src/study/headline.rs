//! The result of a comparison in one or two sentences, whichever way it fell.

use super::comparison::{ArmResult, Comparison};
use super::numbers::{short, with_interval};

/// The level of the test that the sentence speaks of.
const LEVEL: f64 = 0.05;

/// What came out, with the numbers that carry it.
pub fn headline(comparison: &Comparison) -> String {
    let mut arms: Vec<&ArmResult> = comparison.arms.iter().collect();
    arms.sort_by(|a, b| a.last.mean.total_cmp(&b.last.mean));
    if comparison.higher_is_better {
        arms.reverse();
    }
    let first = if comparison.higher_is_better { "highest" } else { "lowest" };
    let score = |arm: &ArmResult| with_interval(arm.last.mean, arm.last.half_width);
    let end = format!("{} {}", short(comparison.range.1), comparison.axis.name());
    match arms.as_slice() {
        [] => String::new(),
        [only] => format!("{} has a {} of {} at {end}.", only.name, comparison.metric, score(only)),
        [best, second, ..] => {
            let lead = format!(
                "{} has the {first} {} at {end}: {}, against {} for {}",
                best.name,
                comparison.metric,
                score(best),
                score(second),
                second.name
            );
            format!("{lead}{}{}", verdict(comparison, best, second), speed(comparison, &arms))
        }
    }
}

/// What the paired test says about the two arms, if it compared them.
fn verdict(comparison: &Comparison, best: &ArmResult, second: &ArmResult) -> String {
    let names = [&best.name, &second.name];
    let test =
        comparison.tests.iter().find(|test| names.contains(&&test.arm) && names.contains(&&test.against));
    // Only differences from the first arm are tested.
    let Some(test) = test else { return ". ".into() };
    match test.last.map(|test| (test.difference.count, test.p)) {
        Some((pairs, Some(p))) if p < LEVEL => {
            let p = if p < 1e-4 { "< 0.0001".into() } else { format!("= {p:.4}") };
            format!(" (paired over {pairs} seeds, p {p}). ")
        }
        Some((pairs, Some(p))) => {
            format!("; over {pairs} paired seeds that cannot be told from luck (p = {p:.2}). ")
        }
        _ => "; with this few seeds in common nothing can be said about luck. ".into(),
    }
}

/// How far along the axis each arm was when it reached the threshold.
fn speed(comparison: &Comparison, arms: &[&ArmResult]) -> String {
    let reached = arms.iter().filter_map(|arm| Some((arm.name.as_str(), arm.runs.len(), arm.to_threshold?)));
    let places: Vec<String> = reached
        .map(|(name, runs, reached)| {
            let all = if reached.count < runs {
                format!(" ({} of {runs} seeds)", reached.count)
            } else {
                String::new()
            };
            format!("{name} after {} {}{all}", short(reached.mean), comparison.axis.name())
        })
        .collect();
    let threshold = short(comparison.threshold);
    if places.is_empty() {
        return format!("No run reached {threshold}.");
    }
    format!("A score of {threshold} was reached by {}.", places.join(", "))
}
