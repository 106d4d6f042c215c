//! Where users stumbled: what cannot end well is refused before any work, and a hint names what its verb really has.

use std::fs;

use nestgen::config::DataConfig;
use nestgen::config::classify::ClassDataConfig;

use super::bad_input::{png, refused, text, tiny_run};
use super::cli::nestgen;
use super::compare::Recorded;
use super::explain::untrained;

/// Runs the binary, which must refuse; what it says.
pub(crate) fn refusal(args: &[&str]) -> String {
    let out = nestgen(args);
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{args:?}: {said}");
    said
}

pub(crate) fn hint(said: &str) -> &str {
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
fn settings_of_the_baseline_are_not_those_of_the_network_it_is_as_large_as() {
    let said = refusal(&["train", "-n", "--arch", "sagan", "--set", "model.width=32"]);
    assert!(hint(&said).contains("settings of the NesT that the baseline is as large as"), "{said}");
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

#[test]
fn a_folder_for_a_file_and_a_file_for_a_folder_name_the_other_flag() {
    let dir = tempfile::tempdir().unwrap();
    let (run, outdir) = (dir.path().join("run"), dir.path().join("out"));
    untrained(&run, "nest-xs", &["cat", "dog"]);
    let file = run.join("model_best.safetensors");
    let sample = ["sample", "-n", "1", "--outdir", text(&outdir)];
    for verb in [&sample[..], &["interpolate"], &["classify", "eval"]] {
        let said = refusal(&[verb, &["--network", text(&run)]].concat());
        assert!(
            said.contains("is a folder") && hint(&said).ends_with(&format!("--run {}", text(&run))),
            "{said}"
        );
        let said = refusal(&[verb, &["--run", text(&file)]].concat());
        assert!(
            said.contains("is a file") && hint(&said).ends_with(&format!("--network {}", text(&file))),
            "{said}"
        );
    }
    // Runs that are none, or of the other kind.
    let said = refusal(&[&sample[..], &["--run", text(&dir.path().join("nosuch"))]].concat());
    assert!(said.contains("there is no folder"), "{said}");
    fs::create_dir_all(dir.path().join("runs/00003-scenes-x")).unwrap();
    let runs = dir.path().join("runs");
    let said = refusal(&[&sample[..], &["--run", text(&runs)]].concat());
    assert!(said.contains("holds runs") && hint(&said).contains("--runs "), "{said}");
    refused(&[&sample[..], &["--run", text(&run)]].concat(), &["is the run of a classifier"]);
    fs::remove_file(&file).unwrap();
    fs::write(run.join("network-snapshot-000001.safetensors"), "").unwrap();
    refused(&["classify", "eval", "--run", text(&run)], &["is the run of a generator"]);
    for verb in ["score", "compare"] {
        refused(&[verb, text(&dir.path().join("nosuch"))], &["nosuch` is not there"]);
    }
    assert!(!outdir.exists());
}

#[test]
fn what_pytorch_saved_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("stylegan3-t-ffhq-1024x1024.pkl");
    fs::write(&file, b"\x80\x03}q\x00(X\x04\x00\x00\x00G_emaq\x01").unwrap();
    for verb in [&["sample", "-n", "1"][..], &["interpolate"], &["classify", "eval"]] {
        let said = refusal(&[verb, &["--network", text(&file)]].concat());
        assert!(said.contains("Python pickle") && hint(&said).contains("only .safetensors are read"), "{said}");
    }
}

#[test]
fn what_timm_leaves_out_is_refused_where_our_file_tells_it() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    untrained(&run, "nest-xs", &["cat", "dog"]);
    for flag in [["--res", "64"], ["--num-classes", "3"], ["--mean", "0,0,0"], ["--std", "1,1,1"]] {
        let said = refusal(&[&["classify", "eval", "--run", text(&run)], &flag[..]].concat());
        assert!(said.starts_with(&format!("error: {}: a classifier of ours", flag[0])), "{said}");
        assert!(hint(&said).contains("--model NAME"), "{said}");
    }
}

