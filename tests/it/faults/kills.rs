//! `kill -9` at random moments while packing, sampling and scoring: under a final name there is nothing or all of it.
//! Training has `kill.rs`.

use nestgen::rng::Rng;
use nestgen_images::{ImageSet, OpenOptions};

use super::*;

const KILLS: usize = 8;

/// Starts `command` [`KILLS`] times and kills it after up to `millis`; looks at what is left each time.
fn killed(millis: f64, command: impl Fn() -> Command, whole: impl Fn()) {
    let mut delays = Rng::new(11);
    for _ in 0..KILLS {
        let mut child = command().spawn().unwrap();
        std::thread::sleep(Duration::from_millis((delays.uniform() * millis) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        whole();
    }
}

#[test]
fn a_pack_is_whole_or_absent() {
    let dir = tempfile::tempdir().unwrap();
    let (set, target) = (dir.path().join("set"), dir.path().join("set.h5"));
    images(&set, 150);
    let pack = || {
        let mut command = binary();
        command.args(["data", "pack", "--force", "--res", "128"]).arg(&set).arg(&target);
        command
    };
    killed(300.0, pack, || {
        if target.exists() {
            let pack = ImageSet::open(&target, &OpenOptions::default()).unwrap();
            assert_eq!(pack.len(), 150);
            pack.digest().unwrap();
        }
    });
    succeeded(&pack().output().unwrap());
    assert_eq!(ImageSet::open(&target, &OpenOptions::default()).unwrap().len(), 150);
}

#[test]
fn every_sample_is_whole_or_absent() {
    let dir = tempfile::tempdir().unwrap();
    let (runs, drawn) = (dir.path().join("runs"), dir.path().join("drawn"));
    succeeded(&tiny_training(&runs, "0.016").output().unwrap());
    let sample = || {
        let mut command = binary();
        command.args(["sample", "-n", "300", "--runs"]).arg(&runs).arg("--outdir").arg(&drawn);
        command
    };
    let finished = || names(&drawn).into_iter().filter(|name| !name.starts_with('.')).collect::<Vec<_>>();
    killed(300.0, sample, || {
        if drawn.exists() {
            finished().iter().for_each(|name| drop(image::open(drawn.join(name)).unwrap()));
        }
    });
    succeeded(&sample().output().unwrap());
    assert_eq!(finished().len(), 300);
}

#[test]
fn samples_in_one_file_are_whole_or_absent() {
    let dir = tempfile::tempdir().unwrap();
    let (runs, folder) = (dir.path().join("runs"), dir.path().join("drawn"));
    succeeded(&tiny_training(&runs, "0.016").output().unwrap());
    std::fs::create_dir(&folder).unwrap();
    let drawn = folder.join("drawn.npz");
    let sample = || {
        let mut command = binary();
        command.args(["sample", "-n", "300", "--runs"]).arg(&runs).arg("--npz").arg(&drawn);
        command
    };
    killed(300.0, sample, || {
        if drawn.exists() {
            assert_eq!(ImageSet::open(&drawn, &OpenOptions::default()).unwrap().len(), 300);
            std::fs::remove_file(&drawn).unwrap();
        }
    });
    // What the killed ones have left is swept.
    succeeded(&sample().output().unwrap());
    assert_eq!(names(&folder), ["drawn.npz"]);
}

#[test]
fn statistics_and_caches_are_whole_or_absent() {
    let dir = tempfile::tempdir().unwrap();
    let (set, other, stats) = (dir.path().join("set"), dir.path().join("other"), dir.path().join("set.npz"));
    images(&set, 6);
    images(&other, 9);
    let score = |cache: &str| {
        let mut command = binary();
        command.arg("fid").args([&set, &other]).args(["--features", "random-v1", "--json", "--cache"]);
        command.arg(dir.path().join(cache)).arg("--save-stats").arg(&stats);
        command
    };
    killed(
        3000.0,
        || score("cache"),
        || {
            if stats.exists() {
                nestgen_fid::npz::read(&stats).unwrap();
            }
        },
    );
    let scores = |cache: &str| {
        let output = score(cache).output().unwrap();
        succeeded(&output);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report["scores"].clone()
    };
    assert_eq!(scores("cache"), scores("new"), "the cache was read half written");
    nestgen_fid::npz::read(&stats).unwrap();
}
