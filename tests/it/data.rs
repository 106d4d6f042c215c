//! `nestgen data` from end to end: scenes to PNG files to a pack, and what the user is told about bad input.

use std::path::Path;

use crate::cli::nestgen;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `nestgen data ...`; paths are given relative to `dir`.
fn data(dir: &Path, verb: &str, args: &[&str], paths: &[&str]) -> (Option<i32>, String, String) {
    let paths: Vec<String> = paths.iter().map(|p| dir.join(p).to_string_lossy().into_owned()).collect();
    let mut line = vec!["data", verb];
    line.extend(paths.iter().map(String::as_str));
    line.extend(args);
    let out = nestgen(&line);
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

fn synth(dir: &Path) {
    let outdir = dir.join("scenes").to_string_lossy().into_owned();
    let (code, out, _) = data(dir, "synth", &["-n", "24", "--res", "16", "--outdir", &outdir], &[]);
    assert_eq!(code, Some(0), "{out}");
}

#[test]
fn scenes_are_written_checked_and_packed() {
    let dir = tempfile::tempdir().unwrap();
    synth(dir.path());
    let (code, out, _) = data(dir.path(), "check", &[], &["scenes"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("24 (0 bad)") && out.contains("12 of 2 to 2 images"), "{out}");

    let target = dir.path().join("s.h5");
    let (code, out, _) = data(dir.path(), "pack", &["--res", "8", "--max-images", "10"], &["scenes", "s.h5"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("packed 10 images of 8x8 px, 12 classes"), "{out}");
    let (code, out, _) = data(dir.path(), "check", &[], &["s.h5"]);
    assert!(code == Some(0) && out.contains("8x8: 10"), "{out}");

    let before = std::fs::read(&target).unwrap();
    let (code, _, err) = data(dir.path(), "pack", &[], &["scenes", "s.h5"]);
    assert!(code == Some(1) && err.contains("exists") && err.contains("--force"), "{err}");
    assert_eq!(std::fs::read(&target).unwrap(), before);
    let image = dir.path().join("image.png");
    image::RgbImage::new(9, 9).save(&image).unwrap();
    let (code, _, err) = data(dir.path(), "pack", &["--force"], &["scenes", "image.png"]);
    assert!(code == Some(1) && err.contains("is no pack") && image::open(&image).is_ok(), "{err}");
}

#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_read_is_left_out_like_one_that_cannot_be_decoded() {
    let dir = tempfile::tempdir().unwrap();
    synth(dir.path());
    let class = std::fs::read_dir(dir.path().join("scenes")).unwrap().next().unwrap().unwrap().path();
    std::os::unix::fs::symlink(dir.path().join("nothing.png"), class.join("zz.png")).unwrap();
    let (code, _, err) = data(dir.path(), "pack", &[], &["scenes", "s.h5"]);
    assert!(code == Some(1) && err.contains("zz.png"), "{err}");
    let (code, out, err) = data(dir.path(), "pack", &["--skip-bad"], &["scenes", "s.h5"]);
    assert!(code == Some(0) && out.contains("packed 24 images"), "{out} {err}");
}

#[test]
fn planted_objects_have_the_size_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let widest = |name: &str, option: &str| -> f32 {
        let outdir = dir.path().join(name).to_string_lossy().into_owned();
        let (code, out, _) = data(dir.path(), "synth", &["-n", "24", option, "--outdir", &outdir], &[]);
        assert_eq!(code, Some(0), "{out}");
        let table = std::fs::read_to_string(dir.path().join(name).join("objects.csv")).unwrap();
        let sides = table.lines().skip(1).map(|line| {
            let at: Vec<f32> = line.split(',').skip(1).map(|n| n.parse().unwrap()).collect();
            at[2] - at[0]
        });
        sides.fold(0.0, f32::max)
    };
    let (small, large) = (widest("small", "--planted"), widest("large", "--planted=0.64"));
    assert!((10.0..=26.0).contains(&small) && (30.0..=46.0).contains(&large), "{small} {large} of 64 px");
    for wrong in ["--planted=2", "--planted=0", "--planted=NaN"] {
        let outdir = dir.path().join("none").to_string_lossy().into_owned();
        let (code, _, err) = data(dir.path(), "synth", &[wrong, "--outdir", &outdir], &[]);
        assert!(
            code == Some(1) && err.contains("share of the picture's side") && err.contains("hint"),
            "{err}"
        );
        assert!(!Path::new(&outdir).exists());
    }
}

#[test]
fn scenes_depend_on_their_seed() {
    let dir = tempfile::tempdir().unwrap();
    let first = |name: &str, seed: &str| {
        let outdir = dir.path().join(name).to_string_lossy().into_owned();
        let args = ["-n", "1", "--res", "16", "--seed", seed, "--outdir", &outdir];
        assert_eq!(data(dir.path(), "synth", &args, &[]).0, Some(0));
        let class = nestgen::data::synthetic::class_names()[0].clone();
        std::fs::read(dir.path().join(name).join(class).join("000000.png")).unwrap()
    };
    let zero = first("a", "0");
    assert!(zero != first("b", "1") && zero == first("c", "0"));
}

#[test]
fn the_shortest_side_that_is_packed_can_be_chosen() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("set")).unwrap();
    image::RgbImage::new(4, 4).save(dir.path().join("set/1.png")).unwrap();
    for wrong in [&["--min-side", "5"][..], &[]] {
        let (code, _, err) = data(dir.path(), "pack", wrong, &["set", "s.h5"]);
        assert!(code == Some(1) && err.contains("4x4 px, its shorter side is below"), "{err}");
    }
    let (code, out, _) = data(dir.path(), "pack", &["--min-side", "4"], &["set", "s.h5"]);
    assert!(code == Some(0) && out.contains("packed 1 images of 4x4 px"), "{out}");
}

