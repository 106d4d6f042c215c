//! A training state on disk: everything that an exact resume needs, in one folder that is whole or absent.
//!
//! `training-state-<kimg>/` holds both networks, the averaged generator, both optimizers, the configuration, and
//! `position.toml`: images seen, schedules, augmentation strength, penalties' averages, guard, unfinished
//! statistics. Random numbers need no state of their own: each is a function of the seed and the number of the
//! image it is for, and the order of the data likewise. `manifest.toml` holds the SHA-256 of every file.

// Reads what may be hostile: nothing in it may end the program.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::augment::AugmentStrength;
use super::files::{write_folder_atomic, write_synced};
use super::guard::Guard;
use super::penalties::LeCam;
use super::score::Score;
use super::stats::Collector;
use super::tensors::{self, Metadata, NamedTensors};
use crate::error::{Error, Result};

/// Where a run is, beside its tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Real images shown to the discriminator.
    pub cur_nimg: u64,
    /// Steps of the generator.
    pub g_steps: u64,
    /// Steps of the discriminator.
    pub d_steps: u64,
    /// Ticks finished.
    pub tick: u64,
    /// Images seen when the running tick began.
    pub tick_start_nimg: u64,
    /// Images that the whole run is expected to show: what schedules are stretched to.
    pub total_nimg: u64,
    /// Seconds of training so far, over all sessions.
    pub elapsed_secs: f64,
    /// Seconds of the unfinished tick.
    #[serde(default)]
    pub tick_secs: f64,
    /// The longest that scores, pictures and saving have taken at the end of a tick: what a timed run keeps for its end.
    #[serde(default)]
    pub longest_maintenance_secs: f64,
    /// Times that the guard has rolled the run back; later random numbers and learning rates depend on it.
    pub rollbacks: u32,
    /// Augmentation.
    pub augment: AugmentStrength,
    /// LeCam's averages.
    pub lecam: LeCam,
    /// What the guard remembers.
    pub guard: Guard,
    /// The best score so far.
    pub best: Option<Best>,
    /// Statistics of the unfinished tick.
    pub collected: Collector,
}

impl Position {
    /// Thousands of real images.
    pub fn kimg(&self) -> f64 {
        self.cur_nimg as f64 / 1e3
    }
}

/// The best score of a run, and how many scores it is the best of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// The score's name.
    pub metric: String,
    /// The features it was taken in; those of a run may change when it is resumed. Empty in older states.
    #[serde(default)]
    pub features: String,
    /// The lowest value.
    pub score: f64,
    /// Where it was taken.
    pub kimg: f64,
    /// Scores taken so far.
    pub of: u64,
}

impl Best {
    /// Whether `score` is of its kind: a run may be resumed with other scores, which have no best yet.
    pub fn is_of(&self, score: &Score) -> bool {
        self.metric == score.metric && self.features == score.features
    }

    /// A score taken at `kimg`, by itself.
    pub fn of(score: &Score, kimg: f64) -> Self {
        let (metric, features) = (score.metric.clone(), score.features.clone());
        Self { metric, features, score: score.value, kimg, of: 1 }
    }

    /// The best of this score and those before it, and whether it is this one: if it is lower than they all.
    pub fn after(self, before: Option<Self>) -> (Self, bool) {
        match before {
            Some(best) if best.score <= self.score => (Self { of: best.of + 1, ..best }, false),
            Some(best) => (Self { of: best.of + 1, ..self }, true),
            None => (self, true),
        }
    }
}

/// The tensors of a state, by file name.
pub type StateTensors = BTreeMap<&'static str, NamedTensors>;

/// The tensor files of a state.
pub const TENSOR_FILES: [&str; 5] =
    ["generator", "discriminator", "generator-ema", "generator-adam", "discriminator-adam"];

const POSITION: &str = "position.toml";
/// The format tag of a generator's snapshots.
pub const FORMAT: &str = "nestgen generator 1";
/// The settings of a run or a state.
pub const CONFIG: &str = "config.toml";
/// The checksums of a state.
pub const MANIFEST: &str = "manifest.toml";

/// A state as read back.
pub struct SavedState<P = Position> {
    /// Where the run was.
    pub position: P,
    /// The configuration it ran with, resolved.
    pub config: String,
    /// Its tensors.
    pub tensors: StateTensors,
}

/// The folder of the state at `cur_nimg` images in a run folder.
pub fn state_path(run: &Path, cur_nimg: u64) -> PathBuf {
    run.join(format!("{STATE_PREFIX}{:06}", cur_nimg / 1000))
}

const STATE_PREFIX: &str = "training-state-";

/// The folder of the only state of a classifier's run.
pub const LAST: &str = "last";

