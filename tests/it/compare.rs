//! `nestgen compare` on run folders written in the format of `nestgen train`.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::cli::nestgen;

/// A recorded run to write.
#[derive(Clone)]
pub(crate) struct Recorded {
    pub(crate) kind: &'static str,
    pub(crate) seed: u64,
    pub(crate) ticks: usize,
    pub(crate) num_fake: usize,
    /// Scores fall as `floor + 0.5 exp(-kimg / decay)`.
    pub(crate) decay_kimg: f64,
    pub(crate) floor: f64,
}

impl Recorded {
    pub(crate) fn nest(seed: u64) -> Self {
        Self { kind: "transposed_nest", seed, ticks: 40, num_fake: 2000, decay_kimg: 20.0, floor: 0.05 }
    }

    pub(crate) fn sagan(seed: u64) -> Self {
        Self { kind: "sagan", decay_kimg: 45.0, floor: 0.08, ..Self::nest(seed) }
    }

    pub(crate) fn score(&self, kimg: f64) -> f64 {
        // A seed shifts the whole run by up to 2 %.
        let luck = 1.0 + 0.02 * ((self.seed as f64 * 2.4).sin());
        luck * (self.floor + 0.5 * (-kimg / self.decay_kimg).exp())
    }

    /// Writes the folder, a tick every 4 kimg and a score every 2 ticks.
    pub(crate) fn write(&self, outdir: &Path, number: usize) -> PathBuf {
        let dir = outdir.join(format!("{number:05}-scenes-{}", self.kind));
        fs::create_dir_all(&dir).unwrap();
        let config = format!(
            "[generator]\nkind = \"{}\"\nresolution = 64\n[train]\nseed = {}\nbatch = 16\nd_steps = 1\n[train.ema]\nramp = 0.05\n[data]\nmirror = true\n",
            self.kind, self.seed
        );
        fs::write(dir.join("config.toml"), config).unwrap();
        let (mut stats, mut scores) = (String::new(), String::new());
        for tick in 1..=self.ticks {
            let kimg = tick as f64 * 4.0;
            let one = |key: &str, value: f64| format!(r#""{key}":{{"mean":{value},"num":1,"std":0.0}}"#);
            let keys = [
                one("Progress/tick", tick as f64),
                one("Progress/kimg", kimg),
                one("Progress/augment", 0.0),
                one("Progress/lr_factor", 1.0),
                one("Timing/total_sec", tick as f64 * 9.0),
                one("Timing/sec_per_tick", 8.0),
                one("Timing/sec_per_kimg", 2.0),
                one("Timing/maintenance_sec", 1.0),
                one("Resources/cpu_mem_gb", 0.9),
                one("Resources/peak_cpu_mem_gb", 1.25),
                one("Loss/D", 1.6 + (kimg * 0.1).sin() * 0.2),
                one("Loss/G", 0.4 + kimg * 0.001),
                one("Logits/real", 0.3),
                one("Logits/fake", -0.4),
            ];
            // One run after the other.
            let timestamp = (number * 1000 + tick * 9) as f64;
            writeln!(stats, "{{{},\"timestamp\":{timestamp:?}}}", keys.join(",")).unwrap();
            if tick % 2 == 0 {
                writeln!(
                    scores,
                    r#"{{"results":{{"kid2k-scenes-v1":{0}}},"metric":"kid2k-scenes-v1","kimg":{kimg},"standard_error":0.001,"num_real":2000,"num_fake":{1},"features":"FD-scenes-v1, resize its own","weights":"ema","snapshot":"network-snapshot-{2:06}.safetensors","timestamp":1.0}}"#,
                    self.score(kimg),
                    self.num_fake,
                    kimg as u64
                )
                .unwrap();
            }
        }
        fs::write(dir.join("stats.jsonl"), stats).unwrap();
        fs::write(dir.join("metric-kid2k-scenes-v1.jsonl"), scores).unwrap();
        let provenance = format!(
            r#"{{"command":"nestgen train --seed {}","version":"0.1.0","commit":"0123456789abcdef","device":"cpu, 2 threads","data_digest":"feed","data_images":5000,"generator":{{"parameters":4200000,"flops":900000000}},"discriminator":{{"parameters":3900000,"flops":700000000}},"flops_per_step":2.4e11}}"#,
            self.seed
        );
        fs::write(dir.join("provenance.json"), provenance).unwrap();
        dir
    }

    /// Sample grids that sharpen over time, and one picture of every other kind.
    pub(crate) fn draw(&self, dir: &Path) {
        let picture = |name: String, width: u32, height: u32, share: f64| {
            let image = image::RgbImage::from_fn(width, height, |x, y| {
                let wave = |a: f64| 127.0 + 127.0 * share * a;
                let (x, y) = (f64::from(x) / 9.0, f64::from(y) / 7.0);
                image::Rgb([(x + self.floor * 30.0).sin(), y.cos(), (x * y * 0.1).sin()].map(|a| wave(a) as u8))
            });
            image.save(dir.join(name)).unwrap();
        };
        picture("fakes_init.png".into(), 256, 256, 0.05);
        for kimg in (20..=self.ticks * 4).step_by(20) {
            let share = 1.0 - (-(kimg as f64) / self.decay_kimg).exp();
            picture(format!("fakes{kimg:06}.png"), 256, 256, share);
        }
        picture("reals.png".into(), 256, 256, 1.0);
        picture("reals_augmented.png".into(), 256, 256, 0.5);
        picture("interpolation000160.png".into(), 1024, 64, 0.9);
        picture("nearest000160.png".into(), 512, 256, 0.9);
    }
}

fn write_all(outdir: &Path, runs: &[Recorded]) -> Vec<PathBuf> {
    runs.iter().enumerate().map(|(number, run)| run.write(outdir, number)).collect()
}

fn compare(runs: &[PathBuf], more: &[&str]) -> Output {
    let mut args = vec!["compare"];
    args.extend(runs.iter().map(|run| run.to_str().unwrap()));
    args.extend(more);
    nestgen(&args)
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn three_seeds_each() -> Vec<Recorded> {
    (0..3).flat_map(|seed| [Recorded::nest(seed), Recorded::sagan(seed)]).collect()
}

#[test]
fn arms_are_found_and_the_faster_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write_all(dir.path(), &three_seeds_each());
    let files =
        ["scores.csv", "tables.md", "curves.svg"].map(|name| dir.path().join(name).display().to_string());
    let output = compare(&runs, &["--csv", &files[0], "--markdown", &files[1], "--figure", &files[2]]);
    let text = stdout(&output);
    let row = |name: &str| text.lines().find(|line| line.starts_with(&format!("{name}  "))).unwrap().to_owned();
    assert!(text.starts_with("nest has the lowest kid2k-scenes-v1 at 160.0 kimg"), "{text}");
    assert!(row("nest").contains("1.25 GiB") && row("sagan").contains("4.20M"), "{text}");
    // 4 kimg in 8 seconds of training.
    assert!(row("sagan").contains("500.0"), "{text}");
    assert!(text.contains("sagan - nest") && text.contains("generator.kind"), "{text}");

    let csv = fs::read_to_string(&files[0]).unwrap();
    assert_eq!(csv.lines().count(), 1 + 6 * 20);
    // 8 kimg: 500 steps of 16 images, 16 seconds, 500 steps of 2.4e11 operations, 1.6 times 5000 images.
    let first = csv.lines().nth(1).unwrap();
    assert!(
        first.starts_with(
            r#""nest","00000-scenes-transposed_nest",0,"kid2k-scenes-v1",8,500,16,120000000000000,1.6,0."#
        ),
        "{first}"
    );
    assert!(fs::read_to_string(&files[1]).unwrap().contains("| nest | 3 |"));
    let svg = fs::read_to_string(&files[2]).unwrap();
    assert_eq!((svg.matches("<polyline").count(), svg.matches("<polygon").count()), (2, 2));
}

#[test]
fn numbers_agree_with_hand_made_ones() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write_all(dir.path(), &three_seeds_each());
    let text = stdout(&compare(&runs, &["--x", "seconds", "--threshold", "0.1"]));
    let wanted: f64 = (0..3)
        .map(|seed| {
            let run = Recorded::nest(seed);
            let at = |i: usize| (i as f64 * 16.0, run.score(i as f64 * 8.0));
            let after = (1..=20).find(|&i| at(i).1 <= 0.1).unwrap();
            let ((x0, y0), (x1, y1)) = (at(after - 1), at(after));
            x0 + (x1 - x0) * (y0 - 0.1) / (y0 - y1)
        })
        .sum::<f64>()
        / 3.0;
    let row = text.lines().find(|line| line.starts_with("nest  ")).unwrap();
    assert!(row.contains(&format!("{wanted:.1}")), "{wanted} {row}");
}

