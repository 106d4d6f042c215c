//! The order of the program's modules: one imports only from those before it.

use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up.
const ORDER: &[&str] = &[
    "error",
    "device",
    "ranks",
    "rng",
    "nn",
    "data",
    "models",
    "train",
    "score_space",
    "explain",
    "sample",
    "study",
    "config",
    "cli",
];

pub(crate) fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is readable") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Modules named in `crate::<module>` or `nestgen::<module>` paths of one source text.
fn imported(text: &str) -> Vec<&str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| {
        ["crate::", "nestgen::"].into_iter().flat_map(move |prefix| {
            line.match_indices(prefix).map(move |(at, _)| {
                let rest = &line[at + prefix.len()..];
                let name = rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or("");
                assert!(!name.is_empty(), "imports in braces are not looked into; take them apart: {line}");
                name
            })
        })
    })
    .collect()
}

#[test]
fn modules_import_only_from_modules_before_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rank = |name: &str| ORDER.iter().position(|m| *m == name);
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).expect("inside src");
        let first = inside.components().next().expect("not empty").as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs");
        if matches!(module, "lib" | "main") {
            continue;
        }
        let own = rank(module).unwrap_or_else(|| panic!("`{module}` is missing in ORDER"));
        let text = fs::read_to_string(&file).expect("utf-8 source");
        for other in imported(&text) {
            if let Some(theirs) = rank(other)
                && theirs > own
            {
                wrong.push(format!("{} uses {other}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "against the module order: {wrong:#?}");
}

#[test]
fn the_scan_sees_imports() {
    assert_eq!(imported("use crate::train::x;\n// crate::cli\nnestgen::rng::Rng"), ["train", "rng"]);
}

/// A clock that is set back, or wrong, must change nothing but time stamps: durations come from the monotonic clock.
#[test]
fn the_wall_clock_only_stamps_statistics() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "kernels/src", "images/src", "fid/src"] {
        rust_files(&root.join(folder), &mut files);
    }
    let mut reading = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).expect("source");
        if ["SystemTime::now", ".modified()", ".accessed()", ".created()", ".elapsed().unwrap"]
            .iter()
            .any(|call| text.contains(call))
        {
            reading.push(path.strip_prefix(root).expect("inside").to_string_lossy().into_owned());
        }
    }
    assert_eq!(reading, ["src/train/stats.rs"], "these read the wall clock or times of files");
}
