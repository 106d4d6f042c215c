//! `nestgen study`: what it plans and what it refuses; runs side by side; a study of classifiers from start to page.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::cli::nestgen;

/// Writes a configuration of a generator with `depths`, small enough to train in a moment.
pub(crate) fn arm(dir: &Path, name: &str, depths: &str, batch: usize) -> String {
    let text = format!(
        "[model]\nkind = \"transposed_nest\"\nresolution = 32\nz_dim = 8\nblock_size = 8\ndims = [16, 8, 8]\n\
         depths = {depths}\nhead_dim = 8\nattention = \"multi_head\"\ndeaggregation = \"pixel_shuffle_conv\"\n\
         [discriminator]\nkind = \"residual\"\nresolution = 32\nchannels = [4, 4, 8, 8]\nspectral_norm = true\nminibatch_stddev = false\n\
         [data]\nscenes = 120\nworkers = 0\n[train]\nbatch = {batch}\ngrid = [2, 2]\ntick_kimg = 0.016\n\
         [eval]\nimages = 100\nfeatures = \"scenes-v1\"\n"
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
        // A run that ended for its bad score would leave its arm the better ones.
        let config = fs::read_to_string(run.join("config.toml")).unwrap();
        assert!(config.contains("on_divergence = \"warn\""), "{config}");
    }
    let page = fs::read_to_string(dir.path().join("study/report.html")).unwrap();
    for part in ["kid100-scenes-v1", "data:image/jpeg;base64,", "model.depths", "\"interpolations\":[{"] {
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
fn runs_are_scored_ten_times_unless_told() {
    let dir = tempfile::tempdir().unwrap();
    let outdir = dir.path().join("study");
    let arm = arm(dir.path(), "shallow", "[1, 0, 0]", 8);
    let args = ["study", "convergence", "--arms", &arm, "--kimg", "0.02", "--seeds", "1", "--outdir"];
    let out = nestgen(&[&args[..], &[outdir.to_str().unwrap()]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let config = fs::read_to_string(run_folders(dir.path())[0].join("config.toml")).unwrap();
    assert!(config.contains("every_kimg = 0.002\n"), "{config}");
}

#[test]
fn a_generator_with_more_values_has_the_better_best_one() {
    let dir = tempfile::tempdir().unwrap();
    let arms = [arm(dir.path(), "shallow", "[1, 0, 0]", 8), arm(dir.path(), "deep", "[1, 1, 0]", 8)];
    let tuned = ["--seeds", "2", "--tune", "train.generator.lr=1e-3,2e-3"];
    let out = study(dir.path(), &format!("{},{}@2e-3", arms[0], arms[1]), &tuned);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = text(&out.stdout);
    let best = said.lines().find(|line| line.contains("the best train.generator.lr of each")).unwrap();
    assert!(best.contains("deep 2e-3") && !best.contains("paired over"), "{best}");
}

#[test]
fn arms_on_different_images_are_refused_whatever_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let (few, many) = (arm(dir.path(), "few", "[1, 0, 0]", 8), arm(dir.path(), "many", "[1, 0, 0]", 8));
    let more = fs::read_to_string(&many).unwrap().replace("scenes = 120", "scenes = 240");
    fs::write(&many, more).unwrap();
    let out = study(dir.path(), &[few, many].join(","), &["--allow-unfair"]);
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stderr);
    assert!(said.contains("different images: data.scenes is 120 for few and 240 for many"), "{said}");
    assert!(!dir.path().join("study").exists());
}

#[test]
fn a_study_belongs_to_one_process_and_begins_anew_where_nothing_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    let arms = [arm(dir.path(), "shallow", "[1, 0, 0]", 8), arm(dir.path(), "deep", "[1, 1, 0]", 8)].join(",");
    // What a kill before the first state leaves.
    let begun = dir.path().join("study/shallow/seed0/00000-scenes-shallow");
    fs::create_dir_all(&begun).unwrap();
    fs::write(begun.join("config.toml"), "").unwrap();
    let held = fs::File::create(dir.path().join("study/lock")).unwrap();
    held.lock().unwrap();
    let out = study(dir.path(), &arms, &["--seeds", "1"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("another process works in"), "{}", text(&out.stderr));
    drop(held);
    let out = study(dir.path(), &arms, &["--seeds", "1"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let names: Vec<String> = run_folders(dir.path())
        .iter()
        .map(|run| run.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, ["00000-scenes-deep", "00000-scenes-shallow", "abandoned-00000-scenes-shallow"]);
}

/// What a study of `shallow` and `deep` says their best values are, as names of arms.
fn best_of_each(said: &str) -> Vec<String> {
    let (_, values) = said.split_once("by its mean over the range: ").unwrap();
    let mut words = values.split_whitespace();
    ["shallow", "deep"]
        .map(|arm| format!("{arm}@{}", words.by_ref().skip_while(|word| *word != arm).nth(1).unwrap()))
        .into()
}

#[test]
fn every_arm_can_be_tuned_and_confirmed_on_other_seeds() {
    let dir = tempfile::tempdir().unwrap();
    let arms = [arm(dir.path(), "shallow", "[1, 0, 0]", 8), arm(dir.path(), "deep", "[1, 1, 0]", 8)];
    let tuned = ["--seeds", "2", "--tune", "train.generator.lr=1e-3,2e-3"];
    let out = study(dir.path(), &arms.join(","), &tuned);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = text(&out.stdout);
    assert!(
        said.matches(", the smallest tried").count() + said.matches(", the largest tried").count() == 2,
        "{said}"
    );
    for part in
        ["shallow@1e-3  ", "deep@2e-3  ", "the best train.generator.lr of each", "paired over 2 seeds, p "]
    {
        assert!(said.contains(part), "`{part}` is not in {said}");
    }
    let config = dir.path().join("study/deep@2e-3/seed1/00000-scenes-deep_2e_3/config.toml");
    assert!(fs::read_to_string(&config).unwrap().contains("lr = 0.002"));
    let chosen = format!("{}@2e-3,{}@1e-3", arms[0], arms[1]);
    let out = study(
        dir.path(),
        &chosen,
        &["-n", "--seeds", "1", "--tune", "train.generator.lr", "--first-seed", "2"],
    );
    assert!(text(&out.stdout).contains("shallow@2e-3/seed2  to do"), "{}", text(&out.stdout));
    // The same study once more trains only what confirms its choice.
    let planned = study(dir.path(), &arms.join(","), &[&tuned[..], &["--confirm", "1", "-n"]].concat());
    assert!(text(&planned.stdout).contains("study/confirmed  then the best of every generator, seeds 2"));
    let out = study(dir.path(), &arms.join(","), &[&tuned[..], &["--confirm", "1"]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let best = best_of_each(&said);
    let confirmed = dir.path().join("study/confirmed");
    assert!(
        text(&out.stderr).contains(&format!("confirming {} on seeds 2", best.join(", "))),
        "{}",
        text(&out.stderr)
    );
    for name in &best {
        assert!(confirmed.join(name).join("seed2/outcome.json").exists(), "{name}");
    }
    let page = fs::read_to_string(confirmed.join("tables.md")).unwrap();
    assert!(page.contains(&best[0]) && !page.contains("the best train.generator.lr"), "{page}");
    // A value that lost a run is not the best, however good the others are.
    let lose = |seed: u64| {
        let outcome = dir.path().join("study").join(&best[0]).join(format!("seed{seed}/outcome.json"));
        let mut ended: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(&outcome).unwrap()).unwrap();
        ended["diverged"] = "a loss is not finite".into();
        fs::write(&outcome, ended.to_string()).unwrap();
    };
    lose(0);
    let out = study(dir.path(), &arms.join(","), &tuned);
    let now = best_of_each(&text(&out.stdout));
    assert!(now[0] != best[0] && now[1] == best[1], "{best:?}, {now:?}");
    lose(1);
    let out = study(dir.path(), &arms.join(","), &tuned);
    assert!(text(&out.stdout).contains("that did not diverge)"), "{}", text(&out.stdout));
    let other = study(dir.path(), &arms.join(","), &[&tuned[..], &["--confirm", "1"]].concat());
    assert!(
        text(&other.stderr).contains("confirmed` holds another study: its arms are"),
        "{}",
        text(&other.stderr)
    );
    let one =
        study(dir.path(), &arms.join(","), &["-n", "--tune", "train.generator.lr=1e-3", "--confirm", "1"]);
    assert!(text(&one.stderr).contains("nothing is chosen"), "{}", text(&one.stderr));
    let bare = study(dir.path(), &arms.join(","), &["-n", "--tune", "train.generator.lr"]);
    assert!(text(&bare.stderr).contains("has no value of train.generator.lr"), "{}", text(&bare.stderr));
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

/// Writes a classifier's configuration, small enough to train in a moment.
fn classifier(dir: &Path, name: &str, model: &str) -> String {
    let text = format!(
        "[model]\n{model}\nresolution = 32\ndrop_path = 0.0\nclasses = 12\n\
         [data]\nscenes = 48\ntest_scenes = 24\nworkers = 0\n[train]\nbatch = 12\n"
    );
    let path = dir.join(format!("{name}.toml"));
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn what_a_study_of_classifiers_would_train_is_seen_before() {
    let dir = tempfile::tempdir().unwrap();
    let vit = "kind = \"vit\"\npatch_size = 8\ndim = 8\ndepth = 3\nheads = 2\ngelu = \"erf\"";
    let file = classifier(dir.path(), "plain", vit);
    let written = fs::read_to_string(&file).unwrap() + "epochs = 2\nwarmup_epochs = 0.5\n";
    fs::write(&file, written).unwrap();
    let planned = |more: &[&str]| nestgen(&[&["study", "accuracy", "-n", "--arms", &file], more].concat());
    // A file's own length, unless told.
    for (more, says) in
        [(&[][..], "2 epochs each; tested on 24 images"), (&["--epochs", "3"][..], "3 epochs each")]
    {
        let out = planned(more);
        assert!(out.status.success() && text(&out.stderr).contains(says), "{}", text(&out.stderr));
    }
    // Shares are what is studied, and what is unfair is said once, whatever shares there are.
    assert!(planned(&["--fraction", "0.5,1"]).status.success());
    let other = classifier(dir.path(), "other", vit);
    fs::write(&other, fs::read_to_string(&file).unwrap().replace("batch = 12", "batch = 24")).unwrap();
    let both = [file.as_str(), &other].join(",");
    let out = nestgen(&["study", "accuracy", "-n", "--arms", &both, "--fraction", "0.5,1"]);
    assert_eq!(text(&out.stderr).matches("train.batch is 12").count(), 1, "{}", text(&out.stderr));
    for (more, says) in [
        (&["--res", "64"][..], "--res: every arm is a file"),
        (&["--set", "train.seed=7"][..], "a study has its own seeds"),
        // A tenth of 48 images, of each of 12 classes one: it would be met when the other share has been trained.
        (
            &["--fraction", "1,0.1", "--set", "train.batch=16"][..],
            "arm plain@0.1: configuration: `train.batch`: 16 is more than the 12 images",
        ),
    ] {
        let out = planned(more);
        assert!(out.status.code() == Some(1) && text(&out.stderr).contains(says), "{}", text(&out.stderr));
    }
}

#[test]
fn a_study_of_classifiers_is_compared_over_epochs_and_shares_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let nest = "kind = \"nest\"\npatch_size = 4\ndims = [8, 8]\ndepths = [1, 1]\nheads = [2, 2]\n\
                attention = \"multi_query\"\naggregation = \"conv\"\npadding = \"same\"\ngelu = \"tanh\"";
    let vit = "kind = \"vit\"\npatch_size = 8\ndim = 8\ndepth = 3\nheads = 2\ngelu = \"erf\"";
    let arms = [classifier(dir.path(), "small", nest), classifier(dir.path(), "plain", vit)].join(",");
    let outdir = dir.path().join("study");
    let study = |seeds: &str, more: &[&str]| {
        let mut args = vec!["study", "accuracy", "--arms", &arms, "--epochs", "2", "--seeds", seeds];
        args.extend(["--fraction", "0.5,1", "--allow-unfair", "--outdir", outdir.to_str().unwrap()]);
        args.extend(more);
        let out = nestgen(&args);
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stdout)
    };
    assert_eq!(study("2", &["--dry-run"]).lines().count(), 8);
    assert!(!outdir.exists(), "a dry run writes nothing");
    let said = study("2", &[]);
    // Of so few images, two arms may have the same.
    assert!(
        said.contains("highest top1 at 2.000 epochs") || said.contains("the same top1 at 2.000 epochs"),
        "{said}"
    );
    assert!(said.contains("top1: higher is better") && !said.contains("D params"), "{said}");
    let csv = fs::read_to_string(outdir.join("scores.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 2 * 2 * 2 * 2, "arms, shares, seeds, epochs: {csv}");
    let table = fs::read_to_string(outdir.join("data-efficiency.md")).unwrap();
    assert_eq!(table.matches("| 24 |").count(), 2, "{table}");
    assert_eq!(table.matches("| 48 |").count(), 2, "{table}");
    assert!(fs::read_to_string(outdir.join("curves.svg")).unwrap().contains("top1 (higher is better)"));
    assert!(fs::read_to_string(outdir.join("report.html")).unwrap().contains("epochs (passes over"));
    // What has ended is passed over; another seed joins.
    let before = fs::read(outdir.join("small@1/seed0/outcome.json")).unwrap();
    let more = study("3", &[]);
    assert!(more.contains('3') && fs::read(outdir.join("small@1/seed0/outcome.json")).unwrap() == before);
    // Along images the arms end where the shortest does; for each share counts its own end.
    study("3", &["--x", "kimg"]);
    let csv = fs::read_to_string(outdir.join("scores.csv")).unwrap();
    let table = fs::read_to_string(outdir.join("data-efficiency.md")).unwrap();
    for arm in ["small", "plain"] {
        let of_run = |seed: u64| {
            let start = format!("\"{arm}@1\"");
            let mut rows = csv
                .lines()
                .filter(|row| row.starts_with(&start) && row.contains(&format!(",{seed},\"top1\",")));
            rows.next_back().unwrap().split(',').nth(9).unwrap().parse::<f64>().unwrap()
        };
        let mean = (0..3).map(of_run).sum::<f64>() / 3.0;
        let cell = table.lines().find(|row| row.starts_with(&format!("| {arm} | 48 |"))).unwrap();
        let cell = cell.split('|').nth(4).unwrap().split_whitespace().next().unwrap().parse::<f64>().unwrap();
        assert!((cell - mean).abs() < 0.05 * mean.max(1.0), "{arm}: {cell}, not {mean}: {table}\n{csv}");
    }
    let args = ["study", "accuracy", "--arms", &arms, "--epochs", "3", "--allow-unfair", "--outdir"];
    let again = nestgen(&[&args[..], &[outdir.to_str().unwrap()]].concat());
    assert!(text(&again.stderr).contains("holds another study"), "{}", text(&again.stderr));
}
