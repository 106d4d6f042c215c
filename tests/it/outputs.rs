//! Where results go: folders that hold other files, links, pipes and devices, closed pipes, signals; and what of a source goes
//! into a result.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nestgen::config::generator_of;
use nestgen::sample::{read_snapshot, seed_latents};
use nestgen::train::fakes::generate;
use nestgen::train::grid::to_byte;

use super::bad_input::{png, refused, text};
use super::cli::nestgen;
use super::compare::Recorded;

/// The smallest networks, trained on eight images.
const TINY: &str = "--res 32 --kimg 0.008 --batch 8 --tick 0.008 --set data.scenes=8 --set model.dims=[16,16,16] \
    --set model.depths=[1,0,0] --set discriminator.channels=[4,4,4,4]";

/// Trains a network of this seed in `dir`; gives its run folder.
fn tiny_run(dir: &Path, seed: &str) -> PathBuf {
    let outdir = dir.join("trained").join(seed);
    let args: Vec<&str> = TINY.split_whitespace().collect();
    succeeded(&nestgen(&[&["train", "--seed", seed, "--outdir", text(&outdir)], &args[..]].concat()));
    fs::read_dir(outdir).unwrap().next().unwrap().unwrap().path()
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in names(from).iter().filter(|name| name.ends_with(".safetensors")) {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn samples_are_those_of_their_seeds_and_their_truncation() {
    let dir = tempfile::tempdir().unwrap();
    let run = tiny_run(dir.path(), "1");
    let snapshot = run.join("network-snapshot-000000.safetensors");
    let generator = generator_of(&snapshot, read_snapshot(&snapshot).unwrap()).unwrap();
    let drawn = |trunc: Option<f64>| -> Vec<Vec<u8>> {
        let latents = seed_latents(&[0, 1, 2], generator.z_dim(), trunc).unwrap();
        let values =
            generate(&generator, &latents, 2).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.chunks(32 * 32 * 3).map(|image| image.iter().map(|&x| to_byte(x)).collect()).collect()
    };
    let outdir = dir.path().join("out");
    for (more, trunc) in [(&[][..], None), (&["--trunc", "0.3"][..], Some(0.3))] {
        let args = ["sample", "-n", "3", "--run", text(&run), "--batch", "2", "--outdir", text(&outdir)];
        succeeded(&nestgen(&[&args[..], more].concat()));
        for (seed, expected) in drawn(trunc).iter().enumerate() {
            let picture = image::open(outdir.join(format!("seed{seed:06}.png"))).unwrap().into_rgb8();
            assert!(picture.as_raw() == expected, "seed {seed}, {more:?}");
        }
    }
    // Columns by rows; cell i is seed i.
    let grid = dir.path().join("grid");
    let args = ["sample", "-n", "3", "--run", text(&run), "--grid", "3x1", "--outdir", text(&grid)];
    succeeded(&nestgen(&args));
    let picture = image::open(dir.path().join("grid-grid.png")).unwrap().into_rgb8();
    assert_eq!(picture.dimensions(), (96, 32));
    for (seed, expected) in drawn(None).iter().enumerate() {
        let cell = image::imageops::crop_imm(&picture, 32 * seed as u32, 0, 32, 32).to_image();
        assert!(cell.as_raw() == expected, "cell {seed}");
    }
}

#[test]
fn samples_in_one_file_are_those_of_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let run = tiny_run(dir.path(), "1");
    let (folder, file) = (dir.path().join("folder"), dir.path().join("new/samples.npz"));
    let sample =
        |args: &[&str]| nestgen(&[&["sample", "-n", "5", "--run", text(&run), "--batch", "2"], args].concat());
    succeeded(&sample(&["--outdir", text(&folder)]));
    let said = succeeded(&sample(&["--npz", text(&file), "--grid", "2x1"]));
    assert!(said.contains("wrote 5 images") && said.contains("samples.npz"), "{said}");
    assert_eq!(names(&dir.path().join("new")), ["samples-grid.png", "samples.npz"]);
    let (files, array) = (open_set(&folder), open_set(&file));
    assert_eq!((files.len(), array.len()), (5, 5));
    for i in 0..5 {
        assert!(files.read_rgb(i).unwrap().data == array.read_rgb(i).unwrap().data, "image {i}");
    }
    // It may hold the real images: nothing is written over, and nothing drawn in vain.
    let before = fs::read(&file).unwrap();
    refused(
        &["sample", "-n", "5", "--run", text(&run), "--npz", text(&file)],
        &["samples.npz", "there already"],
    );
    assert_eq!(fs::read(&file).unwrap(), before);
    let link = dir.path().join("link.npz");
    #[cfg(unix)]
    std::os::unix::fs::symlink("nowhere.npz", &link).unwrap();
    #[cfg(unix)]
    refused(&["sample", "-n", "1", "--run", text(&run), "--npz", text(&link)], &["link.npz", "there already"]);
    for (args, says) in [
        (&["--npz", "x.npz", "--outdir", "y"][..], "cannot be used with"),
        (&["--npz", "x.zip"], "name a file ending in .npz"),
        (&["--npz", "x"], "--npz x.npz"),
    ] {
        let output = sample(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(says), "{said}");
    }
}

fn open_set(path: &Path) -> nestgen_images::ImageSet {
    nestgen_images::ImageSet::open(path, &nestgen_images::OpenOptions::default()).unwrap()
}

#[test]
fn samples_of_two_networks_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (tiny_run(dir.path(), "1"), tiny_run(dir.path(), "2"));
    let mix = dir.path().join("mix");
    let into = |n, run| ["sample", "-n", n, "--outdir", text(&mix), "--run", run];
    let (first, second) = (text(&first), text(&second));
    succeeded(&nestgen(&into("20", first)));
    let before = fs::read(mix.join("seed000003.png")).unwrap();
    refused(&into("8", second), &["mix", "12 other files", "seed000008.png"]);
    assert_eq!(fs::read(mix.join("seed000003.png")).unwrap(), before, "drawn before it was refused");
    // The same call again, and one that replaces every file; hidden files count nowhere.
    fs::write(mix.join(".unfinished-seed000099.png"), "").unwrap();
    succeeded(&nestgen(&into("20", first)));
    assert_eq!(fs::read(mix.join("seed000003.png")).unwrap(), before);
    succeeded(&nestgen(&into("21", second)));
    fs::write(mix.join("seed3.png"), "").unwrap();
    refused(&into("21", second), &["1 other file (`seed3.png`)"]);
}

