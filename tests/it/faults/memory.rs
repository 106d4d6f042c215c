//! Too little memory: the address space of the process is limited, as a batch system does.

use super::*;

/// A training of two steps in an address space of `kib`.
fn limited(outdir: &Path, kib: u32, batch: usize) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {kib}; exec \"$0\" \"$@\"")]).arg(env!("CARGO_BIN_EXE_nestgen"));
    let kimg = format!("{}", 2.0 * batch as f64 / 1e3);
    command.args(["train", "--kimg", &kimg, "--outdir"]).arg(outdir);
    let settings = TINY.split_whitespace().filter(|setting| !setting.starts_with("train.batch="));
    command.args(settings.flat_map(|setting| ["--set", setting]));
    command.args(["--set", "data.scenes=16384", "--batch", &batch.to_string()]).output().unwrap()
}

#[test]
fn a_batch_that_cannot_fit_is_refused_and_the_one_that_is_named_fits() {
    let dir = tempfile::tempdir().unwrap();
    let outdir = dir.path().join("runs");
    let output = limited(&outdir, 2 << 20, 16384);
    failed(&output, &["out of memory: a batch of 16384 at 32 px needs", "are free"]);
    assert!(!outdir.exists());
    let stderr = String::from_utf8_lossy(&output.stderr);
    let hint = stderr.split("--batch ").nth(1).unwrap_or_else(|| panic!("{stderr}"));
    let digits: String = hint.chars().take_while(char::is_ascii_digit).collect();
    let largest: usize = digits.parse().unwrap();
    assert!(largest > 100, "{stderr}");
    succeeded(&limited(&outdir, 2 << 20, largest / 2 * 2));
}