#[test]
fn the_memory_of_a_gpu_comes_before_that_of_the_processor() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write_all(dir.path(), &three_seeds_each());
    for run in &runs {
        let stats = fs::read_to_string(run.join("stats.jsonl")).unwrap();
        let gpu = r#"{"Resources/peak_gpu_mem_gb":{"mean":3.5,"num":1,"std":0.0},"#;
        let lines: String = stats.lines().map(|line| format!("{gpu}{}\n", &line[1..])).collect();
        fs::write(run.join("stats.jsonl"), lines).unwrap();
    }
    let text = stdout(&compare(&runs, &[]));
    assert!(text.contains("3.50 GiB") && !text.contains("1.25 GiB"), "{text}");
}

/// `nestgen score` with more images gives the snapshots that were kept one score each: no curve.
#[test]
fn a_curve_comes_before_a_single_score_of_more_images() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write_all(dir.path(), &three_seeds_each());
    for run in &runs {
        let scores = fs::read_to_string(run.join("metric-kid2k-scenes-v1.jsonl")).unwrap();
        let last = scores.lines().last().unwrap();
        let more = last.replace("kid2k", "kid9k").replace("\"num_fake\":2000", "\"num_fake\":9000");
        assert!(more.contains("9000"), "{more}");
        fs::write(run.join("metric-kid9k-scenes-v1.jsonl"), more + "\n").unwrap();
    }
    assert!(stdout(&compare(&runs, &[])).starts_with("nest has the lowest kid2k-scenes-v1"));
    assert!(stdout(&compare(&runs, &["--metric", "kid9k-scenes-v1"])).contains("kid9k-scenes-v1"));
}

