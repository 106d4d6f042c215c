//! Training from end to end on a tiny network: repeatable, resumable to the bit, and careful with what it saved.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nestgen::config::{Launch, Override, PRESETS, RunConfig, Source, Start, build_networks, launch, load};
use nestgen::error::Error;
use nestgen::ranks::Ranks;
use nestgen::train::event::{Event, Outcome, Progress};
use nestgen::train::resume_point::resume_point;
use nestgen::train::stats::{append_line, repeatable};

/// 32 px, a few thousand weights, 16 steps of 4 images, a tick and a state every 4 steps.
pub(crate) fn tiny(more: &[&str]) -> RunConfig {
    let mut settings = vec![
        "model.resolution=32",
        "model.z_dim=8",
        "model.dims=[16,8,8]",
        "model.depths=[1,0,0]",
        "discriminator.resolution=32",
        "discriminator.channels=[4,8,8,8]",
        "data.scenes=32",
        "train.minutes=0",
        "train.kimg=0.064",
        "train.batch=4",
        "train.tick_kimg=0.016",
        "train.image_ticks=2",
        "train.snap_ticks=1",
        "train.grid=[2,2]",
        "train.augment.kind=fixed",
        "train.augment.probability=0.5",
        "train.penalty.lecam=0.01",
        "train.penalty.lecam_start_kimg=0",
        "train.penalty.r1_gamma=0.1",
        "train.penalty.interval=4",
    ];
    settings.extend(more);
    let settings: Vec<_> = settings.iter().map(|text| Override::parse(text).unwrap()).collect();
    load(Source::Preset("demo64"), &settings).unwrap()
}

/// Trains; `stop_after` steps, if given, it is asked to stop.
pub(crate) fn train(
    config: &RunConfig,
    outdir: &Path,
    resume: Option<&str>,
    stop_after: Option<usize>,
) -> Result<(PathBuf, Outcome), Error> {
    let mut steps = 0;
    watched(config, outdir, resume, &mut |_| {
        steps += 1;
        stop_after.is_none_or(|after| steps < after)
    })
}

/// Trains as long as `go_on` says of every step.
pub(crate) fn watched(
    config: &RunConfig,
    outdir: &Path,
    resume: Option<&str>,
    go_on: &mut dyn FnMut(Progress) -> bool,
) -> Result<(PathBuf, Outcome), Error> {
    let stop = AtomicBool::new(false);
    launch(Launch {
        config,
        data: config.data.open(config.model.resolution(), &|_, _| true)?,
        device: &candle_core::Device::Cpu,
        outdir,
        name: "tiny",
        start: resume.map_or(Ok(Start::New), |what| resume_point(outdir, what).map(Start::Resume))?,
        ranks: &Ranks::alone(),
        stop: &stop,
        on_start: &mut |_| {},
        on_event: &mut |event| {
            if let Event::Progress(progress) = event {
                stop.store(!go_on(progress), Ordering::Relaxed);
            }
        },
    })
}

/// `stats.jsonl` without what the clock decides.
pub(crate) fn statistics(run: &Path) -> Vec<serde_json::Map<String, serde_json::Value>> {
    let text = std::fs::read_to_string(run.join("stats.jsonl")).unwrap();
    let parse = |line: &str| {
        let mut line: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        line.retain(|key, _| repeatable(key));
        line
    };
    text.lines().map(parse).collect()
}

