//! Unsafe code is in one place only, and each block has its argument: at it, or above it in its function.

use std::path::Path;

use super::layering::rust_files;

/// Vectorised arithmetic; everything else forbids unsafe code at its crate's root.
const PLACE: &str = "kernels/";

/// Whether a line of code opens an unsafe block or implementation.
fn is_unsafe(line: &str) -> bool {
    let line = line.trim_start();
    !line.starts_with("//") && (line.contains("unsafe {") || line.starts_with("unsafe impl"))
}

/// Whether line `at` has a safety argument, before the line with the name of its function.
fn is_argued(lines: &[&str], at: usize) -> bool {
    let above = lines[..=at].iter().rev();
    let is_function = |line: &str| !line.trim_start().starts_with("//") && line.contains("fn ");
    above
        .enumerate()
        .take_while(|(i, line)| *i == 0 || line.contains("SAFETY") || !is_function(line))
        .any(|(_, line)| line.contains("SAFETY"))
}

#[test]
fn unsafe_code_is_where_it_belongs_and_says_why_it_is_sound() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "kernels", "images", "fid", "benches"] {
        rust_files(&root.join(folder), &mut files);
    }
    let mut blocks = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let place = file.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        let lines: Vec<&str> = text.lines().collect();
        for at in (0..lines.len()).filter(|&at| is_unsafe(lines[at])) {
            blocks += 1;
            assert!(place.starts_with(PLACE), "{place}:{}: unsafe", at + 1);
            assert!(is_argued(&lines, at), "{place}:{}: no SAFETY argument", at + 1);
        }
    }
    assert!(blocks > 50, "only {blocks} unsafe blocks were found");
}
