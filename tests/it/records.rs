//! What a run writes down beside its weights: its clock, its states, its best generator, what it gave up.

use std::path::Path;

use candle_core::{DType, Device};
use nestgen::data::ImageData;
use nestgen::models::Discriminator;
use nestgen::nn::Builder;
use nestgen::sample::read_snapshot;
use nestgen::study::run::Run;
use nestgen::train::event::Outcome;
use nestgen::train::resume_point::resume_point;
use nestgen::train::state;
use nestgen_kernels::{Var, no_grad};

use super::train::{scores, statistics, tiny, train, watched};
use super::trouble::{LONGER, saved};

const SCORED: [&str; 3] = ["data.scenes=100", "eval.images=100", "eval.features=scenes-v1"];

fn lowest(scores: &[(f64, f64)]) -> (f64, f64) {
    scores.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap()
}

fn kimg_of(snapshot: &Path) -> f64 {
    read_snapshot(snapshot).unwrap().metadata["kimg"].parse().unwrap()
}

/// `stats.jsonl` with what the clock decides.
fn timings(run: &Path, key: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(run.join("stats.jsonl")).unwrap();
    let of =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()[key]["mean"].as_f64().unwrap();
    text.lines().map(of).collect()
}

#[test]
fn the_best_snapshot_is_that_of_the_lowest_score() {
    let dir = tempfile::tempdir().unwrap();
    // A rate that makes something of the weights first and then ruins it.
    let more = [
        "train.kimg=0.4",
        "train.generator.lr=3",
        "train.schedule.kind=constant",
        "train.schedule.warmup_kimg=1",
        "train.ema.halflife_kimg=0",
        "train.guard.on_divergence=warn",
        "eval.every_kimg=0.032",
    ];
    let (run, _) = train(&tiny(&[&SCORED[..], &more].concat()), dir.path(), None, None).unwrap();
    let scores = scores(&run);
    let best = lowest(&scores);
    assert_ne!(best, *scores.last().unwrap(), "the last is the best: {scores:?}");
    assert!((kimg_of(&run.join("network-snapshot-best.safetensors")) - best.0).abs() < 5e-4, "{scores:?}");
}

#[test]
fn the_discriminator_is_asked_about_those_it_saw_and_those_it_did_not() {
    let dir = tempfile::tempdir().unwrap();
    let config = tiny(&["data.held_out=8", "train.image_ticks=1"]);
    let (run, _) = train(&config, dir.path(), None, None).unwrap();
    let state = &resume_point(dir.path(), run.to_str().unwrap()).unwrap().states[0];
    let weights =
        candle_core::safetensors::load(state.join("discriminator.safetensors"), &Device::Cpu).unwrap();
    let discriminator =
        Discriminator::new(&config.discriminator, &Builder::blank(DType::F32, &Device::Cpu)).unwrap();
    discriminator.params().load(&weights.into_iter().collect()).unwrap();
    let whole = ImageData::synthetic(0, 32, 32, &|_, _| true).unwrap();
    let (_, held_out) = whole.hold_out(8).unwrap();
    // Four images, as many as there are pictures: every second one of the eight.
    let mut pixels = vec![0; 4 * 32 * 32 * 3];
    for (i, image) in pixels.chunks_exact_mut(32 * 32 * 3).enumerate() {
        held_out.read(2 * i, image).unwrap();
    }
    let values: Vec<f32> = pixels.iter().map(|&byte| f32::from(byte) / 127.5 - 1.0).collect();
    let images = candle_core::Tensor::from_vec(values, (4, 32, 32, 3), &Device::Cpu).unwrap();
    let logits = no_grad(|| discriminator.forward(&Var::constant(images), false)).unwrap();
    let logits = logits.value().to_vec1::<f32>().unwrap();
    let mean = f64::from(logits.iter().sum::<f32>()) / 4.0;
    let said = statistics(&run).last().unwrap()["Overfitting/held_out"]["mean"].as_f64().unwrap();
    assert!((said - mean).abs() < 1e-5, "{said}, not {mean}");
}

#[test]
fn seconds_of_ticks_are_those_of_the_run_and_go_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let config = tiny(&[]);
    let (run, _) = train(&config, dir.path(), None, Some(9)).unwrap();
    let elapsed = || {
        let states = resume_point(dir.path(), run.to_str().unwrap()).unwrap().states;
        state::load(&states[0]).unwrap().position.elapsed_secs
    };
    let before = elapsed();
    train(&config, dir.path(), run.to_str(), None).unwrap();
    let (ticks, totals) = (timings(&run, "Timing/sec_per_tick"), timings(&run, "Timing/total_sec"));
    assert!(totals.is_sorted() && elapsed() > before && totals[3] > before, "{totals:?} after {before}");
    assert_eq!(ticks.len(), 4);
    assert!(ticks.iter().sum::<f64>() <= totals[3], "{ticks:?} {totals:?}");
}

#[test]
fn a_timed_run_is_fitted_to_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let timed = ["train.minutes=0.02", "train.kimg=1000", "train.schedule.kind=cosine", "train.image_ticks=0"];
    let mut told = Vec::new();
    let mut keep = |progress: nestgen::train::event::Progress| {
        told.push((progress.eta_secs, progress.total_kimg));
        true
    };
    let (run, _) = watched(&tiny(&timed), dir.path(), None, &mut keep).unwrap();
    // A tenth of the rate is what is left at the end, where the machine had time for more than the first tick, which is a guess.
    let lines = statistics(&run);
    let last = lines.last().unwrap()["Progress/lr_factor"]["mean"].as_f64().unwrap();
    assert!(lines.len() < 4 || last < 0.9, "{last}");
    // From the first step on it is told how long it takes, not how long a thousand kimg would.
    assert!(told.iter().all(|(eta_secs, total)| *eta_secs <= 1.2 && *total < 900.0), "{:?}", told.first());
}

