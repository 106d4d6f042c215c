//! What people really hand to a program: each mistake ends in one line that names the place, a hint, exit code 1.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::cli::nestgen;

/// Runs the binary, expects exit code 1, and checks the message: one `error:` line with every word of `says`, and a
/// `hint:` line.
pub(crate) fn refused(args: &[&str], says: &[&str]) {
    let out = nestgen(args);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{args:?}: {stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{args:?}: {stderr}");
    for word in says {
        assert!(errors[0].contains(word), "{args:?}: `{word}` is not in: {}", errors[0]);
    }
    assert!(stderr.lines().any(|line| line.starts_with("hint: ")), "{args:?}: no hint: {stderr}");
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// Trains on a source and scores it: both must refuse it with the same words.
fn refused_as_data(source: &Path, says: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let outdir = dir.path().join("runs");
    refused(&["train", "--kimg", "1", "--data", text(source), "--outdir", text(&outdir)], says);
    assert!(!outdir.exists(), "a run folder was left behind");
    refused(&["fid", text(source), text(source), "--features", "random-v1"], says);
}

/// A small PNG.
pub(crate) fn png(size: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let image = image::RgbImage::from_fn(size, size, |x, y| image::Rgb([x as u8, y as u8, 7]));
    image.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    bytes
}

#[test]
fn a_missing_and_an_empty_source() {
    let dir = tempfile::tempdir().unwrap();
    refused_as_data(&dir.path().join("nowhere"), &["nowhere"]);
    refused_as_data(dir.path(), &["holds no images"]);
    fs::write(dir.path().join("notes.txt"), "no image").unwrap();
    refused_as_data(dir.path(), &["1 other files"]);
}

#[test]
fn a_truncated_image_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    // As many as a score needs.
    fs::write(dir.path().join("a.png"), png(16)).unwrap();
    fs::write(dir.path().join("c.png"), png(17)).unwrap();
    let bytes = png(64);
    fs::write(dir.path().join("b.png"), &bytes[..bytes.len() / 2]).unwrap();
    refused_as_data(dir.path(), &["b.png"]);
}

#[test]
fn a_decompression_bomb_is_refused_from_its_header() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = png(8);
    // Width and height of the IHDR chunk, and the checksum over the chunk.
    bytes[16..20].copy_from_slice(&30_000u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&30_000u32.to_be_bytes());
    let checksum = crc32fast::hash(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    fs::write(dir.path().join("bomb.png"), bytes).unwrap();
    for (name, size) in [("other.png", 16), ("third.png", 17)] {
        fs::write(dir.path().join(name), png(size)).unwrap();
    }
    refused_as_data(dir.path(), &["bomb.png", "30000"]);
}

#[test]
fn damaged_archives_and_packs() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["images.zip", "images.tar", "images.tar.gz", "pack.h5"] {
        let path = dir.path().join(name);
        fs::write(&path, b"this is neither an archive nor a pack, but long enough to be looked at").unwrap();
        refused_as_data(&path, &[name]);
    }
}

#[test]
fn settings_that_do_not_exist_or_cannot_work() {
    refused(&["train", "--set", "train.batchh=3"], &["batchh"]);
    refused(&["train", "--set", "train.batch=-1"], &["train.batch"]);
    refused(&["train", "--batch", "1", "-n"], &["batch"]);
    refused(&["train", "--preset", "demo46"], &["demo46"]);
    refused(&["train", "--res", "48"], &["48"]);
    refused(&["train", "--resume", "latest", "--outdir", "no-such-folder"], &["no-such-folder"]);
    refused(
        &["train", "-n", "--set", "model.kind=sagan"],
        &["`model.kind`: the other settings of `model` are those of `transposed_nest`"],
    );
    refused(&["train", "-n", "--set", "discriminator.kind=sagan"], &["are those of `residual`"]);
    refused(
        &["train", "-n", "--set", "discriminator.kind=rezidual"],
        &["`rezidual` is none of residual, sagan"],
    );
    refused(
        &["train", "-n", "--arch", "sagan", "--set", "model.width=32"],
        &["`model.width`: there is no `width`"],
    );
    refused(
        &["train", "--set", "data.path=a", "--data", "b"],
        &["`data.path`: it is \"a\" there, and --data makes it"],
    );
    let study = ["study", "convergence", "-n", "--kimg", "1", "--set", "train.kimg=2"];
    refused(&study, &["`train.kimg`: it is 2 there, and --kimg makes it 1.0"]);
    refused(&["fid", "no-such-a", "no-such-b"], &["no-such-a"]);
}

