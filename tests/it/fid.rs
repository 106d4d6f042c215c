//! `nestgen fid` from outside: a side that cannot be scored ends in one line and exit code 1; `--skip-bad` lists and counts
//! what it left out.

use std::fs;
use std::path::Path;
use std::process::Command;

use nestgen_kernels::portable;

use super::bad_input::{refused, text};
use super::cli::nestgen;
use super::score_space::{classifier, images};

/// Scores two sources in the space of a small classifier.
fn arguments<'a>(real: &'a Path, fake: &'a Path, space: &'a Path) -> [&'a str; 5] {
    ["fid", text(real), text(fake), "--features", text(space)]
}

#[test]
fn sides_that_cannot_be_scored() {
    let dir = tempfile::tempdir().unwrap();
    let space = classifier(dir.path(), "space.safetensors");
    let good = images(dir.path(), "good", 4);
    let both_ways = |bad: &Path, says: &[&str]| {
        refused(&arguments(bad, &good, &space), says);
        refused(&arguments(&good, bad, &space), says);
    };
    both_ways(&images(dir.path(), "none", 0), &["none", "no images"]);
    both_ways(&images(dir.path(), "one", 1), &["at least 2 images"]);
    let copies = images(dir.path(), "copies", 1);
    for i in 1..4 {
        fs::copy(copies.join("0.png"), copies.join(format!("{i}.png"))).unwrap();
    }
    both_ways(&copies, &["all 4", "copies of one image"]);
    let statistics = dir.path().join("reference.npz");
    fs::write(&statistics, "mu and sigma").unwrap();
    both_ways(&statistics, &["reference.npz", "not an .npz"]);
}

#[test]
fn bad_files_among_the_images() {
    let dir = tempfile::tempdir().unwrap();
    let space = classifier(dir.path(), "space.safetensors");
    let (good, mixed) = (images(dir.path(), "good", 4), images(dir.path(), "mixed", 6));
    fs::write(mixed.join("1.png"), "a text file").unwrap();
    let whole = fs::read(mixed.join("3.png")).unwrap();
    fs::write(mixed.join("3.png"), &whole[..whole.len() / 2]).unwrap();
    refused(&arguments(&good, &mixed, &space), &["1.png"]);
    let run = |extra: &[&str]| {
        let out = nestgen(&[&arguments(&good, &mixed, &space)[..], &["--skip-bad"], extra].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(run(&[]).contains("2 fake images could not be read and were left out"));
    let report: serde_json::Value = serde_json::from_str(&run(&["--json"])).unwrap();
    assert_eq!(report["fake"]["num_images"].as_u64(), Some(4));
    let skipped = report["fake"]["skipped"].as_array().unwrap();
    let reasons: Vec<&str> = skipped.iter().map(|s| s["reason"].as_str().unwrap()).collect();
    assert!(reasons.len() == 2 && reasons[0].contains("1.png") && reasons[1].contains("3.png"), "{reasons:?}");
}

#[test]
fn saved_statistics_score_as_their_images_do() {
    let dir = tempfile::tempdir().unwrap();
    let space = classifier(dir.path(), "space.safetensors");
    let (real, fake) = (images(dir.path(), "real", 20), images(dir.path(), "fake", 24));
    let statistics = dir.path().join("real.npz");
    let fid = |real: &Path, extra: &[&str]| {
        let out =
            nestgen(&[&arguments(real, &fake, &space)[..], &["--metrics", "fid", "--json"], extra].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        report["scores"]["frechet"]["value"].as_f64().unwrap()
    };
    let from_images = fid(&real, &["--save-stats", text(&statistics)]);
    let from_statistics = fid(&statistics, &[]);
    assert!((from_images - from_statistics).abs() < 1e-6 * from_images, "{from_images}, {from_statistics}");
    let over =
        [&arguments(&real, &statistics, &space)[..], &["--metrics", "fid", "--save-stats", text(&statistics)]];
    refused(&over.concat(), &["--save-stats would replace", "real.npz"]);
    let default = nestgen(&arguments(&statistics, &fake, &space));
    let table = String::from_utf8(default.stdout).unwrap();
    assert!(default.status.success() && table.contains("KID was left out"), "{table}");
    let kid = [&arguments(&statistics, &fake, &space)[..], &["--metrics", "fid,kid"]].concat();
    refused(&kid, &["KID needs the images", "real is given as statistics"]);
    // Asked of a folder that holds no image that can be read: refused before any is.
    let unread = dir.path().join("unread");
    fs::create_dir(&unread).unwrap();
    for name in ["0.png", "1.png"] {
        fs::write(unread.join(name), "a text file").unwrap();
    }
    refused(
        &[&arguments(&unread, &statistics, &space)[..], &["--metrics", "prdc"]].concat(),
        &["fake is given"],
    );
    refused(&[&arguments(&statistics, &unread, &space)[..], &["--floor"]].concat(), &["real is given"]);
    let other = ["fid", text(&statistics), text(&fake), "--metrics", "fid", "--features", "random-v1"];
    refused(&other, &["real.npz", "12 features, this score uses 2048"]);
}

#[test]
fn held_out_images_are_never_those_of_training() {
    let dir = tempfile::tempdir().unwrap();
    let space = classifier(dir.path(), "space.safetensors");
    let set = dir.path().join("set");
    let all = images(dir.path(), "all", 22);
    for part in ["train", "test"] {
        fs::create_dir_all(set.join(part)).unwrap();
    }
    for i in 0..22 {
        let name = format!("{i}.png");
        fs::rename(all.join(&name), set.join(if i < 11 { "train" } else { "test" }).join(name)).unwrap();
    }
    // Every picture is a copy of a training image.
    let copies = set.join("train");
    let looked = |held_out: &Path, extra: &[&str]| {
        let args = [&arguments(&set, &copies, &space)[..], &["--held-out", text(held_out), "--json"], extra];
        nestgen(&args.concat())
    };
    let out = looked(&set, &[]);
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["scores"]["memorization"]["nearer_to_train"]["value"].as_f64(), Some(1.0), "{report}");
    let said = looked(&set, &["--held-out-split", "train"]);
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("are those of REAL") && said.contains("hint: "), "{said}");
    fs::remove_dir_all(set.join("test")).unwrap();
    refused(&[&arguments(&copies, &copies, &space)[..], &["--held-out", text(&copies)]].concat(), &["REAL"]);
}

#[test]
fn settings_of_what_is_not_computed_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let space = classifier(dir.path(), "space.safetensors");
    let set = images(dir.path(), "set", 4);
    for (options, says) in [
        (&["--metrics", "fid", "--kid-subsets", "2x3"][..], "no kid in --metrics"),
        (&["-k", "2"], "no prdc in --metrics"),
        (&["--is-splits", "2"], "no is in --metrics"),
        (&["--metrics", "fid,is", "--open-balls"], "no prdc in --metrics"),
    ] {
        refused(&[&arguments(&set, &set, &space)[..], options].concat(), &[says, "changes nothing"]);
    }
    let statistics = dir.path().join("statistics.npz");
    refused(&[&arguments(&statistics, &set, &space)[..], &["--split", "test"]].concat(), &["--split"]);
}

