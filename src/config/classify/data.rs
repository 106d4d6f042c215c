//! `[data]` of a classifier: images with classes, and which of them are for testing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nestgen_images::{EVERY_SPLIT, OpenOptions, TEST_SPLITS, VALIDATION_SPLITS, is_hidden, is_training_split};
use serde::{Deserialize, Serialize};

use super::model::TrainedOn;
use crate::config::run::{MOST_WORKERS, name_of_images, refuse_missing};
use crate::data::{ImageData, LabelledImages, LoadOptions, labelled_split, synthetic};
use crate::error::{Error, Result};
use crate::train::classify::augment::Normalise;

/// `[data]`: the images are brought to the classifier's resolution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassDataConfig {
    /// Class folders, archive or pack; empty for the built-in scenes.
    pub path: String,
    /// How many built-in scenes there are to train on.
    pub scenes: usize,
    /// How many other ones there are to test on.
    pub test_scenes: usize,
    /// The share of the training images that is used, of every class alike; above 0, up to 1.
    pub fraction: f64,
    /// The share of every class that is held out for testing where the source has no test split; above 0, below 1.
    pub hold_out: f64,
    /// The split to test on after every epoch; empty for the validation split where the source has one, else its test split.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub test_split: String,
    /// Test on at most this many images, of every class alike and of each at least one; 0 for all.
    pub max_test: usize,
    /// Mean of each channel that is subtracted, in 0..1.
    pub mean: [f32; 3],
    /// What each channel is divided by, above 0.
    pub std: [f32; 3],
    /// Threads that prepare batches ahead.
    pub workers: usize,
}

impl Default for ClassDataConfig {
    fn default() -> Self {
        Self {
            path: String::new(),
            scenes: 6000,
            test_scenes: 1200,
            fraction: 1.0,
            hold_out: 0.1,
            test_split: String::new(),
            max_test: 0,
            mean: [0.5; 3],
            std: [0.5; 3],
            workers: 1,
        }
    }
}

/// A source in memory: everything there is to train and to test on.
pub struct ClassData {
    train: LabelledImages,
    test: LabelledImages,
}

impl ClassData {
    /// Class names in label order.
    pub fn class_names(&self) -> &[String] {
        self.train.data().class_names()
    }

    /// The images that a configuration trains and tests on.
    pub fn chosen(&self, config: &ClassDataConfig) -> (LabelledImages, LabelledImages) {
        let count = if config.max_test > 0 { config.max_test } else { usize::MAX };
        (self.train.fraction(config.fraction), self.test.at_most(count))
    }
}

impl ClassDataConfig {
    pub(super) fn validate(&self) -> std::result::Result<(), (&'static str, String)> {
        let must = |key, holds: bool, reason: String| if holds { Ok(()) } else { Err((key, reason)) };
        must("scenes", self.scenes >= 24, format!("{} are too few for 12 classes", self.scenes))?;
        must(
            "test_scenes",
            self.test_scenes >= 12,
            format!("{} are too few for 12 classes", self.test_scenes),
        )?;
        must(
            "workers",
            self.workers <= MOST_WORKERS,
            format!("{} threads are more than {MOST_WORKERS}", self.workers),
        )?;
        must(
            "fraction",
            self.fraction > 0.0 && self.fraction <= 1.0,
            format!("{} is not above 0 and at most 1", self.fraction),
        )?;
        must(
            "hold_out",
            self.hold_out > 0.0 && self.hold_out < 1.0,
            format!("{} is not between 0 and 1", self.hold_out),
        )?;
        must("mean", self.mean.iter().all(|m| m.is_finite()), format!("{:?} are not numbers", self.mean))?;
        must(
            "std",
            self.std.iter().all(|&s| s > 0.0 && s.is_finite()),
            format!("{:?} are not above 0", self.std),
        )
    }

    /// How bytes become numbers.
    pub fn normalise(&self) -> Normalise {
        Normalise { mean: self.mean, std: self.std }
    }

    /// A short name for run folders.
    pub fn name(&self) -> String {
        name_of_images(&self.path)
    }

