//! What `nestgen compare` may say of runs that do not line up: it must never name an arm that its own numbers do not carry.

use std::fs;
use std::path::{Path, PathBuf};

use nestgen::study::arms;
use nestgen::study::run::Run;

use crate::cli::nestgen;
use crate::compare::Recorded;

/// Writes runs, one folder each.
pub(crate) fn write(dir: &Path, runs: &[Recorded]) -> Vec<PathBuf> {
    runs.iter().enumerate().map(|(number, run)| run.write(dir, number)).collect()
}

/// What the program says; it must succeed.
pub(crate) fn said(runs: &[PathBuf], more: &[&str]) -> String {
    let mut args = vec!["compare"];
    args.extend(runs.iter().map(|run| run.to_str().unwrap()));
    args.extend(more);
    let output = nestgen(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(runs: &[PathBuf]) -> String {
    let output =
        nestgen(&[&["compare"], &*runs.iter().map(|run| run.to_str().unwrap()).collect::<Vec<_>>()].concat());
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

pub(crate) fn headline(text: &str) -> &str {
    text.lines().next().unwrap()
}

fn append(path: &Path, text: &str) {
    fs::write(path, fs::read_to_string(path).unwrap() + text).unwrap();
}

#[test]
fn an_arm_that_lost_runs_wins_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let recorded: Vec<Recorded> =
        (0..3).flat_map(|seed| [Recorded::nest(seed), Recorded::sagan(seed)]).collect();
    let runs = write(dir.path(), &recorded);
    for run in [&runs[0], &runs[2]] {
        fs::write(run.join("diverged.txt"), "the generator's loss is not a finite number\n").unwrap();
    }
    let text = said(&runs, &[]);
    assert!(headline(&text).contains("2 of 3 runs of nest diverged"), "{text}");
    assert!(!headline(&text).contains("has the lowest"), "{text}");
    assert!(text.contains("nest, seed 1, diverged and is left out of every number: the generator's"), "{text}");
    // Nothing is left.
    let error = refused(&[runs[0].clone(), runs[2].clone()]);
    assert!(error.contains("seed 0, diverged") && error.contains("hint: "), "{error}");
    // The numbers are those of the seed that is left, and arms are called as they were.
    assert!(headline(&text).contains("160.0 kimg on the one seed that all arms have"), "{text}");
    append(&runs[4].join("config.toml"), "[train.generator]\nlr = 0.2\n");
    let text = said(&[runs[0].clone(), runs[4].clone()], &[]);
    assert!(text.contains("\nlr 0.2  ") && text.contains("1 of 1 runs of lr none diverged"), "{text}");
}

#[test]
fn runs_of_a_studys_arm_may_differ_in_what_is_done_about_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let folders = write(dir.path(), &[Recorded::nest(0), Recorded::nest(1)]);
    append(&folders[1].join("config.toml"), "[train.guard]\non_divergence = \"warn\"\n");
    let read = |arm: Option<&str>| -> Vec<Run> {
        let mut runs: Vec<Run> = folders.iter().map(|folder| Run::read(folder).unwrap()).collect();
        runs.iter_mut().for_each(|run| run.arm = arm.map(str::to_owned));
        runs
    };
    assert_eq!(arms::group(&read(None)).unwrap().len(), 2);
    let runs = read(Some("nest"));
    let grouped = arms::group(&runs).unwrap();
    assert_eq!((grouped.len(), grouped[0].runs.len()), (1, 2));
    let notes = arms::mixed_settings(&runs, &grouped);
    assert!(notes[0].contains("train.guard.on_divergence \"warn\" and not set"), "{notes:?}");
}

/// Changes every line of one of a run's files.
pub(crate) fn rewrite(run: &Path, name: &str, change: impl Fn(&str) -> String) {
    let path = run.join(name);
    let lines: String = fs::read_to_string(&path).unwrap().lines().map(|line| change(line) + "\n").collect();
    fs::write(path, lines).unwrap();
}

/// Sets what a run's scores are.
pub(crate) fn score_as(run: &Path, of: impl Fn(f64) -> f64) {
    rewrite(run, "metric-kid2k-scenes-v1.jsonl", |line| {
        let mut score: serde_json::Value = serde_json::from_str(line).unwrap();
        let kimg = score["kimg"].as_f64().unwrap();
        score["results"]["kid2k-scenes-v1"] = of(kimg).into();
        score.to_string()
    });
}

#[test]
fn what_lies_before_the_range_counts_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write(dir.path(), &[Recorded::nest(0), Recorded::sagan(0)]);
    // The second run's first score is at 80 kimg; the first one had its best, which nobody saw again, at 8.
    let path = runs[1].join("metric-kid2k-scenes-v1.jsonl");
    let late: String =
        fs::read_to_string(&path).unwrap().lines().skip(9).map(|line| format!("{line}\n")).collect();
    fs::write(path, late).unwrap();
    rewrite(&runs[0], "metric-kid2k-scenes-v1.jsonl", |line| {
        if line.contains("\"kimg\":8,") { line.replacen(":0.", ":0.000", 1) } else { line.to_owned() }
    });
    let text = said(&runs, &["--threshold", "0.1"]);
    assert!(text.contains("compared from 80.00 to 160.0 kimg"), "{text}");
    assert!(headline(&text).contains("nest at or before 80.00 kimg"), "{text}");
    let row = text.lines().find(|line| line.starts_with("nest  ")).unwrap();
    let columns: Vec<&str> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(columns[2], columns[3], "{row}");
}

