//! What `nestgen compare` warns of beside its numbers: scores that scatter too little, runs side by side, discriminators that do not
//! keep up, schedules that are read in their middle.

use std::fs;
use std::path::Path;

use super::cli::nestgen;
use super::compare::Recorded;
use super::verdicts::{rewrite, said, score_as, write};

#[test]
fn differences_that_hardly_scatter_are_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    // Seeds scatter by far more than a score's error; both arms alike.
    let at = |kind, floor: f64, seed| Recorded {
        kind,
        floor: floor + 0.1 * seed as f64,
        decay_kimg: 20.0,
        ..Recorded::nest(seed)
    };
    let recorded: Vec<Recorded> = (0..3).flat_map(|seed| [at("a", 0.1, seed), at("b", 0.101, seed)]).collect();
    let text = said(&write(dir.path(), &recorded), &[]);
    assert!(text.contains("differences between a and b scatter less than 1.5 standard errors would"), "{text}");
    assert!(!text.contains("seeds of a"), "{text}");
    assert!(
        text.contains("differences between a and b scatter less in the mean over the range than 1.5"),
        "{text}"
    );
    // The pair that the headline speaks of need not be one of those in the table, where all are tested against the first.
    let last: Vec<Recorded> =
        (0..3).flat_map(|seed| [at("first", 0.9, seed), at("b", 0.1, seed), at("c", 0.101, seed)]).collect();
    let text = said(&write(&dir.path().join("three"), &last), &[]);
    assert!(text.contains("differences between b and c scatter less than"), "{text}");
    // Ways that differ from seed to seed, and ends that do not: p of the mean is trusted.
    let ways = |kind, seed| Recorded { decay_kimg: [8.0, 30.0, 15.0][seed as usize], ..at(kind, 0.1, seed) };
    let apart: Vec<Recorded> = (0..3).flat_map(|seed| [at("a", 0.1, seed), ways("b", seed)]).collect();
    let text = said(&write(&dir.path().join("apart"), &apart), &[]);
    assert!(!text.contains("in the mean over the range"), "{text}");
}

#[test]
fn seeds_are_steady_where_they_scatter_less_than_errors_of_the_scores_there() {
    let dir = tempfile::tempdir().unwrap();
    let recorded: Vec<Recorded> =
        (0..3).flat_map(|seed| [Recorded::nest(seed), Recorded::sagan(seed)]).collect();
    let runs = write(dir.path(), &recorded);
    // Scores have errors of 0.001; ends that scatter by `spread` over the seeds of the one, by much over those of the other.
    let steady = |spread: f64| {
        for (run, seed) in runs.iter().zip([0, 0, 1, 1, 2, 2]) {
            let is_nest = run.to_str().unwrap().contains("nest");
            let apart = (f64::from(seed) - 1.0) * if is_nest { spread } else { 0.03 };
            score_as(run, |kimg| 1.0 - 0.005 * kimg + apart * kimg / 160.0);
        }
        said(&runs, &[]).contains("seeds of nest scatter less than 1.5 standard errors would")
    };
    assert!(steady(0.0012));
    assert!(!steady(0.0018));
    // What counts is the error where the range ends, not that of a longer run's own end.
    for run in &runs {
        rewrite(run, "metric-kid2k-scenes-v1.jsonl", |line| {
            if line.contains("\"kimg\":160") { line.to_owned() } else { line.replace(":0.001,", ":0.01,") }
        });
    }
    assert!(!steady(0.0018));
    let path = runs[1].join("metric-kid2k-scenes-v1.jsonl");
    let half: String =
        fs::read_to_string(&path).unwrap().lines().take(10).map(|line| format!("{line}\n")).collect();
    fs::write(path, half).unwrap();
    assert!(steady(0.0018 * 2.0));
}

#[test]
fn places_that_hardly_scatter_are_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let recorded: Vec<Recorded> =
        (0..3).flat_map(|seed| [Recorded::nest(seed), Recorded::sagan(seed)]).collect();
    let runs = write(dir.path(), &recorded);
    // Scores fall by 0.005 a kimg, so that an error of 0.001 moves the place by 0.2 kimg.
    let steady = |spread_kimg: f64| {
        for (run, seed) in runs.iter().zip([0, 0, 1, 1, 2, 2]) {
            let is_nest = run.to_str().unwrap().contains("nest");
            let later = (f64::from(seed) - 1.0) * if is_nest { spread_kimg } else { 9.0 };
            score_as(run, |kimg| 1.0 - 0.005 * (kimg - later));
        }
        let text = said(&runs, &["--threshold", "0.5"]);
        text.contains("seeds of nest scatter less in where they reach the threshold than 1.5")
    };
    assert!(steady(0.2));
    assert!(!steady(0.4));
}

