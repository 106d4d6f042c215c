//! Runs grouped into arms: runs with equal settings and different seeds.

use std::collections::BTreeSet;

use serde::Serialize;

use super::run::Run;
use super::settings::{self, Difference, Settings};
use crate::error::{Error, Result};

/// Runs of equal settings, or of one arm of a study.
#[derive(Clone, Debug)]
pub struct Arm {
    /// What tells it from the other arms.
    pub name: String,
    /// Indices of its runs, seeds rising.
    pub runs: Vec<usize>,
    /// Its settings, the seed left out: those of its first run.
    pub settings: Settings,
}

/// Groups runs into arms, in the order in which they were named. A study says itself which runs are of one arm: they may differ
/// in what was to be done about trouble.
///
/// # Errors
/// When an arm has a seed twice: that is one run counted as two.
pub fn group(runs: &[Run]) -> Result<Vec<Arm>> {
    let mut arms: Vec<Arm> = Vec::new();
    let of_study = runs.iter().all(|run| run.arm.is_some());
    for (index, run) in runs.iter().enumerate() {
        let settings = settings::of_arm(&run.settings);
        let is_its = |arm: &&mut Arm| match arm.runs.first() {
            Some(&first) if of_study => runs[first].arm == run.arm,
            _ => arm.settings == settings,
        };
        match arms.iter_mut().find(is_its) {
            Some(arm) => arm.runs.push(index),
            None => arms.push(Arm { name: String::new(), runs: vec![index], settings }),
        }
    }
    for arm in &mut arms {
        arm.runs.sort_by_key(|&index| runs[index].seed);
        if let Some(pair) = arm.runs.windows(2).find(|pair| runs[pair[0]].seed == runs[pair[1]].seed) {
            let [a, b] = [pair[0], pair[1]].map(|index| runs[index].path.display());
            return Err(Error::Usage {
                message: format!("`{a}` and `{b}` are the same experiment with the same seed"),
                hint: Some("leave one of them out: seeds must differ for an interval to mean something".into()),
            });
        }
    }
    let names = arm_names(runs, &arms);
    arms.iter_mut().zip(names).for_each(|(arm, name)| arm.name = name);
    Ok(arms)
}

/// A note on each setting in which the runs of an arm differ, as those of a study may that was begun with others.
pub fn mixed_settings(runs: &[Run], arms: &[Arm]) -> Vec<String> {
    let of_arm = |arm: &Arm| {
        let members: Vec<Settings> =
            arm.runs.iter().filter_map(|&i| Some(settings::of_arm(&runs.get(i)?.settings))).collect();
        settings::differences(&members.iter().collect::<Vec<_>>())
    };
    let mut notes: Vec<String> = Vec::new();
    for difference in arms.iter().flat_map(of_arm) {
        let values: BTreeSet<&str> =
            difference.values.iter().map(|value| value.as_deref().unwrap_or("not set")).collect();
        let values = values.into_iter().collect::<Vec<_>>().join(" and ");
        notes.push(format!("runs of one arm were trained with {} {values}", difference.key));
    }
    notes.sort();
    notes.dedup();
    notes
}

/// What the arms differ in.
pub fn differences(arms: &[Arm]) -> Vec<Difference> {
    settings::differences(&arms.iter().map(|arm| &arm.settings).collect::<Vec<_>>())
}