#[test]
fn a_grid_needs_no_folder_and_says_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let run = tiny_run(dir.path(), "1");
    let folder = dir.path().join("g1");
    let args = ["sample", "--grid", "2x2", "--grid-only", "--run", text(&run), "--outdir", text(&folder)];
    let said = succeeded(&nestgen(&args));
    assert!(said.trim_end().ends_with("g1-grid.png") && said.starts_with("wrote a grid of"), "{said}");
    assert_eq!(names(dir.path()), ["g1-grid.png", "trained"]);
    // A picture may show an image twice.
    succeeded(&nestgen(&[&args[..], &["--seeds", "5,5,0-1"]].concat()));
    refused(&[&args[..], &["-n", "3"]].concat(), &["--grid 2x2 shows 4 images, and 3 are drawn"]);
    let inside = dir.path().join("here");
    fs::create_dir(&inside).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nestgen"));
    command.current_dir(&inside).args(["sample", "--grid", "2x1", "--outdir", ".", "--run"]).arg(&run);
    let said = succeeded(&command.output().unwrap());
    assert!(said.contains("wrote 2 images"), "{said}");
    assert_eq!(names(dir.path()), ["g1-grid.png", "here", "here-grid.png", "trained"]);
    assert_eq!(names(&inside), ["seed000000.png", "seed000001.png"]);
}

#[test]
fn what_cannot_be_drawn_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let run = tiny_run(dir.path(), "1");
    let outdir = dir.path().join("drawn");
    let place = ["--run", text(&run), "--outdir", text(&outdir)];
    let sample = |args: &[&'static str]| [&["sample"], args, &place].concat();
    refused(&sample(&["--seeds", "0-5,3"]), &["seed 3 twice"]);
    refused(&sample(&["-n", "1", "--trunc", "0"]), &["--trunc 0.0"]);
    let out = dir.path().join("way.jpg");
    let way = ["interpolate", "--run", text(&run), "--out", text(&out)];
    let other = nestgen(&way);
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(other.status.code() == Some(1) && said.contains("name a file ending in .png"), "{said}");
    let way = ["interpolate", "--run", text(&run)];
    refused(&[&way[..], &["--steps", "1000000000000"]].concat(), &["256 rows and steps at most"]);
    assert_eq!(nestgen(&sample(&["-n", "18446744073709551615"])).status.code(), Some(1));
    // `timeout`: what went wrong here once was that it never ended.
    let mut command = Command::new("timeout");
    command.args(["60", env!("CARGO_BIN_EXE_nestgen")]).args(sample(&["-n", "1", "--trunc", "1e-300"]));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("--trunc 1e-300 keeps less than"), "{said}");
    assert_eq!(names(dir.path()), ["trained"]);
}

