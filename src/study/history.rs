//! The ticks of a run, as `stats.jsonl` tells them: with what was given up by rollbacks, and when it was trained.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// Quantities of a tick that a report can plot beside the scores.
pub const QUANTITIES: [&str; 8] = [
    "Loss/D",
    "Loss/G",
    "Logits/real",
    "Logits/fake",
    "Fakes/diversity",
    "Loss/train",
    "Loss/test",
    "Timing/sec_per_kimg",
];

/// What a line of `stats.jsonl` says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tick {
    /// Thousands of real images shown, as the network counts them.
    pub kimg: f64,
    /// The same with those of stretches that a rollback gave up: they were paid for.
    pub spent_kimg: f64,
    /// Passes over a classifier's images, of which its last batch may take some twice; not a number for a generator.
    pub epoch: f64,
    /// Seconds of training up to here, without scores, pictures and saving; those given up included. Not a number once a tick has
    /// not said how long it took.
    pub train_secs: f64,
    /// Wall time up to here.
    pub wall_secs: f64,
    /// The most memory used up to here, GiB.
    pub peak_memory_gib: f64,
    /// The learning rate: a classifier's, or a generator's as a share of what its configuration says; not a number where it was not
    /// recorded.
    pub learning_rate: f64,
    /// The [`QUANTITIES`], in their order; not a number where one was not measured.
    pub quantities: [f64; QUANTITIES.len()],
}

#[derive(Deserialize)]
struct Mean {
    mean: Option<f64>,
}

/// The keys of a tick's line that matter here; everything else is skipped without being kept.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "Progress/kimg")]
    kimg: Mean,
    #[serde(rename = "Progress/epoch")]
    epoch: Option<Mean>,
    #[serde(rename = "Timing/sec_per_tick")]
    tick_secs: Option<Mean>,
    timestamp: Option<f64>,
    #[serde(rename = "Timing/total_sec")]
    wall_secs: Option<Mean>,
    #[serde(rename = "Resources/peak_cpu_mem_gb")]
    cpu_memory: Option<Mean>,
    #[serde(rename = "Resources/peak_gpu_mem_gb")]
    gpu_memory: Option<Mean>,
    #[serde(rename = "Progress/lr_factor", alias = "Progress/lr")]
    learning_rate: Option<Mean>,
    #[serde(rename = "Loss/D")]
    loss_d: Option<Mean>,
    #[serde(rename = "Loss/G")]
    loss_g: Option<Mean>,
    #[serde(rename = "Logits/real")]
    real: Option<Mean>,
    #[serde(rename = "Logits/fake")]
    fake: Option<Mean>,
    #[serde(rename = "Fakes/diversity")]
    diversity: Option<Mean>,
    #[serde(rename = "Loss/train")]
    loss_train: Option<Mean>,
    #[serde(rename = "Loss/test")]
    loss_test: Option<Mean>,
    #[serde(rename = "Timing/sec_per_kimg")]
    sec_per_kimg: Option<Mean>,
}

impl Line {
    /// The tick, after `before` on the way that was kept; `spent` has everything that was paid for until then.
    fn tick(&self, before: Tick, spent: Tick) -> Option<Tick> {
        let value = |mean: &Option<Mean>| mean.as_ref().and_then(|mean| mean.mean);
        let memory = value(&self.gpu_memory).or(value(&self.cpu_memory)).unwrap_or(0.0);
        let plotted = [
            &self.loss_d,
            &self.loss_g,
            &self.real,
            &self.fake,
            &self.diversity,
            &self.loss_train,
            &self.loss_test,
            &self.sec_per_kimg,
        ];
        let kimg = self.kimg.mean?;
        Some(Tick {
            kimg,
            spent_kimg: spent.spent_kimg + kimg - before.kimg,
            epoch: value(&self.epoch).unwrap_or(f64::NAN),
            train_secs: spent.train_secs + value(&self.tick_secs).unwrap_or(f64::NAN),
            wall_secs: value(&self.wall_secs).unwrap_or(spent.wall_secs),
            peak_memory_gib: spent.peak_memory_gib.max(memory),
            learning_rate: value(&self.learning_rate).unwrap_or(f64::NAN),
            quantities: plotted.map(|mean| value(mean).unwrap_or(f64::NAN)),
        })
    }
}

/// What `stats.jsonl` tells.
#[derive(Default)]
pub(super) struct History {
    /// The ticks that were kept.
    pub(super) ticks: Vec<Tick>,
    /// How often the run went back: a resumed run's file has no line of what comes again, so a stretch that is there twice was given
    /// up by a rollback.
    pub(super) rollbacks: usize,
    /// When ticks were trained: Unix seconds.
    pub(super) spans: Vec<(f64, f64)>,
}

impl History {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let Self { mut ticks, mut rollbacks, mut spans } = Self::default();
        let mut spent = Tick::default();
        for_each_line(path, |line: Line| {
            let Some(kimg) = line.kimg.mean else { return Err("Progress/kimg is not a number".into()) };
            let kept = ticks.partition_point(|tick| tick.kimg < kimg);
            rollbacks += usize::from(kept < ticks.len());
            ticks.truncate(kept);
            if let Some(tick) = line.tick(ticks.last().copied().unwrap_or_default(), spent) {
                spent = tick;
                ticks.push(tick);
            }
            let secs = line.tick_secs.as_ref().and_then(|mean| mean.mean).filter(|secs| *secs > 0.0);
            spans.extend(line.timestamp.zip(secs).map(|(end, secs)| (end - secs, end)));
            Ok(())
        })?;
        Ok(Self { ticks, rollbacks, spans })
    }
}

/// Parses every line of a file; no file is a file without lines.
pub(super) fn for_each_line<T: for<'a> Deserialize<'a>>(
    path: &Path,
    mut take: impl FnMut(T) -> std::result::Result<(), String>,
) -> Result<()> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let torn = || !text.ends_with('\n') && index + 1 == text.lines().count();
        match serde_json::from_str(line) {
            Ok(parsed) => {
                take(parsed).map_err(|reason| damaged(path, &format!("line {}: {reason}", index + 1)))?;
            }
            Err(_) if torn() => {}
            Err(error) => return Err(damaged(path, &format!("line {}: {error}", index + 1))),
        }
    }
    Ok(())
}

pub(super) fn damaged(path: &Path, reason: &str) -> Error {
    Error::Usage {
        message: format!("`{}`: {reason}", path.display()),
        hint: Some("compare the other runs without it, or repair the line".into()),
    }
}