#[test]
fn a_run_that_is_not_in_the_outdir() {
    let dir = tempfile::tempdir().unwrap();
    tiny_run(dir.path(), &[]);
    let run = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let other = dir.path().join("other");
    let resume = ["train", "-n", "--resume", text(&run), "--outdir"];
    refused(&[&resume[..], &[text(&other)]].concat(), &["--outdir", "is not in there"]);
    assert!(!other.exists());
    let within = nestgen(&[&resume[..], &[text(dir.path())]].concat());
    assert!(within.status.success(), "{}", String::from_utf8_lossy(&within.stderr));
}

#[test]
fn an_outdir_that_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "here first").unwrap();
    let args = ["train", "--kimg", "1", "--set", "data.scenes=4", "--outdir", text(&file)];
    refused(&args, &["file"]);
    assert_eq!(fs::read(&file).unwrap(), b"here first");
}

/// Sixteen images through the smallest networks, into `outdir`.
pub(crate) fn tiny_run(outdir: &Path, extra: &[&str]) {
    let args = [
        "train",
        "--res",
        "32",
        "--kimg",
        "0.016",
        "--batch",
        "8",
        "--tick",
        "0.016",
        "--set",
        "data.scenes=16",
        "--set",
        "model.dims=[16,16,16]",
        "--set",
        "model.depths=[1,0,0]",
        "--set",
        "discriminator.channels=[4,4,4,4]",
        "--outdir",
        text(outdir),
    ];
    let out = nestgen(&[&args, extra].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn snapshot(outdir: &Path) -> std::path::PathBuf {
    let run = fs::read_dir(outdir).unwrap().next().unwrap().unwrap().path();
    let mut files = fs::read_dir(run).unwrap().map(|e| e.unwrap().path());
    files.find(|p| p.extension().is_some_and(|e| e == "safetensors")).expect("a snapshot")
}

#[test]
fn snapshots_that_are_cut_foreign_or_missing() {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs");
    refused(&["sample", "-n", "1", "--runs", text(&runs)], &["runs"]);
    tiny_run(&runs, &[]);
    let whole = snapshot(&runs);
    let outdir = dir.path().join("fake");
    let bytes = fs::read(&whole).unwrap();
    let cut = dir.path().join("cut.safetensors");
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    refused(&["sample", "-n", "1", "--network", text(&cut), "--outdir", text(&outdir)], &["cut.safetensors"]);
    let other = dir.path().join("other.safetensors");
    fs::write(&other, b"\x02\0\0\0\0\0\0\0{}").unwrap();
    refused(
        &["sample", "-n", "1", "--network", text(&other), "--outdir", text(&outdir)],
        &["other.safetensors"],
    );
    assert!(!outdir.exists(), "a folder was made for nothing");
}

/// The bytes of a snapshot with `before` in its header replaced by `after`, of the same length.
fn with_header(bytes: &[u8], before: &str, after: &str) -> Vec<u8> {
    let at = bytes.windows(before.len()).position(|window| window == before.as_bytes()).expect(before);
    [&bytes[..at], after.as_bytes(), &bytes[at + before.len()..]].concat()
}

#[test]
fn checkpoints_of_another_architecture() {
    let dir = tempfile::tempdir().unwrap();
    let (runs, deep) = (dir.path().join("runs"), dir.path().join("deep"));
    // So fast that the average is neither the first generator nor the last one.
    let fast = ["train.generator.lr=0.01", "train.ema.ramp=0", "train.ema.halflife_kimg=0.02"];
    tiny_run(&runs, &fast.map(|setting| ["--set", setting]).concat());
    // A snapshot whose weights are not those of the network it names.
    let bytes = fs::read(snapshot(&runs)).unwrap();
    let other = dir.path().join("other.safetensors");
    fs::write(&other, with_header(&bytes, "depths = [1, 0, 0]", "depths = [2, 0, 0]")).unwrap();
    let outdir = dir.path().join("fake");
    let args = ["sample", "-n", "1", "--network", text(&other), "--outdir", text(&outdir)];
    refused(&args, &["other.safetensors", "levels.0.layers.1"]);
    assert!(!outdir.exists(), "a folder was made for nothing");
    // Going on, or starting from weights, with other networks.
    let run = fs::read_dir(&runs).unwrap().next().unwrap().unwrap().path();
    let deeper = ["--set", "model.depths=[2,0,0]"];
    refused(&[&["train", "--resume", text(&run)][..], &deeper].concat(), &["model.depths"]);
    let transfer = ["train", "--transfer", text(&run), "--kimg", "0.008"];
    refused(
        &[&transfer[..], &deeper, &["--outdir", text(&deep)]].concat(),
        &["generator-ema.safetensors", "levels.0.layers.1"],
    );
    assert!(!deep.exists(), "a run folder was left behind");
    // The same networks under other settings: allowed, in a folder of its own.
    let out =
        nestgen(&[&transfer[..], &["--set", "train.generator.lr=1e-5", "--outdir", text(&deep)]].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let begun = fs::read_dir(&deep).unwrap().next().unwrap().unwrap().path();
    assert!(fs::read_to_string(begun.join("log.txt")).unwrap().starts_with("weights of "));
    // It begins where the other one's averaged generator ended.
    let picture = |run: &Path, name: &str| image::open(run.join(name)).unwrap().into_rgb8();
    assert!(picture(&begun, "fakes_init.png") == picture(&run, "fakes000000.png"));
    assert!(picture(&begun, "fakes_init.png") != picture(&run, "fakes_init.png"));
    // `compare` must not take it for a seed of runs that began with random weights.
    let record: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(begun.join("provenance.json")).unwrap()).unwrap();
    assert!(record["initial"].as_str().unwrap().starts_with(text(&run)), "{record}");
}

#[test]
fn samples_depend_on_seed_alone_and_runs_repeat() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("a"), dir.path().join("b"));
    tiny_run(&first, &[]);
    tiny_run(&second, &[]);
    let draw = |network: &Path, name: &str, batch: &str| {
        let outdir = dir.path().join(name);
        let network = text(network).to_owned();
        let args =
            ["sample", "--seeds", "3,9", "--batch", batch, "--network", &network, "--outdir", text(&outdir)];
        assert!(nestgen(&args).status.success());
        fs::read(outdir.join("seed000009.png")).unwrap()
    };
    let image = draw(&snapshot(&first), "one", "1");
    assert_eq!(image, draw(&snapshot(&first), "two", "2"), "the batch changed an image");
    assert_eq!(image, draw(&snapshot(&second), "again", "1"), "the same seed trained another network");
    // Of a run, the newest numbered snapshot counts, not the one that happened to score best.
    fs::write(snapshot(&first).with_file_name("network-snapshot-best.safetensors"), "not the newest").unwrap();
    let (runs, newest) = (text(&first), dir.path().join("newest"));
    assert!(nestgen(&["sample", "--seeds", "9", "--runs", runs, "--outdir", text(&newest)]).status.success());
    assert_eq!(image, fs::read(newest.join("seed000009.png")).unwrap());
}

/// The calling thread is one of the pool's: with a pool of one, nothing that it waits for may need the pool.
#[test]
fn one_thread_draws_many_batches() {
    let dir = tempfile::tempdir().unwrap();
    let (runs, samples) = (dir.path().join("runs"), dir.path().join("samples"));
    tiny_run(&runs, &[]);
    // `timeout`: what went wrong here once was that it never ended.
    let out = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_nestgen"), "sample", "-n", "12", "--batch", "2"])
        .args(["--network", text(&snapshot(&runs)), "--outdir", text(&samples)])
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .unwrap();
    assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    assert_eq!(fs::read_dir(&samples).unwrap().count(), 12);
}
