//! `nestgen study convergence`: what it plans and what it refuses.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::cli::nestgen;

/// Writes a configuration of a generator with `depths`, small enough to train in a moment.
fn arm(dir: &Path, name: &str, depths: &str, batch: usize) -> String {
    let text = format!(
        "[model]\nkind = \"transposed_nest\"\nresolution = 32\nz_dim = 8\nblock_size = 8\ndims = [16, 8, 8]\n\
         depths = {depths}\nhead_dim = 8\nattention = \"multi_head\"\ndeaggregation = \"pixel_shuffle_conv\"\n\
         [discriminator]\nkind = \"residual\"\nresolution = 32\nchannels = [4, 4, 8, 8]\nspectral_norm = true\nminibatch_stddev = false\n\
         [data]\nscenes = 120\nworkers = 0\n[train]\nbatch = {batch}\ngrid = [2, 2]\ntick_kimg = 0.016\n\
         [eval]\nimages = 100\n"
    );
    let path = dir.join(format!("{name}.toml"));
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn study(dir: &Path, arms: &str, more: &[&str]) -> Output {
    let outdir = dir.join("study").display().to_string();
    let mut args =
        vec!["study", "convergence", "--arms", arms, "--kimg", "0.032", "--eval", "1", "--outdir", &outdir];
    args.extend(more);
    nestgen(&args)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_unfair_study_is_refused_unless_told() {
    let dir = tempfile::tempdir().unwrap();
    let arms = [arm(dir.path(), "one", "[1, 0, 0]", 8), arm(dir.path(), "two", "[1, 0, 0]", 4)].join(",");
    let refused = study(dir.path(), &arms, &["--dry-run"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("train.batch is 8 for one and 4 for two"),
        "{}",
        text(&refused.stderr)
    );
    let told = study(dir.path(), &arms, &["--dry-run", "--allow-unfair"]);
    assert!(told.status.success());
    assert_eq!(text(&told.stdout).lines().count(), 6, "a line for each run: {}", text(&told.stdout));
    assert!(!dir.path().join("study").exists(), "a dry run writes nothing");
}