fn assert_same_result(a: &Path, b: &Path) {
    assert_eq!(statistics(a), statistics(b));
    for name in ["network-snapshot-000000.safetensors", "fakes000000.png", "reals.png", "reals_augmented.png"] {
        assert!(std::fs::read(a.join(name)).unwrap() == std::fs::read(b.join(name)).unwrap(), "{name} differs");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let dir = tempfile::tempdir().unwrap();
    let (a, _) = train(&tiny(&[]), dir.path(), None, None).unwrap();
    let (b, _) = train(&tiny(&[]), dir.path(), None, None).unwrap();
    assert_ne!(a, b);
    assert_eq!(statistics(&a).len(), 4);
    assert_same_result(&a, &b);
    let (other, _) = train(&tiny(&["train.seed=1"]), dir.path(), None, None).unwrap();
    assert_ne!(statistics(&a), statistics(&other));
    // The first images of the shuffled set, of every seed its own, mirrored or not.
    let (plain, _) = train(&tiny(&["data.mirror=false"]), dir.path(), None, None).unwrap();
    let reals = |run: &Path| std::fs::read(run.join("reals.png")).unwrap();
    assert!(reals(&a) != reals(&other) && reals(&a) != reals(&plain));
}

#[test]
fn initial_weights_are_those_of_the_seed() {
    let weights = |seed: &str| {
        let networks = build_networks(&tiny(&[seed])).unwrap();
        let all = [&networks.generator, &networks.generator_ema].map(|network| network.params());
        [all[0], all[1], networks.discriminator.params()].map(|params| {
            let tensors = params.tensors();
            let values =
                tensors.iter().map(|(_, tensor)| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            values.collect::<Vec<_>>().concat()
        })
    };
    let (zero, one) = (weights("train.seed=0"), weights("train.seed=1"));
    assert!(zero.iter().zip(&one).all(|(zero, one)| zero != one));
    assert_eq!(zero, weights("train.seed=0"));
    assert_eq!(zero[0], zero[1]);
}

#[test]
fn resumed_equals_uninterrupted_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    for more in [&["train.loss=relativistic", "train.augment.kind=adaptive"][..], &["train.d_steps=2"]] {
        let config = tiny(more);
        let (whole, _) = train(&config, dir.path(), None, None).unwrap();
        // In the middle of a tick, and again at its end.
        let (run, outcome) = train(&config, dir.path(), None, Some(3)).unwrap();
        assert!(matches!(outcome, Outcome::Interrupted { .. }), "{outcome:?}");
        // The seconds of the begun tick are not lost.
        let state = &resume_point(dir.path(), "latest").unwrap().states[0];
        let position: toml::Table =
            std::fs::read_to_string(state.join("position.toml")).unwrap().parse().unwrap();
        let secs = |key: &str| position[key].as_float().unwrap();
        assert!(secs("tick_secs") > 0.0 && secs("tick_secs") <= secs("elapsed_secs"), "{position}");
        let (_, outcome) = train(&config, dir.path(), run.to_str(), Some(2)).unwrap();
        assert!(matches!(outcome, Outcome::Interrupted { .. }), "{outcome:?}");
        let (resumed, outcome) = train(&config, dir.path(), Some("latest"), None).unwrap();
        assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
        assert_eq!(resumed, run);
        assert_same_result(&whole, &resumed);
    }
}

/// kimg and KID of every score that a run has taken.
pub(crate) fn scores(run: &Path) -> Vec<(f64, f64)> {
    let text = std::fs::read_to_string(run.join("metric-kid100-scenes-v1.jsonl")).unwrap_or_default();
    let of = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        (line["kimg"].as_f64().unwrap(), line["results"]["kid100-scenes-v1"].as_f64().unwrap())
    };
    text.lines().map(of).collect()
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A run that is stopped while it is scored ends that tick when it goes on, as if nothing had been.
#[test]
fn a_tick_that_was_stopped_is_ended_on_resume() {
    let dir = tempfile::tempdir().unwrap();
    let scored = ["data.scenes=100", "eval.every_kimg=0.016", "eval.images=100", "eval.features=scenes-v1"];
    let config = tiny(&scored);
    let (whole, _) = train(&config, dir.path(), None, None).unwrap();
    assert_eq!(scores(&whole).len(), 4);
    // At the end of the second tick, and of the last one.
    for (steps, done) in [(8, 1), (16, 3)] {
        let (run, outcome) = train(&config, dir.path(), None, Some(steps)).unwrap();
        assert!(matches!(outcome, Outcome::Interrupted { .. }), "{outcome:?}");
        assert_eq!((scores(&run).len(), statistics(&run).len()), (done, done));
        let state = resume_point(dir.path(), run.to_str().unwrap()).unwrap().states[0].clone();
        let kept = dir.path().join("kept");
        copy_files(&state, &kept);
        // Of an earlier snapshot that somebody has scored in between, and of this one in other features.
        let metric = "metric-kid100-scenes-v1.jsonl";
        let lines = std::fs::read_to_string(run.join(metric)).unwrap();
        let mut line: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        for (name, kimg) in [(metric, 0.001), ("metric-other.jsonl", steps as f64 * 0.004)] {
            line["kimg"] = kimg.into();
            append_line(&run.join(name), &line.to_string()).unwrap();
        }
        // The second time as if the first had been killed before it saved anything.
        for _ in 0..2 {
            let (resumed, outcome) = train(&config, dir.path(), run.to_str(), None).unwrap();
            assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
            let (theirs, own): (Vec<_>, Vec<_>) =
                scores(&resumed).into_iter().partition(|(kimg, _)| *kimg == 0.001);
            assert_eq!((theirs.len(), own), (1, scores(&whole)));
            assert!(std::fs::read_to_string(run.join("metric-other.jsonl")).unwrap().lines().count() == 1);
            assert_same_result(&whole, &resumed);
            copy_files(&kept, &state);
        }
    }
}

/// An average of weights goes with the average of what their batch norms saw, not with that of the last few steps.
#[test]
fn statistics_are_averaged_with_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    let sagan = "model={kind=\"sagan\",resolution=32,z_dim=8,width=8,attention=true}";
    let means = |halflife: &str| {
        train(&tiny(&[sagan, halflife, "train.ema.ramp=0"]), dir.path(), None, None).unwrap();
        let state = &resume_point(dir.path(), "latest").unwrap().states[0];
        ["generator", "generator-ema"].map(|network| {
            let tensors = candle_core::safetensors::load(
                state.join(format!("{network}.safetensors")),
                &candle_core::Device::Cpu,
            );
            let tensors = tensors.unwrap();
            // Of all layers, in the order of their names.
            let means: std::collections::BTreeMap<_, _> =
                tensors.iter().filter(|(name, _)| name.ends_with("running_mean")).collect();
            means.values().flat_map(|mean| mean.to_vec1::<f32>().unwrap()).collect::<Vec<_>>()
        })
    };
    let [last, average] = means("train.ema.halflife_kimg=0.1");
    let norm = |values: &[f32]| values.iter().map(|x| x * x).sum::<f32>().sqrt();
    // From 0, over less than the half-life.
    assert!(norm(&average) < 0.5 * norm(&last), "{average:?} {last:?}");
    let [last, average] = means("train.ema.halflife_kimg=0");
    let apart: Vec<f32> = last.iter().zip(&average).map(|(last, average)| last - average).collect();
    assert!(norm(&apart) < 1e-6 * norm(&last), "{average:?} {last:?}");
}

