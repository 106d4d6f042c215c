//! How a classifier's run begins: where it stopped, with another length, or with the weights of another one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use nestgen::config::classify::{ClassifyRunConfig, Weights, model_preset};
use nestgen::data::synthetic::class_names;
use nestgen::models::Classifier;
use nestgen::rng::Rng;
use nestgen::study::run::Run;
use nestgen::train::classify::training::Outcome;
use nestgen::train::tensors::{self, Metadata};

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
    let (last, kept) = (run.join("last"), dir.path().join("kept"));
    fs::create_dir(&kept).unwrap();
    let copy = |from: &Path, to: &Path| {
        for file in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
            fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
        }
    };
    copy(&last, &kept);
    train(&three, dir.path(), Some("latest"), None).unwrap();
    let said = log(&run).split_off(said);
    // As after an attempt that died before it had saved anything: it is made longer once.
    copy(&kept, &last);
    train(&three, dir.path(), Some("latest"), None).unwrap();
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
    assert!(
        !Run::read(&run).unwrap().settings.contains_key("length before")
            && !log(&run).contains("its length was")
    );
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

type Values = BTreeMap<String, Vec<f32>>;

/// The tensors of a file, by name.
fn values(file: &Path) -> Values {
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    tensors.iter().map(|(name, tensor)| (name.clone(), numbers(tensor))).collect()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn of_classifier(classifier: &Classifier) -> Values {
    classifier.params().tensors().iter().map(|(name, tensor)| (name.clone(), numbers(tensor))).collect()
}

/// The initial weights of a run's configuration.
fn initial(config: &ClassifyRunConfig) -> Classifier {
    let rng = Rng::new(config.train.seed).split("init").split("classifier");
    Classifier::new(&config.model, &rng, DType::F32, &Device::Cpu).unwrap()
}

/// A rate at which nothing moves.
const STILL: &str = "1e-30";

/// What differs by more than an average's rounding.
fn apart(a: &Values, b: &Values) -> Vec<String> {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    let moved = |a: &[f32], b: &[f32]| a.len() != b.len() || a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-6);
    a.iter().filter(|(name, a)| moved(a, &b[*name])).map(|(name, _)| name.clone()).collect()
}

#[test]
fn a_new_run_begins_with_the_averaged_weights_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set");
    class_folders(&set, &["cat", "dog", "eel"], 0, 4);
    for (ema, file, other) in [("0.004", "classifier-ema", Some("classifier")), ("0", "classifier", None)] {
        let runs = dir.path().join(ema);
        let place = ["--outdir", text(&runs)];
        let fast = ["--epochs", "2", "--base-lr", "0.5", "--ema", ema, "--data", text(&set)];
        classify(&[&SMALL[..], &place, &fast].concat());
        let parent = run_of(&runs, "00000");
        let theirs = values(&parent.join(format!("last/{file}.safetensors")));
        if let Some(other) = other {
            assert!(apart(&theirs, &values(&parent.join(format!("last/{other}.safetensors")))).len() > 20);
        }
        // Its settings, images and classes too: what is asked for is the rate alone.
        let said = classify(&[&place[..], &["--transfer", "latest", "--base-lr", STILL]].concat());
        assert!(said.contains("last; the head is theirs: the same 3 classes"), "{said}");
        let child = run_of(&runs, "00001");
        assert!(log(&child).starts_with("weights of "), "{}", log(&child));
        assert_eq!(["train.epochs", "train.batch"].map(|key| setting(&child, key)), ["2", "3"]);
        for file in [file].iter().chain(&other) {
            let ours = values(&child.join(format!("last/{file}.safetensors")));
            assert_eq!(apart(&ours, &theirs), Vec::<String>::new(), "{file}");
        }
        // No seed of runs that began with random weights, or with those of another one.
        let begun_with = setting(&child, "initial weights");
        assert!(begun_with.contains("00000-set-nest_xs/last ("), "{begun_with}");
        assert!(!Run::read(&parent).unwrap().settings.contains_key("initial weights"));
        // Nor of runs that began with what lay there before.
        classify(&[&place[..], &["--resume", text(&parent), "--epochs", "3"]].concat());
        classify(&[&place[..], &["--transfer", text(&parent), "--base-lr", STILL]].concat());
        assert_ne!(setting(&run_of(&runs, "00002"), "initial weights"), begun_with);
    }
}