#[test]
fn other_protocols_and_twice_the_same_run_are_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let fewer = Recorded { num_fake: 500, ..Recorded::sagan(0) };
    let runs = write_all(dir.path(), &[Recorded::nest(0), fewer, Recorded::nest(0)]);
    let refused = |runs: &[PathBuf], more: &[&str], words: &[&str]| {
        let output = compare(runs, more);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{text}");
        assert!(text.contains("\nhint: "), "{text}");
    };
    refused(&runs[..2], &[], &["different protocols", "num_fake is 2000 here and 500 there"]);
    refused(&[runs[0].clone(), runs[2].clone()], &[], &["same experiment with the same seed"]);
    refused(&runs[..1], &["--metric", "fid5k"], &["no score named fid5k", "kid2k-scenes-v1"]);
    refused(&[dir.path().to_path_buf()], &[], &["not a run folder"]);

    let other = write_all(&dir.path().join("other"), &[Recorded::nest(1)]);
    let path = other[0].join("provenance.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("feed", "f00d").replace("2 threads", "64 threads")).unwrap();
    refused(&[runs[0].clone(), other[0].clone()], &[], &["data is feed here and f00d there"]);
    fs::write(&path, text.replace("2 threads", "64 threads")).unwrap();
    refused(&[runs[0].clone(), other[0].clone()], &["--x", "seconds"], &["different devices"]);
    // Two that changed their device, who knows when.
    for run in [&runs[0], &other[0]] {
        fs::write(run.join("provenance.json"), text.replace("2 threads", "2 threads, then a GPU")).unwrap();
    }
    refused(&[runs[0].clone(), other[0].clone()], &["--x", "seconds"], &["different devices"]);
    fs::remove_file(&path).unwrap();
    refused(&other, &["--x", "flops"], &["does not record flops"]);
}

#[test]
fn a_killed_run_compares_and_a_damaged_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let runs = write_all(dir.path(), &[Recorded::nest(0), Recorded::nest(1)]);
    let stats = runs[0].join("stats.jsonl");
    let text = fs::read_to_string(&stats).unwrap();
    fs::write(&stats, format!("{text}{{\"Progress/ki")).unwrap();
    stdout(&compare(&runs, &[]));
    fs::write(&stats, format!("{{\"Progress/ki\n{text}")).unwrap();
    let error = String::from_utf8(compare(&runs, &[]).stderr).unwrap();
    assert!(error.contains("stats.jsonl`: line 1:"), "{error}");
    fs::write(&stats, text).unwrap();
    fs::write(runs[0].join("config.toml"), "[train]\nbatch = 0\n").unwrap();
    let error = String::from_utf8(compare(&runs, &["--x", "steps"]).stderr).unwrap();
    assert!(error.contains("config.toml`: a step of 0 images"), "{error}");
}

/// Issue of a user waiting: 50 runs of 1000 ticks within 2 seconds.
#[test]
fn fifty_runs_of_a_thousand_ticks_take_less_than_two_seconds() {
    const LIMIT: Duration = Duration::from_secs(2);
    let dir = tempfile::tempdir().unwrap();
    let of = |arm: usize, seed: u64| {
        let run = if arm.is_multiple_of(2) { Recorded::nest(seed) } else { Recorded::sagan(seed) };
        Recorded { ticks: 1000, ..run }
    };
    let recorded: Vec<Recorded> = (0..50).map(|i| of(i, i as u64 / 2)).collect();
    let runs = write_all(dir.path(), &recorded);
    let report = dir.path().join("report.html").display().to_string();
    // The best of a few: other tests share the machine.
    let once = || {
        let start = Instant::now();
        stdout(&compare(&runs, &["--report", &report]));
        start.elapsed()
    };
    let best = (0..3).map(|_| once()).min().unwrap();
    assert!(best < LIMIT, "{best:?}");
}

/// Drives the report in a real browser: `tests/browser/report.mjs`. Skipped without node or Chromium.
#[test]
fn the_report_works_in_a_browser() {
    let works =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
    let browser = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|program| works(program));
    let (Some(browser), true) = (browser, works("node")) else {
        #[expect(clippy::print_stderr, reason = "a skipped check should be seen")]
        {
            eprintln!("skipped: node or Chromium is missing");
        }
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let recorded = three_seeds_each();
    let runs = write_all(dir.path(), &recorded);
    recorded.iter().zip(&runs).for_each(|(run, path)| run.draw(path));
    let report = dir.path().join("report.html");
    stdout(&compare(&runs, &["--report", report.to_str().unwrap()]));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/report.mjs");
    // Pictures to look at are kept where a person asks for them.
    let kept = std::env::var("NESTGEN_SCREENSHOTS").unwrap_or_else(|_| dir.path().display().to_string());
    let output =
        Command::new("node").arg(script).arg(&report).arg(kept).env("BROWSER", browser).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("all checks passed"), "{said}");
}