#[test]
fn a_changed_configuration_is_refused_and_a_longer_run_is_not() {
    let dir = tempfile::tempdir().unwrap();
    train(&tiny(&[]), dir.path(), None, Some(2)).unwrap();
    let error = train(&tiny(&["train.generator.lr=1e-3"]), dir.path(), Some("latest"), None).unwrap_err();
    assert!(error.to_string().contains("train.generator.lr"), "{error}");
    train(&tiny(&["train.kimg=0.072"]), dir.path(), Some("latest"), None).unwrap();
    // Nor other images, nor a length that is behind it; and a refusal leaves the note of a divergence alone.
    let run = resume_point(dir.path(), "latest").unwrap().run;
    std::fs::write(run.join("diverged.txt"), "why\n").unwrap();
    let error = train(&tiny(&["data.scenes=31"]), dir.path(), Some("latest"), None).unwrap_err();
    assert!(error.to_string().contains("began with other images"), "{error}");
    let error = train(&tiny(&["train.kimg=0.032"]), dir.path(), Some("latest"), None).unwrap_err();
    assert!(error.to_string().contains("is at 0.072 already"), "{error}");
    assert!(run.join("diverged.txt").is_file());
    train(&tiny(&["train.kimg=0.08"]), dir.path(), Some("latest"), None).unwrap();
    assert!(!run.join("diverged.txt").is_file());
}

#[test]
fn a_damaged_state_is_passed_over_and_a_full_set_of_them_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = tiny(&["train.kimg=1.02", "train.tick_kimg=0.5", "train.keep_states=2"]);
    let (run, _) = train(&config, dir.path(), None, None).unwrap();
    let states = resume_point(dir.path(), "latest").unwrap().states;
    assert_eq!(states.len(), 2, "{states:?}");
    std::fs::write(states[0].join("generator.safetensors"), b"short").unwrap();
    train(&config, dir.path(), Some("latest"), None).unwrap();
    let log = std::fs::read_to_string(run.join("log.txt")).unwrap();
    assert!(log.contains("generator.safetensors") && log.contains("an older state is taken"), "{log}");
    for state in resume_point(dir.path(), run.to_str().unwrap()).unwrap().states {
        std::fs::write(state.join("generator.safetensors"), b"short").unwrap();
    }
    let error = train(&config, dir.path(), Some("latest"), None).unwrap_err();
    assert!(
        matches!(error, Error::Checkpoint { .. }) && error.to_string().contains("training-state"),
        "{error}"
    );
}

#[test]
fn a_run_resumed_from_an_earlier_state_leaves_its_other_future() {
    let dir = tempfile::tempdir().unwrap();
    let length = |kimg: &str| tiny(&["train.tick_kimg=1", "train.batch=100", "train.keep_states=4", kimg]);
    let (run, _) = train(&length("train.kimg=3"), dir.path(), None, None).unwrap();
    let file = |name: &str| run.join(name);
    let weights = std::fs::read(file("network-snapshot-000003.safetensors")).unwrap();
    let earlier = file("training-state-000001");
    train(&length("train.kimg=2"), dir.path(), earlier.to_str(), None).unwrap();
    // The newest is that of 2 kimg; that of 3 is kept under another name.
    let states = resume_point(dir.path(), "latest").unwrap().states;
    assert!(states[0].ends_with("training-state-000002") && states.len() == 2, "{states:?}");
    assert!(!file("network-snapshot-000003.safetensors").exists());
    assert!(std::fs::read(file("abandoned-network-snapshot-000003.safetensors")).unwrap() == weights);
    assert!(file("abandoned-training-state-000003").join("manifest.toml").is_file());
    assert!(std::fs::read_to_string(file("log.txt")).unwrap().contains("abandoned-"));
    // Its pictures would be shown as this one's; to go on from its states would join two pasts.
    assert!(!file("fakes000003.png").exists() && file("abandoned-fakes000003.png").is_file());
    let abandoned = file("abandoned-training-state-000003");
    let error = train(&length("train.kimg=4"), dir.path(), abandoned.to_str(), None).unwrap_err();
    assert!(error.to_string().contains("another future"), "{error}");
}

