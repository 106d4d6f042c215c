//! The numbers that a comparison gives, beside the same made by hand: differences, means, and what luck may have done.

use std::fs;
use std::path::Path;

use nestgen::study::arms;
use nestgen::study::axis::Axis;
use nestgen::study::comparison::{Comparison, Question, compare};
use nestgen::study::run::Run;
use nestgen::study::tuned::best_arms;

use super::compare::Recorded;
use super::verdicts::{headline, rewrite, said, write};

/// Scores of which more is better, in the place of the distances: one less each.
fn count_hits_instead(run: &Path) {
    rewrite(run, "metric-kid2k-scenes-v1.jsonl", |line| {
        let mut score: serde_json::Value = serde_json::from_str(line).unwrap();
        let distance = score["results"]["kid2k-scenes-v1"].as_f64().unwrap();
        score["results"] = serde_json::json!({ "top1": 1.0 - distance });
        score["metric"] = "top1".into();
        score.to_string()
    });
    fs::rename(run.join("metric-kid2k-scenes-v1.jsonl"), run.join("metric-top1.jsonl")).unwrap();
}

/// The mean of a row of the table of tests, and half of its interval.
fn tested(text: &str, what: &str) -> (f64, f64) {
    let row = text.lines().find(|line| line.starts_with("sagan - transposed_nest") && line.contains(what));
    let (mean, half) =
        row.and_then(|row| row.split_once(" ± ")).unwrap_or_else(|| panic!("no {what} in {text}"));
    let number = |word: Option<&str>| word.unwrap().parse().unwrap();
    (number(mean.split_whitespace().last()), number(half.split_whitespace().next()))
}

/// The mean of three and half of its 95 % interval of Student's t with two degrees of freedom.
fn by_hand(values: [f64; 3]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / 3.0;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 2.0;
    (mean, 4.302_652_73 * (variance / 3.0).sqrt())
}

#[test]
fn tested_differences_are_those_made_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    // Decays that differ from seed to seed, so that differences scatter.
    let of = |seed: u64, run: Recorded| Recorded { decay_kimg: run.decay_kimg + 4.0 * seed as f64, ..run };
    let pairs = [0, 1, 2].map(|seed| [of(seed, Recorded::nest(seed)), of(seed, Recorded::sagan(seed))]);
    // A score every 8 kimg, up to 160: lines between them.
    let area = |run: &Recorded| {
        let scores: Vec<f64> = (1..=20).map(|i| run.score(f64::from(i) * 8.0)).collect();
        scores.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).sum::<f64>() / 19.0
    };
    let last = pairs.each_ref().map(|[nest, sagan]| sagan.score(160.0) - nest.score(160.0));
    let areas = pairs.each_ref().map(|[nest, sagan]| area(sagan) - area(nest));
    let recorded: Vec<Recorded> = pairs.into_iter().flatten().collect();
    let runs = write(dir.path(), &recorded);
    let close = |text: &str, what: &str, sign: f64, (mean, half): (f64, f64)| {
        let found = tested(text, what);
        assert!((found.0 - sign * mean).abs() < 0.1 * half, "{what}: {found:?}, not {mean} ± {half}\n{text}");
        assert!((found.1 / half - 1.0).abs() < 0.1, "{what}: {found:?}, not {mean} ± {half}\n{text}");
    };
    let text = said(&runs, &[]);
    assert!(headline(&text).starts_with("transposed_nest has the lowest"), "{text}");
    close(&text, "final score", 1.0, by_hand(last));
    close(&text, "mean score", 1.0, by_hand(areas));
    runs.iter().for_each(|run| count_hits_instead(run));
    let text = said(&runs, &[]);
    assert!(headline(&text).starts_with("transposed_nest has the highest top1 at 160.0 kimg: 0.9"), "{text}");
    close(&text, "final score", -1.0, by_hand(last));
    close(&text, "mean score", -1.0, by_hand(areas));
}

#[test]
fn what_luck_may_have_done_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let said_of = |name: &str, recorded: &[Recorded]| said(&write(&dir.path().join(name), recorded), &[]);
    let at = |kind, floor, seed| Recorded { kind, floor, decay_kimg: 20.0, ..Recorded::nest(seed) };
    // Differences that change their sign from seed to seed.
    let ahead = [0.1, 0.3, 0.2];
    let behind = [0.2, 0.2, 0.21];
    let turns: Vec<Recorded> = (0..3)
        .flat_map(|seed| [at("a", ahead[seed as usize], seed), at("b", behind[seed as usize], seed)])
        .collect();
    let text = said_of("turns", &turns);
    assert!(headline(&text).contains("over 3 paired seeds that cannot be told from luck (p = 0."), "{text}");
    let text = said_of("two", &turns[..4]);
    assert!(headline(&text).contains("with this few seeds in common nothing can be said about luck"), "{text}");
    assert!(text.contains("fewer than 3 seeds in an arm"), "{text}");
    // The difference is the same for every seed but for their luck, a hundred times the scatter of it.
    let clear: Vec<Recorded> = (0..3).flat_map(|seed| [at("a", 0.1, seed), at("b", 0.2, seed)]).collect();
    let text = said_of("clear", &clear);
    assert!(headline(&text).contains(" (paired over 3 seeds, p "), "{text}");
    // Their scores' standard errors of 0.001 are of the size of that luck.
    let steady: Vec<Recorded> = (0..3).map(|seed| at("a", 0.01, seed)).collect();
    let text = said_of("steady", &steady);
    assert!(text.contains("seeds of a scatter less than 1.5 standard errors would"), "{text}");
}

#[test]
fn the_best_value_of_a_generator_is_its_lowest_distance_or_its_most_hits() {
    let dir = tempfile::tempdir().unwrap();
    let recorded = [0.2, 0.05, 0.1].map(|floor| Recorded { floor, ..Recorded::nest(0) });
    let folders = write(dir.path(), &recorded);
    let best = |metric: &str| {
        let mut runs: Vec<Run> = folders.iter().map(|folder| Run::read(folder).unwrap()).collect();
        for (run, name) in runs.iter_mut().zip(["nest@4e-3", "nest@1e-3", "nest@2e-3"]) {
            run.arm = Some(name.into());
        }
        let arms = arms::group(&runs).unwrap();
        let question = Question { metric, axis: Axis::Kimg, threshold: None, notes: &[], lost: &[] };
        let comparison: Comparison = compare(&runs, &arms, &question).unwrap();
        best_arms(&comparison).iter().map(|arm| arm.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(best("kid2k-scenes-v1"), ["nest@1e-3"]);
    folders.iter().for_each(|run| count_hits_instead(run));
    assert_eq!(best("top1"), ["nest@1e-3"]);
}
