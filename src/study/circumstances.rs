//! What readers must know of how runs were trained, beyond their numbers.

use super::arms::Arm;
use super::axis::Axis;
use super::history::{QUANTITIES, Tick};
use super::numbers::digits;
use super::run::Run;
use super::statistics::interpolate;

/// The share of all runs' seconds that may have been spent beside another run without a word.
const COMPANY: f64 = 0.02;

/// Logits of real images above those of fakes, in the mean over the second half of a run, below which the discriminator does not keep
/// up. NesT's runs of 16 kimg of CIFAR-10 at 5e-4 had 0.0002 at most, the studies of 48 kimg and of UC Merced at that rate 0.016 and
/// more (samples/learning-rates).
const BLIND: f64 = 0.01;

/// Learning rates further apart than this are said to stand at different places of their schedules.
const SCHEDULES_APART: f64 = 1.25;

/// A line for each circumstance of runs that are read along `axis` up to `end`.
pub(super) fn notes(runs: &[Run], arms: &[Arm], axis: Axis, end: f64) -> Vec<String> {
    let blind = arms.iter().filter_map(|arm| blind(runs, arm));
    rollbacks(runs, arms).chain(company(runs)).chain(blind).chain(schedules(runs, arms, axis, end)).collect()
}

/// A note where arms are read up to different places of their schedules: some with their rates at the end, some cut short.
fn schedules(runs: &[Run], arms: &[Arm], axis: Axis, end: f64) -> Option<String> {
    let rates: Vec<(&str, Rate)> = arms
        .iter()
        .filter_map(|arm| {
            let rates = arm.runs.iter().map(|&index| Rate::of(runs.get(index)?, axis, end));
            let rates = rates.collect::<Option<Vec<Rate>>>()?;
            let mean = |value: fn(&Rate) -> f64| rates.iter().map(value).sum::<f64>() / rates.len() as f64;
            Some((arm.name.as_str(), Rate { at_end: mean(|rate| rate.at_end), later: mean(|rate| rate.later) }))
        })
        .collect();
    let at_end = || rates.iter().map(|(_, rate)| rate.at_end);
    let apart = at_end().fold(0.0, f64::max) > SCHEDULES_APART * at_end().fold(f64::INFINITY, f64::min);
    let cut = rates.iter().any(|(_, rate)| rate.at_end > SCHEDULES_APART * rate.later);
    (apart && cut).then(|| {
        let listed = rates.iter().map(|(arm, rate)| format!("{arm} {} %", digits(100.0 * rate.at_end, 2)));
        format!(
            "the range ends at different places of the learning rates' schedules ({}, of each one's highest): scores get better as \
             a rate falls, so arms whose rate has fallen further look better than they would; give all runs one length in {}",
            listed.collect::<Vec<_>>().join(", "),
            axis.name()
        )
    })
}

/// A run's learning rate as a share of its highest.
struct Rate {
    /// Where the range ends.
    at_end: f64,
    /// At the run's own end.
    later: f64,
}

impl Rate {
    /// `None` where it was not recorded.
    fn of(run: &Run, axis: Axis, end: f64) -> Option<Self> {
        let point = |tick: &Tick| Some((run.position(axis, tick.kimg)?, tick.learning_rate));
        let points: Vec<(f64, f64)> = run.ticks.iter().map(point).collect::<Option<_>>()?;
        let highest = points.iter().map(|point| point.1).fold(0.0, f64::max);
        let at_end = interpolate(&points, end).filter(|rate| rate.is_finite())?;
        (highest > 0.0).then_some(Self { at_end: at_end / highest, later: points.last()?.1 / highest })
    }
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
    let mut events: Vec<(f64, i32)> = spans().flat_map(|(from, to)| [(from, 1), (to, -1)]).collect();
    events.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let (mut together, mut most, mut since, mut shared_secs) = (0, 0, 0.0, 0.0);
    for (at, change) in events {
        shared_secs += if together > 1 { f64::from(together) * (at - since) } else { 0.0 };
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
