//! Classifiers from end to end: repeatable, resumable to the bit, able to learn, and clear about bad input.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nestgen::config::Override;
use nestgen::config::classify::{ClassifyRunConfig, Launch, Start, launch, model_preset, read_trained};
use nestgen::error::Error;
use nestgen::ranks::Ranks;
use nestgen::train::classify::training::{Event, Outcome};
use nestgen::train::resume_point::resume_point;
use nestgen::train::stats::repeatable;

use super::bad_input::{png, refused, text};
use super::cli::nestgen;

/// A few thousand weights, 20 images a step, 3 steps an epoch with a remainder, every augmentation on.
const TINY: [&str; 12] = [
    "model.dims=[8,8,8]",
    "model.depths=[1,1,1]",
    "model.heads=[2,2,2]",
    "model.drop_path=0.2",
    "data.scenes=72",
    "data.test_scenes=24",
    "train.epochs=3",
    "train.batch=20",
    "train.warmup_epochs=0.5",
    "train.clip_norm=1",
    "train.ema.halflife_kimg=0.05",
    "train.augment.erase_probability=0.5",
];

pub(crate) fn tiny(more: &[&str]) -> ClassifyRunConfig {
    let settings: Vec<_> = TINY.iter().chain(more).map(|text| Override::parse(text).unwrap()).collect();
    ClassifyRunConfig::of_model(model_preset("nest-xs", 32, 12).unwrap()).with("tiny", &settings).unwrap()
}

/// Trains; `stop_after` steps, if given, it is asked to stop.
pub(crate) fn train(
    config: &ClassifyRunConfig,
    outdir: &Path,
    resume: Option<&str>,
    stop_after: Option<usize>,
) -> Result<(PathBuf, Outcome), Error> {
    let stop = AtomicBool::new(false);
    let mut steps = 0;
    launch(Launch {
        config,
        data: &config.data.open(config.model.resolution(), &|_, _| true)?,
        device: &candle_core::Device::Cpu,
        outdir,
        name: "tiny",
        ranks: &Ranks::alone(),
        start: resume.map_or(Ok(Start::New), |what| resume_point(outdir, what).map(Start::Resume))?,
        stop: &stop,
        on_start: &mut |_| {},
        on_event: &mut |event| {
            steps += usize::from(matches!(event, Event::Progress(_)));
            stop.store(stop_after.is_some_and(|after| steps >= after), Ordering::Relaxed);
        },
    })
}

/// Everything a run wrote that the clock has no say in.
fn result(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |name: &str| fs::read_to_string(run.join(name)).unwrap();
    let lines = |name: &str| {
        let parse = |line: &str| {
            let mut line: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
            line.retain(|key, _| repeatable(key));
            serde_json::Value::Object(line).to_string()
        };
        read(name).lines().map(parse).collect::<Vec<_>>().join("\n").into_bytes()
    };
    let summary = read("summary.csv");
    let columns = summary.lines().map(|line| line.split(',').take(6).collect::<Vec<_>>().join(","));
    let mut files = BTreeMap::from([
        ("summary.csv".to_owned(), columns.collect::<Vec<_>>().join("\n").into_bytes()),
        ("stats.jsonl".to_owned(), lines("stats.jsonl")),
        ("metric-top1.jsonl".to_owned(), lines("metric-top1.jsonl")),
        ("metric-top5.jsonl".to_owned(), lines("metric-top5.jsonl")),
    ]);
    for name in ["model_best", "last/classifier", "last/classifier-ema", "last/adam"] {
        let path = run.join(format!("{name}.safetensors"));
        if path.is_file() {
            files.insert(name.to_owned(), fs::read(path).unwrap());
        }
    }
    files
}

fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (result(a), result(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in a {
        assert!(bytes == b[&name], "{name} differs");
    }
}

#[test]
fn a_run_depends_on_its_seed_and_not_on_its_workers() {
    let dir = tempfile::tempdir().unwrap();
    let (alone, _) = train(&tiny(&["data.workers=0"]), dir.path(), None, None).unwrap();
    let (helped, _) = train(&tiny(&["data.workers=3"]), dir.path(), None, None).unwrap();
    let (mut a, mut b) = (result(&alone), result(&helped));
    // The model holds the configuration, which says how many workers there were.
    let weights = |files: &mut BTreeMap<String, Vec<u8>>| files.remove("model_best").unwrap();
    assert_eq!(weights(&mut a).len(), weights(&mut b).len());
    assert!(a == b, "workers changed the run");
    let picture = |run: &Path| image::open(run.join("first_batch.png")).unwrap().into_rgb8();
    assert!(picture(&alone).width() > 32 && picture(&alone) == picture(&helped));
    assert_eq!(a["summary.csv"].split(|&byte| byte == b'\n').count(), 1 + 3);
    let (other, _) = train(&tiny(&["train.seed=1"]), dir.path(), None, None).unwrap();
    assert_ne!(a["stats.jsonl"], result(&other)["stats.jsonl"]);
}

#[test]
fn resumed_equals_uninterrupted_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    for more in [&[][..], &["train.ema.halflife_kimg=0", "train.lr_per=epoch", "train.eval_epochs=2"]] {
        let config = tiny(more);
        let (whole, _) = train(&config, dir.path(), None, None).unwrap();
        // In the middle of an epoch, and again where one ends.
        let (run, outcome) = train(&config, dir.path(), None, Some(2)).unwrap();
        assert!(matches!(outcome, Outcome::Interrupted { .. }), "{outcome:?}");
        let (_, outcome) = train(&config, dir.path(), run.to_str(), Some(6)).unwrap();
        assert!(matches!(outcome, Outcome::Interrupted { .. }), "{outcome:?}");
        let (resumed, outcome) = train(&config, dir.path(), Some("latest"), None).unwrap();
        assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
        assert_eq!(resumed, run);
        assert_same(&whole, &resumed);
    }
    let error = train(&tiny(&["train.base_lr=1"]), dir.path(), Some("latest"), None).unwrap_err();
    assert!(error.to_string().contains("train.base_lr"), "{error}");
}

#[test]
fn it_learns_and_what_it_saved_says_the_same() {
    const CHANCE: f64 = 100.0 / 12.0;
    let dir = tempfile::tempdir().unwrap();
    let plain = ["train.mix.probability=0", "train.augment.rand_layers=0", "train.augment.erase_probability=0"];
    let more = [
        "data.scenes=480",
        "data.test_scenes=120",
        "train.epochs=6",
        "train.base_lr=0.02",
        "model.dims=[16,16,16]",
    ];
    let config = tiny(&[&plain[..], &more].concat());
    let (run, _) = train(&config, dir.path(), None, None).unwrap();
    let summary = fs::read_to_string(run.join("summary.csv")).unwrap();
    let top1 = |line: &str| line.split(',').nth(3).unwrap().parse::<f64>().unwrap();
    let scores: Vec<f64> = summary.lines().skip(1).map(top1).collect();
    let best = scores.iter().copied().fold(0.0, f64::max);
    assert!(best > 3.0 * CHANCE, "{scores:?}");
    // What studies read.
    for (metric, column) in [("top1", 3), ("top5", 4)] {
        let told = fs::read_to_string(run.join(format!("metric-{metric}.jsonl"))).unwrap();
        let value = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["results"][metric].as_f64().unwrap()
        };
        let in_summary =
            summary.lines().skip(1).map(|line| line.split(',').nth(column).unwrap().parse().unwrap());
        assert_eq!(told.lines().map(value).collect::<Vec<f64>>(), in_summary.collect::<Vec<f64>>(), "{metric}");
    }

    let out = nestgen(&["classify", "eval", "--run", text(&run), "--json"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["top1"].as_f64(), Some(best));
    let trained = read_trained(&run.join("model_best.safetensors")).unwrap();
    assert_eq!(trained.class_names[0], "balloon");
    assert_eq!(trained.config, config);
}

#[test]
fn numbers_that_are_not_finite_end_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let error = train(&tiny(&["train.base_lr=1e30"]), dir.path(), None, None).unwrap_err();
    assert!(matches!(error, Error::NonFinite { .. }), "{error}");
}

/// A folder of two classes with `count` images each.
fn class_folders(root: &Path, classes: &[&str], count: usize) {
    for class in classes {
        fs::create_dir_all(root.join(class)).unwrap();
        for i in 0..count {
            fs::write(root.join(class).join(format!("{i}.png")), png(16)).unwrap();
        }
    }
}