#[test]
fn the_head_begins_anew_for_other_classes() {
    let dir = tempfile::tempdir().unwrap();
    let [set, other, runs] = ["set", "other", "runs"].map(|name| dir.path().join(name));
    class_folders(&set, &["cat", "dog", "eel"], 0, 4);
    let begun = ["--outdir", text(&runs), "--data", text(&set), "--epochs", "1", "--base-lr", "0.5"];
    classify(&[&begun[..], &SMALL].concat());
    let last = run_of(&runs, "00000").join("last");
    let theirs = values(&last.join("classifier.safetensors"));
    for (number, classes, says) in [
        ("00001", &["ant", "cat"][..], "the head begins anew: 3 classes there, 2 here"),
        ("00002", &["ant", "cat", "dog"], "the head begins anew: no class there is called `ant`"),
    ] {
        let images = other.join(number);
        class_folders(&images, classes, 0, 4);
        let child = ["--outdir", text(&runs), "--data", text(&images), "--base-lr", STILL, "--seed", "7"];
        let said = classify(&[&child[..], &["--transfer", text(&last)]].concat());
        assert!(said.contains(says), "{said}");
        let run = run_of(&runs, number);
        let ours = values(&run.join("last/classifier.safetensors"));
        let own = initial(&ClassifyRunConfig::read(&run.join("config.toml"), &[]).unwrap());
        assert_eq!(apart(&ours, &theirs), HEAD_BY_NAME, "{classes:?}");
        let own = of_classifier(&own);
        assert!(HEAD_BY_NAME.iter().all(|name| !apart(&ours, &own).contains(&(*name).to_owned())));
    }
}

/// The head's tensors in the order of their names.
const HEAD_BY_NAME: [&str; 2] = ["head.bias", "head.weight"];

#[test]
fn rows_of_the_head_go_with_their_classes() {
    let dir = tempfile::tempdir().unwrap();
    let (run, _) = train(&tiny(&["train.epochs=1", "train.base_lr=0.05"]), dir.path(), None, None).unwrap();
    let own = initial(&tiny(&["train.seed=3"]));
    let names = class_names();
    let given = |place: &str, names: &[String]| {
        let classifier = initial(&tiny(&["train.seed=3"]));
        let said = Weights::read(&run.join(place)).unwrap().give(&classifier, names).unwrap();
        (of_classifier(&classifier), said)
    };
    let (theirs, _) = given("last", &names);
    assert!(apart(&theirs, &of_classifier(&own)).len() > 20);
    // The only test was the best one: its file has the same averaged weights, in timm's layout.
    assert_eq!(apart(&given("model_best.safetensors", &names).0, &theirs), Vec::<String>::new());
    let mut turned = names.clone();
    turned.rotate_left(5);
    for place in ["last", "model_best.safetensors"] {
        let (ours, said) = given(place, &turned);
        assert!(said.ends_with("go by the classes' names, which have another order here"), "{said}");
        assert_eq!(apart(&ours, &theirs), HEAD_BY_NAME);
        for name in HEAD_BY_NAME {
            let mut expected = theirs[name].clone();
            let turn = 5 * expected.len() / 12;
            expected.rotate_left(turn);
            assert_eq!(ours[name], expected, "{name}");
        }
    }
}

