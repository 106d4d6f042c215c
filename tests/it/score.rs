//! Scores of a run: those that `nestgen score` adds to its snapshots are those that training takes, and what was scored
//! otherwise steps aside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nestgen::config::{RunConfig, generator_of};
use nestgen::data::ImageData;
use nestgen::rng::Rng;
use nestgen::sample::read_snapshot;
use nestgen::score_space::extractor;
use nestgen::train::fakes::{generate, latents};
use nestgen::train::grid::to_byte;
use nestgen_fid::frechet::{Spectrum, frechet_distance};
use nestgen_fid::kid::kid;
use nestgen_fid::{Resize, Tap};
use serde_json::Value;

use super::bad_input::{refused, text};
use super::cli::nestgen;
use super::outputs::broken_pipe;
use super::score_space::{classifier, images, seeded_classifier};
use super::train::{tiny, train};

/// Snapshots at 1 and 2 kimg, scored in `features` every `every_kimg`.
fn two_snapshots(features: &Path, every_kimg: usize, more: &[&str]) -> RunConfig {
    let own = [
        "data.scenes=150".to_owned(),
        "train.batch=100".into(),
        "train.kimg=2".into(),
        "train.tick_kimg=1".into(),
        "eval.images=100".into(),
        format!("eval.every_kimg={every_kimg}"),
        format!("eval.features={}", text(features)),
    ];
    let own: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
    tiny(&own)
}

/// The lines of a metric's file without their time stamps.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let parsed = text.lines().map(|line| serde_json::from_str(line).unwrap());
    parsed
        .map(|mut line: Value| line.as_object_mut().unwrap().remove("timestamp").map(|_| line).unwrap())
        .collect()
}

fn said(args: &[&str]) -> String {
    let out = nestgen(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn metric_files(run: &Path, start: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path());
    let is_one = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(start);
    let mut found: Vec<PathBuf> = entries.filter(is_one).collect();
    found.sort();
    found
}

#[test]
fn snapshots_get_the_scores_that_training_takes() {
    let dir = tempfile::tempdir().unwrap();
    let (space, other) = (classifier(dir.path(), "a.safetensors"), classifier(dir.path(), "b.safetensors"));
    let (run, _) = train(&two_snapshots(&space, 1, &[]), dir.path(), None, None).unwrap();
    let files = metric_files(&run, "metric-");
    assert_eq!(files.len(), 2);
    let taken: Vec<Vec<Value>> = files.iter().map(|path| lines(path)).collect();
    assert!(taken.iter().all(|lines| lines.len() == 2), "{taken:?}");
    let space_name = taken[0][0]["features"].as_str().unwrap();
    assert!(space_name.starts_with("FD-a, resize its own, sha256 "), "{space_name}");
    // Without any scores, then without one, then with all.
    fs::remove_file(&files[0]).unwrap();
    fs::remove_file(&files[1]).unwrap();
    assert!(said(&["score", text(&run)]).contains("snapshots scored: 2 (kid100-a, fd100-a)"));
    let again = || -> Vec<Vec<Value>> { files.iter().map(|path| lines(path)).collect() };
    assert_eq!(again(), taken);
    let whole = fs::read_to_string(&files[0]).unwrap();
    fs::write(&files[0], whole.lines().nth(1).unwrap().to_owned() + "\n").unwrap();
    assert!(said(&["score", text(&run)]).contains("snapshots scored: 1, 1 had these scores"));
    assert_eq!(again(), taken);
    assert!(said(&["score", text(&run)]).contains("snapshots scored: 0, 2 had these scores"));
    assert_eq!(again(), taken);
    // Nobody reads what it says, as of `nestgen score RUN | head -1`.
    fs::write(&files[1], "").unwrap();
    let mut unread = Command::new(env!("CARGO_BIN_EXE_nestgen"));
    let status =
        unread.args(["score", text(&run)]).stdout(broken_pipe()).stderr(broken_pipe()).status().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(again(), taken);
    // Other features and numbers are other scores, beside these.
    said(&["score", text(&run), "--features", text(&other), "--images", "120"]);
    assert_eq!(again(), taken);
    assert_eq!(metric_files(&run, "metric-").len(), 4);
    // Other features under the same name are not: the scores of before step aside.
    let folder = dir.path().join("elsewhere");
    fs::create_dir(&folder).unwrap();
    let same_name = seeded_classifier(&folder, "a.safetensors", 2);
    let out = nestgen(&["score", text(&run), "--features", text(&same_name)]);
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && told.contains("they cannot be compared"), "{told}");
    assert_eq!(metric_files(&run, "older-metric-").iter().map(|path| lines(path)).collect::<Vec<_>>(), taken);
    assert!(again().iter().zip(&taken).all(|(new, old)| new.len() == 2 && new != old));
}