#[test]
fn check_names_every_bad_file_and_exits_with_1() {
    let dir = tempfile::tempdir().unwrap();
    synth(dir.path());
    let cats = dir.path().join("scenes/cat");
    let whole = std::fs::read(cats.join("000003.png")).unwrap();
    std::fs::write(cats.join("cut.png"), &whole[..60]).unwrap();
    std::fs::write(cats.join("same.png"), &whole).unwrap();
    std::fs::write(cats.join("text.jpg"), "no picture").unwrap();
    let (code, out, _) = data(dir.path(), "check", &[], &["scenes"]);
    assert_eq!(code, Some(1));
    assert!(
        out.contains("`cat/cut.png`: truncated") && out.contains("`cat/text.jpg`: its first bytes"),
        "{out}"
    );
    assert!(out.contains("duplicates: `cat/000003.png` (cat) = `cat/same.png` (cat)"), "{out}");

    let target = dir.path().join("s.h5");
    let (code, _, err) = data(dir.path(), "pack", &[], &["scenes", "s.h5"]);
    assert!(code == Some(1) && err.contains("cut.png") && err.contains("hint: "), "{err}");
    assert!(!target.exists());
    let (code, out, err) = data(dir.path(), "pack", &["--skip-bad"], &["scenes", "s.h5"]);
    assert!(code == Some(0) && out.contains("left out 2 bad images") && err.contains("text.jpg"), "{out}{err}");
}

#[test]
fn bad_sources_are_one_line_and_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    std::fs::write(dir.path().join("broken.zip"), b"PK\x03\x04 and then nothing").unwrap();
    std::fs::write(dir.path().join("broken.h5"), b"\x89HDF\r\n\x1a\n and then nothing").unwrap();
    std::fs::write(dir.path().join("a.png"), b"\x89PNG\r\n\x1a\n").unwrap();
    for source in ["missing", "empty", "broken.zip", "broken.h5", "a.png", "a.png/below"] {
        let (code, out, err) = data(dir.path(), "check", &[], &[source]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{source}: {err}");
        let lines: Vec<&str> = err.lines().collect();
        assert_eq!(lines.len(), 2, "{err}");
        assert!(
            lines[0].starts_with("error: ") && lines[0].contains(source) && lines[1].starts_with("hint: "),
            "{err}"
        );
    }
}