#[test]
fn arms_are_ranked_on_the_seeds_they_are_tested_on() {
    let dir = tempfile::tempdir().unwrap();
    // Seeds 3 and 4, which the other arm does not have, are much better.
    let good = |seed| Recorded { floor: 0.001, ..Recorded::nest(seed) };
    let nest = |seed| Recorded { floor: 0.2, ..Recorded::nest(seed) };
    let mut recorded: Vec<Recorded> = (0..3).flat_map(|seed| [nest(seed), Recorded::sagan(seed)]).collect();
    recorded.extend([good(3), good(4)]);
    let text = said(&write(dir.path(), &recorded), &[]);
    assert!(headline(&text).starts_with("sagan has the lowest"), "{text}");
    assert!(headline(&text).contains("over the 3 seeds that all arms have"), "{text}");
}

#[test]
fn the_best_two_of_three_arms_are_tested() {
    let dir = tempfile::tempdir().unwrap();
    // Arm by arm, the first is the worst: of the other two, each has one test, against the first.
    let arm = |kind, floor, seed| Recorded { kind, floor, decay_kimg: 20.0, ..Recorded::nest(seed) };
    let mut recorded: Vec<Recorded> = (0..3).map(|seed| arm("a", 0.3, seed)).collect();
    recorded.extend((0..3).map(|seed| arm("b", 0.1, seed)));
    recorded.extend((0..3).map(|seed| arm("c", 0.2, seed)));
    let text = said(&write(dir.path(), &recorded), &[]);
    assert!(headline(&text).starts_with("b has the lowest"), "{text}");
    assert!(headline(&text).contains("paired over 3 seeds, p < 0.0001"), "{text}");
    assert!(text.contains("where nothing differs, each of the 6"), "{text}");
}

#[test]
fn a_longer_run_gains_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let recorded: Vec<Recorded> = (0..3)
        .flat_map(|seed| {
            [
                Recorded { decay_kimg: 60.0, ..Recorded::nest(seed) },
                Recorded { ticks: 20, ..Recorded::sagan(seed) },
            ]
        })
        .collect();
    // Only the longer runs come down to 0.12, after the end of the others.
    let text = said(&write(dir.path(), &recorded), &["--threshold", "0.12"]);
    assert!(
        headline(&text).contains("at 80.00 kimg") && headline(&text).ends_with("No run reached 0.1200."),
        "{text}"
    );
    let row = text.lines().find(|line| line.starts_with("nest  ")).unwrap();
    let columns: Vec<&str> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    // Final score and best of run are the same of falling curves.
    assert_eq!(columns[2], columns[3], "{row}");
}

