//! Runs that break, collapse or get worse: what is said, what is kept, and how far a run goes back.

use std::path::Path;

use nestgen::train::event::Outcome;
use nestgen::train::guard::Trouble;

use super::train::{statistics, tiny, train};

#[test]
fn numbers_that_are_not_finite_end_the_run_whatever_is_to_be_done_about_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let explode = ["train.generator.lr=1e30", "train.discriminator.lr=1e30", "train.penalty.r1_gamma=0"];
    for action in ["stop", "warn"] {
        let action = format!("train.guard.on_divergence={action}");
        let config = tiny(&[&explode[..], &[action.as_str()]].concat());
        let (run, outcome) = train(&config, dir.path(), None, None).unwrap();
        assert!(matches!(outcome, Outcome::Diverged { last_good: None, .. }), "{action}: {outcome:?}");
        assert!(std::fs::read_to_string(run.join("log.txt")).unwrap().contains("not a finite number"));
        assert!(run.join("diverged.txt").is_file());
    }
}

#[test]
fn a_run_that_breaks_keeps_the_last_good_state() {
    let dir = tempfile::tempdir().unwrap();
    // A loss without end from the sixth step on; a state is saved after the fourth.
    let late = ["train.penalty.lecam=1e300", "train.penalty.lecam_start_kimg=0.02"];
    let (run, outcome) = train(&tiny(&late), dir.path(), None, None).unwrap();
    let Outcome::Diverged { last_good: Some(state), .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(nestgen::train::state::load(&state).unwrap().position.cur_nimg, 16);
    assert_eq!(state.parent(), Some(run.as_path()));
}

/// The losses of the step that breaks them are those of before.
#[test]
fn weights_that_broke_in_the_last_step_are_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    let explode = ["train.generator.lr=1e41", "train.kimg=0.008", "train.batch=8"];
    let (run, outcome) = train(&tiny(&explode), dir.path(), None, None).unwrap();
    let Outcome::Diverged { trouble, last_good: None } = outcome else { panic!("{outcome:?}") };
    assert!(trouble.to_string().starts_with("the generator's "), "{trouble}");
    let names: Vec<_> = std::fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let saved = |name: &std::ffi::OsString| {
        ["network-snapshot", "training-state"].iter().any(|start| name.to_string_lossy().starts_with(start))
    };
    assert!(!names.iter().any(saved), "{names:?}");
}

/// A margin that every discriminator exceeds, from the second tick on.
const NARROW: [&str; 4] = [
    "train.guard.on_divergence=rollback",
    "train.guard.max_logit_gap=1e-9",
    "train.guard.start_kimg=0.02",
    "train.guard.patience=1",
];

#[test]
fn a_rollback_goes_on_from_the_last_good_state_and_ends_after_a_few() {
    let dir = tempfile::tempdir().unwrap();
    let (run, outcome) =
        train(&tiny(&[&NARROW[..], &["train.guard.max_rollbacks=2"]].concat()), dir.path(), None, None)
            .unwrap();
    let Outcome::Diverged { last_good: Some(state), .. } = outcome else { panic!("{outcome:?}") };
    let log = std::fs::read_to_string(run.join("log.txt")).unwrap();
    assert_eq!(log.matches("with half the learning rate").count(), 2, "{log}");
    let rates: Vec<f64> = statistics(&run)
        .iter()
        .filter(|line| line["Progress/kimg"]["mean"] == 0.032)
        .map(|line| line["Progress/lr_factor"]["mean"].as_f64().unwrap())
        .collect();
    assert_eq!(rates, [rates[0], rates[0] / 2.0, rates[0] / 4.0]);
    // The state before the trouble is the one that is left, and it resumes.
    assert_eq!(nestgen::train::state::load(&state).unwrap().position.cur_nimg, 16);
    let (_, outcome) = train(&tiny(&[]), dir.path(), run.to_str(), None).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
}

/// A state of before it was made longer knows another length.
#[test]
fn a_rollback_in_a_run_that_was_made_longer_keeps_its_schedule() {
    let dir = tempfile::tempdir().unwrap();
    let late = ["train.guard.start_kimg=0.04", "train.guard.max_rollbacks=1", "train.schedule.kind=cosine"];
    let of_length = |kimg| tiny(&[&NARROW[..], &late, &[kimg]].concat());
    let (run, outcome) = train(&of_length("train.kimg=0.032"), dir.path(), None, None).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
    let (_, outcome) = train(&of_length("train.kimg=0.128"), dir.path(), run.to_str(), None).unwrap();
    assert!(matches!(outcome, Outcome::Diverged { .. }), "{outcome:?}");
    let at = |line: &&serde_json::Map<String, serde_json::Value>| line["Progress/kimg"]["mean"] == 0.048;
    let statistics = statistics(&run);
    let rates: Vec<f64> =
        statistics.iter().filter(at).map(|line| line["Progress/lr_factor"]["mean"].as_f64().unwrap()).collect();
    assert_eq!(rates, [rates[0], rates[0] / 2.0]);
}