/// What a script is told, and what is left to do: of five runs one is scored when the signal comes.
#[test]
#[cfg(unix)]
fn a_signal_ends_it_and_the_same_command_goes_on() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let space = classifier(dir.path(), "a.safetensors");
    let (run, _) = train(&two_snapshots(&space, 0, &[]), &dir.path().join("one"), None, None).unwrap();
    let copy = |i: usize| {
        let to = dir.path().join(format!("run{i:02}"));
        fs::create_dir(&to).unwrap();
        for name in
            ["config.toml", "network-snapshot-000001.safetensors", "network-snapshot-000002.safetensors"]
        {
            fs::copy(run.join(name), to.join(name)).unwrap();
        }
        to
    };
    let runs: Vec<PathBuf> = (0..5).map(copy).collect();
    let args: Vec<&str> = ["score"].into_iter().chain(runs.iter().map(|run| text(run))).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nestgen"));
    let mut child = command.args(&args).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    assert!(told.any(|line| line.starts_with("score ")), "no score");
    super::faults::signal(&child, "INT");
    let rest: Vec<String> = told.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.last().unwrap().ends_with("the same command goes on"), "{rest:?}");
    let scored = |run: &PathBuf| metric_files(run, "metric-").iter().any(|path| lines(path).len() == 2);
    assert!(!scored(&runs[4]));
    said(&args);
    assert!(runs.iter().all(scored));
}

#[test]
fn runs_scored_together_have_the_scores_that_each_has_alone() {
    let dir = tempfile::tempdir().unwrap();
    let space = classifier(dir.path(), "a.safetensors");
    let larger = [
        "eval.images=120",
        "model.resolution=64",
        "model.dims=[16,8,8,8]",
        "model.depths=[1,0,0,0]",
        "discriminator.resolution=64",
        "discriminator.channels=[4,8,8,8,8]",
    ];
    let trained = |more: &[&str]| {
        let short = [&["train.kimg=1"], more].concat();
        train(&two_snapshots(&space, 0, &short), dir.path(), None, None).unwrap().0
    };
    // Beside the run before it, one has other images and one another size.
    let runs = [trained(&[]), trained(&["eval.images=120"]), trained(&larger)];
    let scores = || -> Vec<Vec<Value>> {
        let files = runs.iter().flat_map(|run| metric_files(run, "metric-"));
        files.map(|path| (lines(&path), fs::remove_file(path).unwrap()).0).collect()
    };
    let paths = runs.each_ref().map(|run| text(run));
    paths.iter().for_each(|run| drop(said(&["score", run])));
    let alone = scores();
    said(&[&["score"], &paths[..]].concat());
    assert_eq!(alone.len(), 6);
    assert_eq!(scores(), alone);
}