/// The names that a study has given, or the shortest ones that tell arms apart: an architecture, a few settings, or the folder.
fn arm_names(runs: &[Run], arms: &[Arm]) -> Vec<String> {
    let bare = |value: &Option<String>| value.as_deref().unwrap_or("none").trim_matches(['"', '\'']).to_owned();
    let distinct = |names: &[String]| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    let differing = differences(arms);
    let kinds = differing
        .iter()
        .filter(|difference| difference.key.ends_with("kind") || difference.key.ends_with("arch"));
    let given = |arm: &Arm| arm.runs.first().and_then(|&index| runs[index].arm.clone());
    let mut choices: Vec<Vec<String>> = arms.iter().map(given).collect::<Option<_>>().into_iter().collect();
    // As the command line calls it.
    let kind = |value: &Option<String>| bare(value).replace("transposed_nest", "nest");
    let kinds: Vec<Vec<String>> = kinds.map(|kinds| kinds.values.iter().map(kind).collect()).collect();
    let last = |key: &str| key.rsplit('.').next().unwrap_or(key).to_owned();
    // One architecture at several values of one setting outside of it.
    let with_setting = |kinds: &Vec<String>| -> Vec<Vec<String>> {
        let others =
            differing.iter().filter(|d| !d.key.starts_with("model.") && !d.key.starts_with("generator."));
        let both = |d: &Difference| {
            let value = |(kind, value): (&String, _)| format!("{kind}, {} {}", last(&d.key), bare(value));
            kinds.iter().zip(&d.values).map(value).collect()
        };
        others.map(both).collect()
    };
    choices.extend(kinds.iter().cloned());
    choices.extend(kinds.first().into_iter().flat_map(with_setting));
    for count in 1..=2 {
        let some = || differing.iter().take(count);
        let name = |arm: usize| {
            let parts =
                some().map(|d| format!("{} {}", last(&d.key), d.values.get(arm).map_or(String::new(), bare)));
            parts.collect::<Vec<_>>().join(", ")
        };
        choices.push((0..arms.len()).map(name).collect());
    }
    let folder = |arm: &Arm| {
        let name = arm.runs.first().map_or("", |&index| runs[index].name.as_str());
        name.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned()
    };
    let mut folders: Vec<String> = arms.iter().map(folder).collect();
    // `<data>-<name>`: what all have in common tells nothing.
    let data: BTreeSet<&str> = folders.iter().filter_map(|name| Some(name.split_once('-')?.0)).collect();
    if data.len() == 1 && folders.iter().all(|name| name.contains('-')) {
        folders = folders.iter().filter_map(|name| Some(name.split_once('-')?.1.to_owned())).collect();
    }
    choices.insert(choices.len().saturating_sub(2), folders);
    let lettered = || (0..arms.len()).map(|arm| format!("arm {}", arm + 1)).collect();
    choices
        .into_iter()
        .find(|names| distinct(names) && names.iter().all(|n| !n.is_empty()))
        .unwrap_or_else(lettered)
}

/// An arm that lost runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Its name.
    pub arm: String,
    /// Runs that diverged.
    pub diverged: usize,
    /// Runs there were.
    pub of: usize,
}

/// Runs that can be compared.
pub struct Kept {
    /// Those that did not diverge.
    pub runs: Vec<Run>,
    /// Their arms, under the names that they have beside those that lost all of their runs, and in the order of all.
    pub arms: Vec<Arm>,
    /// The arms that lost some.
    pub lost: Vec<Lost>,
    /// A note on each run that is left out.
    pub notes: Vec<String>,
}

/// Leaves out the runs that diverged, and says so: such a run has no score at the end; without word of it, an arm would gain by losing
/// its worst seeds.
///
/// # Errors
/// As [`group`].
pub fn without_diverged(runs: Vec<Run>) -> Result<Kept> {
    let mut all = group(&runs)?;
    let (mut lost, mut notes) = (Vec::new(), Vec::new());
    for arm in &all {
        let members = arm.runs.iter().filter_map(|&index| runs.get(index));
        let diverged: Vec<(i64, &str)> =
            members.filter_map(|run| Some((run.seed, run.diverged.as_deref()?))).collect();
        for (seed, why) in &diverged {
            notes.push(format!("{}, seed {seed}, diverged and is left out of every number: {why}", arm.name));
        }
        if !diverged.is_empty() {
            lost.push(Lost { arm: arm.name.clone(), diverged: diverged.len(), of: arm.runs.len() });
        }
    }
    let mut places = Vec::with_capacity(runs.len());
    let mut kept = Vec::with_capacity(runs.len());
    for run in runs {
        places.push(run.diverged.is_none().then_some(kept.len()));
        kept.extend(Some(run).filter(|run| run.diverged.is_none()));
    }
    for arm in &mut all {
        arm.runs = arm.runs.iter().filter_map(|&index| places.get(index).copied().flatten()).collect();
    }
    all.retain(|arm| !arm.runs.is_empty());
    Ok(Kept { runs: kept, arms: all, lost, notes })
}