    /// Reads or renders everything at `res` px. `progress(done, total)` may return false to stop.
    ///
    /// # Errors
    /// What reading images can meet; a set without classes; a test split of other classes.
    pub fn open(&self, res: usize, progress: &(dyn Fn(usize, usize) -> bool + Sync)) -> Result<ClassData> {
        if self.path.is_empty() {
            let scenes =
                |seed, count| LabelledImages::all(Arc::new(ImageData::synthetic(seed, count, res, progress)?));
            let train = scenes(synthetic::TRAINING_SEED, self.scenes)?;
            return Ok(ClassData { train, test: scenes(synthetic::TEST_SEED, self.test_scenes)? });
        }
        refuse_missing(&self.path)?;
        let path = Path::new(&self.path);
        let all = self.read(res, None, progress)?;
        refuse_empty_classes(path, all.data().class_names())?;
        let is_training = all.data().split().is_some_and(is_training_split);
        let split = match self.test_split.as_str() {
            "" if is_training => labelled_split(path, &[VALIDATION_SPLITS, TEST_SPLITS].concat())?,
            "" => None,
            named => Some(named),
        };
        let Some(split) = split else {
            let (train, test) = all.hold_out(self.hold_out)?;
            return Ok(ClassData { train, test });
        };
        let test = self.read(res, Some(split), progress)?;
        if split == EVERY_SPLIT || test.data().digest() == all.data().digest() {
            return Err(Error::Config {
                place: "configuration".into(),
                key: "data.test_split".into(),
                reason: format!("`{split}` holds the images that are trained on"),
                hint: Some("name another split, or leave it out to hold some of the images out".into()),
            });
        }
        let (ours, theirs) = (all.data().class_names(), test.data().class_names());
        if ours != theirs {
            let other = ours.iter().zip(theirs).find(|(a, b)| a != b);
            let detail = other.map_or(String::new(), |(a, b)| format!(": `{a}` against `{b}`"));
            return Err(Error::Usage {
                message: format!(
                    "`{}`: train has {} classes and {split} has {}{detail}",
                    path.display(),
                    ours.len(),
                    theirs.len()
                ),
                hint: Some("give every class a folder of the same name in both".into()),
            });
        }
        Ok(ClassData { train: all, test })
    }

    /// The images to test a finished classifier on: those of `split`, or else of the source's test or validation split; of a source
    /// without either, all, or, if the classifier was `trained_on` them, those that were held out.
    ///
    /// # Errors
    /// What reading images can meet; a set without classes.
    pub fn open_to_test(
        &self,
        res: usize,
        split: Option<&str>,
        trained_on: Option<&TrainedOn>,
        progress: &(dyn Fn(usize, usize) -> bool + Sync),
    ) -> Result<(LabelledImages, Tested)> {
        if self.path.is_empty() {
            let scenes = ImageData::synthetic(synthetic::TEST_SEED, self.test_scenes, res, progress)?;
            return Ok((LabelledImages::all(Arc::new(scenes))?, Tested::Split));
        }
        refuse_missing(&self.path)?;
        let chosen = Some(self.test_split.as_str()).filter(|name| !name.is_empty());
        let path = Path::new(&self.path);
        // What was tested on while training chose the epoch that is kept: not the last word where there is another.
        let split = match split {
            None => match (labelled_split(path, TEST_SPLITS)?, chosen) {
                (None, None) => labelled_split(path, VALIDATION_SPLITS)?,
                (found, chosen) => found.or(chosen),
            },
            named => named,
        };
        let images = self.read(res, split, progress)?;
        if split.is_some() {
            return Ok((images, Tested::Split));
        }
        match trained_on {
            Some(trained_on) if trained_on.held_out && trained_on.is(images.data()) => {
                Ok((images.hold_out(self.hold_out)?.1, Tested::HeldOut))
            }
            Some(trained_on) if trained_on.is_packed_in_or_from(images.data()) => {
                Ok((images, Tested::TrainedOn))
            }
            _ => Ok((images, Tested::Whole)),
        }
    }

    fn read(
        &self,
        res: usize,
        split: Option<&str>,
        progress: &(dyn Fn(usize, usize) -> bool + Sync),
    ) -> Result<LabelledImages> {
        let open = OpenOptions { split: split.map(str::to_owned), ..OpenOptions::default() };
        let options = LoadOptions { open, ..LoadOptions::new(res as u32) };
        LabelledImages::all(Arc::new(ImageData::open(Path::new(&self.path), &options, progress)?))
    }
}

/// Which part of a source a finished classifier is tested on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tested {
    /// A split of it.
    Split,
    /// What was held out of it in training.
    HeldOut,
    /// All of it.
    Whole,
    /// All of it, among which are images that were trained on.
    TrainedOn,
}