#[test]
fn what_cannot_be_scored() {
    let dir = tempfile::tempdir().unwrap();
    let space = classifier(dir.path(), "a.safetensors");
    let scenes = images(dir.path(), "scenes", 32);
    let (run, _) = train(&two_snapshots(&space, 0, &[]), dir.path(), None, None).unwrap();
    refused(&["score", text(dir.path())], &["is not a run folder"]);
    let trained = dir.path().join("classifier");
    fs::create_dir(&trained).unwrap();
    for file in ["config.toml", "summary.csv"] {
        fs::write(trained.join(file), "").unwrap();
    }
    refused(&["score", text(&trained)], &["is the run of a classifier"]);
    refused(&["score", text(&run), "--data", text(&scenes)], &["began with other images"]);
    refused(&["score", text(&run), "--images", "20"], &["too few for a score"]);
    refused(&["score", text(&run), "--features", "none.safetensors"], &["none.safetensors"]);
    let cut = run.join("network-snapshot-000001.safetensors");
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    refused(&["score", text(&run)], &["network-snapshot-000001.safetensors"]);
    fs::remove_file(&cut).unwrap();
    assert!(metric_files(&run, "metric-").is_empty());
    // The first run is not begun where the second is none.
    refused(&["score", text(&run), text(&scenes)], &["is not a run folder"]);
    assert!(metric_files(&run, "metric-").is_empty());
    fs::remove_file(run.join("network-snapshot-000002.safetensors")).unwrap();
    refused(&["score", text(&run)], &["no network-snapshot-"]);
}

#[test]
fn a_resumed_run_keeps_one_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let space = classifier(dir.path(), "a.safetensors");
    let longer = ["train.kimg=3"];
    let (run, _) = train(&two_snapshots(&space, 1, &[]), dir.path(), None, None).unwrap();
    let files = metric_files(&run, "metric-");
    let older = fs::read_to_string(&files[0]).unwrap().replace("at random", "every second");
    fs::write(&files[0], &older).unwrap();
    let (again, _) = train(&two_snapshots(&space, 1, &longer), dir.path(), Some("latest"), None).unwrap();
    assert_eq!(again, run);
    let aside = metric_files(&run, "older-metric-");
    assert_eq!(aside.len(), 1);
    assert_eq!(fs::read_to_string(&aside[0]).unwrap(), older);
    assert_eq!((lines(&files[0]).len(), lines(&files[1]).len()), (1, 3));
    assert!(fs::read_to_string(run.join("log.txt")).unwrap().contains("they cannot be compared"));
    // Another network under the same name.
    seeded_classifier(dir.path(), "a.safetensors", 2);
    train(&two_snapshots(&space, 1, &["train.kimg=4"]), dir.path(), Some("latest"), None).unwrap();
    assert_eq!(metric_files(&run, "older").len(), 3);
    assert_eq!((lines(&files[0]).len(), lines(&files[1]).len()), (1, 1));
}

#[test]
fn the_best_is_the_best_of_one_feature_space() {
    let dir = tempfile::tempdir().unwrap();
    let (space, other) = (classifier(dir.path(), "a.safetensors"), classifier(dir.path(), "b.safetensors"));
    let (run, _) = train(&two_snapshots(&space, 1, &[]), dir.path(), None, None).unwrap();
    let best = || {
        let snapshot = nestgen::sample::read_snapshot(&run.join("network-snapshot-best.safetensors")).unwrap();
        snapshot.metadata["best"].clone()
    };
    assert!(best().starts_with("kid100-a ") && best().contains(", best of "), "{}", best());
    train(&two_snapshots(&other, 1, &["train.kimg=3"]), dir.path(), Some("latest"), None).unwrap();
    assert!(best().starts_with("kid100-b ") && best().ends_with("at 3.000 kimg, best of 1"), "{}", best());
}

#[test]
fn the_best_of_another_future_steps_aside() {
    let dir = tempfile::tempdir().unwrap();
    let space = classifier(dir.path(), "a.safetensors");
    let kept = ["train.kimg=3", "train.keep_states=4"];
    let (run, _) = train(&two_snapshots(&space, 1, &kept), dir.path(), None, None).unwrap();
    let bytes = |name: &str| fs::read(run.join(name)).unwrap();
    // The last one, whichever was the best.
    let of_3 = bytes("network-snapshot-000003.safetensors");
    fs::write(run.join("network-snapshot-best.safetensors"), &of_3).unwrap();
    let earlier = run.join("training-state-000001");
    train(&two_snapshots(&space, 0, &[]), dir.path(), Some(text(&earlier)), None).unwrap();
    assert!(bytes("abandoned-network-snapshot-best.safetensors") == of_3);
    assert!(bytes("network-snapshot-best.safetensors") == bytes("network-snapshot-000001.safetensors"));
}

