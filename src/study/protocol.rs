//! How a score was taken. Scores of different protocols are different quantities, however alike their names.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use nestgen_fid::BIASED_BELOW;
use serde_json::Value;

use super::run::Run;
use crate::error::{Error, Result};

/// What a line of scores may hold that is not part of how they were taken.
const NOT_PROTOCOL: [&str; 6] = ["snapshot", "timestamp", "total_time", "total_time_str", "tick", "value"];

/// Every circumstance of a score, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Protocol(pub BTreeMap<String, String>);

impl Protocol {
    /// The protocol that a line of `metric-<name>.jsonl` tells.
    pub(super) fn of_score(fields: &BTreeMap<String, Value>) -> Self {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let kept = fields.iter().filter(|(key, _)| !NOT_PROTOCOL.contains(&key.as_str()));
        Self(kept.map(|(key, value)| (key.clone(), text(value))).collect())
    }

    /// The first circumstance that differs, in words; `None` if none does.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let keys = self.0.keys().chain(other.0.keys());
        let value = |protocol: &Self, key: &String| {
            protocol.0.get(key).map_or("not recorded", String::as_str).to_owned()
        };
        let pairs = keys.map(|key| (key, value(self, key), value(other, key)));
        pairs.into_iter().find(|(_, a, b)| a != b).map(|(key, a, b)| format!("{key} is {a} here and {b} there"))
    }
}

/// The protocol that all `runs` took their scores of `metric` with, the identity of the images and, of generators, their
/// resolution included.
///
/// # Errors
/// When they differ, or one of them has no such score.
pub fn common(runs: &[Run], metric: &str) -> Result<Protocol> {
    let of_run = |run: &Run| -> Result<Protocol> {
        let scores = run.scores.get(metric).ok_or_else(|| Error::Usage {
            message: format!("`{}` has no score named {metric}", run.path.display()),
            hint: Some(format!("it has: {}", names(run))),
        })?;
        let mut protocol = scores.protocol.clone();
        protocol.0.insert("data".into(), run.data());
        // Real images of another size are other images; a classifier's test set stays the same question at any.
        let resolution = run.settings.get("discriminator.resolution");
        protocol.0.extend(resolution.map(|side| ("resolution".into(), side.clone())));
        Ok(protocol)
    };
    let Some(first) = runs.first() else {
        return Err(Error::Usage { message: "there is no run to compare".into(), hint: None });
    };
    let protocol = of_run(first)?;
    for run in runs {
        if let Some(difference) = protocol.difference(&of_run(run)?) {
            return Err(Error::Usage {
                message: format!(
                    "`{}` and `{}` have different protocols for {metric}: {difference}",
                    first.path.display(),
                    run.path.display()
                ),
                hint: Some(
                    "`nestgen score` scores the snapshots of both alike; runs on other images cannot be compared".into(),
                ),
            });
        }
    }
    Ok(protocol)
}

/// Whether higher values of a metric are better: accuracies are, distances are not.
pub fn higher_is_better(metric: &str) -> bool {
    metric.starts_with("top")
}

/// Whether a score is a Frechet distance, in the features of an Inception network, of so few images that its bias can decide.
pub(super) fn is_biased(metric: &str, protocol: &Protocol) -> bool {
    let name = metric.to_lowercase();
    let count = |key: &str| protocol.0.get(key).and_then(|count| count.parse::<u64>().ok());
    let fewest = [count("num_real"), count("num_fake")].into_iter().flatten().min();
    // Other networks have fewer features, for which as many images are enough.
    let pool3 = name.starts_with("fid")
        || (name.starts_with("fd") && ["random-v1", "inception"].iter().any(|n| name.contains(n)));
    pool3 && fewest.is_some_and(|count| count < BIASED_BELOW as u64)
}

/// How far features can be trusted to rank generators, the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FeatureSpace {
    /// The published network of FID.
    Inception,
    /// A network that somebody chose for the images.
    Chosen,
    /// The program's own, for want of another.
    Scenes,
    /// Random weights, which do not rank them.
    Random,
}

impl FeatureSpace {
    /// Of a score.
    pub(super) fn of(metric: &str, protocol: &Protocol) -> Self {
        let name = protocol.0.get("features").map_or("", |text| text.split(',').next().unwrap_or_default());
        match name {
            "FID" => Self::Inception,
            "FD-scenes-v1" => Self::Scenes,
            "FD-random-v1" => Self::Random,
            // Lines that other programs wrote do not tell.
            _ if metric.ends_with("random-v1") => Self::Random,
            _ => Self::Chosen,
        }
    }
}

/// The metric to compare by when none was named: one that all runs have, by the best of the [`FeatureSpace`]; FID before KID
/// before others, but KID first where FID would be biased; one that makes curves before one with a single score of a run; of the
/// most images.
///
/// # Errors
/// When there is none.
pub fn usual_metric(runs: &[Run]) -> Result<String> {
    let candidates = runs.first().into_iter().flat_map(|run| &run.scores);
    let shared = candidates.filter(|(name, _)| runs.iter().all(|run| run.scores.contains_key(*name)));
    let scores_of = |run: &Run, name: &str| run.scores.get(name).map_or(0, |scores| scores.points.len());
    let rank = |name: &str, protocol: &Protocol| {
        let kind = ["fid", "kid", "fd"].iter().position(|start| name.to_lowercase().starts_with(start));
        let images = protocol.0.get("num_fake").and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
        let features = FeatureSpace::of(name, protocol);
        let kind = (is_biased(name, protocol), kind.unwrap_or(usize::MAX));
        let is_curve = runs.iter().all(|run| scores_of(run, name) > 1);
        (features, kind, !is_curve, Reverse(images), name.to_owned())
    };
    let best = shared.min_by_key(|(name, scores)| rank(name, &scores.protocol));
    best.map(|(name, _)| name.clone()).ok_or_else(|| Error::Usage {
        message: format!("the runs share no score: {}", odd_ones_first(runs)),
        hint: Some(
            "score their snapshots alike with `nestgen score`, compare fewer runs, or train with --eval KIMG"
                .into(),
        ),
    })
}

/// Runs with the names of their scores; first those whose scores the fewest others have, since they are in the way.
fn odd_ones_first(runs: &[Run]) -> String {
    const LISTED: usize = 4;
    let having = |name: &String| runs.iter().filter(|run| run.scores.contains_key(name)).count();
    let mut sorted: Vec<&Run> = runs.iter().collect();
    sorted.sort_by_key(|run| run.scores.keys().map(having).max().unwrap_or(0));
    let listed = sorted.iter().take(LISTED).map(|run| format!("`{}` has {}", run.path.display(), names(run)));
    let mut listed: Vec<String> = listed.collect();
    if runs.len() > LISTED {
        listed.push(format!("and {} more", runs.len() - LISTED));
    }
    listed.join("; ")
}

fn names(run: &Run) -> String {
    let names: Vec<&str> = run.scores.keys().map(String::as_str).collect();
    if names.is_empty() { "no scores".into() } else { names.join(", ") }
}