/// A folder beside the classes' folders that holds nothing, or images of another format, is a class that somebody meant.
fn refuse_empty_classes(root: &Path, classes: &[String]) -> Result<()> {
    if !root.is_dir() {
        return Ok(());
    }
    let (mut pending, mut visited) = (vec![root.to_path_buf()], BTreeSet::new());
    while let Some(folder) = pending.pop() {
        if !visited.insert(real_path(&folder)?) {
            continue;
        }
        let children = subfolders(&folder)?;
        let is_class = |path: &PathBuf| {
            path.file_name().is_some_and(|name| classes.iter().any(|class| name.to_string_lossy() == *class))
        };
        if !children.iter().any(is_class) {
            pending.extend(children);
            continue;
        }
        for child in children {
            if is_class(&child) {
                continue;
            }
            let endings = endings_of_files(&child)?;
            let unread = endings.iter().filter(|ending| UNREAD_IMAGES.contains(&ending.as_str()));
            let unread = unread.map(|ending| format!(".{ending}")).collect::<Vec<_>>().join(", ");
            if endings.is_empty() || !unread.is_empty() {
                let what = if unread.is_empty() {
                    "is empty".to_owned()
                } else {
                    format!("holds no image that is read ({unread})")
                };
                return Err(Error::Usage {
                    message: format!("the class folder `{}` {what}", child.display()),
                    hint: Some("put images of the class into it (PNG, JPEG), or remove it".into()),
                });
            }
        }
    }
    Ok(())
}

/// Endings of images that are not read: of other files nobody thinks that they are the images of a class.
const UNREAD_IMAGES: [&str; 9] = ["heic", "heif", "avif", "jp2", "jxl", "raw", "dng", "psd", "svg"];

/// The endings of the files below a folder, in lower case; what is passed over where images are read does not count.
fn endings_of_files(folder: &Path) -> Result<BTreeSet<String>> {
    let (mut found, mut visited) = (BTreeSet::new(), BTreeSet::new());
    let mut pending = vec![folder.to_path_buf()];
    while let Some(folder) = pending.pop() {
        // Links may lead back to where they are.
        if !visited.insert(real_path(&folder)?) {
            continue;
        }
        for path in seen_in(&folder)? {
            if path.is_dir() {
                pending.push(path);
            } else {
                found.insert(path.extension().unwrap_or_default().to_string_lossy().to_lowercase());
            }
        }
    }
    Ok(found)
}

fn subfolders(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(seen_in(folder)?.into_iter().filter(|path| path.is_dir()).collect())
}

/// What is in a folder, without what is passed over where images are read.
fn seen_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let paths = entries.map(|entry| Ok(entry.map_err(Error::io("read", folder))?.path()));
    let is_seen = |path: &PathBuf| !path.file_name().is_some_and(|name| is_hidden(name.as_encoded_bytes()));
    Ok(paths.collect::<Result<Vec<_>>>()?.into_iter().filter(is_seen).collect())
}

fn real_path(folder: &Path) -> Result<PathBuf> {
    folder.canonicalize().map_err(Error::io("read", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn folders_of_systems_and_links_in_a_circle_are_no_empty_classes() {
        let dir = tempfile::tempdir().unwrap();
        let (root, classes) = (dir.path(), ["cat".to_owned(), "dog".to_owned()]);
        for class in &classes {
            std::fs::create_dir(root.join(class)).unwrap();
            std::fs::write(root.join(class).join("1.png"), b"").unwrap();
        }
        std::fs::create_dir(root.join("lost+found")).unwrap();
        std::os::unix::fs::symlink(".", root.join("a")).unwrap();
        std::os::unix::fs::symlink(root, root.join("b")).unwrap();
        refuse_empty_classes(root, &classes).unwrap();
        // Classes further down, behind a link that leads up again.
        let outer = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outer.path(), outer.path().join("again")).unwrap();
        std::os::unix::fs::symlink(root, outer.path().join("train")).unwrap();
        refuse_empty_classes(outer.path(), &classes).unwrap();
        std::fs::create_dir(root.join("bird")).unwrap();
        for root in [root, outer.path()] {
            let error = refuse_empty_classes(root, &classes).unwrap_err().to_string();
            assert!(error.contains("bird` is empty"), "{error}");
        }
    }

    #[test]
    fn test_scenes_are_none_of_the_training_scenes() {
        let config = ClassDataConfig { scenes: 24, test_scenes: 24, ..ClassDataConfig::default() };
        let data = config.open(16, &|_, _| true).unwrap();
        let pixels = |images: &LabelledImages| -> Vec<Vec<u8>> {
            let read = |i| {
                let mut pixels = vec![0; 16 * 16 * 3];
                images.data().read(i, &mut pixels).map(|()| pixels)
            };
            (0..images.len()).map(|i| read(i).unwrap()).collect()
        };
        let (train, test) = data.chosen(&config);
        let (train, test) = (pixels(&train), pixels(&test));
        assert!(test.len() == 24 && test.iter().all(|scene| !train.contains(scene)));
    }
}