#[test]
fn the_latest_run_is_the_one_that_training_would_go_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (tiny_run(dir.path(), "1"), tiny_run(dir.path(), "2"));
    let runs = dir.path().join("runs");
    copy(&first, &runs.join("9-scenes"));
    copy(&second, &runs.join("00010-scenes"));
    copy(&first, &runs.join("backup-of-first"));
    fs::create_dir(runs.join("00011-empty")).unwrap();
    let drawn = |name: &str, options: &[&str]| {
        let outdir = dir.path().join(name);
        succeeded(&nestgen(&[&["sample", "-n", "1", "--outdir", text(&outdir)], options].concat()));
        fs::read(outdir.join("seed000000.png")).unwrap()
    };
    let latest = drawn("latest", &["--runs", text(&runs)]);
    assert_eq!(latest, drawn("second", &["--run", text(&second)]));
    assert_ne!(latest, drawn("first", &["--run", text(&first)]));
}

#[test]
#[cfg(unix)]
fn pictures_go_through_links_and_into_pipes() {
    let dir = tempfile::tempdir().unwrap();
    let run = tiny_run(dir.path(), "1");
    let at = |name: &str| dir.path().join(name);
    let draw = |out: &Path| {
        nestgen(&["interpolate", "--seeds", "0,1", "--steps", "2", "--run", text(&run), "--out", text(out)])
    };
    succeeded(&draw(&at("plain.png")));
    let plain = fs::read(at("plain.png")).unwrap();
    fs::create_dir(at("far")).unwrap();
    fs::write(at("far/old.png"), "old").unwrap();
    std::os::unix::fs::symlink("far/old.png", at("link.png")).unwrap();
    succeeded(&draw(&at("link.png")));
    assert!(at("link.png").is_symlink() && names(&at("far")) == ["old.png"]);
    assert_eq!(fs::read(at("far/old.png")).unwrap(), plain);

    succeeded(&Command::new("mkfifo").arg(at("pipe")).output().unwrap());
    // `timeout`: a pipe that was replaced by a file has no writer.
    let mut reader = Command::new("timeout");
    let reader = reader.args(["60", "cat"]).arg(at("pipe")).stdout(Stdio::piped()).spawn().unwrap();
    succeeded(&draw(&at("pipe")));
    assert_eq!(reader.wait_with_output().unwrap().stdout, plain);
    refused(
        &["interpolate", "--run", text(&run), "--seeds", "0,1", "--out", text(&at("far"))],
        &["far", "folder"],
    );
}

/// Both ends of a pipe whose reader is gone.
pub(crate) fn broken_pipe() -> std::io::PipeWriter {
    std::io::pipe().unwrap().1
}

#[test]
fn files_are_written_though_nobody_reads_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let runs = [Recorded::nest(0).write(dir.path(), 0), Recorded::sagan(0).write(dir.path(), 1)];
    let (report, csv) = (dir.path().join("r.html"), dir.path().join("scores.csv"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_nestgen"));
    command.arg("compare").args(&runs).arg("--report").arg(&report).arg("--csv").arg(&csv);
    let status = command.stdout(broken_pipe()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success() && csv.exists(), "{status}");
    assert!(fs::read_to_string(&report).unwrap().trim_end().ends_with("</html>"));
}

#[test]
fn an_error_that_nobody_reads_keeps_its_exit_code() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nestgen"));
    command.args(["compare", "no-such-run"]).stdout(Stdio::null()).stderr(broken_pipe());
    assert_eq!(command.status().unwrap().code(), Some(1));
}

