//! `nestgen study convergence`: from the plan to the page, and what it refuses.

use std::fs;
use std::path::{Path, PathBuf};
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

/// Every run folder of the study.
fn run_folders(dir: &Path) -> Vec<PathBuf> {
    let entries = |path: PathBuf| fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().path());
    let seeds = entries(dir.join("study")).flat_map(entries);
    let mut runs: Vec<PathBuf> = seeds.flat_map(entries).filter(|path| path.is_dir()).collect();
    runs.sort();
    runs
}

#[test]
#[ignore = "two minutes: the FID network on 800 images"]
fn a_study_trains_every_arm_goes_on_and_ends_with_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let arms = [arm(dir.path(), "shallow", "[1, 0, 0]", 8), arm(dir.path(), "deep", "[1, 1, 0]", 8)].join(",");
    let out = study(dir.path(), &arms, &["--seeds", "1"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let runs = run_folders(dir.path());
    assert_eq!(runs.len(), 2, "{runs:?}");
    for run in &runs {
        for file in ["provenance.json", "interpolation.png", "nearest.png", "stats.jsonl"] {
            assert!(run.join(file).is_file(), "{} lacks {file}", run.display());
        }
    }
    let page = fs::read_to_string(dir.path().join("study/report.html")).unwrap();
    for part in ["kid100-random-v1", "data:image/jpeg;base64,", "model.depths", "\"interpolations\":[{"] {
        assert!(page.contains(part), "the page lacks {part}");
    }

    // A run whose end was not noted goes on from its last state; the others are passed over; seeds are added.
    fs::remove_file(runs[0].with_file_name("outcome.json")).unwrap();
    let out = study(dir.path(), &arms, &["--seeds", "2", "--parallel", "2"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(text(&out.stderr).matches("going on").count(), 1, "{}", text(&out.stderr));
    assert_eq!(run_folders(dir.path()).len(), 4);
    assert!(text(&out.stdout).contains("paired over seeds"), "{}", text(&out.stdout));

    let changed = study(dir.path(), &arms, &["--seeds", "2", "--set", "train.generator.lr=1e-3"]);
    assert_eq!(changed.status.code(), Some(1));
    assert!(
        text(&changed.stderr).contains("holds another study: there, train.generator.lr is"),
        "{}",
        text(&changed.stderr)
    );
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
