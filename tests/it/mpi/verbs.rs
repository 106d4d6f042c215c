//! `nestgen classify train`, `fid` and `study` on several ranks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use nestgen::train::classify::{TENSOR_FILES_EMA, training::Position};
use nestgen::train::state::load_as;
use serde_json::Value;

use super::{
    TOLERANCE, alone, ended, finish, has_state, mpirun, nestgen, run_folder, second_rank, signal, wait_until,
};
use crate::bad_input::text;
use crate::score_space::{classifier, images};

fn json(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Rank 1 sees other images than rank 0: what is scored are rank 0's first and rank 1's last ones, so each has made
/// features of its share alone. Every score has the bits of one process.
#[test]
fn features_are_shared_out_and_scores_are_those_of_one_process() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let space = classifier(dir.path(), "space.safetensors");
    let (real, cache) = (images(dir.path(), "real", 150), dir.path().join("cache"));
    let places = ["a", "b"].map(|name| dir.path().join(name));
    places.iter().for_each(|place| fs::create_dir(place).unwrap());
    let [a, b] = places.each_ref().map(|place| images(place, "fake", 160));
    fs::copy(a.join("7.png"), b.join("9.png")).unwrap();
    let args = |more: &[&str]| {
        let metrics =
            ["--metrics", "fid,kid,prdc,fid-infinity", "--floor", "--json", "--features", text(&space)];
        [&["fid", text(&real), "fake"][..], &metrics, more].concat().into_iter().map(str::to_owned).collect()
    };
    let one = |place: &Path, more: &[&str]| {
        let args: Vec<String> = args(more);
        json(&finish({
            let mut command = nestgen(1);
            command.args(args).current_dir(place);
            command
        }))
    };
    let of_two = |places: [&Path; 2], portable: [&str; 2], more: &[&str]| {
        let (args, mut command): (Vec<String>, _) = (args(more), mpirun());
        for (i, (place, portable)) in places.into_iter().zip(portable).enumerate() {
            command.args(if i == 0 { &[][..] } else { &[":"] });
            command.args(["-n", "1", "--wdir", text(place), "env", &format!("NESTGEN_PORTABLE={portable}")]);
            command.arg(env!("CARGO_BIN_EXE_nestgen")).args(&args);
        }
        command
    };
    let two = |places, more: &[&str]| json(&finish(of_two(places, ["0", "0"], more)));
    let [a, b] = places.each_ref().map(PathBuf::as_path);
    let expected = one(a, &[]);
    assert_eq!(two([a, a], &[])["scores"], expected["scores"]);
    // Rank 1 made a share of the features: by other arithmetic their last bits are others.
    let other = json(&finish(of_two([a, a], ["0", "1"], &[])));
    let value = |report: &Value| report["scores"]["frechet"]["value"].as_f64().unwrap();
    assert!(other["scores"] != expected["scores"], "{other}");
    assert!((value(&other) - value(&expected)).abs() < 1e-4 * value(&expected), "{other}");
    let refused = of_two([a, b], ["0", "0"], &[]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("the set of images differs from rank 0's on rank 1"), "{said}");

    // The first rank keeps features, and finds them again.
    let (kept, found) = (two([a, a], &["--cache", text(&cache)]), two([a, a], &["--cache", text(&cache)]));
    let from_cache = |report: &Value| report["fake"]["from_cache"].as_bool();
    assert_eq!((from_cache(&kept), from_cache(&found)), (Some(false), Some(true)));
    assert_eq!((&kept["scores"], &found["scores"]), (&one(a, &[])["scores"], &kept["scores"]));
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 2);
}

#[test]
fn an_image_that_one_rank_cannot_read_is_named_or_listed() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let space = classifier(dir.path(), "space.safetensors");
    let (real, fake) = (images(dir.path(), "real", 70), images(dir.path(), "fake", 130));
    fs::write(fake.join("99.png"), "a text file").unwrap();
    let args = ["fid", text(&real), text(&fake), "--features", text(&space), "--json"];
    let mut command = nestgen(2);
    let refused = command.args(args).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("error: rank 1 of 2: ") && said.contains("99.png"),
        "{said}"
    );
    let skip = |ranks: usize| {
        let mut command = nestgen(ranks);
        command.args(args).arg("--skip-bad");
        json(&finish(command))
    };
    let (one, two) = (skip(1), skip(2));
    assert_eq!((&one["scores"], &one["fake"]), (&two["scores"], &two["fake"]));
    assert_eq!(two["fake"]["skipped"].as_array().unwrap().len(), 1);
}