#[test]
fn values_and_arms_that_are_named_twice() {
    let study = ["study", "convergence", "-n", "--kimg", "1"];
    let said = refusal(&[&study[..], &["--tune", "train.generator.lr=1e-4,2e-4,1e-4"]].concat());
    assert!(said.contains("it names 1e-4 twice"), "{said}");
    let said = refusal(&[&study[..], &["--arms", "nest,sagan,nest"]].concat());
    assert!(said.contains("two arms are named nest") && hint(&said) == "name each arm once", "{said}");
    // Not what follows from a length that is none.
    for kimg in ["nan", "-1", "0"] {
        refused(&["study", "convergence", "-n", "--kimg", kimg], &["`train.kimg`"]);
    }
}

#[test]
fn a_dash_is_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let run = Recorded::nest(0).write(dir.path(), 0);
    for flag in ["--csv", "--markdown", "--figure", "--report"] {
        let said = refusal(&["compare", text(&run), flag, "-"]);
        assert!(said.contains("name a file"), "{said}");
    }
    for verb in [&["interpolate", "--out", "-"][..], &["data", "pack", text(&run), "-"]] {
        assert!(refusal(verb).contains("name a file"), "{verb:?}");
    }
    assert!(!std::path::Path::new("-").exists());
    // Nor are images or settings replaced by a slip of the hand.
    let before = fs::read(run.join("config.toml")).unwrap();
    for (flag, ending) in
        [("--csv", ".csv"), ("--markdown", ".md"), ("--figure", ".svg"), ("--report", ".html")]
    {
        let said = refusal(&["compare", text(&run), flag, text(&run.join("config.toml"))]);
        assert!(said.contains(&format!("name a file ending in {ending}")), "{said}");
    }
    assert_eq!(fs::read(run.join("config.toml")).unwrap(), before);
    // A file where a folder is needed has a hint here as well.
    let file = run.join("stats.jsonl").join("scores.csv");
    refused(&["compare", text(&run), "--csv", text(&file)], &["cannot create"]);
}

#[test]
fn numbers_that_are_none_are_told_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sagan.toml");
    fs::write(&path, nestgen(&["train", "-n", "--arch", "sagan"]).stdout).unwrap();
    let sagan = text(&path);
    for (args, says) in [
        (&["train", "-n", "--kimg", "-1"][..], "`train.kimg`: -1 is not"),
        (&["train", "-n", "--seed", "-1"], "`train.seed`: `-1` is not a whole number, 0 or more"),
        (&["train", "-n", "--batch", "-1"], "'-1' for '--batch <BATCH>': not a whole number, 0 or more"),
        (&["train", "-n", "--res", "64.5"], "not a whole number"),
        (&["train", "-n", "--kimg", "many"], "'many' for '--kimg <KIMG>': not a number"),
        (&["train", "-n", "--set", "train.batch=abc"], "`train.batch`: `abc` is not a whole number, 0 or more"),
        (&["train", "-n", "--set", "data.mirror=yes"], "`data.mirror`: `yes` is not true or false"),
        (&["train", "-n", "--set", "eval=[3.0]"], "`eval`: it is a group of settings"),
        (&["train", "-n", "--set", "train.loss=foo"], "`foo` is none of hinge, non_saturating, relativistic"),
        (&["train", "-n", "--set", "train.loss=3"], "`3` is none of hinge, non_saturating, relativistic"),
        (&["train", "-n", "--set", "train.loss=[1]"], "`train.loss`: it is not one of the names"),
        (&["train", "-n", "--set", "train.d_steps=9999999"], "`train.d_steps`: 9999999 steps"),
        (
            &["train", "-n", "--set", "eval.images=99999999999"],
            "`eval.images`: 99999999999 are more than 10000000",
        ),
        (&["train", "-n", "--match", "flops"], "--arch"),
        (&["train", "-n", "--arch", "nest", "--match", "flops"], "--match is for --arch sagan"),
        (&["train", "-n", "--config", sagan, "--arch", "sagan", "--match", "flops"], "is a SAGAN already"),
        (&["fid", "a", "b", "--kid-subsets", "1000000000000x2"], "a COUNT up to 1000000"),
        (&["sample", "-n", "-1"], "'-1' for '--n <N>'"),
        (&["sample", "-n", "1", "--trunc", "-1"], "--trunc -1.0 keeps less"),
        (&["sample", "--seeds", "-5"], "`-5` is not a list of seeds"),
        (&["sample", "-n", "1", "--batch", "0"], "0 is not in 1.."),
    ] {
        let said = refusal(args);
        assert!(said.contains(says), "{args:?}: {said}");
    }
    let said = refusal(&["train", "-n", "--set", "train.lr=1e-4"]);
    assert_eq!(hint(&said), "did you mean `train.discriminator.lr` or `train.generator.lr`?");
}

