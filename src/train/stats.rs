//! What a tick writes down: mean and spread of everything measured, one JSON line a tick in `stats.jsonl`.
//!
//! The line has the form that StyleGAN's tools write and read: each key holds `{num, mean, std}`. Keys under
//! `Timing/`, `Resources/` and `timestamp` depend on the machine's clock; everything else is the same in every
//! repetition of a run ([`repeatable`]).

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Count, sum and sum of squares of one quantity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    num: u64,
    sum: f64,
    square_sum: f64,
}

impl Moments {
    /// The mean; 0 of nothing.
    pub fn mean(&self) -> f64 {
        if self.num > 0 { self.sum / self.num as f64 } else { 0.0 }
    }

    fn json(&self) -> serde_json::Value {
        let mean = self.mean();
        let variance = if self.num > 0 { self.square_sum / self.num as f64 - mean * mean } else { 0.0 };
        serde_json::json!({ "num": self.num, "mean": mean, "std": variance.max(0.0).sqrt() })
    }
}

/// The quantities measured since the last tick, by key (`Loss/D`); saved with the training state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Collector(BTreeMap<String, Moments>);

impl Collector {
    /// Takes in one value.
    pub fn report(&mut self, key: &str, value: f64) {
        let moments = match self.0.get_mut(key) {
            Some(moments) => moments,
            None => self.0.entry(key.to_owned()).or_default(),
        };
        moments.num += 1;
        moments.sum += value;
        moments.square_sum += value * value;
    }

    /// The mean of a quantity since the last tick; 0 if it was not measured.
    pub fn mean(&self, key: &str) -> f64 {
        self.0.get(key).map_or(0.0, Moments::mean)
    }

    /// Every key with its mean.
    pub fn means(&self) -> Vec<(&str, f64)> {
        self.0.iter().map(|(key, moments)| (key.as_str(), moments.mean())).collect()
    }

    /// The line of a tick, and an empty collector for the next one.
    pub fn line(&mut self, timestamp_secs: f64) -> String {
        let keys = std::mem::take(&mut self.0);
        let mut line: serde_json::Map<_, _> = keys.into_iter().map(|(key, m)| (key, m.json())).collect();
        line.insert("timestamp".into(), timestamp_secs.into());
        serde_json::Value::Object(line).to_string()
    }
}

/// Seconds since 1970, for time stamps.
pub fn unix_secs() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Whether a key of a line is the same in every repetition of a run.
pub fn repeatable(key: &str) -> bool {
    !(key.starts_with("Timing/") || key.starts_with("Resources/") || key == "timestamp")
}

/// Appends a line to a file of lines.
pub fn append_line(path: &Path, line: &str) -> Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(Error::io("write", path))?;
    file.write_all(format!("{line}\n").as_bytes()).map_err(Error::io("write", path))
}

/// Cuts the lines off a `.jsonl` file that a resumed run will write again: those for more than `kimg`.
///
/// Every line must hold `kimg` (as `Progress/kimg` or `kimg`); a torn last line is cut off as well.
pub fn rewind_lines(path: &Path, kimg: f64) -> Result<()> {
    /// Images are whole: a thousandth of an image is noise of the division.
    const SLACK_KIMG: f64 = 1e-6;
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    // A power cut may leave anything where lines were to be: such lines are no lines.
    let text = String::from_utf8_lossy(&bytes);
    let keep = |line: &&str| {
        let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { return false };
        let at = line["Progress/kimg"]["mean"].as_f64().or(line["kimg"].as_f64());
        at.is_some_and(|at| at <= kimg + SLACK_KIMG)
    };
    let kept: String = text.lines().filter(keep).flat_map(|line| [line, "\n"]).collect();
    if kept != text {
        super::files::write_atomic(path, |file| file.write_all(kept.as_bytes()))?;
    }
    Ok(())
}

/// The file of a run's ticks.
pub const STATS: &str = "stats.jsonl";

/// Seconds as people read them: `1h 02m 03s`.
pub(super) fn clock_time(secs: f64) -> String {
    let secs = secs as u64;
    match (secs / 3600, secs / 60 % 60, secs % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m {s:02}s"),
        (h, m, s) => format!("{h}h {m:02}m {s:02}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_moments_and_empties_the_collector() {
        let mut collector = Collector::default();
        collector.report("Loss/D", 1.0);
        collector.report("Loss/D", 3.0);
        assert_eq!(collector.mean("Loss/D"), 2.0);
        let line = collector.line(5.0);
        assert_eq!(line, r#"{"Loss/D":{"mean":2.0,"num":2,"std":1.0},"timestamp":5.0}"#);
        assert_eq!(collector, Collector::default());
        assert!(repeatable("Loss/D") && !repeatable("Timing/total_sec") && !repeatable("timestamp"));
    }

    #[test]
    fn rewinding_keeps_what_was_before_and_drops_torn_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats.jsonl");
        let line = |kimg: f64| format!(r#"{{"Progress/kimg":{{"mean":{kimg},"num":1,"std":0.0}}}}"#);
        std::fs::write(&path, format!("{}\n{}\n{}\n{{\"torn", line(1.0), line(2.0), line(3.0))).unwrap();
        rewind_lines(&path, 2.0).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n{}\n", line(1.0), line(2.0)));
        rewind_lines(&dir.path().join("none.jsonl"), 1.0).unwrap();
    }
}
