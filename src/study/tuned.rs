//! Arms of one generator at several values of a setting: the best value of each, and what that says of the generators.

use super::comparison::{ArmResult, Comparison};
use super::numbers::{p_value, with_interval};
use super::statistics::paired_test;

/// Stands between the name of a generator and its value: `nest@1e-4`.
pub const AT: char = '@';

/// The value that each generator did best with, by its mean over the range; `None` where no arm has a value.
pub fn best_values(comparison: &Comparison, key: &str) -> Option<String> {
    let mut best: Vec<(&str, &str, &ArmResult)> = Vec::new();
    let better = |a: f64, b: f64| if comparison.higher_is_better { a > b } else { a < b };
    for arm in &comparison.arms {
        let Some((generator, value)) = arm.name.rsplit_once(AT) else { continue };
        match best.iter_mut().find(|(other, ..)| *other == generator) {
            Some(found) if better(arm.area.mean, found.2.area.mean) => *found = (generator, value, arm),
            Some(_) => {}
            None => best.push((generator, value, arm)),
        }
    }
    if best.is_empty() {
        return None;
    }
    let each = best.iter().map(|(generator, value, arm)| {
        format!("{generator} {value} ({})", with_interval(arm.area.mean, arm.area.half_width))
    });
    let each = each.collect::<Vec<_>>().join(", ");
    let test = match best.as_slice() {
        [(.., first), (.., second)] => paired(first, second),
        _ => String::new(),
    };
    Some(format!(
        "the best {key} of each by its mean over the range: {each}{test}; the best of several flatters: confirm it on seeds that \
         did not choose it (--first-seed)"
    ))
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
