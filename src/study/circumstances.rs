//! What readers must know of how runs were trained, beyond their numbers.

use super::arms::Arm;
use super::run::{QUANTITIES, Run};

/// The share of their time that runs may have spent beside one another without a word.
const COMPANY: f64 = 0.02;

/// Logits of real images above those of fakes, in the mean over the second half of a run, below which the discriminator does not keep
/// up. NesT's runs of 16 kimg of CIFAR-10 at 5e-4 had 0.0002 at most, the studies of 48 kimg and of UC Merced at that rate 0.016 and
/// more (samples/learning-rates).
const BLIND: f64 = 0.01;

/// A line for each circumstance.
pub(super) fn notes(runs: &[Run], arms: &[Arm]) -> Vec<String> {
    rollbacks(runs, arms).chain(company(runs)).chain(arms.iter().filter_map(|arm| blind(runs, arm))).collect()
}

/// A note on an arm whose discriminators did not tell real from fake in the mean. Such a generator may get better all the same.
fn blind(runs: &[Run], arm: &Arm) -> Option<String> {
    let members = arm.runs.iter().filter_map(|&index| runs.get(index));
    let seeds: Vec<String> = members
        .filter(|run| logit_gap(run).is_some_and(|gap| gap < BLIND))
        .map(|run| run.seed.to_string())
        .collect();
    (!seeds.is_empty()).then(|| {
        format!(
            "{}, seed {}: in the second half the discriminator did not keep up (its logits of real images are above those of fakes by less \
             than {BLIND} in the mean): try a lower rate for the generator, or a higher one for the discriminator",
            arm.name,
            seeds.join(", ")
        )
    })
}

/// How far a run's logits of real images are above those of fakes, in the mean over its second half; `None` of a classifier.
fn logit_gap(run: &Run) -> Option<f64> {
    let place = |name: &str| QUANTITIES.iter().position(|quantity| *quantity == name);
    let (real, fake) = (place("Logits/real")?, place("Logits/fake")?);
    let half = run.ticks.get(run.ticks.len() / 2..)?;
    let gaps = half.iter().map(|tick| tick.quantities[real] - tick.quantities[fake]);
    let gaps: Vec<f64> = gaps.filter(|gap| gap.is_finite()).collect();
    (!gaps.is_empty()).then(|| gaps.iter().sum::<f64>() / gaps.len() as f64)
}

/// A note on each run that went back to an earlier state.
fn rollbacks<'a>(runs: &'a [Run], arms: &'a [Arm]) -> impl Iterator<Item = String> + 'a {
    let members = move |arm: &'a Arm| arm.runs.iter().filter_map(move |&index| Some((arm, runs.get(index)?)));
    arms.iter().flat_map(members).filter(|(_, run)| run.rollbacks > 0).map(|(arm, run)| {
        let times = if run.rollbacks == 1 { "time" } else { "times" };
        format!(
            "{}, seed {}, was rolled back {} {times}: what it gave up counts as training, not as scores",
            arm.name, run.seed, run.rollbacks
        )
    })
}

/// A note where runs were trained beside one another, for more than a moment.
fn company(runs: &[Run]) -> Option<String> {
    let spans = || runs.iter().flat_map(|run| run.spans.iter().copied());
    let mut events: Vec<(f64, i64)> = spans().flat_map(|(from, to)| [(from, 1), (to, -1)]).collect();
    events.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let (mut together, mut most, mut since, mut shared_secs) = (0, 0, 0.0, 0.0);
    for (at, change) in events {
        shared_secs += if together > 1 { at - since } else { 0.0 };
        (together, since) = (together + change, at);
        most = most.max(together);
    }
    let all_secs: f64 = spans().map(|(from, to)| to - from).sum();
    (shared_secs > COMPANY * all_secs).then(|| {
        format!(
            "up to {most} runs were trained at once: where that was on one machine, seconds and img/s are not those of a run alone"
        )
    })
}
