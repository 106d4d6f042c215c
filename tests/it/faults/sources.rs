//! Odd sources: pipes, loops of folders, strange names, archives that want out, files that change while they are read.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use super::super::bad_input::png;
use super::*;

fn pack(source: &Path, target: &Path) -> Output {
    binary().args(["data", "pack", "--force"]).arg(source).arg(target).output().unwrap()
}

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    succeeded(&Command::new("mkfifo").arg(&pipe).output().unwrap());
    failed(&pack(&pipe, &dir.path().join("x.h5")), &["pipe", "neither a file nor a folder"]);
    for option in ["--network", "--transfer"] {
        let verb = if option == "--network" { ["sample", "-n", "1"].as_slice() } else { &["train"] };
        let output = binary().args(verb).arg(option).arg(&pipe).current_dir(&dir).output().unwrap();
        failed(&output, &["pipe"]);
    }
    let mut score = binary();
    score.arg("fid").args([&pipe, &pipe]).args(["--features", "random-v1"]);
    failed(&score.output().unwrap(), &["pipe"]);
    // A pipe among the images of a folder is one of the files that are no images.
    let set = dir.path().join("set");
    images(&set, 2);
    succeeded(&Command::new("mkfifo").arg(set.join("pipe.png")).output().unwrap());
    succeeded(&pack(&set, &dir.path().join("x.h5")));
}

#[test]
fn a_hundred_thousand_tiny_files_in_one_folder_are_a_set() {
    let dir = tempfile::tempdir().unwrap();
    let (originals, set) = (dir.path().join("originals"), dir.path().join("set"));
    images(&originals, 4);
    std::fs::create_dir(&set).unwrap();
    let originals = names(&originals).into_iter().map(|name| originals.join(name)).collect::<Vec<_>>();
    for i in 0..100_000 {
        std::fs::hard_link(&originals[i % originals.len()], set.join(format!("{i}.png"))).unwrap();
    }
    let output = binary().args(["data", "check"]).arg(&set).output().unwrap();
    succeeded(&output);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("100000"), "{stdout}");
}

#[test]
fn folders_that_hold_themselves_end() {
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set");
    images(&set, 3);
    for link in ["a", "b", "c"] {
        std::os::unix::fs::symlink(&set, set.join(link)).unwrap();
    }
    std::os::unix::fs::symlink("loop.png", set.join("loop.png")).unwrap();
    failed(&pack(&set, &dir.path().join("x.h5")), &["loop.png"]);
    std::fs::remove_file(set.join("loop.png")).unwrap();
    succeeded(&pack(&set, &dir.path().join("x.h5")));
}

#[test]
fn names_with_newlines_escapes_and_other_bytes_stay_on_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set");
    images(&set, 1);
    std::fs::write(set.join(OsStr::from_bytes(b"\xff\xfe\n.png")), png(16)).unwrap();
    succeeded(&pack(&set, &dir.path().join("x.h5")));
    std::fs::write(set.join(OsStr::from_bytes(b"bad\nname\x1b[2J\xff.png")), b"no image").unwrap();
    let output = pack(&set, &dir.path().join("x.h5"));
    failed(&output, &["bad\\nname\\u{1b}[2J"]);
    let checked = binary().args(["data", "check"]).arg(&set).output().unwrap();
    assert_eq!(checked.status.code(), Some(1));
    let stdout = String::from_utf8_lossy(&checked.stdout);
    assert_eq!(stdout.matches("bad\\nname\\u{1b}").count(), 1, "{stdout}");
    assert!(!stdout.contains('\x1b'), "{stdout}");
}

#[test]
fn archives_that_want_out_are_only_read() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("a/b/c");
    std::fs::create_dir_all(&home).unwrap();
    let absolute = text(&dir.path().join("absolute.png")).to_owned();
    let mut writer = zip::ZipWriter::new(std::fs::File::create(home.join("slip.zip")).unwrap());
    for name in ["../../up.png", absolute.as_str(), "fine/../../up2.png", "c:\\windows.png"] {
        writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(&png(16)).unwrap();
    }
    writer.finish().unwrap();
    let packed = binary().args(["data", "pack", "slip.zip", "x.h5"]).current_dir(&home).output().unwrap();
    succeeded(&packed);
    assert_eq!(names(&home), ["slip.zip", "x.h5"]);
    assert_eq!((names(dir.path()), names(&dir.path().join("a"))), (vec!["a".to_owned()], vec!["b".to_owned()]));
}

#[test]
fn a_file_that_goes_or_changes_while_a_set_is_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set");
    images(&set, 400);
    // Whichever way the race ends, the program says what it found; it does not fall over.
    for (round, change) in [("goes", None), ("changes", Some(b"no image any more"))] {
        let child = binary().args(["data", "check"]).arg(&set).spawn().unwrap();
        for i in (0..400).rev() {
            let path = set.join(format!("{i:04}.png"));
            match change {
                Some(bytes) => std::fs::write(path, bytes).unwrap(),
                None => std::fs::remove_file(path).unwrap(),
            }
        }
        let code = child.wait_with_output().unwrap().status.code();
        assert!([Some(0), Some(1)].contains(&code), "{round}: {code:?}");
        images(&set, 400);
    }
    std::fs::write(set.join("0399.png"), b"no image").unwrap();
    failed(&pack(&set, &dir.path().join("x.h5")), &["0399.png"]);
}

#[test]
fn completions_that_nobody_reads_are_no_defect() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let Ok(full) = full else { return };
    let output = binary().args(["completions", "bash"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}
