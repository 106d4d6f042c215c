//! Which images a classifier is trained on, tested on while it trains, and tested on when it is finished: never one for another.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use nestgen::config::classify::{model_preset, read_timm};
use nestgen::models::Classifier;
use nestgen::nn::Builder;
use nestgen::train::tensors;

use super::bad_input::{png, refused, text};
use super::cli::nestgen;

/// `count` images of each class from number `first` on, no two alike.
pub(crate) fn class_folders(root: &Path, classes: &[&str], first: usize, count: usize) {
    for (label, class) in classes.iter().enumerate() {
        fs::create_dir_all(root.join(class)).unwrap();
        for i in first..first + count {
            let pixel = |x: u32, y: u32| image::Rgb([x as u8 * 9, (y as usize + i) as u8, label as u8 * 90]);
            image::RgbImage::from_fn(16, 16, pixel).save(root.join(class).join(format!("{i}.png"))).unwrap();
        }
    }
}

/// Trains a tiny network on `data`; gives its run folder and what it said.
fn train(data: &Path, outdir: &Path, more: &[&str]) -> (PathBuf, String) {
    let shape = ["model.dims=[8,8,8]", "model.depths=[1,1,1]", "model.heads=[2,2,2]"];
    let shape = shape.iter().flat_map(|setting| ["--set", setting]);
    let mut args = vec!["classify", "train", "--data", text(data), "--outdir", text(outdir)];
    args.extend(["--epochs", "1", "--batch", "4"]);
    args.extend(shape.chain(more.iter().copied()));
    let out = nestgen(&args);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success(), "{said}");
    (fs::read_dir(outdir).unwrap().next().unwrap().unwrap().path(), said)
}

