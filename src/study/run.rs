//! A run folder as `nestgen train` or `nestgen classify train` leaves it, read for comparison.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::axis::Axis;
use super::protocol::Protocol;
use super::provenance::Provenance;
use super::settings::{SEED_KEY, Settings, flatten};
use super::statistics::interpolate;
use crate::error::{Error, Result};
use crate::train::folder::DIVERGED;
use crate::train::score::is_metric_file;

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

/// A run, as far as comparing needs it.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its folder.
    pub path: PathBuf,
    /// The folder's name.
    pub name: String,
    /// What a study calls its arm.
    pub arm: Option<String>,
    /// The resolved configuration.
    pub settings: Settings,
    /// The seed.
    pub seed: i64,
    /// One entry a tick, kimg rising.
    pub ticks: Vec<Tick>,
    /// Scores by the name of their metric.
    pub scores: BTreeMap<String, Scores>,
    /// What it is known by, if it was recorded.
    pub provenance: Option<Provenance>,
    /// Why it ended before its time, if it diverged.
    pub diverged: Option<String>,
    /// How often it went back to an earlier state, all its later ticks and scores given up.
    pub rollbacks: usize,
    /// When it was trained, a stretch for each tick: Unix seconds.
    pub spans: Vec<(f64, f64)>,
    images_per_step: f64,
}

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

/// The scores of one metric in one run.
#[derive(Clone, Debug)]
pub struct Scores {
    /// How they were taken.
    pub protocol: Protocol,
    /// kimg rising.
    pub points: Vec<ScorePoint>,
}

/// One score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScorePoint {
    /// When.
    pub kimg: f64,
    /// The value.
    pub value: f64,
    /// Its standard error.
    pub standard_error: Option<f64>,
}

impl Run {
    /// Reads a run folder.
    ///
    /// # Errors
    /// When it is not one, or a line in it is damaged; a torn last line of a run that was killed is passed over.
    pub fn read(path: &Path) -> Result<Self> {
        let config_path = path.join("config.toml");
        if !config_path.is_file() {
            return Err(Error::no_run_folder(path));
        }
        let text = std::fs::read_to_string(&config_path).map_err(Error::io("read", &config_path))?;
        let table: toml::Table =
            text.parse().map_err(|error: toml::de::Error| damaged(&config_path, error.message()))?;
        let provenance = Provenance::read(path)?;
        let mut settings = flatten(&table);
        if let Some(state) =
            provenance.as_ref().map(|record| Path::new(&record.initial)).filter(|state| *state != Path::new(""))
        {
            // No seed of runs that began with random weights, or with those of another state. By the names of run and state:
            // wherever they lie.
            let names: Vec<_> =
                state.components().rev().take(2).map(|part| part.as_os_str().to_string_lossy()).collect();
            settings.insert("initial weights".into(), names.into_iter().rev().collect::<Vec<_>>().join("/"));
        }
        if let Some(lengths) =
            provenance.as_ref().map(|record| &record.lengths).filter(|lengths| !lengths.is_empty())
        {
            // No seed of runs that had their whole length from the beginning: its rates fell twice.
            settings.insert("length before".into(), lengths.join(", "));
        }
        let number = |key: &str| settings.get(key).and_then(|value| value.parse::<f64>().ok());
        let images_per_step = number("train.batch").unwrap_or(1.0) * number("train.d_steps").unwrap_or(1.0);
        if !(images_per_step.is_finite() && images_per_step > 0.0) {
            return Err(damaged(&config_path, &format!("a step of {images_per_step} images")));
        }
        let seed = settings.get(SEED_KEY).and_then(|seed| seed.parse().ok()).unwrap_or(0);
        let absolute = std::fs::canonicalize(path).map_err(Error::io("read", path))?;
        let name = absolute.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let History { ticks, rollbacks, spans } = History::read(&path.join("stats.jsonl"))?;
        let mut scores = read_scores(path)?;
        if let Some(last) = ticks.last().filter(|_| rollbacks > 0) {
            // Of what was given up, until others come in their place.
            scores.values_mut().for_each(|scores| scores.points.retain(|point| point.kimg <= last.kimg));
        }
        Ok(Self {
            ticks,
            rollbacks,
            spans,
            scores,
            provenance,
            diverged: why_diverged(path)?,
            path: path.to_path_buf(),
            name,
            arm: None,
            settings,
            seed,
            images_per_step,
        })
    }