/// A classifier of every kind of randomness: augmentation, MixUp and CutMix, drop-path. 20 steps an epoch of 12 images.
const CLASSIFIER: &str = "model.patch_size=8 model.dim=16 model.depth=3 model.heads=2 model.drop_path=0.2 \
    data.scenes=240 data.test_scenes=72 train.batch=12 train.ema.halflife_kimg=0.05 train.clip_norm=1 train.eps=0.01 \
    train.base_lr=0.02";

fn classify(ranks: usize, outdir: &Path, args: &[&str]) -> std::process::Command {
    let mut command = nestgen(ranks);
    command.args(["classify", "train"]).args(args).arg("--outdir").arg(outdir);
    command
}

/// All weights of a run's state, one after the other, of each network, and its tests.
fn trained(run: &Path) -> (BTreeMap<&'static str, Vec<f64>>, Vec<[f64; 3]>) {
    let state = load_as::<Position>(&run.join("last"), &TENSOR_FILES_EMA).unwrap();
    let numbers = |tensor: &Tensor| -> Vec<f64> {
        tensor.to_dtype(DType::F64).and_then(|tensor| tensor.flatten_all()?.to_vec1()).unwrap()
    };
    let all = |part: &'static str| {
        let named: BTreeMap<String, Tensor> = state.tensors[part].iter().cloned().collect();
        (part, named.values().flat_map(numbers).collect())
    };
    let summary = fs::read_to_string(run.join("summary.csv")).unwrap();
    let tests = summary.lines().skip(1).map(|line| {
        let columns: Vec<f64> = line.split(',').map(|x| x.parse().unwrap()).collect();
        [columns[2], columns[3], columns[4]]
    });
    (["classifier", "classifier-ema"].into_iter().map(all).collect(), tests.collect())
}

/// Relative distance of two runs' weights, whichever network differs most; their tests are the same.
fn distance(a: &Path, b: &Path) -> f64 {
    let ((a, a_tests), (b, b_tests)) = (trained(a), trained(b));
    assert_eq!(a_tests.len(), b_tests.len());
    for (a, b) in a_tests.iter().zip(&b_tests) {
        assert!((a[0] - b[0]).abs() < TOLERANCE && a[1..] == b[1..], "{a:?} {b:?}");
    }
    let length = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let of = |(a, b): (&Vec<f64>, &Vec<f64>)| {
        assert_eq!(a.len(), b.len());
        length(&mut a.iter().zip(b).map(|(a, b)| a - b)) / length(&mut b.iter().copied())
    };
    a.values().zip(b.values()).map(of).fold(0.0, f64::max)
}

fn classifier_settings() -> Vec<&'static str> {
    let settings = CLASSIFIER.split_whitespace().flat_map(|setting| ["--set", setting]);
    ["--model", "vit-xs", "--res", "32"].into_iter().chain(settings).collect()
}

#[test]
fn ranks_train_the_classifier_that_one_process_trains() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let run = |ranks: usize| {
        let outdir = dir.path().join(ranks.to_string());
        let output =
            finish(classify(ranks, &outdir, &[&["--epochs", "1"], &classifier_settings()[..]].concat()));
        assert_eq!(String::from_utf8_lossy(&output.stdout).matches("done: ").count(), 1);
        run_folder(&outdir)
    };
    let one = run(1);
    let distance = distance(&run(2), &one);
    assert!(distance < TOLERANCE, "{distance:.2e}");

    let odd = classify(4, &dir.path().join("odd"), &classifier_settings()).output().unwrap();
    let said = String::from_utf8_lossy(&odd.stderr);
    assert!(said.contains("12 images cannot be shared out evenly, in pairs, among 4 ranks"), "{said}");
    assert!(!dir.path().join("odd").exists());
}

#[test]
fn a_classifier_of_two_ranks_goes_on_in_one_process() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (one, many) = (dir.path().join("one"), dir.path().join("many"));
    let args =
        [&["--set", "train.epochs=2", "--set", "train.warmup_epochs=0"], &classifier_settings()[..]].concat();
    finish(classify(1, &one, &args));
    // Stopped by a signal to one rank, wherever that is: before the end of the second epoch.
    let mut job = classify(2, &many, &args).spawn().unwrap();
    wait_until(&mut job, || has_state(&many));
    let rank = fs::read_to_string(format!("/proc/{0}/task/{0}/children", job.id())).unwrap();
    signal("-TERM", rank.split_whitespace().next().unwrap().parse().unwrap());
    let output = job.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("saved: "), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let run = run_folder(&many);
    finish(classify(1, &many, &["--resume", run.to_str().unwrap()]));
    let distance = distance(&run, &run_folder(&one));
    assert!(distance < TOLERANCE, "{distance:.2e}");
}

