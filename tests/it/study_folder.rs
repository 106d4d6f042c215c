//! What lies in a study's folder already, and whether it is the study's.

use std::fs;
use std::path::Path;

use super::bad_input::{png, refused, text};
use super::cli::nestgen;
use super::study::arm;

/// A study of one arm and `seeds`, short enough for a moment, with more arguments.
fn arguments<'a>(arm: &'a str, outdir: &'a Path, seeds: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args = ["study", "convergence", "--arms", arm, "--kimg", "0.016", "--eval", "1", "--seeds", seeds];
    [&args[..], &["--outdir", text(outdir)], more].concat()
}

fn images(folder: &Path, count: u32) {
    fs::create_dir_all(folder).unwrap();
    for i in 0..count {
        fs::write(folder.join(format!("{i}.png")), png(32 + i)).unwrap();
    }
}

#[test]
fn a_study_replaces_nothing_of_somebody_else() {
    let dir = tempfile::tempdir().unwrap();
    let arm = arm(dir.path(), "shallow", "[1, 0, 0]", 8);
    let mine = dir.path().join("mine");
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("scores.csv"), "my own\n").unwrap();
    refused(&arguments(&arm, &mine, "1", &[]), &["mine` holds no study, but `scores.csv`"]);
    let set = dir.path().join("set");
    images(&set, 120);
    for outdir in [set.clone(), set.join("inner")] {
        let more = ["--data", text(&set)];
        refused(&arguments(&arm, &outdir, "1", &more), &["lies in the folder of the images"]);
    }
    assert_eq!(fs::read_dir(&set).unwrap().count(), 120);
    assert_eq!(fs::read(mine.join("scores.csv")).unwrap(), b"my own\n");
    assert_eq!(fs::read_dir(&mine).unwrap().count(), 1);
}

#[test]
fn a_study_goes_on_with_its_own_images_alone() {
    let dir = tempfile::tempdir().unwrap();
    let arm = arm(dir.path(), "shallow", "[1, 0, 0]", 8);
    let (set, outdir) = (dir.path().join("set"), dir.path().join("study"));
    images(&set, 120);
    let more = ["--data", text(&set)];
    let succeeds = |seeds| {
        let out = nestgen(&arguments(&arm, &outdir, seeds, &more));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    succeeds("1");
    let first = fs::read(set.join("0.png")).unwrap();
    fs::write(set.join("0.png"), png(31)).unwrap();
    refused(&arguments(&arm, &outdir, "2", &more), &["holds another study", "SHA-256 of its images was"]);
    assert!(!outdir.join("shallow/seed1").exists());
    fs::write(set.join("0.png"), first).unwrap();
    succeeds("2");
}

#[test]
fn arms_are_not_called_as_the_studys_own_files() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["lock", "confirmed", "report.html", ".."] {
        let arm = arm(dir.path(), name, "[1, 0, 0]", 8);
        let outdir = dir.path().join("study");
        refused(&arguments(&arm, &outdir, "1", &["-n"]), &[&format!("an arm cannot be called `{name}`")]);
    }
}

#[test]
fn a_study_whose_every_run_diverged_is_no_success() {
    let dir = tempfile::tempdir().unwrap();
    let arm = arm(dir.path(), "shallow", "[1, 0, 0]", 8);
    let outdir = dir.path().join("study");
    let explode = ["--set", "train.generator.lr=1e30", "--set", "train.discriminator.lr=1e30"];
    refused(&arguments(&arm, &outdir, "1", &explode), &["every run of the study diverged"]);
}
