//! A score of a snapshot, with everything that must be known to compare it, and its line in `metric-<name>.jsonl`.

use std::path::Path;

use serde_json::Value;

use super::files::write_atomic;
use super::folder::free_name;
use crate::error::{Error, Result};

/// What a line says of the choice of real images. Before it was said, they were every n-th of the set.
const REALS: &str = "at random";

/// One score.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Its name, which says the features and the count: `kid2000-random-v1`.
    pub metric: String,
    /// The value; lower is better.
    pub value: f64,
    /// Its standard error, where there is one.
    pub standard_error: Option<f64>,
    /// Real images it was taken with.
    pub num_real: usize,
    /// Generated images it was taken with.
    pub num_fake: usize,
    /// The feature extractor and its hash.
    pub features: String,
}

impl Score {
    /// The line of the metric's file.
    pub fn line(&self, kimg: f64, snapshot: &str, timestamp_secs: f64) -> String {
        serde_json::json!({
            "results": { &self.metric: self.value },
            "metric": self.metric,
            "kimg": kimg,
            "standard_error": self.standard_error,
            "num_real": self.num_real,
            "num_fake": self.num_fake,
            "features": self.features,
            "reals": REALS,
            "weights": "ema",
            "snapshot": snapshot,
            "timestamp": timestamp_secs,
        })
        .to_string()
    }

    /// What people are told of it.
    pub fn at(&self, kimg: f64) -> String {
        let error = self.standard_error.map_or(String::new(), |error| format!(" ± {error:.5}"));
        format!("score {} {:.5}{error} at {kimg:.1} kimg", self.metric, self.value)
    }
}

/// The name of a metric's file in a run folder.
pub fn file_name(metric: &str) -> String {
    format!("metric-{metric}.jsonl")
}

/// Whether a file in a run folder has a name of [`file_name`].
pub(crate) fn is_metric_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("metric-") && name.ends_with(".jsonl")
}

/// The lines of a metric's file, in its order, with what was parsed of them: none where there is no file.
///
/// # Errors
/// A line that is no score; a torn last one is passed over.
fn lines(path: &Path) -> Result<Vec<(String, Value)>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match serde_json::from_str::<Value>(line) {
            Ok(value) if value["kimg"].is_number() => lines.push((line.to_owned(), value)),
            _ if !text.ends_with('\n') && index + 1 == text.lines().count() => {}
            _ => {
                return Err(Error::Usage {
                    message: format!("`{}`: line {} is no score", path.display(), index + 1),
                    hint: Some("repair the line, or move the file away".into()),
                });
            }
        }
    }
    Ok(lines)
}

/// The kimg at which a metric's file has scores.
///
/// # Errors
/// A file that cannot be read, a line that is no score.
pub fn scored_kimg(path: &Path) -> Result<Vec<f64>> {
    Ok(lines(path)?.iter().filter_map(|(_, value)| value["kimg"].as_f64()).collect())
}

/// Adds a score's line to its metric's file where a reader looks for it: after the last line of fewer kimg.
///
/// # Errors
/// A file that cannot be read or written, a line that is no score.
pub fn insert(path: &Path, kimg: f64, line: &str) -> Result<()> {
    let mut lines = lines(path)?;
    let before = |(_, value): &(String, Value)| value["kimg"].as_f64().is_some_and(|at| at < kimg);
    let place = lines.iter().rposition(before).map_or(0, |last| last + 1);
    lines.insert(place, (line.to_owned(), Value::Null));
    let text: String = lines.iter().flat_map(|(line, _)| [line, "\n"]).collect();
    write_atomic(path, |file| file.write_all(text.as_bytes()))
}

/// Renames a metric's file whose scores were not all taken as they are now, on other real images or in other `features` where
/// those are given: a curve has one protocol. Gives a warning for the log where it did.
///
/// # Errors
/// A file that cannot be read or renamed, a line that is no score.
pub fn put_aside_others(path: &Path, features: Option<&str>) -> Result<Option<String>> {
    let alike =
        |value: &Value| value["reals"] == REALS && features.is_none_or(|name| value["features"] == name);
    if lines(path)?.iter().all(|(_, value)| alike(value)) {
        return Ok(None);
    }
    let aside = free_name(path, "older");
    std::fs::rename(path, &aside).map_err(Error::io("rename", path))?;
    let aside = aside.display();
    Ok(Some(format!("warning: scores that were taken otherwise are in {aside}: they cannot be compared")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(features: &str) -> Score {
        Score {
            metric: "kid9-x".into(),
            value: 0.5,
            standard_error: Some(0.1),
            num_real: 9,
            num_fake: 9,
            features: features.into(),
        }
    }

    #[test]
    fn scores_go_where_a_reader_looks_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metric-kid9-x.jsonl");
        assert!(scored_kimg(&path).unwrap().is_empty());
        // 16, back to 12 and up again: 14 belongs before what was given up, 18 after what is there now.
        for (kimg, expected) in [
            (12.0, vec![12.0]),
            (16.0, vec![12.0, 16.0]),
            (20.0, vec![12.0, 16.0, 20.0]),
            (14.0, vec![12.0, 14.0, 16.0, 20.0]),
            (4.0, vec![4.0, 12.0, 14.0, 16.0, 20.0]),
        ] {
            insert(&path, kimg, &score("x").line(kimg, "s", 0.0)).unwrap();
            assert_eq!(scored_kimg(&path).unwrap(), expected);
        }
        let repeated = std::fs::read_to_string(&path).unwrap().lines().skip(3).collect::<Vec<_>>().join("\n");
        let text = std::fs::read_to_string(&path).unwrap() + &repeated + "\n{\"torn";
        std::fs::write(&path, text).unwrap();
        insert(&path, 18.0, &score("x").line(18.0, "s", 0.0)).unwrap();
        assert_eq!(scored_kimg(&path).unwrap(), [4.0, 12.0, 14.0, 16.0, 20.0, 16.0, 18.0, 20.0]);
        std::fs::write(&path, "{}\n").unwrap();
        assert!(insert(&path, 1.0, "").unwrap_err().to_string().contains("line 1 is no score"));
    }

    #[test]
    fn scores_of_another_protocol_step_aside_and_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metric-kid9-x.jsonl");
        let names = || {
            let entries = std::fs::read_dir(dir.path()).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let older = score("x").line(1.0, "s", 0.0).replace(REALS, "every second");
        for (line, features) in [(older, None), (score("y").line(1.0, "s", 0.0), Some("x"))] {
            std::fs::write(&path, line + "\n").unwrap();
            assert!(put_aside_others(&path, features).unwrap().unwrap().contains("older"));
        }
        assert_eq!(names(), ["older-metric-kid9-x.jsonl", "older2-metric-kid9-x.jsonl"]);
        insert(&path, 1.0, &score("x").line(1.0, "s", 0.0)).unwrap();
        assert!(put_aside_others(&path, Some("x")).unwrap().is_none() && path.exists());
    }
}