/// Two classifiers that train in a moment, as files of a study's arms.
pub(super) fn arms(dir: &Path) -> String {
    let arm = |name: &str, depth: usize| {
        let text = format!(
            "[model]\nkind = \"vit\"\npatch_size = 8\ndim = 8\ndepth = {depth}\nheads = 2\ngelu = \"erf\"\n\
             resolution = 32\ndrop_path = 0.0\nclasses = 12\n\
             [data]\nscenes = 48\ntest_scenes = 24\nworkers = 0\n[train]\nbatch = 12\n"
        );
        let path = dir.join(format!("{name}.toml"));
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    [arm("flat", 1), arm("deep", 2)].join(",")
}

fn study(ranks: usize, arms: &str, outdir: &Path) -> std::process::Command {
    study_of(ranks, arms, "2", outdir)
}

fn study_of(ranks: usize, arms: &str, epochs: &str, outdir: &Path) -> std::process::Command {
    let mut command = nestgen(ranks);
    command.args(["study", "accuracy", "--arms", arms, "--epochs", epochs, "--seeds", "2", "--allow-unfair"]);
    command.arg("--outdir").arg(outdir);
    command
}

/// A study's scores, without the column of seconds.
fn scores(outdir: &Path) -> Vec<String> {
    let text = fs::read_to_string(outdir.join("scores.csv")).unwrap();
    let columns =
        |line: &str| line.rsplit(',').enumerate().filter(|&(i, _)| i != 4).map(|(_, x)| x.to_owned()).collect();
    text.lines().map(columns).map(|columns: Vec<String>| columns.join(",")).collect()
}

#[test]
fn the_runs_of_a_study_are_dealt_over_ranks() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (arms, [one, two]) = (arms(dir.path()), ["one", "two"].map(|name| dir.path().join(name)));
    finish(study(1, &arms, &one));
    let output = finish(study(2, &arms, &two));
    assert_eq!(scores(&two), scores(&one));
    assert!(two.join("report.html").is_file());
    // One rank speaks, and it trained half of the runs.
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((said.matches("flat, seed").count(), said.matches("deep, seed").count()), (1, 1), "{said}");
}

#[test]
fn a_run_that_fails_is_named_and_the_others_are_trained() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (arms, outdir) = (arms(dir.path()), dir.path().join("study"));
    // The second run, which is rank 1's, has a state to go on from that holds nothing.
    fs::create_dir_all(outdir.join("deep/seed0/00000-x-y/training-state-000001")).unwrap();
    let output = study(2, &arms, &outdir).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("error: rank 1 of 2: deep, seed 0: "), "{said}");
    // By this line Slurm's script asks for another job, which would meet the same.
    assert!(!String::from_utf8_lossy(&output.stdout).contains("stopped; the same command goes on"));
    for run in ["flat/seed0", "deep/seed1"] {
        assert!(outdir.join(run).join("outcome.json").is_file(), "{run}: {said}");
    }
    let page = fs::read_to_string(outdir.join("report.html")).unwrap();
    assert!(page.contains("2 runs of the study are still to be trained"));
    // Without the obstacle the same command goes on.
    fs::remove_dir_all(outdir.join("deep/seed0")).unwrap();
    finish(study(2, &arms, &outdir));
    assert!(
        outdir.join("deep/seed0/outcome.json").is_file() && outdir.join("flat/seed1/outcome.json").is_file()
    );
}

/// No sum of theirs would notice: each trains alone. Who is done waits for the other to say that it is at work.
#[test]
fn a_rank_that_hangs_ends_the_study_with_its_name_and_what_the_others_trained() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (arms, outdir) = (arms(dir.path()), dir.path().join("study"));
    let mut job = study_of(2, &arms, "20", &outdir).args(["--rank-timeout", "1"]).spawn().unwrap();
    let (victim, rest) = second_rank(&mut job);
    // The second run is rank 1's first.
    wait_until(&mut job, || outdir.join("deep/seed0").exists());
    signal("-STOP", victim);
    let status = ended(&mut job);
    let said = rest.join().unwrap();
    let expected = "error: rank 0 of 2: no answer within 12 s from rank 1 (";
    assert!(!status.success() && said.contains(expected), "{said}");
    let is_trained = |run: &str| outdir.join(run).join("outcome.json").is_file();
    assert_eq!(
        ["flat/seed0", "deep/seed1", "deep/seed0", "flat/seed1"].map(is_trained),
        [true, true, false, false]
    );
    // The same command goes on in one process.
    finish(study_of(1, &arms, "20", &outdir));
    assert!(is_trained("deep/seed0") && is_trained("flat/seed1") && outdir.join("report.html").is_file());
}