#[test]
fn other_images_and_other_beginnings_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write(dir.path(), &[Recorded::nest(0), Recorded::sagan(0), Recorded::nest(1)]);
    for (run, side) in [(&runs[0], 64), (&runs[1], 32)] {
        append(&run.join("config.toml"), &format!("[discriminator]\nresolution = {side}\n"));
    }
    let error = refused(&runs[..2]);
    assert!(error.contains("resolution is 64 here and 32 there"), "{error}");
    append(&runs[2].join("config.toml"), "[discriminator]\nresolution = 64\n");
    let provenance = runs[2].join("provenance.json");
    let text = fs::read_to_string(&provenance).unwrap();
    fs::write(&provenance, text.replacen('{', r#"{"initial":"runs/00000/training-state-000100","#, 1)).unwrap();
    // The same settings but for the seed, yet no second seed of the first arm.
    let text = said(&[runs[0].clone(), runs[2].clone()], &[]);
    assert!(text.contains("initial weights") && text.contains("00000/training-state-000100"), "{text}");
}

#[test]
fn frechet_distances_of_few_images_stand_behind_kid() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write(dir.path(), &[Recorded::nest(0), Recorded::sagan(0)]);
    for run in &runs {
        let kid = fs::read_to_string(run.join("metric-kid2k-scenes-v1.jsonl")).unwrap();
        fs::write(run.join("metric-fid2k.jsonl"), kid.replace("kid2k-scenes-v1", "fid2k")).unwrap();
    }
    assert!(headline(&said(&runs, &[])).contains("kid2k-scenes-v1"));
    let text = said(&runs, &["--metric", "fid2k"]);
    assert!(text.contains("of fewer than 10000 images differs between generators"), "{text}");
}

#[test]
fn the_usual_score_is_the_most_telling_one() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write(dir.path(), &[Recorded::nest(0), Recorded::sagan(0)]);
    let remark = "random features tell trained generators from untrained ones, not better from worse";
    assert!(!said(&runs, &[]).contains(remark));
    // Neither the shortest name nor the fewest images.
    for (name, features, images, usual) in [
        ("kid2k-random-v1", "FD-random-v1", 2000, "kid2k-scenes-v1"),
        ("kid2k-of-the-data-itself", "FD-of-the-data-itself", 2000, "kid2k-of-the-data-itself"),
        ("kid10k-of-the-data-itself", "FD-of-the-data-itself", 10_000, "kid10k-of-the-data-itself"),
        ("kid10k", "FID", 10_000, "kid10k"),
        // Frechet distances of many images are what others publish.
        ("fid10k", "FID", 10_000, "fid10k"),
    ] {
        for run in &runs {
            let lines = fs::read_to_string(run.join("metric-kid2k-scenes-v1.jsonl")).unwrap();
            let lines = lines.replace("kid2k-scenes-v1", name).replace("FD-scenes-v1", features);
            let lines = ["num_fake", "num_real"].iter().fold(lines, |lines, key| {
                lines.replace(&format!("\"{key}\":2000"), &format!("\"{key}\":{images}"))
            });
            fs::write(run.join(format!("metric-{name}.jsonl")), lines).unwrap();
        }
        let text = said(&runs, &[]);
        assert!(headline(&text).contains(&format!("lowest {usual} at")), "{usual}: {text}");
    }
    assert!(said(&runs, &["--metric", "kid2k-random-v1"]).contains(remark));
}

#[test]
fn what_a_rollback_gave_up_was_paid_for() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write(dir.path(), &[Recorded::nest(0)]);
    // Back from 160 kimg to 80, and to 160 again.
    for name in ["stats.jsonl", "metric-kid2k-scenes-v1.jsonl"] {
        let path = runs[0].join(name);
        let text = fs::read_to_string(&path).unwrap();
        let half = text.lines().count() / 2;
        append(&path, &text.lines().skip(half).map(|line| format!("{line}\n")).collect::<String>());
    }
    // 160 kimg in 320 seconds, and 80 in 160 more.
    for (axis, end) in [("kimg", "240.0 kimg"), ("seconds", "480.0 seconds"), ("steps", "15.0k steps")] {
        let text = said(&runs, &["--x", axis]);
        assert!(headline(&text).contains(end), "{axis}: {text}");
        assert!(text.contains("seed 0, was rolled back 1 time"), "{text}");
    }
}

#[test]
fn scores_that_a_rollback_gave_up_do_not_count_before_others_come() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write(dir.path(), &[Recorded::nest(0)]);
    // Back from 160 kimg to 80, and one tick since, without a score.
    let path = runs[0].join("stats.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    append(&path, &format!("{}\n", text.lines().nth(20).unwrap()));
    let csv = dir.path().join("scores.csv");
    let text = said(&runs, &["--csv", csv.to_str().unwrap()]);
    assert!(headline(&text).contains("80.00 kimg"), "{text}");
    assert_eq!(fs::read_to_string(csv).unwrap().lines().count(), 1 + 10);
}

