//! What a message names: the flag that was given, the file that was meant, the way out that its verb has.

use std::fs;
use std::process::Command;

use super::bad_input::{refused, text, tiny_run};
use super::stumbles::{hint, refusal};

#[test]
fn the_flag_that_was_given() {
    refused(&["train", "-n", "--batch", "1"], &["--batch: `train.batch`"]);
    refused(&["train", "-n", "--kimg", "0.0001"], &["--kimg: `train.kimg`"]);
    refused(
        &["train", "-n", "--kimg", "2", "--set", "train.minutes=5"],
        &["it is 5 there, and --kimg makes it 0.0"],
    );
    refused(&["study", "convergence", "-n"], &["length of its runs"]);
    assert!(
        hint(&refusal(&["train", "-n", "--preset", "fast64", "--res", "128"]))
            .contains("demo64 is for every --res")
    );
    assert!(hint(&refusal(&["train", "-n", "--preset", "fast128"])).contains("quality64"));
}

#[test]
fn the_variable_that_names_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.png", "b.png"] {
        image::RgbImage::new(8, 8).save(dir.path().join(name)).unwrap();
    }
    // Not another feature space in its place, either.
    for features in ["inception", "auto"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nestgen"));
        let command = command.args(["fid", "--features", features]).args([dir.path(), dir.path()]);
        let out = command.env("NESTGEN_INCEPTION", "/no/such/file").output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains("weights /no/such/file: NESTGEN_INCEPTION names this file"), "{said}");
    }
}

#[test]
fn folders_of_runs_and_of_studies() {
    let dir = tempfile::tempdir().unwrap();
    let (runs, pack) = (dir.path().join("runs"), dir.path().join("pack.h5"));
    tiny_run(&runs, &[]);
    refused(&["data", "pack", text(&runs), text(&pack), "--res", "32"], &["holds runs"]);
    refused(&["data", "check", text(&runs)], &["holds runs"]);
    assert!(!pack.exists());
    let study = dir.path().join("study");
    fs::create_dir(&study).unwrap();
    fs::write(study.join("study.toml"), "").unwrap();
    assert!(hint(&refusal(&["score", text(&study)])).contains("/*/seed*/0*"));
}

#[test]
fn the_split_that_is_used() {
    let dir = tempfile::tempdir().unwrap();
    for split in ["train", "test"] {
        let folder = dir.path().join("set").join(split);
        fs::create_dir_all(&folder).unwrap();
        for index in 0..8 {
            image::RgbImage::from_pixel(32, 32, image::Rgb([index * 9; 3]))
                .save(folder.join(format!("{index}.png")))
                .unwrap();
        }
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_nestgen"));
    let args = "train --res 32 --kimg 0.008 --batch 8 --set model.dims=[16,16,16] --set model.depths=[1,0,0] --set \
                discriminator.channels=[4,4,4,4]";
    let out = command.args(args.split_whitespace()).arg("--data").arg(dir.path().join("set")).arg("--outdir");
    let said = String::from_utf8(out.arg(dir.path().join("runs")).output().unwrap().stderr).unwrap();
    assert!(said.contains("8 images of 32 px, the split `train`"), "{said}");
}
