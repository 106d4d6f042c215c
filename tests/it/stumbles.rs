//! Where users stumbled: what cannot end well is refused before any work, and a hint names what its verb really has.

use std::fs;

use nestgen::config::DataConfig;
use nestgen::config::classify::ClassDataConfig;

use super::bad_input::{png, refused, text};
use super::cli::nestgen;
use super::compare::Recorded;
use super::explain::untrained;

/// Runs the binary, which must refuse; what it says.
fn refusal(args: &[&str]) -> String {
    let out = nestgen(args);
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{args:?}: {said}");
    said
}

fn hint(said: &str) -> &str {
    said.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap()
}

/// The smallest set of scenes that trains a classifier.
const FEW_SCENES: [&str; 6] =
    ["--set", "data.scenes=24", "--set", "data.test_scenes=12", "--set", "train.batch=8"];

#[test]
fn arms_that_are_one_experiment_are_refused_before_training() {
    let study = |args: &[&str], says: &[&str]| {
        refused(&[&["study", "accuracy", "--dry-run"], &FEW_SCENES[..], args].concat(), says);
    };
    study(&["--fraction", "1,0.5,1.0"], &["--fraction names 1 twice"]);
    study(&["--arms", "nest-xs,nest-xs:conv_pool"], &["nest-xs and nest-xs-conv_pool", "same experiment"]);
    let dir = tempfile::tempdir().unwrap();
    let preset = dir.path().join("again.toml");
    let config = nestgen::config::load(nestgen::config::Source::Preset("demo64"), &[]).unwrap();
    fs::write(&preset, config.to_toml()).unwrap();
    let arms = format!("nest,{}", text(&preset));
    refused(
        &["study", "convergence", "--dry-run", "--kimg", "1", "--arms", &arms],
        &["nest and again", "same experiment"],
    );
}

#[test]
fn a_study_without_scores_is_refused_before_training() {
    let said = refusal(&["study", "convergence", "--dry-run", "--kimg", "1", "--eval", "0"]);
    assert!(said.contains("nothing to compare"), "{said}");
}

#[test]
fn a_study_of_images_that_are_not_there_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (images, outdir) = (dir.path().join("nosuch"), dir.path().join("study"));
    for study in [&["convergence", "--kimg", "1"], &["accuracy", "--epochs", "1"]] {
        let more = ["--data", text(&images), "--outdir", text(&outdir)];
        refused(&[&["study"], &study[..], &more].concat(), &["nosuch"]);
        assert!(!outdir.exists(), "the corrected command would find another study");
    }
}

#[test]
fn hints_name_what_the_verb_has() {
    let said = refusal(&["study", "accuracy", "--dry-run", "--set", "data.fraction=2"]);
    assert!(hint(&said).contains("`nestgen classify train -n`"), "{said}");
    assert!(nestgen(&[&["classify", "train", "-n"], &FEW_SCENES[..]].concat()).status.success());

    let dir = tempfile::tempdir().unwrap();
    let outdir = dir.path().join("study");
    let large = ["--arms", "nest-xs", "--set", "train.batch=25", "--outdir", text(&outdir)];
    let said = refusal(&[&["study", "accuracy"], &FEW_SCENES[..], &large].concat());
    assert!(hint(&said).contains("--set train.batch="), "{said}");

    // Both verbs that look for the weights, each with what it takes.
    let missing = nestgen_fid::Error::NoWeights { looked: "nowhere".into() }.hint().unwrap();
    for part in ["NESTGEN_INCEPTION", "`nestgen fid` with --weights", "--set eval.features=scenes-v1"] {
        assert!(missing.contains(part), "{missing}");
    }

    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    fs::write(images.join("cut.png"), &png(64)[..100]).unwrap();
    let runs = dir.path().join("runs");
    let said = refusal(&["train", "--kimg", "1", "--data", text(&images), "--outdir", text(&runs)]);
    assert!(hint(&said).contains("`nestgen data pack --skip-bad`"), "{said}");
}