#[test]
fn another_device_gives_the_same_score_to_rounding() {
    let dir = tempfile::tempdir().unwrap();
    let (real, fake) = (images(dir.path(), "real", 5), images(dir.path(), "fake", 6));
    let cache = dir.path().join("cache");
    let mut arguments = vec!["fid", text(&real), text(&fake), "--features", "random-v1", "--dims", "64"];
    arguments.extend(["--metrics", "fid", "--json", "--cache", text(&cache)]);
    let report = |forced: bool| -> serde_json::Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nestgen"));
        command.args(&arguments).env(portable::VARIABLE, if forced { "1" } else { "0" });
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    };
    let (processor, tensors) = (report(false), report(true));
    let value = |report: &serde_json::Value| report["scores"]["frechet"]["value"].as_f64().unwrap();
    assert!((value(&processor) - value(&tensors)).abs() < 1e-4 * value(&processor), "{processor} {tensors}");
    // Features that only agree to rounding are kept apart, and found again.
    assert_eq!(tensors["real"]["from_cache"].as_bool(), Some(false));
    assert_eq!(report(true)["real"]["from_cache"].as_bool(), Some(true));
    #[cfg(not(feature = "cuda"))]
    refused(&[&arguments[..], &["--device", "cuda"]].concat(), &["built without CUDA"]);
}