#[test]
fn a_file_that_mixes_protocols_or_holds_no_number_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write(dir.path(), &[Recorded::nest(0), Recorded::sagan(0)]);
    let path = runs[1].join("metric-kid2k-scenes-v1.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    let second = whole.lines().nth(1).unwrap();
    fs::write(&path, whole.replace(second, &second.replace("\"num_fake\":2000", "\"num_fake\":1000"))).unwrap();
    let error = refused(&runs);
    assert!(error.contains("line 2: it mixes protocols: num_fake is"), "{error}");
    let (start, end) = second.split_once("{\"kid2k-scenes-v1\":").unwrap();
    let none = format!("{start}{{\"kid2k-scenes-v1\":null{}", &end[end.find('}').unwrap()..]);
    fs::write(&path, whole.replace(second, &none)).unwrap();
    let error = refused(&runs);
    assert!(error.contains("line 2: the score at 16 kimg is not a number; leave this run out"), "{error}");
}

#[test]
fn what_changes_nothing_makes_no_other_arm() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write(dir.path(), &[Recorded::nest(0), Recorded::nest(1)]);
    for (run, number) in runs.iter().zip(["1", "2"]) {
        let path = run.join("config.toml");
        let text = fs::read_to_string(&path).unwrap();
        let of_train =
            ["image_ticks", "snap_ticks", "keep_states", "grid"].map(|key| format!("{key} = {number}\n"));
        let text = text.replace("[train]\n", &format!("[train]\n{}", of_train.concat()));
        let text = text.replace("[data]\n", &format!("[data]\npath = \"{number}\"\nworkers = {number}\n"));
        // How often it was scored while it trained, as a run that `nestgen score` has scored since.
        let text = text + &format!("[eval]\nevery_kimg = {number}\nimages = {number}\n");
        fs::write(path, text).unwrap();
    }
    let read: Vec<Run> = runs.iter().map(|run| Run::read(run).unwrap()).collect();
    assert_eq!(arms::group(&read).unwrap().len(), 1);
}

#[test]
fn runs_that_never_came_there_count_with_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let at = |floor, seed| Recorded { floor, ..Recorded::nest(seed) };
    let recorded = [at(0.05, 0), at(0.3, 1), Recorded::sagan(0), Recorded::sagan(1)];
    let text = said(&write(dir.path(), &recorded), &["--threshold", "0.2"]);
    assert!(text.contains("≥ ") && text.contains(" (1 of 2)"), "{text}");
    assert!(headline(&text).contains("nest in 1 of 2 seeds"), "{text}");
    let untested = |text: &str| {
        let speed = text.lines().find(|line| line.contains("kimg to threshold")).unwrap();
        assert!(speed.trim_end().ends_with('-'), "speed is not tested: {speed}");
    };
    untested(&text);
    // Nor where a run is there when the range begins.
    let early =
        |seed| Recorded { floor: if seed == 0 { 0.01 } else { 0.05 }, decay_kimg: 4.0, ..Recorded::nest(seed) };
    let recorded: Vec<Recorded> = (0..3).flat_map(|seed| [early(seed), Recorded::sagan(seed)]).collect();
    let text = said(&write(&dir.path().join("early"), &recorded), &["--threshold", "0.1"]);
    assert!(text.contains('≤'), "{text}");
    untested(&text);
}

#[test]
fn two_kinds_at_two_rates_have_names() {
    let dir = tempfile::tempdir().unwrap();
    let recorded = [Recorded::nest(0), Recorded::sagan(0), Recorded::nest(0), Recorded::sagan(0)];
    let runs = write(dir.path(), &recorded);
    for (run, lr) in runs.iter().zip(["0.001", "0.001", "0.002", "0.002"]) {
        append(&run.join("config.toml"), &format!("[train.generator]\nlr = {lr}\n"));
    }
    let text = said(&runs, &[]);
    for name in ["nest, lr 0.001  ", "sagan, lr 0.002  "] {
        assert!(text.contains(name), "{text}");
    }
}