#[test]
fn weights_of_timm_are_given_to_the_model_they_are_said_to_be_of() {
    let dir = tempfile::tempdir().unwrap();
    let [set, runs, file] = ["set", "runs", "nest.safetensors"].map(|name| dir.path().join(name));
    class_folders(&set, &["cat", "dog"], 0, 4);
    let timm = ClassifyRunConfig::of_model(model_preset("nest-xs", 32, 5).unwrap());
    let bytes = fs::File::create(&file).unwrap();
    let tensors = initial(&timm).timm_tensors().unwrap();
    tensors::write(&mut &bytes, &Metadata::new(), &tensors).unwrap();
    let begun = ["--transfer", text(&file), "--data", text(&set), "--outdir", text(&runs)];
    let short = ["--epochs", "1", "--batch", "3", "--base-lr", STILL, "--seed", "1"];
    let args = [&begun[..], &short].concat();
    refused(
        &[&["classify", "train"], &args[..]].concat(),
        &["nest.safetensors", "does not say which classifier"],
    );
    assert!(!runs.exists(), "a run folder was left behind");
    let said = classify(&[&args[..], &["--model", "nest-xs"]].concat());
    assert!(said.contains("the head begins anew: they do not name their classes"), "{said}");
    let run = run_of(&runs, "00000");
    let ours = values(&run.join("last/classifier.safetensors"));
    assert_eq!(apart(&ours, &of_classifier(&initial(&timm))), HEAD_BY_NAME);
    // As timm's networks see images.
    assert_eq!(
        ClassifyRunConfig::read(&run.join("config.toml"), &[]).unwrap().data.mean,
        [0.485, 0.456, 0.406]
    );
}

#[test]
fn weights_that_do_not_fit_are_refused_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let [set, runs, generator, new] = ["set", "runs", "generator", "new"].map(|name| dir.path().join(name));
    class_folders(&set, &["cat", "dog"], 0, 4);
    classify(&[&["--outdir", text(&runs), "--data", text(&set), "--epochs", "1"], &SMALL[..]].concat());
    let run = run_of(&runs, "00000");
    let transfer = |what: &Path, more: &[&str], says: &[&str]| {
        let args = ["classify", "train", "--transfer", text(what), "--outdir", text(&new)];
        refused(&[&args[..], more].concat(), says);
        assert!(!new.exists(), "a run folder was left behind");
    };
    let deeper = ["--set", "model.depths=[2,1,1]"];
    transfer(&run, &deeper, &["last/classifier.safetensors", "levels.0.transformer_encoder.1"]);
    let best = run.join("model_best.safetensors");
    transfer(&best, &deeper, &["model_best.safetensors", "levels.0.transformer_encoder.1"]);
    transfer(&run, &["--res", "64"], &["--res 64", "a classifier for 32 px"]);
    transfer(
        &run,
        &["--model", "vit-xs", "--data", text(&set), "--batch", "3"],
        &["last/classifier.safetensors"],
    );
    transfer(&dir.path().join("nowhere.safetensors"), &[], &["nowhere.safetensors"]);
    transfer(&set, &[], &["no training state"]);
    let both = nestgen(&["classify", "train", "--transfer", text(&run), "--resume", text(&run)]);
    assert_eq!(both.status.code(), Some(1));
    // Of the other kind, each says which verb takes it.
    let snapshot = dir.path().join("network-snapshot-000001.safetensors");
    let metadata = Metadata::from([("format".into(), "nestgen generator 1".into())]);
    let mut bytes = Vec::new();
    tensors::write(&mut bytes, &metadata, &[("a".to_owned(), Tensor::new(&[1f32], &Device::Cpu).unwrap())])
        .unwrap();
    fs::write(&snapshot, bytes).unwrap();
    transfer(&snapshot, &["--model", "nest-xs"], &["is a generator's snapshot"]);
    fs::create_dir_all(generator.join("training-state-000001")).unwrap();
    transfer(&generator, &[], &["is the run of a generator"]);
    let kept = dir.path().join("kept");
    fs::rename(run.join("last"), &kept).unwrap();
    let out = nestgen(&["train", "--transfer", text(&kept), "--outdir", text(&new)]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(
        said.contains("is the run of a classifier") && said.contains("`nestgen classify train --transfer`"),
        "{said}"
    );
    // A state that was kept elsewhere is one.
    let child = ["--transfer", text(&kept), "--outdir", text(&new), "--base-lr", STILL];
    assert!(classify(&child).contains("kept; the head is theirs"));
}