#[test]
fn images_that_cannot_train_a_classifier() {
    let dir = tempfile::tempdir().unwrap();
    let data = |name: &str| dir.path().join(name);
    let refused_data = |path: &Path, says: &[&str]| {
        let outdir = data("runs");
        refused(&["classify", "train", "--data", text(path), "--outdir", text(&outdir)], says);
        assert!(!outdir.exists(), "a run folder was left behind");
    };
    refused_data(&data("nowhere"), &["nowhere"]);
    class_folders(&data("one"), &["cat"], 3);
    refused_data(&data("one"), &["one", "cannot train or test a classifier"]);
    fs::create_dir(data("flat")).unwrap();
    fs::write(data("flat").join("a.png"), png(16)).unwrap();
    refused_data(&data("flat"), &["flat", "no classes"]);
    class_folders(&data("empty"), &["cat", "dog"], 3);
    fs::create_dir(data("empty").join("fish")).unwrap();
    refused_data(&data("empty"), &["fish", "is empty"]);
    class_folders(&data("few"), &["cat", "dog"], 1);
    refused_data(&data("few"), &["`cat`", "too few"]);
    class_folders(&data("splits/train"), &["cat", "dog"], 3);
    class_folders(&data("splits/test"), &["cat", "horse"], 3);
    refused_data(&data("splits"), &["`dog`", "`horse`"]);
    class_folders(&data("small"), &["cat", "dog"], 4);
    refused_data(&data("small"), &["train.batch", "6 images of an epoch"]);
}

#[test]
fn warm_up_takes_a_sixth_of_the_epochs_that_are_asked_for() {
    let warm_up = |more: &[&str]| {
        let out = nestgen(&[&["classify", "train", "-n"], more].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let said = String::from_utf8(out.stdout).unwrap();
        said.lines().find(|line| line.starts_with("warmup_epochs")).unwrap().to_owned()
    };
    for (more, expected) in [
        (&["--epochs", "12"][..], "2.0"),
        (&["--epochs", "3"], "0.5"),
        (&["--epochs", "60"], "5.0"),
        (&["--epochs", "12", "--set", "train.warmup_epochs=1.0"], "1.0"),
    ] {
        assert_eq!(warm_up(more), format!("warmup_epochs = {expected}"), "{more:?}");
    }
}

#[test]
fn networks_that_do_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    refused(&["classify", "train", "--model", "nest-q", "-n"], &["nest-q"]);
    refused(&["classify", "train", "--model", "nest-t:max", "-n"], &["max"]);
    refused(&["classify", "train", "--model", "vit-t:pool", "-n"], &["vit-t:pool"]);
    refused(&["classify", "train", "--res", "48", "-n"], &["48"]);
    refused(&["classify", "train", "--set", "model.patch_size=64", "-n"], &["patch_size", "32 px"]);
    refused(&["classify", "train", "--set", "train.mixx.switch=1", "-n"], &["mixx"]);
    refused(&["classify", "train", "--resume", "latest", "--outdir", text(dir.path())], &["no run in"]);
    refused(&["classify", "eval", "--runs", text(dir.path())], &["model_best.safetensors"]);

    let runs = dir.path().join("runs");
    let settings = ["train.epochs=1", "train.mix.probability=0"];
    let (run, _) = train(&tiny(&settings), &runs, None, None).unwrap();
    let model = run.join("model_best.safetensors");
    let eval = |more: &[&str], says: &[&str]| {
        refused(&[&["classify", "eval", "--network", text(&model)], more].concat(), says);
    };
    eval(&["--model", "nest-t"], &["model_best.safetensors", "levels.0"]);
    class_folders(&dir.path().join("two"), &["cat", "dog"], 20);
    eval(&["--data", text(&dir.path().join("two"))], &["12 classes", "have 2"]);
    // Not that the number of classes differs: that follows from it.
    let two = dir.path().join("two");
    let resume = ["classify", "train", "--resume", text(&run), "--data", text(&two)];
    refused(&resume, &["began with other images"]);
    let cut = dir.path().join("cut.safetensors");
    let bytes = fs::read(&model).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    refused(&["classify", "eval", "--network", text(&cut)], &["cut.safetensors"]);
    fs::write(run.join("last/classifier.safetensors"), b"short").unwrap();
    refused(&["classify", "train", "--resume", text(&run)], &["last", "checksum"]);
}