/// Kimg apart, as states are named; trouble from the second kimg on.
pub(crate) const LONGER: [&str; 7] = [
    "train.batch=100",
    "train.kimg=4",
    "train.tick_kimg=1",
    "data.scenes=100",
    "train.guard.max_logit_gap=1e-9",
    "train.guard.start_kimg=1.5",
    "train.grid=[2,2]",
];

pub(crate) fn saved(run: &Path, start: &str) -> Vec<String> {
    let entries = std::fs::read_dir(run).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(start)).collect();
    names.sort();
    names
}

#[test]
fn a_rollback_passes_over_states_that_were_saved_in_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let more = ["train.guard.on_divergence=rollback", "train.guard.patience=2", "train.guard.max_rollbacks=1"];
    let (run, outcome) = train(&tiny(&[&LONGER[..], &more].concat()), dir.path(), None, None).unwrap();
    // Bad at 2, where a state is saved, and at 3: back to 1. The same again, with as much patience as before.
    let log = std::fs::read_to_string(run.join("log.txt")).unwrap();
    assert!(log.contains("training-state-000001` with half the learning rate"), "{log}");
    assert_eq!(log.matches("saved 2.000 kimg").count(), 2, "{log}");
    let Outcome::Diverged { last_good: Some(state), .. } = outcome else { panic!("{outcome:?}") };
    assert!(state.ends_with("training-state-000001"), "{state:?}");
    assert_eq!(saved(&run, "abandoned-training-state"), ["abandoned-training-state-000002"]);
    assert_eq!(saved(&run, "diverged-network"), ["diverged-network-snapshot-000003.safetensors"]);
}

#[test]
fn a_run_that_goes_on_in_trouble_saves_as_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let more = ["train.guard.on_divergence=warn", "train.guard.patience=1"];
    let (run, outcome) = train(&tiny(&[&LONGER[..], &more].concat()), dir.path(), None, None).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
    let snapshots = [1, 2, 3, 4].map(|kimg| format!("network-snapshot-{kimg:06}.safetensors"));
    assert_eq!(saved(&run, "network-snapshot"), snapshots);
}

#[test]
fn what_was_trained_to_its_end_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let more = ["train.guard.start_kimg=3.5", "train.guard.patience=1", "train.snap_ticks=0"];
    let (run, outcome) = train(&tiny(&[&LONGER[..], &more].concat()), dir.path(), None, None).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
    assert_eq!(saved(&run, "network-snapshot"), ["network-snapshot-000004.safetensors"]);
    let log = std::fs::read_to_string(run.join("log.txt")).unwrap();
    assert!(log.contains("; the run is at its end"), "{log}");
}

#[test]
fn a_run_that_collapses_or_gets_worse_ends() {
    let dir = tempfile::tempdir().unwrap();
    let quick = ["train.guard.start_kimg=0", "train.guard.patience=1", "train.guard.on_divergence=stop"];
    let ended = |more: &[&str]| train(&tiny(&[&quick[..], more].concat()), dir.path(), None, None).unwrap();
    // No generator of a few steps draws as many different images as there are.
    let (run, outcome) = ended(&["train.guard.min_diversity=1"]);
    let Outcome::Diverged { trouble: Trouble::Collapse { diversity }, .. } = outcome else {
        panic!("{outcome:?}")
    };
    // What it says, beside the pictures themselves.
    let spread = |name: &str| {
        let picture = image::open(run.join(name)).unwrap().into_rgb8();
        let cells = [(0, 0), (32, 0), (0, 32), (32, 32)];
        let at = |x: u32, y: u32, c: usize| {
            cells.map(|(left, top)| f64::from(picture.get_pixel(left + x, top + y)[c]))
        };
        let places = (0..32).flat_map(|x| (0..32).flat_map(move |y| (0..3).map(move |c| (x, y, c))));
        let deviation = |values: [f64; 4]| {
            let mean = values.iter().sum::<f64>() / 4.0;
            (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 3.0).sqrt()
        };
        places.map(|(x, y, c)| deviation(at(x, y, c))).sum::<f64>()
    };
    let seen = spread("fakes000000.png") / spread("reals.png");
    assert!((diversity / seen - 1.0).abs() < 0.1, "{diversity} said, {seen} seen");
    // One image has no spread.
    let (_, outcome) = ended(&["train.grid=[1,1]", "train.image_ticks=1"]);
    assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
    // The weights themselves, at a rate that makes something of them first and then ruins it.
    let (_, outcome) = ended(&[
        "train.kimg=0.4",
        "train.generator.lr=3",
        "train.schedule.kind=constant",
        "train.schedule.warmup_kimg=1",
        "train.ema.halflife_kimg=0",
        "train.guard.min_diversity=0",
        "train.guard.max_score_ratio=1.000001",
        "data.scenes=100",
        "eval.images=100",
        "eval.every_kimg=0.016",
        "eval.features=scenes-v1",
    ]);
    assert!(matches!(outcome, Outcome::Diverged { trouble: Trouble::Worsening { .. }, .. }), "{outcome:?}");
}