/// The score of an untrained network, by the protocol of training: `nestgen-fid` must be reachable from the loop, the
/// files written, the best snapshot kept.
#[test]
fn scores_are_written_and_the_best_snapshot_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let scored = ["data.scenes=100", "eval.every_kimg=0.04", "eval.images=100", "eval.features=scenes-v1"];
    let (run, _) = train(&tiny(&scored), dir.path(), None, None).unwrap();
    let names: Vec<String> =
        std::fs::read_dir(&run).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let metrics: Vec<&String> = names.iter().filter(|name| name.starts_with("metric-")).collect();
    assert_eq!(metrics.len(), 2, "{names:?}");
    for name in metrics {
        let text = std::fs::read_to_string(run.join(name)).unwrap();
        // One after 40 images, one at the end.
        assert_eq!(text.lines().count(), 2, "{name}");
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert!(line["features"].as_str().unwrap().contains("sha256") && line["num_fake"] == 100, "{line}");
    }
    let best = nestgen::sample::read_snapshot(&run.join("network-snapshot-best.safetensors")).unwrap();
    assert!(best.metadata["best"].contains("best of"), "{:?}", best.metadata);
}

/// KID and the Frechet distance of a run's end beside those of features that are made here: a hundred scenes drawn at random against the images of a hundred
/// latents.
#[test]
fn a_score_is_that_of_the_averaged_generators_images() {
    let dir = tempfile::tempdir().unwrap();
    let scored = ["data.scenes=150", "eval.images=100", "eval.every_kimg=1", "eval.features=scenes-v1"];
    let (run, _) = train(&tiny(&scored), dir.path(), None, None).unwrap();
    let path = run.join("network-snapshot-000000.safetensors");
    let generator = generator_of(&path, read_snapshot(&path).unwrap()).unwrap();
    let numbers: Vec<u64> = (0..100).collect();
    let z = latents(&Rng::new(0).split("z-score"), &numbers, generator.z_dim()).unwrap();
    let images = generate(&generator, z.value(), 7).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let fake: Vec<u8> = images.into_iter().map(to_byte).collect();
    let data = ImageData::synthetic(0, 150, 32, &|_, _| true).unwrap();
    let mut chosen: Vec<usize> = (0..150).collect();
    Rng::new(0).split("score-reals").shuffle(&mut chosen);
    chosen.truncate(100);
    let mut real = vec![0; 100 * 32 * 32 * 3];
    for (&index, image) in chosen.iter().zip(real.chunks_exact_mut(32 * 32 * 3)) {
        data.read(index, image).unwrap();
    }
    let space = extractor("scenes-v1", None, &candle_core::Device::Cpu).unwrap();
    let features = |pixels: &[u8]| {
        space.extract_pixels(Tap::D2048, Resize::default(), pixels, 32, 32, &|_, _| {}).unwrap()
    };
    let (real, fake) = (features(&real), features(&fake));
    let spectrum = |side| Spectrum::new(side, "side").unwrap();
    let frechet = frechet_distance(&spectrum(&real), &spectrum(&fake)).unwrap();
    for (name, expected) in
        [("kid100-scenes-v1", kid(&real, &fake).unwrap()), ("fd100-scenes-v1", frechet.into())]
    {
        let text = std::fs::read_to_string(run.join(format!("metric-{name}.jsonl"))).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let value = line["results"][name].as_f64().unwrap();
        assert!((value / expected.value - 1.0).abs() < 1e-6, "{name}: {value} {expected:?}");
        let error = line["standard_error"].as_f64().unwrap();
        assert!((error / expected.standard_error.unwrap() - 1.0).abs() < 1e-6, "{name}: {error} {expected:?}");
    }
}
