//! How a classifier's run begins: where it stopped, with another length, or with the weights of another one.

use std::fs;
use std::path::{Path, PathBuf};

use nestgen::study::run::Run;
use nestgen::train::classify::training::Outcome;

use super::bad_input::{refused, text};
use super::classify::{tiny, train};
use super::classify_data::class_folders;
use super::cli::nestgen;

fn log(run: &Path) -> String {
    fs::read_to_string(run.join("log.txt")).unwrap()
}

/// The learning rate of every epoch's last step.
fn rates(run: &Path) -> Vec<f64> {
    let summary = fs::read_to_string(run.join("summary.csv")).unwrap();
    summary.lines().skip(1).map(|line| line.split(',').nth(5).unwrap().parse().unwrap()).collect()
}

const OVER: &str = "nothing is trained without more --epochs";

#[test]
fn a_run_is_made_longer_with_the_rates_of_its_new_length() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two, three] =
        ["train.epochs=1", "train.epochs=2", "train.epochs=3"].map(|epochs| tiny(&[epochs]));
    let (run, _) = train(&two, dir.path(), None, None).unwrap();
    assert!(!Run::read(&run).unwrap().settings.contains_key("length before"));
    // As long as it is, it says so and ends as before; shorter, it would have to forget.
    let (_, outcome) = train(&two, dir.path(), Some("latest"), None).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
    assert!(log(&run).contains(OVER) && rates(&run).len() == 2, "{}", log(&run));
    let error = train(&one, dir.path(), Some("latest"), None).unwrap_err();
    assert!(
        error.to_string().contains("a length of 1 epoch, but") && error.to_string().contains("is at 2 already")
    );
    assert!(error.hint().unwrap().contains("--epochs"));
    let said = log(&run).len();
    train(&three, dir.path(), Some("latest"), None).unwrap();
    let said = log(&run).split_off(said);
    assert!(said.contains("its length was 2 epochs and is 3 epochs now") && !said.contains(OVER), "{said}");
    // Steps of 20 of 72 images: the last ones of the epochs begin after 60, 140 and 200.
    let expected = [two.train.lr(60.0 / 72.0), two.train.lr(140.0 / 72.0), three.train.lr(200.0 / 72.0)];
    assert_eq!(rates(&run), expected);
    assert_eq!(Run::read(&run).unwrap().settings["length before"], "2 epochs");
}

#[test]
fn a_stopped_run_may_end_sooner_and_constant_rates_make_no_other_arm() {
    let dir = tempfile::tempdir().unwrap();
    let of = |epochs: &str| tiny(&[epochs, "train.min_lr=2.5e-4"]);
    let (run, outcome) = train(&of("train.epochs=3"), dir.path(), None, Some(2)).unwrap();
    assert!(matches!(outcome, Outcome::Interrupted { .. }), "{outcome:?}");
    train(&of("train.epochs=1"), dir.path(), Some("latest"), None).unwrap();
    assert_eq!(rates(&run).len(), 1);
    assert!(!Run::read(&run).unwrap().settings.contains_key("length before"));
}

/// Runs `classify train` with a tiny network; what it says.
fn classify(args: &[&str]) -> String {
    let out = nestgen(&[&["classify", "train"], args].concat());
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success(), "{args:?}: {said}");
    said
}

/// The run folder with this number.
fn run_of(outdir: &Path, number: &str) -> PathBuf {
    let mut runs = fs::read_dir(outdir).unwrap().map(|entry| entry.unwrap().path());
    runs.find(|run| run.file_name().unwrap().to_str().unwrap().starts_with(number)).unwrap()
}

fn setting(run: &Path, key: &str) -> String {
    Run::read(run).unwrap().settings[key].clone()
}

/// The smallest network, three images a step.
const SMALL: [&str; 8] = [
    "--set",
    "model.dims=[8,8,8]",
    "--set",
    "model.depths=[1,1,1]",
    "--set",
    "model.heads=[2,2,2]",
    "--batch",
    "3",
];

#[test]
fn going_on_keeps_the_warm_up_and_the_images() {
    let dir = tempfile::tempdir().unwrap();
    let [set, other, runs] = ["set", "other", "runs"].map(|name| dir.path().join(name));
    class_folders(&set, &["cat", "dog"], 0, 4);
    class_folders(&other, &["cat", "dog", "eel"], 0, 4);
    let outdir = ["--outdir", text(&runs)];
    let begun = ["--data", text(&set), "--epochs", "2", "--set", "train.warmup_epochs=0.25"];
    classify(&[&begun[..], &SMALL, &outdir].concat());
    let run = run_of(&runs, "00000");
    let resume = ["--resume", text(&run)];
    assert!(classify(&[&resume[..], &["--epochs", "2"]].concat()).contains(OVER));
    let said = classify(&[&resume[..], &["--epochs", "6"]].concat());
    assert!(said.contains("its length was 2 epochs and is 6 epochs now"), "{said}");
    assert_eq!(["train.epochs", "train.warmup_epochs"].map(|key| setting(&run, key)), ["6", "0.25"]);
    let resumed = |more: &[&str], says: &[&str]| {
        refused(&[&["classify", "train"], &resume[..], more].concat(), says);
    };
    resumed(&["--epochs", "3"], &["a length of 3 epochs", "is at 6 already"]);
    // Also where the numbers of classes differ.
    resumed(&["--data", text(&other)], &["began with other images"]);
    resumed(&["--base-lr", "1"], &["train.base_lr"]);
}
