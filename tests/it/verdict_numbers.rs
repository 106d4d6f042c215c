//! The numbers that a comparison gives, beside the same made by hand: differences, means, and what luck may have done.

use std::fs;
use std::path::{Path, PathBuf};

use nestgen::study::arms;
use nestgen::study::axis::Axis;
use nestgen::study::comparison::{Comparison, Question, compare};
use nestgen::study::data_efficiency::figure_and_table;
use nestgen::study::run::Run;
use nestgen::study::tuned::best_arms;

use super::compare::Recorded;
use super::verdicts::{headline, rewrite, said, score_as, write};

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
    let row = text.lines().find(|line| line.starts_with("sagan - nest") && line.contains(what));
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
    assert!(headline(&text).starts_with("nest has the lowest"), "{text}");
    close(&text, "final score", 1.0, by_hand(last));
    close(&text, "mean score", 1.0, by_hand(areas));
    runs.iter().for_each(|run| count_hits_instead(run));
    let text = said(&runs, &[]);
    assert!(headline(&text).starts_with("nest has the highest top1 at 160.0 kimg: 0.9"), "{text}");
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

/// A comparison of recorded runs by their kinds.
fn compared(folders: &[PathBuf], metric: &str, axis: Axis, threshold: Option<f64>) -> Comparison {
    let runs: Vec<Run> = folders.iter().map(|folder| Run::read(folder).unwrap()).collect();
    let arms = arms::group(&runs).unwrap();
    compare(&runs, &arms, &Question { metric, axis, threshold, notes: &[], lost: &[] }).unwrap()
}

const KID: &str = "kid2k-scenes-v1";

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9 * expected.abs(), "{found}, not {expected}");
}

#[test]
fn luck_has_one_chance_in_twenty() {
    let dir = tempfile::tempdir().unwrap();
    let recorded: Vec<Recorded> =
        (0..3).flat_map(|seed| [Recorded::nest(seed), Recorded::sagan(seed)]).collect();
    let runs = write(dir.path(), &recorded);
    // scipy.stats.ttest_1samp([0.01, 0.02, 0.04], 0): p = 0.1181; of [1, 1.2, 1.5]: 0.0136.
    for (differences, says) in [
        ([0.01, 0.02, 0.04], "cannot be told from luck (p = 0.12)"),
        ([1.0, 1.2, 1.5], "(paired over 3 seeds, p = 0.0136)"),
    ] {
        for (pair, difference) in runs.chunks(2).zip(differences) {
            score_as(&pair[0], |_| 1.0);
            score_as(&pair[1], |_| 1.0 + difference);
        }
        let text = said(&runs, &[]);
        assert!(headline(&text).contains(says), "{text}");
    }
}

#[test]
fn a_step_is_of_all_images_that_its_discriminator_sees() {
    let dir = tempfile::tempdir().unwrap();
    let run = write(dir.path(), &[Recorded::nest(0)]).remove(0);
    rewrite(&run, "config.toml", |line| line.replace("d_steps = 1", "d_steps = 2"));
    let run = Run::read(&run).unwrap();
    // 8000 images in batches of 16, two a step; 2.4e11 operations each.
    close(run.position(Axis::Steps, 8.0).unwrap(), 250.0);
    close(run.position(Axis::Flops, 8.0).unwrap(), 6e13);
}

#[test]
fn the_mean_over_the_range_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (long, short) = (Recorded::nest(0), Recorded { ticks: 20, ..Recorded::sagan(0) });
    let compared = compared(&write(dir.path(), &[long.clone(), short]), KID, Axis::Kimg, None);
    let scores: Vec<f64> = (1..=10).map(|i| long.score(f64::from(i) * 8.0)).collect();
    close(
        compared.arms[0].area.mean,
        scores.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).sum::<f64>() / 9.0,
    );
}

#[test]
fn ends_of_the_range_that_lie_between_scores_are_among_the_best() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write(dir.path(), &[Recorded::nest(0), Recorded::sagan(0)]);
    // The second takes half again as long: where the first ends, at 320 seconds, the second has no score.
    rewrite(&runs[1], "stats.jsonl", |line| {
        line.replace("\"Timing/sec_per_tick\":{\"mean\":8.0,", "\"Timing/sec_per_tick\":{\"mean\":12.0,")
            .replace("\"Timing/sec_per_tick\":{\"mean\":8,", "\"Timing/sec_per_tick\":{\"mean\":12.0,")
    });
    let compared = compared(&runs, KID, Axis::Seconds, None);
    assert_eq!(compared.range, (24.0, 320.0));
    let sagan = &compared.arms[1];
    // 106.7 kimg, a third of the way from 104 to 112.
    let [before, after] = [104.0, 112.0].map(|kimg| Recorded::sagan(0).score(kimg));
    close(sagan.last.mean, before + (after - before) / 3.0);
    assert_eq!(sagan.best.mean, sagan.last.mean);
    assert!(compared.threshold >= sagan.last.mean && compared.threshold < before);
    assert_eq!(sagan.reached, 1);
}