/// As one that is scored at its end keeps time for it.
#[test]
fn a_timed_run_that_is_over_stays_over() {
    let dir = tempfile::tempdir().unwrap();
    let scored = ["train.minutes=0.05", "eval.every_kimg=0.032", "eval.images=200", "eval.features=scenes-v1"];
    let (run, _) = train(&tiny(&scored), dir.path(), None, None).unwrap();
    let shown = || state::load(&state::list(&run).unwrap().pop().unwrap()).unwrap().position.cur_nimg;
    let before = shown();
    train(&tiny(&scored), dir.path(), run.to_str(), None).unwrap();
    assert_eq!(shown(), before);
}

#[test]
fn states_beyond_those_to_keep_go_but_for_the_last_good_one() {
    let dir = tempfile::tempdir().unwrap();
    let calm = tiny(&[&LONGER[..], &["train.guard.start_kimg=100"]].concat());
    let (run, _) = train(&calm, dir.path(), None, None).unwrap();
    assert_eq!(saved(&run, "training-state"), ["training-state-000003", "training-state-000004"]);
    // Bad from 2 on: two newer ones are kept, and the one before, to which it goes back.
    let patient = ["train.guard.on_divergence=stop", "train.guard.patience=3", "train.kimg=9"];
    let (run, outcome) = train(&tiny(&[&LONGER[..], &patient].concat()), dir.path(), None, None).unwrap();
    let Outcome::Diverged { last_good: Some(state), .. } = outcome else { panic!("{outcome:?}") };
    assert!(state.ends_with("training-state-000001"), "{}", state.display());
    let states = [1, 2, 3].map(|kimg| format!("training-state-{kimg:06}"));
    assert_eq!(saved(&run, "training-state"), states);
}

#[test]
fn what_a_rollback_gives_up_is_not_the_runs_and_its_best_stays() {
    let dir = tempfile::tempdir().unwrap();
    let more = [
        "train.guard.on_divergence=rollback",
        "train.guard.patience=2",
        "train.guard.max_rollbacks=1",
        "train.image_ticks=1",
        "eval.every_kimg=1",
    ];
    let (run, outcome) = train(&tiny(&[&LONGER[..], &SCORED, &more].concat()), dir.path(), None, None).unwrap();
    assert!(matches!(outcome, Outcome::Diverged { .. }), "{outcome:?}");
    // From 3 back to 1, and the same again.
    assert_eq!(saved(&run, "abandoned-network"), ["abandoned-network-snapshot-000002.safetensors"]);
    assert_eq!(saved(&run, "abandoned-fakes"), ["abandoned-fakes000002.png", "abandoned-fakes000003.png"]);
    let scores = scores(&run);
    assert_eq!(scores.iter().map(|score| score.0).collect::<Vec<_>>(), [1.0, 2.0, 3.0, 2.0, 3.0]);
    let best = state::load(&run.join("training-state-000002")).unwrap().position.best.unwrap();
    // As it was when that state was saved: of what was given up too.
    assert_eq!((best.kimg, best.score), lowest(&scores[..4]));
}

#[test]
fn who_stops_leaves_the_scored_snapshot_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let config = tiny(&[&LONGER[..], &["train.guard.max_logit_gap=20"]].concat());
    let (run, outcome) = train(&config, dir.path(), None, Some(13)).unwrap();
    assert!(matches!(outcome, Outcome::Interrupted { .. }), "{outcome:?}");
    assert_eq!(kimg_of(&run.join("network-snapshot-000001.safetensors")), 1.0);
    let position = state::load(&run.join("training-state-000001")).unwrap().position;
    assert_eq!(position.cur_nimg, 1300);
}

#[test]
fn a_run_that_is_over_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let over = |run: &Path| {
        let log = std::fs::read_to_string(run.join("log.txt")).unwrap();
        log.contains("nothing is trained without a longer --kimg or --minutes")
    };
    let (run, _) = train(&tiny(&[]), dir.path(), None, Some(15)).unwrap();
    train(&tiny(&[]), dir.path(), run.to_str(), None).unwrap();
    assert!(!over(&run));
    let (_, outcome) = train(&tiny(&[]), dir.path(), run.to_str(), None).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }) && over(&run), "{outcome:?}");
}

#[test]
fn going_on_cuts_its_own_files_alone() {
    let dir = tempfile::tempdir().unwrap();
    let length = |kimg: &str| tiny(&["train.tick_kimg=1", "train.batch=100", "train.keep_states=4", kimg]);
    let (run, _) = train(&length("train.kimg=3"), dir.path(), None, None).unwrap();
    let notes = "{\"note\":\"the rate looked too high\"}\n{\"kimg\":5}\n";
    std::fs::write(run.join("notes.jsonl"), notes).unwrap();
    std::fs::write(run.join("older-metric-kid.jsonl"), notes).unwrap();
    train(&length("train.kimg=2"), dir.path(), run.join("training-state-000001").to_str(), None).unwrap();
    for name in ["notes.jsonl", "older-metric-kid.jsonl"] {
        assert_eq!(std::fs::read_to_string(run.join(name)).unwrap(), notes);
    }
    // The ticks of the other future are not counted as given up by a rollback.
    let kimg: Vec<f64> =
        statistics(&run).iter().map(|line| line["Progress/kimg"]["mean"].as_f64().unwrap()).collect();
    assert_eq!(kimg, [1.0, 2.0]);
    assert_eq!(Run::read(&run).unwrap().rollbacks, 0);
}
