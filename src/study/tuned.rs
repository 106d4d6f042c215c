//! Arms of one generator at several values of a setting: the best value of each, and what that says of the generators.

use std::collections::BTreeSet;

use super::comparison::{ArmResult, Comparison};
use super::numbers::{p_value, with_interval};
use super::statistics::paired_test;

/// Stands between the name of a generator and its value: `nest@1e-4`.
pub const AT: char = '@';

/// Of each generator the arm whose value did best, by its mean over the range: among those that lost the fewest runs to
/// divergence, since an arm without its worst seeds looks better than it is.
pub fn best_arms(comparison: &Comparison) -> Vec<&ArmResult> {
    let lost = |arm: &ArmResult| {
        comparison.lost.iter().find(|lost| lost.arm == arm.name).map_or(0, |lost| lost.diverged)
    };
    let sign = if comparison.higher_is_better { -1.0 } else { 1.0 };
    let rank = |arm: &ArmResult| (lost(arm), sign * arm.area.mean);
    let mut best: Vec<(&str, &ArmResult)> = Vec::new();
    for arm in &comparison.arms {
        let Some((generator, _)) = arm.name.rsplit_once(AT) else { continue };
        match best.iter_mut().find(|(other, _)| *other == generator) {
            Some((_, found)) if rank(arm) < rank(found) => *found = arm,
            Some(_) => {}
            None => best.push((generator, arm)),
        }
    }
    best.into_iter().map(|(_, arm)| arm).collect()
}

/// The value that each generator did best with; `None` where none was to be trained at several. `planned` are the names of all arms,
/// those among them that have no runs, or none that did not diverge.
pub fn best_values(comparison: &Comparison, key: &str, planned: &[&str]) -> Option<String> {
    let best = best_arms(comparison);
    let values = planned.iter().filter(|name| name.contains(AT)).count();
    let generators: BTreeSet<&str> = planned.iter().filter_map(|name| Some(name.rsplit_once(AT)?.0)).collect();
    if best.is_empty() || generators.len() == values {
        return None;
    }
    let each = best.iter().filter_map(|arm| {
        let (generator, value) = arm.name.rsplit_once(AT)?;
        let score = with_interval(arm.area.mean, arm.area.half_width);
        Some(format!("{generator} {value} ({score}{})", edge(comparison, planned, generator, value)))
    });
    let each = each.collect::<Vec<_>>().join(", ");
    let test = match best.as_slice() {
        // Of more values the best is better by luck alone: with equal numbers both are, with others p is too small (simulated with equal
        // generators of three seeds, below 0.05 for 8 % with eight values against one).
        [first, second] if tried(planned, first) == tried(planned, second) => paired(first, second),
        _ => String::new(),
    };
    Some(format!(
        "the best {key} of each by its mean over the range: {each}{test}; the best of several flatters: confirm it on seeds that \
         did not choose it (--confirm)"
    ))
}

/// What to say of a best value beyond which none was tried, or all that were diverged.
fn edge(comparison: &Comparison, planned: &[&str], generator: &str, value: &str) -> String {
    let Ok(best) = value.parse::<f64>() else { return String::new() };
    let of_generator = planned.iter().filter_map(|name| Some((*name, name.rsplit_once(AT)?)));
    let others: Vec<(&str, f64)> = of_generator
        .filter(|(_, (other, _))| *other == generator)
        .filter_map(|(name, (_, value))| Some((name, value.parse().ok()?)))
        .filter(|(_, other)| *other != best)
        .collect();
    if others.is_empty() {
        return String::new();
    }
    let of = |name: &str| comparison.lost.iter().find(|lost| lost.arm == name);
    let all_diverged = |name: &str| of(name).is_some_and(|lost| lost.diverged == lost.of);
    for (word, beyond) in [("smallest", f64::lt as fn(&f64, &f64) -> bool), ("largest", f64::gt)] {
        let further: Vec<&str> =
            others.iter().filter(|(_, other)| beyond(other, &best)).map(|(name, _)| *name).collect();
        if further.is_empty() {
            return format!(", the {word} tried");
        }
        if further.iter().all(|name| all_diverged(name)) {
            return format!(", the {word} that did not diverge");
        }
    }
    String::new()
}

/// How many values were planned for an arm's generator.
fn tried(planned: &[&str], arm: &ArmResult) -> usize {
    let generator = |name: &str| name.rsplit_once(AT).map(|(generator, _)| generator.to_owned());
    planned.iter().filter(|name| generator(name) == generator(&arm.name)).count()
}

fn paired(first: &ArmResult, second: &ArmResult) -> String {
    let of_seed = |seed: i64| second.runs.iter().find(|run| run.seed == seed);
    let pairs: Vec<(f64, f64)> =
        first.runs.iter().filter_map(|run| Some((run.area, of_seed(run.seed)?.area))).collect();
    match paired_test(&pairs).and_then(|test| test.p) {
        Some(p) => format!("; between these, paired over {} seeds, p {}", pairs.len(), p_value(p)),
        None => String::new(),
    }
}