#[test]
fn curves_end_with_what_the_table_says() {
    let dir = tempfile::tempdir().unwrap();
    let recorded: Vec<Recorded> =
        (0..3).flat_map(|seed| [Recorded::nest(seed), Recorded::sagan(seed)]).collect();
    let runs = write(dir.path(), &recorded);
    let distances = compared(&runs, KID, Axis::Kimg, Some(0.1));
    let row = said(&runs, &[]);
    let row = row.lines().find(|line| line.starts_with("nest  ")).unwrap();
    let cells: Vec<&str> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    let mean: f64 = cells[4].split_once(" ± ").unwrap().0.parse().unwrap();
    for arm in &distances.arms {
        assert_eq!(*arm.curve.last().unwrap(), (160.0, arm.last.mean, arm.last.half_width));
    }
    assert!((mean / distances.arms[0].area.mean - 1.0).abs() < 0.02, "{row}");
    // Hits are one less each distance: places stay, scores change their sides.
    runs.iter().for_each(|run| count_hits_instead(run));
    let hits = compared(&runs, "top1", Axis::Kimg, Some(0.9));
    assert_eq!((hits.threshold, distances.threshold), (0.9, 0.1));
    for (hits, distances) in hits.arms.iter().zip(&distances.arms) {
        let [hit, distance] = [hits, distances].map(|arm| (arm.to_threshold.unwrap().mean, arm.reached));
        close(hit.0, distance.0);
        assert_eq!((hit.1, distance.1), (3, 3));
        for (hit, distance) in [
            (hits.last.mean, distances.last.mean),
            (hits.best.mean, distances.best.mean),
            (hits.area.mean, distances.area.mean),
            (hits.curve[3].1, distances.curve[3].1),
            (hits.runs[0].points[3].1, distances.runs[0].points[3].1),
            (hits.runs[1].last, distances.runs[1].last),
            (hits.runs[1].best.1, distances.runs[1].best.1),
            (hits.runs[1].area, distances.runs[1].area),
        ] {
            close(hit, 1.0 - distance);
        }
    }
    // The threshold that nobody names is one that all have reached.
    let hits = compared(&runs, "top1", Axis::Kimg, None);
    assert!(hits.threshold > 0.9 && hits.arms.iter().all(|arm| arm.reached == 3), "{}", hits.threshold);
}

#[test]
fn who_never_came_there_counts_with_the_end_of_the_range() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write(dir.path(), &[Recorded::nest(0), Recorded::nest(1)]);
    score_as(&runs[0], |kimg| 1.0 - kimg / 160.0);
    score_as(&runs[1], |_| 1.0);
    let compared = compared(&runs, KID, Axis::Kimg, Some(0.5));
    close(compared.arms[0].to_threshold.unwrap().mean, (80.0 + 160.0) / 2.0);
    assert_eq!(compared.arms[0].reached, 1);
}

#[test]
fn each_share_of_the_images_counts_with_its_own_end() {
    let dir = tempfile::tempdir().unwrap();
    // Half of the images, half of the steps.
    let (half, whole) = (Recorded { ticks: 20, ..Recorded::nest(0) }, Recorded::nest(0));
    let folders = write(dir.path(), &[half.clone(), whole.clone()]);
    for (run, share, images) in [(&folders[0], "0.5", "2500"), (&folders[1], "1.0", "5000")] {
        rewrite(run, "config.toml", |line| line.replace("[data]", &format!("[data]\nfraction = {share}")));
        rewrite(run, "provenance.json", |line| {
            line.replace("\"data_images\":5000", &format!("\"data_images\":{images}"))
        });
    }
    let runs: Vec<Run> = folders.iter().map(|folder| Run::read(folder).unwrap()).collect();
    let arms = arms::group(&runs).unwrap();
    let question = Question { metric: KID, axis: Axis::Kimg, threshold: None, notes: &[], lost: &[] };
    let compared = compare(&runs, &arms, &question).unwrap();
    assert_eq!(compared.range.1, 80.0);
    let (_, table) = figure_and_table(&compared, &arms, &runs).unwrap();
    for (images, end) in [("2500", half.score(80.0)), ("5000", whole.score(160.0))] {
        let row = table.lines().find(|row| row.contains(&format!("| {images} |"))).unwrap();
        let cell: f64 = row.split('|').nth(4).unwrap().trim().parse().unwrap();
        assert!((cell / end - 1.0).abs() < 1e-3, "{images}: {cell}, not {end}");
    }
}

#[test]
fn epochs_are_those_that_a_classifier_counted() {
    let dir = tempfile::tempdir().unwrap();
    let run = write(dir.path(), &[Recorded::nest(0)]).remove(0);
    // Batches that do not divide the set: an epoch every 4 kimg of 3.9.
    rewrite(&run, "stats.jsonl", |line| {
        let mut tick: serde_json::Value = serde_json::from_str(line).unwrap();
        tick["Progress/epoch"] = tick["Progress/tick"].clone();
        tick.to_string()
    });
    rewrite(&run, "provenance.json", |line| line.replace("\"data_images\":5000", "\"data_images\":3900"));
    let run = Run::read(&run).unwrap();
    close(run.position(Axis::Epochs, 8.0).unwrap(), 2.0);
    close(run.position(Axis::Epochs, 10.0).unwrap(), 2.5);
}