#[test]
fn options_do_what_they_are_called() {
    let dir = tempfile::tempdir().unwrap();
    let (real, fake) = (images(dir.path(), "real", 6), images(dir.path(), "fake", 5));
    let scores = |extra: &[&str]| -> serde_json::Value {
        let set = ["fid", text(&real), text(&fake), "--features", "random-v1", "--dims", "64", "--json"];
        let out = nestgen(&[&set[..], &["--metrics", "fid,kid,prdc"], extra].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    };
    let usual = scores(&[]);
    let other = scores(&["--resize", "tf1", "-k", "1", "--open-balls", "--kid-subsets", "2x4"]);
    let of = |report: &serde_json::Value, path: &str| {
        report.pointer(path).unwrap_or_else(|| panic!("{path}: {report}")).clone()
    };
    assert_eq!(of(&other, "/scores/precision_recall/k"), 1);
    assert_eq!(of(&other, "/scores/precision_recall/ball"), "open");
    assert_eq!(of(&other, "/scores/kid_subsets/subsets"), 2);
    assert_ne!(
        of(&other, "/scores/frechet/value"),
        of(&usual, "/scores/frechet/value"),
        "the resize rule changes nothing"
    );
    assert!(other.to_string().contains("tf1") && !usual.to_string().contains("tf1"), "{other}");
    // Random weights, few images, unequal numbers; nothing else is wrong with these.
    let kinds = |report: &serde_json::Value| -> Vec<String> {
        let warnings = of(report, "/warnings");
        warnings
            .as_array()
            .unwrap()
            .iter()
            .map(|warning| warning["kind"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(kinds(&usual), ["other_weights", "few_images", "few_images", "unequal_counts"]);
    let small = dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    for i in 0..6 {
        let pixel = |x: u32, y: u32| image::Rgb([(x * 9 + i * 20) as u8, (y * 7) as u8, (x * y) as u8]);
        image::RgbImage::from_fn(8, 8, pixel).save(small.join(format!("{i}.png"))).unwrap();
    }
    let set = ["fid", text(&real), text(&small), "--features", "random-v1", "--dims", "64", "--json"];
    let out = nestgen(&set);
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(kinds(&report).contains(&"unequal_sizes".into()), "{report}");
    // One odd picture among others is not what a side is like, wherever it lies.
    std::fs::copy(small.join("0.png"), real.join("!.png")).unwrap();
    assert!(!kinds(&scores(&[])).contains(&"unequal_sizes".into()));
    let out =
        nestgen(&["fid", text(&small), text(&small), "--features", "random-v1", "--dims", "64", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(kinds(&report).contains(&"same_images".into()), "{report}");
}

/// As samplers of diffusion models write them.
#[test]
fn arrays_of_images_score_as_the_images_do() {
    let dir = tempfile::tempdir().unwrap();
    let (real, fake) = (images(dir.path(), "real", 6), images(dir.path(), "fake", 5));
    let set = nestgen_images::ImageSet::open(&fake, &nestgen_images::OpenOptions::default()).unwrap();
    let read: Vec<_> = (0..set.len()).map(|i| set.read_rgb(i).unwrap()).collect();
    let header = format!(
        "{{'descr': '|u1', 'fortran_order': False, 'shape': ({}, {}, {}, 3), }}\n",
        read.len(),
        read[0].height,
        read[0].width
    );
    let mut array = b"\x93NUMPY\x01\x00".to_vec();
    array.extend((header.len() as u16).to_le_bytes());
    array.extend(header.as_bytes());
    read.iter().for_each(|image| array.extend(&image.data));
    let path = dir.path().join("samples.npz");
    let mut archive = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("arr_0.npy", stored).unwrap();
    std::io::Write::write_all(&mut archive, &array).unwrap();
    archive.finish().unwrap();
    let score = |fake: &Path| {
        let out =
            nestgen(&["fid", text(&real), text(fake), "--features", "random-v1", "--dims", "64", "--json"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap()["scores"].clone()
    };
    assert_eq!(score(&path), score(&fake));
}

#[test]
fn the_split_that_was_asked_for_is_the_real_side() {
    let dir = tempfile::tempdir().unwrap();
    let (set, fake) = (dir.path().join("set"), images(dir.path(), "fake", 5));
    for (split, count) in [("train", 4), ("test", 6)] {
        let whole = images(dir.path(), split, count);
        std::fs::create_dir_all(set.join(split)).unwrap();
        std::fs::rename(whole, set.join(split).join("cat")).unwrap();
    }
    for (more, split, count) in [(&[][..], "train", 4), (&["--split", "test"][..], "test", 6)] {
        let args = ["fid", text(&set), text(&fake), "--features", "random-v1", "--dims", "64", "--json"];
        let out = nestgen(&[&args[..], more].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(report["real"]["num_images"], count, "{more:?}");
        assert_eq!(report["real"]["split"], split, "{more:?}");
        assert!(report["fake"]["split"].is_null(), "{more:?}");
    }
}
