//! Tells the program which commit it was built from, for the records of its runs.

use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}

fn main() {
    let commit = git(&["rev-parse", "HEAD"]).unwrap_or_default();
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    println!("cargo:rustc-env=NESTGEN_COMMIT={commit}{}", if changed { "-dirty" } else { "" });
    // Whatever can change the answer: sources (a change makes the tree dirty) and commits.
    for path in ["build.rs", "Cargo.lock", "src", "kernels/src", "images/src", "fid/src"] {
        println!("cargo:rerun-if-changed={path}");
    }
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
}