#[test]
fn company_is_counted_in_the_seconds_of_all_runs() {
    let dir = tempfile::tempdir().unwrap();
    let recorded: Vec<Recorded> = (0..60).map(|seed| Recorded { ticks: 4, ..Recorded::nest(seed) }).collect();
    let runs = write(dir.path(), &recorded);
    for run in &runs {
        rewrite(run, "stats.jsonl", |line| {
            let mut tick: serde_json::Value = serde_json::from_str(line).unwrap();
            tick["timestamp"] = tick["Timing/total_sec"]["mean"].clone();
            tick.to_string()
        });
    }
    assert!(said(&runs, &[]).contains("up to 60 runs were trained at once"));
}

#[test]
fn seconds_are_not_those_of_runs_side_by_side_or_without_a_clock() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write(dir.path(), &[Recorded::nest(0), Recorded::sagan(0)]);
    assert!(!said(&runs, &[]).contains("trained at once"));
    let stats = runs[0].join("stats.jsonl");
    let alone = fs::read_to_string(&stats).unwrap();
    rewrite(&runs[0], "stats.jsonl", |line| line.replace("\"timestamp\":", "\"timestamp\":1"));
    let text = said(&runs, &[]);
    assert!(text.contains("up to 2 runs were trained at once"), "{text}");
    // A tick that does not say how long it took.
    fs::write(stats, alone.replacen("Timing/sec_per_tick", "Timing/other", 1)).unwrap();
    said(&runs, &[]);
    let all: Vec<&str> = runs.iter().map(|run| run.to_str().unwrap()).collect();
    let output = nestgen(&[&["compare", "--x", "seconds"], &all[..]].concat());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("does not record seconds"), "{error}");
}

#[test]
fn a_discriminator_that_does_not_keep_up_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write(dir.path(), &[Recorded::nest(0), Recorded::sagan(0)]);
    assert!(!said(&runs, &[]).contains("did not keep up"));
    // Logits/real as low as Logits/fake.
    rewrite(&runs[0], "stats.jsonl", |line| line.replace("{\"mean\":0.3,", "{\"mean\":-0.4,"));
    let text = said(&runs, &[]);
    assert!(text.contains("nest, seed 0: in the second half the discriminator did not keep up"), "{text}");
}

#[test]
fn an_arm_that_is_read_in_the_middle_of_its_schedule_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write(dir.path(), &[Recorded::nest(0), Recorded::sagan(0)]);
    // A rate that falls evenly to a tenth at `end` kimg.
    let anneal = |run: &Path, end: f64| {
        rewrite(run, "stats.jsonl", |line| {
            let mut tick: serde_json::Value = serde_json::from_str(line).unwrap();
            let rate = 1.0 - 0.9 * tick["Progress/kimg"]["mean"].as_f64().unwrap() / end;
            tick["Progress/lr_factor"] = serde_json::json!({ "mean": rate, "num": 1, "std": 0.0 });
            tick.to_string()
        });
    };
    runs.iter().for_each(|run| anneal(run, 160.0));
    assert!(!said(&runs, &[]).contains("schedules"));
    // The first run ends at half of the other's images, its rate with it.
    for name in ["stats.jsonl", "metric-kid2k-scenes-v1.jsonl"] {
        let path = runs[0].join(name);
        let text = fs::read_to_string(&path).unwrap();
        let half: String =
            text.lines().take(text.lines().count() / 2).map(|line| format!("{line}\n")).collect();
        fs::write(path, half).unwrap();
    }
    assert!(!said(&runs, &[]).contains("schedules"), "a run that has not ended stands where the others stood");
    anneal(&runs[0], 80.0);
    let text = said(&runs, &[]);
    assert!(text.contains("(nest 10 %, sagan 56 %, of each one's highest)"), "{text}");
}