#[test]
fn a_setting_that_is_tuned_is_not_set() {
    let tune = ["study", "convergence", "-n", "--kimg", "1", "--tune", "train.generator.lr=1e-4,2e-4"];
    refused(&[&tune[..], &["--set", "train.generator.lr=3e-4"]].concat(), &["--tune gives this setting"]);
}

/// Its pictures are grids of many images.
#[test]
fn a_folder_of_runs_is_no_set_of_images() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (runs, outdir) = (dir.path().join("studies/one"), other.path().join("runs"));
    tiny_run(&runs.join("nest/seed0"), &[]);
    for path in [&runs, &dir.path().join("studies")] {
        let says = [&*format!("`{}` holds runs", path.display()), "grids"];
        refused(&["train", "--kimg", "1", "--data", text(path), "--outdir", text(&outdir)], &says);
        refused(&["fid", text(path), text(path), "--features", "random-v1"], &says);
    }
}

#[test]
fn files_of_another_kind_are_called_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let classifier = nestgen(&["classify", "train", "-n"]);
    fs::write(file("classifier.toml"), classifier.stdout).unwrap();
    refused(
        &["train", "-n", "--config", text(&file("classifier.toml"))],
        &["is the configuration of a classifier"],
    );
    let generator = nestgen(&["train", "-n"]);
    fs::write(file("generator.toml"), generator.stdout).unwrap();
    let generator = file("generator.toml");
    let args = ["classify", "train", "-n", "--config", text(&generator)];
    refused(&args, &["is the configuration of a generator"]);
    refused(&["train", "-n", "--config", text(dir.path())], &["cannot read"]);
    fs::write(file("binary.toml"), [0xff, 0xfe, 0, 1]).unwrap();
    refused(&["train", "-n", "--config", text(&file("binary.toml"))], &["cannot read"]);

    let run = Recorded::nest(0).write(dir.path(), 0);
    Recorded::nest(0).draw(&run);
    for verb in
        [&["fid", text(&run), text(&run), "--features", "scenes-v1"][..], &["train", "--data", text(&run)]]
    {
        let said = refusal(verb);
        assert!(said.contains("is a run folder") && hint(&said).contains("nestgen sample"), "{said}");
    }
    let images = file("images");
    fs::create_dir(&images).unwrap();
    (0..3).for_each(|i| fs::write(images.join(format!("{i}.png")), png(16 + i)).unwrap());
    let said = refusal(&["fid", text(&images), text(&images), "--features", "scenes"]);
    assert!(said.contains("no feature space `scenes`") && hint(&said).contains("scenes-v1"), "{said}");
    let pack = file("nosuch").join("pack.h5");
    refused(&["data", "pack", text(&images), text(&pack)], &["lies in no folder that is there"]);
}

#[test]
fn figures_do_not_lie_among_the_images_that_they_explain() {
    let dir = tempfile::tempdir().unwrap();
    let (run, images) = (dir.path().join("run"), dir.path().join("images"));
    untrained(&run, "nest-xs", &["cat", "dog"]);
    fs::create_dir(&images).unwrap();
    fs::write(images.join("a.png"), png(32)).unwrap();
    for outdir in [images.clone(), images.join("explained")] {
        let args = ["classify", "explain", text(&images), "--run", text(&run), "--outdir", text(&outdir)];
        refused(&args, &["lies in the folder of the images"]);
    }
    let one = images.join("a.png");
    refused(
        &["classify", "explain", text(&one), "--run", text(&run), "--outdir", text(&images)],
        &["lies in the folder of the images"],
    );
    assert_eq!(fs::read_dir(&images).unwrap().count(), 1);
}