    /// How far along `axis` the run was at `kimg`; `None` if that was not recorded.
    pub fn position(&self, axis: Axis, kimg: f64) -> Option<f64> {
        let kimg_of_network = kimg;
        let kimg = if self.rollbacks == 0 { kimg } else { self.at(kimg, |tick| tick.spent_kimg)? };
        let steps = kimg * 1e3 / self.images_per_step;
        match axis {
            Axis::Kimg => Some(kimg),
            Axis::Steps => Some(steps),
            Axis::Seconds => self.at(kimg_of_network, |tick| tick.train_secs).filter(|secs| !secs.is_nan()),
            Axis::Flops => {
                let flops = self.provenance.as_ref()?.flops_per_step;
                (flops > 0.0).then_some(steps * flops)
            }
            Axis::Epochs => {
                let epochs = self.at(kimg_of_network, |tick| tick.epoch).filter(|epochs| !epochs.is_nan());
                if self.rollbacks == 0 && epochs.is_some() {
                    return epochs;
                }
                let images = self.provenance.as_ref()?.data_images;
                (images > 0).then(|| kimg * 1e3 / images as f64)
            }
        }
    }

    /// What `quantity` was at `kimg`; between ticks it rises evenly.
    fn at(&self, kimg: f64, quantity: impl Fn(&Tick) -> f64) -> Option<f64> {
        let after = self.ticks.partition_point(|tick| tick.kimg < kimg);
        let start = Tick::default();
        let before = after.checked_sub(1).and_then(|i| self.ticks.get(i)).unwrap_or(&start);
        let point = |tick: &Tick| (tick.kimg, quantity(tick));
        match self.ticks.get(after) {
            Some(tick) => interpolate(&[point(before), point(tick)], kimg),
            None => self.ticks.last().map(quantity),
        }
    }

    /// Scores of a metric as points along `axis`.
    pub fn curve(&self, metric: &str, axis: Axis) -> Option<Vec<(f64, f64)>> {
        let points = &self.scores.get(metric)?.points;
        points.iter().map(|point| Some((self.position(axis, point.kimg)?, point.value))).collect()
    }

    /// The identity of the images it was trained on: their digest, or else where they lay.
    pub fn data(&self) -> String {
        let digest =
            self.provenance.as_ref().map(|p| p.data_digest.clone()).filter(|digest| !digest.is_empty());
        let path = || self.settings.get("data.path").cloned().unwrap_or_else(|| "built-in".into());
        digest.unwrap_or_else(path)
    }

    /// The most memory that its process used, GiB; `None` if not recorded. A study trains many runs in one process, whose most is
    /// that of no one run.
    pub fn peak_memory_gib(&self) -> Option<f64> {
        let in_a_study = self.arm.is_some() || self.provenance.as_ref().is_some_and(Provenance::is_of_study);
        let peak = self.ticks.last()?.peak_memory_gib;
        (peak > 0.0 && !in_a_study).then_some(peak)
    }

    /// Real images a second while training.
    pub fn images_per_sec(&self) -> Option<f64> {
        let last = self.ticks.last()?;
        (last.train_secs > 0.0).then(|| last.spent_kimg * 1e3 / last.train_secs)
    }
}

/// What the note of a run that diverged says; `None` without one.
fn why_diverged(run: &Path) -> Result<Option<String>> {
    let path = run.join(DIVERGED);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", &path)(error)),
    }
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
struct History {
    /// The ticks that were kept.
    ticks: Vec<Tick>,
    /// How often the run went back: a resumed run's file has no line of what comes again, so a stretch that is there twice was given
    /// up by a rollback.
    rollbacks: usize,
    spans: Vec<(f64, f64)>,
}

impl History {
    fn read(path: &Path) -> Result<Self> {
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

#[derive(Deserialize)]
struct ScoreLine {
    metric: String,
    kimg: f64,
    results: BTreeMap<String, Option<f64>>,
    standard_error: Option<f64>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

fn read_scores(run: &Path) -> Result<BTreeMap<String, Scores>> {
    let mut found: BTreeMap<String, Scores> = BTreeMap::new();
    for entry in std::fs::read_dir(run).map_err(Error::io("read", run))? {
        let path = entry.map_err(Error::io("read", run))?.path();
        if !is_metric_file(&path) {
            continue;
        }
        for_each_line(&path, |line: ScoreLine| {
            let value = line.results.get(&line.metric).copied().flatten().filter(|value| value.is_finite());
            let Some(value) = value else {
                return Err(format!("the score at {} kimg is not a number; leave this run out", line.kimg));
            };
            let protocol = Protocol::of_score(&line.rest);
            let scores = found
                .entry(line.metric)
                .or_insert_with(|| Scores { protocol: protocol.clone(), points: vec![] });
            if let Some(difference) = scores.protocol.difference(&protocol) {
                return Err(format!("it mixes protocols: {difference}"));
            }
            while scores.points.last().is_some_and(|point| point.kimg >= line.kimg) {
                scores.points.pop();
            }
            scores.points.push(ScorePoint { kimg: line.kimg, value, standard_error: line.standard_error });
            Ok(())
        })?;
    }
    Ok(found)
}

/// Parses every line of a file; no file is a file without lines.
fn for_each_line<T: for<'a> Deserialize<'a>>(
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

fn damaged(path: &Path, reason: &str) -> Error {
    Error::Usage {
        message: format!("`{}`: {reason}", path.display()),
        hint: Some("compare the other runs without it, or repair the line".into()),
    }
}