#[test]
fn a_run_that_was_made_longer_is_no_seed_of_those_that_were_not() {
    let dir = tempfile::tempdir().unwrap();
    let cosine = |kimg: &str| tiny(&["train.schedule.kind=cosine", kimg]);
    let (run, _) = train(&cosine("train.kimg=0.08"), dir.path(), None, None).unwrap();
    let settings = || nestgen::study::run::Run::read(&run).unwrap().settings;
    assert!(!settings().contains_key("length before"));
    train(&cosine("train.kimg=0.16"), dir.path(), Some("latest"), None).unwrap();
    assert_eq!(settings()["length before"], "0.08 kimg");
}

#[test]
fn a_run_among_its_own_images_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let images = super::score_space::images(dir.path(), "images", 4);
    let data = format!("data.path={}", images.display());
    let error = train(&tiny(&[&data]), &images.join("new/runs"), None, None).unwrap_err();
    assert!(error.to_string().contains("lies in the folder of the images"), "{error}");
    assert!(!images.join("new").exists());
}

#[test]
fn held_out_images_are_judged_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Spectral norm's vectors would move if the discriminator were asked as in training.
    let judged = ["data.held_out=8", "discriminator.spectral_norm=true", "train.loss=hinge"];
    let run_with = |image_ticks: &str| {
        let (run, _) = train(&tiny(&[&judged[..], &[image_ticks]].concat()), dir.path(), None, None).unwrap();
        run
    };
    let (run, unasked) = (run_with("train.image_ticks=2"), run_with("train.image_ticks=0"));
    let state = |run: &Path, network: &str| {
        std::fs::read(run.join(format!("training-state-000000/{network}.safetensors"))).unwrap()
    };
    for network in ["generator", "discriminator"] {
        assert!(state(&run, network) == state(&unasked, network), "{network}");
    }
    let (lines, without) = (statistics(&run), statistics(&unasked));
    let told = |line: &&serde_json::Map<String, serde_json::Value>| line.contains_key("Overfitting/share");
    // With the pictures; at the end in any case.
    assert_eq!((lines.iter().filter(told).count(), without.iter().filter(told).count()), (2, 1), "{lines:?}");
    for line in lines.iter().filter(told) {
        let mean = |key: &str| line[key]["mean"].as_f64().unwrap();
        let (seen, held_out, fake) =
            (mean("Overfitting/seen"), mean("Overfitting/held_out"), mean("Overfitting/fake"));
        assert!((mean("Overfitting/share") - (seen - held_out) / (seen - fake)).abs() < 1e-9, "{line:?}");
    }
    let error = train(&tiny(&["data.held_out=32"]), dir.path(), None, None).unwrap_err();
    assert!(error.to_string().contains("data.held_out = 32"), "{error}");
}

#[test]
fn a_timed_run_ends_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let start = std::time::Instant::now();
    let (_, outcome) = train(&tiny(&["train.minutes=0.02"]), dir.path(), None, None).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
    assert!(start.elapsed().as_secs() < 30);
    // A longer one is more of it.
    let (_, outcome) = train(&tiny(&["train.minutes=1000"]), dir.path(), Some("latest"), Some(1)).unwrap();
    assert!(matches!(outcome, Outcome::Interrupted { .. }), "{outcome:?}");
}

/// One step of two images of a preset.
fn step(name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let settings = [
        "train.minutes=0",
        "train.kimg=0.002",
        "train.batch=2",
        "data.path=",
        "data.scenes=4",
        "train.grid=[1,1]",
    ];
    let settings: Vec<_> = settings.iter().map(|text| Override::parse(text).unwrap()).collect();
    let config = load(Source::Preset(name), &settings).unwrap();
    let (run, outcome) = train(&config, dir.path(), None, None).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }), "{name}: {outcome:?}");
    assert_eq!(statistics(&run).len(), 1, "{name}");
}

#[test]
fn the_demo_preset_makes_a_step() {
    step("demo64");
}

#[test]
#[ignore = "a minute and 3 GiB: the presets for GPUs, up to 99 million weights"]
fn every_preset_makes_a_step() {
    PRESETS.iter().for_each(|preset| step(preset.name));
}
