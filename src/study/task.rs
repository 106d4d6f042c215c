//! One run of a study: whether it is to begin, to go on, or has ended.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::train::files::write_atomic;
use crate::train::folder;
use crate::train::resume_point::{ResumePoint, newest_saved};

/// One run of a study.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Which of the plan's arms.
    pub arm: usize,
    /// Its seed.
    pub seed: u64,
    /// Where its run folder is made.
    pub outdir: PathBuf,
}

/// How far a run of a study is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It has nothing to go on from.
    New,
    /// It can be resumed.
    Interrupted(ResumePoint),
    /// It has ended.
    Ended(Ended),
}

/// A run that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The name of its folder.
    pub run: String,
    /// Why it ended before its time, if it did.
    pub diverged: Option<String>,
}

impl Task {
    /// How far it is.
    ///
    /// # Errors
    /// When its record cannot be read.
    pub fn status(&self) -> Result<Status> {
        let path = self.record();
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Status::Ended).map_err(|error| Error::Usage {
                message: format!("`{}` is damaged: {error}", path.display()),
                hint: Some("remove it to go on with the run from its last state".into()),
            }),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("read", &path)(error)),
            // No state to resume from is how a new run looks, whether or not a folder was begun.
            Err(_) => Ok(newest_saved(&self.outdir)?.map_or(Status::New, Status::Interrupted)),
        }
    }

    /// Renames what an attempt that saved no state has left: two runs of one seed cannot be compared.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn begin_anew(&self) -> Result<()> {
        folder::set_runs_aside(&self.outdir)
    }

    /// Notes that it has ended.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn end(&self, ended: &Ended) -> Result<()> {
        let text = serde_json::json!(ended).to_string();
        write_atomic(&self.record(), |file| file.write_all(text.as_bytes()))
    }

    fn record(&self) -> PathBuf {
        self.outdir.join("outcome.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_have_ended_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let task = Task { arm: 1, seed: 0, outdir: dir.path().join("b/seed0") };
        assert_eq!(task.status().unwrap(), Status::New);
        std::fs::create_dir_all(task.outdir.join("00000-x-y/training-state-000001")).unwrap();
        assert!(matches!(task.status().unwrap(), Status::Interrupted(_)));
        let ended = Ended { run: "00000-x-y".into(), diverged: None };
        // A newer folder that has saved nothing does not make it a new one.
        std::fs::create_dir(task.outdir.join("00001-x-y")).unwrap();
        std::fs::write(task.outdir.join("00001-x-y/config.toml"), "").unwrap();
        assert!(matches!(task.status().unwrap(), Status::Interrupted(_)));
        task.end(&ended).unwrap();
        assert_eq!(task.status().unwrap(), Status::Ended(ended));
    }
}
