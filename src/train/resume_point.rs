//! What `--resume` and `--transfer` begin with: a run and the states that it has saved.

// Reads what may be hostile: nothing in it may end the program.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::folder::{ABANDONED, LATEST, RunFolder, meant};
use super::state::{self, CONFIG, MANIFEST};
use crate::error::{Error, Result, quoted};

/// What `--resume` names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumePoint {
    /// The run folder.
    pub run: PathBuf,
    /// The training states to try, best first: the one that was named, or all of the run, newest first.
    pub states: Vec<PathBuf>,
}

impl ResumePoint {
    /// Whether it is a classifier's, by the name of its state or, of a copy under another name, by what it holds.
    pub fn is_of_classifier(&self) -> bool {
        self.states.iter().any(|s| s.ends_with(state::LAST) || s.join("classifier.safetensors").is_file())
    }

    /// The file of the settings to resume under.
    ///
    /// # Errors
    /// When the run has none, as what a state lies in that was copied out of its run.
    pub fn config(&self) -> Result<PathBuf> {
        let path = self.run.join(CONFIG);
        match self.states.first() {
            Some(state) if !path.is_file() => {
                let verb = if self.is_of_classifier() { "nestgen classify train" } else { "nestgen train" };
                Err(Error::Usage {
                    message: format!(
                        "`{}` has no `{CONFIG}`, so it is the folder of no run",
                        self.run.display()
                    ),
                    hint: Some(format!(
                        "name a state in its run's folder, or begin a new run with its weights: {verb} --transfer {}",
                        quoted(state)
                    )),
                })
            }
            _ => Ok(path),
        }
    }

    /// Refuses to go on from a state that was left behind when its run was resumed from an earlier one: what the run has written
    /// since is not its past.
    ///
    /// # Errors
    /// When it names such a state.
    pub fn refuse_abandoned(&self) -> Result<()> {
        let is_abandoned =
            |state: &Path| state.file_name().is_some_and(|name| name.to_string_lossy().starts_with(ABANDONED));
        match self.states.first() {
            Some(state) if is_abandoned(state) => Err(Error::Usage {
                message: format!("`{}` is of another future than its run has now", state.display()),
                hint: Some(format!(
                    "begin a new run from its weights: nestgen train --transfer {}",
                    quoted(state)
                )),
            }),
            _ => Ok(()),
        }
    }
}

/// The newest run in `outdir` that has saved a state; `None` where none has.
///
/// # Errors
/// When a folder cannot be read.
pub fn newest_saved(outdir: &Path) -> Result<Option<ResumePoint>> {
    for run in meant(LATEST, outdir)? {
        let states = newest_first(&run)?;
        if !states.is_empty() {
            return Ok(Some(ResumePoint { run, states }));
        }
    }
    Ok(None)
}

/// Finds the run and states that `--resume latest`, `--resume RUN` or `--resume RUN/training-state-KIMG` means.
///
/// # Errors
/// When there is nothing to resume from, or not in the latest run: to go on with an older one would change what nobody meant.
pub fn resume_point(outdir: &Path, what: &str) -> Result<ResumePoint> {
    let nothing = |message: String| {
        Error::usage(message, "name a run folder or a training state in it, or leave the option out")
    };
    if what == LATEST {
        let saved = newest_saved(outdir)?;
        let saved =
            saved.ok_or_else(|| nothing(format!("no run in `{}` has a training state", outdir.display())))?;
        let runs = meant(LATEST, outdir)?;
        let mut newer = runs.iter().take_while(|run| **run != saved.run);
        return match newer.find(|run| run.join(CONFIG).is_file()) {
            Some(newest) => Err(not_the_latest(newest, &saved.run)),
            None => Ok(saved),
        };
    }
    let path = PathBuf::from(what);
    if !path.is_dir() {
        return Err(nothing(format!("`{what}` is not a folder")));
    }
    if path.join(MANIFEST).is_file() {
        let absolute = fs::canonicalize(&path).map_err(Error::io("read", &path))?;
        let run = absolute.parent().map(Path::to_path_buf).unwrap_or_default();
        return Ok(ResumePoint { run, states: vec![absolute] });
    }
    let states = newest_first(&path)?;
    if states.is_empty() {
        return Err(nothing(format!("there is no training state in `{what}`")));
    }
    Ok(ResumePoint { run: path, states })
}

/// The newest run has saved nothing to go on from, and `older` has.
fn not_the_latest(newest: &Path, older: &Path) -> Error {
    Error::Usage {
        message: format!("`{}`, the newest run, has no training state yet", newest.display()),
        hint: Some(format!(
            "wait until it has saved one, begin it again, or name the run that is meant: {}",
            quoted(older)
        )),
    }
}

fn newest_first(run: &Path) -> Result<Vec<PathBuf>> {
    // A crash while a state was replaced left it under another name: opening brings it back. Where the folder
    // cannot be opened, the one who resumes is told when he opens it.
    drop(RunFolder::open(run));
    let mut states = state::list(run)?;
    states.reverse();
    Ok(states)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_run_is_the_newest_one_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let run = |name: &str| {
            let run = dir.path().join(name);
            fs::create_dir_all(&run).unwrap();
            fs::write(run.join("config.toml"), "").unwrap();
            run
        };
        let older = run("00000-d-p");
        fs::create_dir(older.join("training-state-000001")).unwrap();
        assert_eq!(resume_point(dir.path(), "latest").unwrap().run, older);
        run("00001-d-p");
        let error = resume_point(dir.path(), "latest").unwrap_err();
        assert!(error.to_string().contains("00001-d-p`, the newest run, has no training state"), "{error}");
        assert!(error.hint().unwrap().contains("00000-d-p"));
    }

    #[test]
    fn a_state_outside_of_its_run_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for (name, network, verb) in [
            ("kept", "generator.safetensors", "nestgen train --transfer"),
            ("kept-too", "classifier.safetensors", "nestgen classify train --transfer"),
        ] {
            let copied = dir.path().join(name);
            fs::create_dir(&copied).unwrap();
            for file in [MANIFEST, CONFIG, network] {
                fs::write(copied.join(file), "").unwrap();
            }
            let error = resume_point(dir.path(), copied.to_str().unwrap()).unwrap().config().unwrap_err();
            assert!(error.to_string().contains("has no `config.toml`"), "{error}");
            let hint = error.hint().unwrap();
            assert!(hint.contains(verb) && hint.contains(name), "{hint}");
        }
    }

    #[test]
    fn resume_finds_the_newest_run_that_has_a_state() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["00001-a-b/training-state-000009", "00001-a-b/training-state-000012", "00002-a-b"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let point = resume_point(dir.path(), "latest").unwrap();
        assert_eq!(point.run, dir.path().join("00001-a-b"));
        assert!(point.states[0].ends_with("training-state-000012") && point.states.len() == 2);
        let empty = dir.path().join("00002-a-b");
        assert!(resume_point(dir.path(), empty.to_str().unwrap()).is_err());
        assert!(resume_point(&dir.path().join("none"), "latest").is_err());
    }
}