/// Saves a state, replacing one of the same thousand of images; other states stay as they are.
///
/// # Errors
/// When the disk refuses; then what was saved before is still whole.
pub fn save(run: &Path, position: &Position, config: &str, tensors: &StateTensors) -> Result<PathBuf> {
    let path = state_path(run, position.cur_nimg);
    save_as(&path, position, config, tensors)?;
    Ok(path)
}

/// Saves a state at `path`, replacing one that is there.
///
/// # Errors
/// As [`save`].
pub fn save_as(path: &Path, position: &impl Serialize, config: &str, tensors: &StateTensors) -> Result<()> {
    let text =
        toml::to_string(position).map_err(|error| Error::io("write", path)(std::io::Error::other(error)))?;
    write_folder_atomic(path, |folder| {
        let mut manifest = BTreeMap::new();
        let mut add = |name: String, write: &dyn Fn(&mut dyn Write) -> std::io::Result<()>| {
            let file = folder.join(&name);
            write_synced(&file, write)?;
            manifest.insert(name, tensors::file_sha256(&file)?);
            Ok::<_, std::io::Error>(())
        };
        for (name, tensors) in tensors {
            let write = |file: &mut dyn Write| tensors::write(file, &Metadata::new(), tensors);
            add(format!("{name}.safetensors"), &write)?;
        }
        add(POSITION.into(), &|file| file.write_all(text.as_bytes()))?;
        add(CONFIG.into(), &|file| file.write_all(config.as_bytes()))?;
        let manifest = toml::to_string(&manifest).map_err(std::io::Error::other)?;
        write_synced(&folder.join(MANIFEST), |file| file.write_all(manifest.as_bytes()))
    })
}

/// Reads a state of adversarial training and checks every file against the manifest.
///
/// # Errors
/// When a file is missing, damaged or does not belong.
pub fn load(path: &Path) -> Result<SavedState> {
    load_as(path, &TENSOR_FILES)
}

/// Reads a state that has these tensor files, and checks every file against the manifest.
///
/// # Errors
/// As [`load`].
pub fn load_as<P: DeserializeOwned>(path: &Path, files: &[&'static str]) -> Result<SavedState<P>> {
    let bad = |reason: String| Error::Checkpoint {
        path: path.to_path_buf(),
        reason,
        hint: Some(if path.ends_with(LAST) {
            "a classifier keeps no older one: begin anew with its best weights, --transfer RUN/model_best.safetensors".into()
        } else {
            "resume from an older training state of the run".into()
        }),
    };
    let there = |name: &str| {
        let file = path.join(name);
        if file.is_file() { Ok(file) } else { Err(bad(format!("`{name}` is missing"))) }
    };
    let read = |name: &str| {
        let file = there(name)?;
        std::fs::read_to_string(&file).map_err(Error::io("read", file))
    };
    let manifest: BTreeMap<String, String> =
        toml::from_str(&read(MANIFEST)?).map_err(|error| bad(format!("{MANIFEST}: {}", error.message())))?;
    let tensor_file = |name: &str| format!("{name}.safetensors");
    let needed = files.iter().map(|name| tensor_file(name)).chain([POSITION.into(), CONFIG.into()]);
    if let Some(name) = needed.into_iter().find(|name| !manifest.contains_key(name)) {
        return Err(bad(format!("{MANIFEST} does not list `{name}`")));
    }
    for (name, expected) in &manifest {
        // A state is its own folder and nothing else: no name leads out of it.
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(bad(format!("{MANIFEST} lists `{}`", name.escape_debug())));
        }
        let file = there(name)?;
        if &tensors::file_sha256(&file).map_err(Error::io("read", &file))? != expected {
            return Err(bad(format!("`{name}` does not match its checksum")));
        }
    }
    let mut tensors = StateTensors::new();
    for &name in files {
        let (_, named) = tensors::read(&path.join(tensor_file(name)))?;
        tensors.insert(name, named);
    }
    let position =
        toml::from_str(&read(POSITION)?).map_err(|error| bad(format!("{POSITION}: {}", error.message())))?;
    Ok(SavedState { position, config: read(CONFIG)?, tensors })
}

/// The states in a run folder, oldest first.
pub fn list(run: &Path) -> Result<Vec<PathBuf>> {
    Ok(numbered(run)?.into_iter().map(|(_, path)| path).collect())
}

/// [`list`] with the kimg in the names; a classifier's only state has none and counts as the last.
pub(super) fn numbered(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(run).map_err(Error::io("read", run))? {
        let path = entry.map_err(Error::io("read", run))?.path();
        let kimg = path.file_name().and_then(|name| match name.to_str()? {
            LAST => Some(u64::MAX),
            name => name.strip_prefix(STATE_PREFIX)?.parse().ok(),
        });
        found.extend(kimg.map(|kimg| (kimg, path)));
    }
    found.sort();
    Ok(found)
}