/// The line of `eval` that says what was tested.
fn tested(run: &Path, more: &[&str]) -> String {
    let out = nestgen(&[&["classify", "eval", "--run", text(run)], more].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let said = String::from_utf8(out.stdout).unwrap();
    said.lines().find(|line| line.starts_with("images")).unwrap().split(',').next().unwrap().to_owned()
}

#[test]
fn held_out_images_stay_those_of_training() {
    let dir = tempfile::tempdir().unwrap();
    let (set, other) = (dir.path().join("set"), dir.path().join("other"));
    class_folders(&set, &["cat", "dog"], 0, 20);
    class_folders(&other, &["cat", "dog"], 50, 5);
    let (run, _) = train(&set, &dir.path().join("runs"), &["--set", "data.hold_out=0.2"]);
    assert!(tested(&run, &[]).contains("images  8 of "));
    // Wherever they lie now; other images are all tested on.
    let moved = dir.path().join("moved");
    fs::rename(&set, &moved).unwrap();
    assert!(tested(&run, &["--data", text(&moved)]).contains("images  8 of "));
    assert!(tested(&run, &["--data", text(&other)]).contains("images  10 of "));
    fs::rename(&moved, &set).unwrap();
    // One more draws other images to hold out: some of these were trained on.
    class_folders(&set, &["cat"], 30, 1);
    refused(
        &["classify", "eval", "--run", text(&run)],
        &["set", "other images than the classifier was trained on"],
    );
    assert!(tested(&run, &["--split", "all"]).contains("images  41 of "));
    // A pack of what was trained on holds those that were held out as well, in no order that can be told.
    fs::remove_dir_all(&set).unwrap();
    class_folders(&set, &["cat", "dog"], 0, 20);
    let pack = dir.path().join("set.h5");
    let out = nestgen(&["data", "pack", text(&set), text(&pack), "--res", "32"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let on_pack = ["classify", "eval", "--run", text(&run), "--data", text(&pack)];
    refused(
        &on_pack,
        &["set.h5", "images that the classifier was trained on, and which of them were held out"],
    );
    assert!(tested(&run, &["--data", text(&pack), "--split", "all"]).contains("images  40 of "));
    // A class without an image has no share.
    let one = dir.path().join("one.h5");
    let out = nestgen(&["data", "pack", text(&set), text(&one), "--res", "32", "--max-images", "1"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let out = nestgen(&[
        "classify",
        "eval",
        "--run",
        text(&run),
        "--data",
        text(&one),
        "--split",
        "all",
        "--per-class",
    ]);
    let said = String::from_utf8(out.stdout).unwrap();
    assert_eq!(said.matches("no image").count(), 1, "{said}");
    // The other way round.
    let (from_pack, _) = train(&pack, &dir.path().join("packed"), &[]);
    assert!(tested(&from_pack, &[]).contains("images  4 of "));
    refused(
        &["classify", "eval", "--run", text(&from_pack), "--data", text(&set)],
        &["which of them were held out"],
    );
    class_folders(&set, &["cat"], 30, 1);
    // A file of before this was recorded: what was held out if nothing has changed, and a word of doubt.
    let model = run.join("model_best.safetensors");
    let (mut metadata, weights) = tensors::read(&model).unwrap();
    assert!(metadata.remove("data_digest").is_some());
    tensors::write(&mut fs::File::create(&model).unwrap(), &metadata, &weights).unwrap();
    for (data, count) in [(&set, 8), (&other, 10)] {
        assert!(tested(&run, &["--data", text(data)]).contains(&format!("images  {count} of ")));
        let out = nestgen(&["classify", "eval", "--run", text(&run), "--data", text(data)]);
        assert!(String::from_utf8_lossy(&out.stderr).contains("does not say which images it was trained on"));
    }
}

#[test]
fn choices_are_made_on_the_validation_split_and_tested_on_the_test_split() {
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set");
    for (split, first, count) in [("train", 0, 8), ("val", 20, 3), ("test", 30, 2)] {
        class_folders(&set.join(split), &["cat", "dog"], first, count);
    }
    // What else lies there is neither a split nor a class.
    class_folders(&set.join("extra"), &["cat", "dog"], 40, 1);
    let (run, said) = train(&set, &dir.path().join("runs"), &[]);
    assert!(said.contains("16 images to train on, 6 to test on (val), 2 classes"), "{said}");
    assert!(tested(&run, &[]).ends_with("set (test)"), "{}", tested(&run, &[]));
    assert!(tested(&run, &["--split", "val"]).contains("images  6 of "));
    // Where a split was for testing, nothing was held out of the training images.
    let train_split = set.join("train");
    let on_train = ["classify", "eval", "--run", text(&run), "--data", text(&train_split)];
    refused(&on_train, &["images that the classifier was trained on, and none of them was held out"]);
    let (_, said) = train(&set, &dir.path().join("on-test"), &["--set", "data.test_split=test"]);
    assert!(said.contains("4 to test on (test)"), "{said}");
    // The split that chose the epoch has not the last word.
    let (run, said) = train(&set, &dir.path().join("on-val"), &["--set", "data.test_split=val"]);
    assert!(said.contains("6 to test on (val)") && tested(&run, &[]).ends_with("set (test)"), "{said}");
    // As many as in training are enough there, not of what is named.
    let (run, said) = train(&set, &dir.path().join("few"), &["--set", "data.max_test=2"]);
    assert!(said.contains("2 to test on (val)"), "{said}");
    assert!(
        tested(&run, &[]).contains("images  2 of ")
            && tested(&run, &["--split", "val"]).contains("images  6 of ")
    );
    // Test images without classes, as competitions give them.
    let loose = dir.path().join("loose");
    fs::rename(set.join("test/cat"), &loose).unwrap();
    fs::remove_dir_all(set.join("test")).unwrap();
    fs::rename(&loose, set.join("test")).unwrap();
    let (run, said) = train(&set, &dir.path().join("competition"), &[]);
    assert!(said.contains("6 to test on (val)"), "{said}");
    assert!(tested(&run, &[]).ends_with("set (val)"));
}

#[test]
fn what_is_trained_on_is_no_test() {
    let dir = tempfile::tempdir().unwrap();
    let (set, runs) = (dir.path().join("set"), dir.path().join("runs"));
    class_folders(&set.join("train"), &["cat", "dog"], 0, 8);
    class_folders(&set.join("test"), &["cat", "dog"], 20, 2);
    let args = ["classify", "train", "--data", text(&set), "--outdir", text(&runs), "--batch", "4", "-n"];
    for split in ["train", "Train", "all"] {
        let setting = format!("data.test_split={split}");
        refused(&[&args[..], &["--set", &setting]].concat(), &["data.test_split", split, "are trained on"]);
    }
    let out = nestgen(&[&args[..], &["--set", "data.hold_out=0.5"]].concat());
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("data.hold_out changes nothing"), "{said}");
    // Of all splits together, the folders in them are the classes.
    let (run, said) = train(&set, &runs, &[]);
    assert!(said.contains("4 to test on (test)") && !said.contains("warning"), "{said}");
    assert!(tested(&run, &["--split", "all"]).contains("images  20 of "));
    // A test split of one class is not one without labels.
    fs::remove_dir_all(set.join("test/dog")).unwrap();
    refused(&args, &["set", "train has 2 classes and test has only `cat`"]);
    refused(&["classify", "eval", "--run", text(&run)], &["test has only `cat`"]);
}

#[test]
fn a_picture_beside_the_classes_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (mix, runs, pack) = (dir.path().join("mix"), dir.path().join("runs"), dir.path().join("mix.h5"));
    class_folders(&mix, &["cat", "dog"], 0, 8);
    fs::write(mix.join("overview.png"), png(16)).unwrap();
    fs::write(mix.join("cat/9.HEIC"), "").unwrap();
    fs::write(mix.join("list.heic"), "").unwrap();
    refused(
        &["classify", "train", "--data", text(&mix), "--outdir", text(&runs)],
        &["mix", "`overview.png` lies in no class folder"],
    );
    let said = String::from_utf8(nestgen(&["data", "check", text(&mix)]).stdout).unwrap();
    assert!(said.contains("classes     none, for `overview.png` lies beside the folders"), "{said}");
    assert!(said.contains("other files 2 (.heic)"), "{said}");
    let out = nestgen(&["data", "pack", text(&mix), text(&pack)]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("no classes are packed, for `overview.png`"), "{said}");
}

#[test]
fn a_pack_of_test_images_is_tested_whole() {
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set");
    class_folders(&set.join("train"), &["cat", "dog"], 0, 6);
    class_folders(&set.join("test"), &["cat", "dog"], 20, 10);
    let (run, _) = train(&set, &dir.path().join("runs"), &[]);
    let pack = dir.path().join("test.h5");
    let out = nestgen(&["data", "pack", text(&set), text(&pack), "--res", "32", "--split", "test"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for data in [&pack, &set.join("test"), &set] {
        assert!(tested(&run, &["--data", text(data)]).contains("images  20 of "), "{}", data.display());
    }
}

#[test]
fn a_class_whose_images_are_not_read_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    class_folders(dir.path(), &["cat", "dog"], 0, 20);
    let missed = dir.path().join("bird");
    fs::create_dir(&missed).unwrap();
    fs::write(missed.join("1.HEIC"), "").unwrap();
    let runs = dir.path().with_extension("runs");
    let args = ["classify", "train", "--data", text(dir.path()), "--outdir", text(&runs), "--batch", "4", "-n"];
    refused(&args, &["bird", "holds no image that is read (.heic)"]);
    // What nobody takes for the images of a class.
    fs::rename(missed.join("1.HEIC"), missed.join("1.xml")).unwrap();
    assert!(nestgen(&args).status.success());
}

#[test]
fn a_file_says_how_images_are_normalised_and_options_overrule_it() {
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set");
    class_folders(&set, &["cat", "dog"], 0, 20);
    let (mean, std) = ("0.485,0.456,0.406", "0.229,0.224,0.225");
    let sets = ["--set", &format!("data.mean=[{mean}]"), "--set", &format!("data.std=[{std}]")];
    let runs = dir.path().join("runs");
    let args =
        ["classify", "train", "--data", text(&set), "--outdir", text(&runs), "--epochs", "1", "--batch", "4"];
    let args = [&args[..], &["--model", "vit-xs"], &sets].concat();
    assert!(nestgen(&args).status.success());
    let run = fs::read_dir(&runs).unwrap().next().unwrap().unwrap().path();
    let file = run.join("model_best.safetensors");
    let loss = |more: &[&str]| {
        let out = nestgen(
            &[&["classify", "eval", "--json", "--network", text(&file), "--data", text(&set)], more].concat(),
        );
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap()["loss"].as_f64().unwrap()
    };
    let model = ["--model", "vit-xs", "--res", "32", "--num-classes", "2"];
    let own = loss(&[]);
    assert_eq!(loss(&model), own);
    assert_eq!(loss(&[&model[..], &["--mean", mean, "--std", std]].concat()), own);
    assert_ne!(loss(&[&model[..], &["--mean", "0.5,0.5,0.5"]].concat()), own);
    let eval = ["classify", "eval", "--network", text(&file)];
    let out = nestgen(&[&eval[..], &model, &["--std", "0.2,0.2"]].concat());
    assert!(String::from_utf8_lossy(&out.stderr).contains("three numbers") && out.status.code() == Some(1));
    refused(&[&eval[..], &model, &["--std", "0.2,0,0.2"]].concat(), &["--std", "not above 0"]);
}

#[test]
fn classes_under_other_numbers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (set, test) = (dir.path().join("set"), dir.path().join("test"));
    class_folders(&set, &["cat", "dog"], 0, 10);
    class_folders(&test, &["cat", "dog"], 50, 3);
    let (run, _) = train(&set, &dir.path().join("runs"), &[]);
    // `wolf` in the place of `cat` makes `dog` the first class.
    fs::rename(test.join("cat"), test.join("wolf")).unwrap();
    let on_test = ["classify", "eval", "--run", text(&run), "--data", text(&test)];
    refused(&on_test, &["class `dog` is number 0 here and was number 1 in training"]);
    // Another name for the same number is a matter of taste.
    fs::rename(test.join("wolf"), test.join("cats")).unwrap();
    let out = nestgen(&on_test);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && said.contains("`cat` is `cats` here"), "{said}");
}

#[test]
fn files_of_others_see_images_as_timm_normalises_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("timm.safetensors");
    let imagenet = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    for (name, (mean, std)) in [("nest-xs", imagenet), ("vit-xs", ([0.5; 3], [0.5; 3]))] {
        let model = model_preset(name, 32, 3).unwrap();
        let classifier = Classifier::build(&model, &Builder::blank(DType::F32, &Device::Cpu)).unwrap();
        let weights = classifier.timm_tensors().unwrap();
        tensors::write(&mut fs::File::create(&file).unwrap(), &tensors::Metadata::new(), &weights).unwrap();
        let read = read_timm(&file, &model).unwrap();
        assert_eq!((read.config.data.mean, read.config.data.std), (mean, std), "{name}");
    }
}