#[test]
#[cfg(unix)]
fn a_signal_is_answered_in_words_of_the_verb() {
    let dir = tempfile::tempdir().unwrap();
    let run = tiny_run(dir.path(), "1");
    let interrupted = |args: &[&str], outdir: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nestgen"));
        command.args(args).arg("--outdir").arg(outdir);
        let before = fs::read_dir(outdir).map_or(0, Iterator::count);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // The folder has something new in it once the handler is there.
        let count = || fs::read_dir(outdir).map_or(0, Iterator::count);
        while count() <= before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        succeeded(&Command::new("kill").args(["-INT", &child.id().to_string()]).output().unwrap());
        String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap()
    };
    let said = interrupted(&["data", "synth", "-n", "1000000", "--res", "512"], &dir.path().join("scenes"));
    assert!(said.contains("scenes written so far stay") && !said.contains("saving"), "{said}");
    // With a picture of another network among those that it would have drawn.
    let drawn = dir.path().join("drawn");
    fs::create_dir(&drawn).unwrap();
    fs::write(drawn.join("seed999999.png"), "").unwrap();
    let said = interrupted(&["sample", "-n", "1000000", "--run", text(&run)], &drawn);
    assert!(said.contains("what was drawn is kept") && !said.contains("saving"), "{said}");
    assert!(said.contains("images of an earlier call") && said.contains("drawn`: 1\n"), "{said}");
    // What was drawn is a whole file.
    let file = dir.path().join("drawn.npz");
    let mut command = Command::new(env!("CARGO_BIN_EXE_nestgen"));
    command.args(["sample", "-n", "1000000", "--run", text(&run), "--npz"]).arg(&file);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let unfinished = || names(dir.path()).iter().any(|name| name.starts_with(".whole-"));
    while !unfinished() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    succeeded(&Command::new("kill").args(["-INT", &child.id().to_string()]).output().unwrap());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(said.contains(&format!("wrote {} of 1000000 images", open_set(&file).len())), "{said}");
}

/// Writes a PNG of this size.
fn write_png(path: &Path, width: u32, height: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(width, height, image::Rgb([9, 80, 7])).save(path).unwrap();
}

#[test]
fn a_pack_that_cannot_be_says_why_in_words_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (wide, small, target) = (dir.path().join("wide"), dir.path().join("small"), dir.path().join("out.h5"));
    write_png(&wide.join("0.png"), 40, 48);
    write_png(&wide.join("1.png"), 40, 48);
    write_png(&small.join("0.png"), 1, 1);
    let pack = |source: &Path| nestgen(&["data", "pack", text(source), text(&target)]);
    refused(&["data", "pack", text(&wide), text(&target)], &["`0.png` is not square (40x48 px)"]);
    let said = String::from_utf8(pack(&wide).stderr).unwrap();
    assert!(said.contains("--res") && !said.contains("differ"), "{said}");
    refused(&["data", "pack", text(&small), text(&target)], &["0.png", "1x1 px"]);
    let said = String::from_utf8(pack(&small).stderr).unwrap();
    assert!(said.contains("--min-side") && said.contains("--skip-bad"), "{said}");
    assert!(!said.contains("every bad file") && !target.exists(), "{said}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_pack_goes_through_links_and_spares_devices() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("set")).unwrap();
    fs::write(at("set/0.png"), png(16)).unwrap();
    std::os::unix::fs::symlink("real.h5", at("link.h5")).unwrap();
    std::os::unix::fs::symlink("/dev/null", at("null.h5")).unwrap();
    let (set, link, null) = (at("set"), at("link.h5"), at("null.h5"));
    succeeded(&nestgen(&["data", "pack", text(&set), text(&link)]));
    assert!(link.is_symlink() && at("real.h5").is_file());
    refused(&["data", "pack", text(&set), text(&link)], &["link.h5", "exists"]);
    succeeded(&nestgen(&["data", "pack", "--force", text(&set), text(&link)]));
    let itself = ["data", "pack", "--force", "--res", "8", text(&link), text(&link)];
    refused(&itself, &["would replace the images that it is made of"]);
    assert!(link.is_symlink());
    refused(&["data", "pack", "--force", text(&set), text(&null)], &["null.h5", "not a regular file"]);
    assert!(null.is_symlink());
}

#[test]
fn test_images_in_folders_of_any_case_are_not_trained_on() {
    for (train, test) in [("Training", "Testing"), ("Train", "Test"), ("TRAIN", "valid")] {
        let dir = tempfile::tempdir().unwrap();
        for class in ["cat", "dog"] {
            write_png(&dir.path().join(train).join(class).join("0.png"), 16, 16);
            write_png(&dir.path().join(test).join(class).join("0.png"), 24, 24);
        }
        let output = nestgen(&["data", "check", text(dir.path())]);
        let said = succeeded(&output);
        assert!(said.contains("16x16: 2\n") && said.contains("classes     2 of 1 to 1"), "{said}");
        assert!(String::from_utf8(output.stderr).unwrap().contains(&format!("using the split `{train}`")));
        let said = succeeded(&nestgen(&["data", "check", "--split", test, text(dir.path())]));
        assert!(said.contains("24x24: 2\n"), "{said}");
    }
}