/// Removes all but the newest `keep` states; spares the newest that was saved while nothing was suspected, to which trouble goes back.
pub fn prune(run: &Path, keep: usize) -> Result<()> {
    let states = list(run)?;
    let (old, kept) = states.split_at(states.len().saturating_sub(keep.max(1)));
    let spared = if kept.iter().any(|state| is_calm(state)) {
        None
    } else {
        old.iter().rev().find(|state| is_calm(state))
    };
    for old in old.iter().filter(|old| Some(*old) != spared) {
        super::files::remove_folder_atomic(old)?;
    }
    Ok(())
}

/// Whether nothing was suspected when the state was saved, as far as it can be read.
fn is_calm(state: &Path) -> bool {
    let position = std::fs::read_to_string(state.join(POSITION)).ok();
    position
        .and_then(|text| toml::from_str::<Position>(&text).ok())
        .is_some_and(|position| position.guard.is_calm())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    fn tensors() -> StateTensors {
        let tensor = |x: f32| Tensor::new(&[x, -x], &Device::Cpu).unwrap();
        TENSOR_FILES
            .iter()
            .enumerate()
            .map(|(i, name)| (*name, vec![("w".to_owned(), tensor(i as f32))]))
            .collect()
    }

    fn position() -> Position {
        let mut position = Position { cur_nimg: 3456, elapsed_secs: 0.1 + 0.2, ..Position::default() };
        position.collected.report("Loss/G", 1.0 / 3.0);
        position.best =
            Some(Best { metric: "kid".into(), features: "f".into(), score: 1e-17, kimg: 3.0, of: 2 });
        position
    }

    #[test]
    fn the_best_score_is_the_lowest_one() {
        let score = |value| Score {
            metric: "kid".into(),
            value,
            standard_error: None,
            num_real: 10,
            num_fake: 10,
            features: "f".into(),
        };
        let mut best: Option<Best> = None;
        for (kimg, value, lowest) in [(1.0, 3.0, true), (2.0, 1.0, true), (3.0, 2.0, false), (4.0, 1.0, false)]
        {
            let (after, is_new) = Best::of(&score(value), kimg).after(best);
            assert_eq!(is_new, lowest, "{value} at {kimg}");
            best = Some(after);
        }
        let best = best.unwrap();
        assert_eq!((best.score, best.kimg, best.of), (1.0, 2.0, 4));
        assert!(best.is_of(&score(7.0)));
        assert!(!best.is_of(&Score { features: "g".into(), ..score(1.0) }));
    }

    #[test]
    fn a_state_reads_back_exactly() {
        let dir = tempfile::tempdir().unwrap();
        let path = save(dir.path(), &position(), "[train]\n", &tensors()).unwrap();
        assert_eq!(path.file_name().unwrap(), "training-state-000003");
        let state = load(&path).unwrap();
        assert_eq!(state.position, position());
        assert_eq!(state.config, "[train]\n");
        assert_eq!(state.tensors["generator-adam"][0].1.to_vec1::<f32>().unwrap(), [3.0, -3.0]);
    }

    #[test]
    fn any_changed_or_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = save(dir.path(), &position(), "", &tensors()).unwrap();
        std::fs::write(path.join(CONFIG), "x = 1").unwrap();
        assert!(load(&path).err().unwrap().to_string().contains("`config.toml` does not match"));
        std::fs::write(path.join(CONFIG), "").unwrap();
        for name in ["discriminator.safetensors", MANIFEST] {
            std::fs::remove_file(path.join(name)).unwrap();
            let error = load(&path).err().unwrap();
            assert!(error.to_string().ends_with(&format!("`{name}` is missing")), "{error}");
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn a_manifest_lists_every_file_and_none_outside() {
        let dir = tempfile::tempdir().unwrap();
        let path = save(dir.path(), &position(), "", &tensors()).unwrap();
        let manifest = std::fs::read_to_string(path.join(MANIFEST)).unwrap();
        let without: String =
            manifest.lines().filter(|line| !line.contains(POSITION)).collect::<Vec<_>>().join("\n");
        std::fs::write(path.join(MANIFEST), without).unwrap();
        assert!(load(&path).err().unwrap().to_string().contains("does not list `position.toml`"));
        for name in ["../outside", "/etc/hostname", "sub/file", ".."] {
            std::fs::write(path.join(MANIFEST), format!("{manifest}\n\"{name}\" = \"00\"\n")).unwrap();
            let error = load(&path).err().unwrap().to_string();
            assert!(error.contains(&format!("lists `{name}`")), "{error}");
        }
    }

    #[test]
    fn pruning_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        for nimg in [9_000, 10_000, 100_000] {
            save(dir.path(), &Position { cur_nimg: nimg, ..position() }, "", &tensors()).unwrap();
        }
        prune(dir.path(), 2).unwrap();
        let names: Vec<_> =
            list(dir.path()).unwrap().iter().map(|p| p.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["training-state-000010", "training-state-000100"]);
    }
}
