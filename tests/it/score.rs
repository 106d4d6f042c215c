//! Scores of a run: those that `nestgen score` adds to its snapshots are those that training takes, and what was scored
//! otherwise steps aside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nestgen::config::RunConfig;
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