#[test]
fn runs_that_do_not_compare_are_named_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let runs: Vec<_> = (0..6).map(|seed| Recorded::nest(seed as u64).write(dir.path(), seed)).collect();
    let other = Recorded { num_fake: 500, ..Recorded::sagan(0) }.write(dir.path(), 6);
    let said = refusal(&["compare", text(&runs[0]), text(&other)]);
    assert!(said.contains("different protocols") && !hint(&said).contains("nestgen fid"), "{said}");

    fs::remove_file(runs[5].join("metric-kid2k-scenes-v1.jsonl")).unwrap();
    let compared: Vec<&str> = runs.iter().map(|run| text(run)).collect();
    let said = refusal(&[&["compare"], &compared[..]].concat());
    let listed = format!("the runs share no score: `{}` has no scores; ", compared[5]);
    assert!(said.contains(&listed) && said.contains("; and 2 more"), "{said}");
}

#[test]
fn messages_say_what_is_wrong() {
    refused(&["train", "-n", "--set", "eval.images=16"], &["16 images are too few", "needs 100"]);
    refused(&["train", "-n", "--set", "eval.every_kimg=inf"], &["not a finite number"]);
    let dir = tempfile::tempdir().unwrap();
    for verb in [&["train", "--kimg", "1"][..], &["classify", "train"]] {
        let outdir = dir.path().join("runs");
        let more = ["--set", "data.scenes=99999999999", "--outdir", text(&outdir)];
        refused(&[verb, &more].concat(), &["99999999999 scenes", "MiB of the memory budget"]);
    }
    refused(
        &[&["study", "accuracy", "--dry-run", "--arms", "nest-xs,vit-s"], &FEW_SCENES[..]].concat(),
        &["the classifiers match neither"],
    );
}

#[test]
fn classes_of_other_names_are_told_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let (run, images) = (dir.path().join("run"), dir.path().join("images"));
    untrained(&run, "nest-xs", &["beach", "cat"]);
    for class in ["bay", "cat"] {
        fs::create_dir_all(images.join(class)).unwrap();
        (0..4).for_each(|i| fs::write(images.join(class).join(format!("{i}.png")), png(16)).unwrap());
    }
    let out = nestgen(&["classify", "eval", "--run", text(&run), "--data", text(&images)]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success() && said.contains("`beach` is `bay` here"), "{said}");
}

#[test]
fn images_are_called_after_their_folder_however_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("pets.v2");
    fs::create_dir_all(folder.join("cats")).unwrap();
    for (path, name) in [(folder.join("cats/.."), "pets"), (dir.path().join(".hidden"), "hidden")] {
        let path = text(&path).to_owned();
        assert_eq!(DataConfig { path: path.clone(), ..DataConfig::default() }.name(), name);
        assert_eq!(ClassDataConfig { path, ..ClassDataConfig::default() }.name(), name);
    }
    assert!(!DataConfig { path: ".".into(), ..DataConfig::default() }.name().is_empty());
}

#[test]
fn explaining_what_cannot_be_read_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (run, outdir) = (dir.path().join("run"), dir.path().join("explained"));
    untrained(&run, "nest-xs", &["cat", "dog"]);
    let [good, bad, archive] = ["a.png", "b.png", "images.zip"].map(|name| dir.path().join(name));
    fs::write(&good, png(32)).unwrap();
    fs::write(&bad, &png(64)[..100]).unwrap();
    fs::write(&archive, b"PK\x03\x04 and what else an archive holds").unwrap();
    for (images, says) in [(vec![text(&good), text(&bad)], "b.png"), (vec![text(&archive)], "images.zip")] {
        let args = ["--run", text(&run), "--outdir", text(&outdir)];
        refused(&[&["classify", "explain"], &images[..], &args].concat(), &[says]);
        assert!(!outdir.exists(), "half of the figures were left behind");
    }
}
