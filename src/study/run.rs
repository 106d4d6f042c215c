//! A run folder as `nestgen train` or `nestgen classify train` leaves it, read for comparison.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::axis::Axis;
use super::history::{History, Tick, damaged, for_each_line};
use super::protocol::Protocol;
use super::provenance::Provenance;
use super::settings::{SEED_KEY, Settings, flatten};
use super::statistics::interpolate;
use crate::error::{Error, Result};
use crate::train::folder::DIVERGED;
use crate::train::score::is_metric_file;
use crate::train::state::CONFIG;
use crate::train::stats::STATS;

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
        let config_path = path.join(CONFIG);
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
        let History { ticks, rollbacks, spans } = History::read(&path.join(STATS))?;
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

    /// The most memory that its process used, of the GPU if it had one, GiB; `None` if not recorded. A study trains many runs in one process, whose most is
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
