//! `[data]` of a classifier: images with classes, and which of them are for testing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nestgen_images::OpenOptions;
use serde::{Deserialize, Serialize};

use crate::config::run::name_of_images;
use crate::data::{ImageData, LabelledImages, LoadOptions, test_split};
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
    /// Test on at most this many images, of every class alike; 0 for all.
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
    /// The seeds of the built-in scenes: one set for everybody, whatever the seed of training.
    const SCENES_SEED: u64 = 0;
    const TEST_SCENES_SEED: u64 = 1;

    pub(super) fn validate(&self) -> std::result::Result<(), (&'static str, String)> {
        let must = |key, holds: bool, reason: String| if holds { Ok(()) } else { Err((key, reason)) };
        must("scenes", self.scenes >= 24, format!("{} are too few for 12 classes", self.scenes))?;
        must(
            "test_scenes",
            self.test_scenes >= 12,
            format!("{} are too few for 12 classes", self.test_scenes),
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
            let train = scenes(Self::SCENES_SEED, self.scenes)?;
            return Ok(ClassData { train, test: scenes(Self::TEST_SCENES_SEED, self.test_scenes)? });
        }
        let path = Path::new(&self.path);
        let read = |split: Option<&str>| {
            let open = OpenOptions { split: split.map(str::to_owned), ..OpenOptions::default() };
            let options = LoadOptions { open, ..LoadOptions::new(res as u32) };
            LabelledImages::all(Arc::new(ImageData::open(path, &options, progress)?))
        };
        let all = read(None)?;
        refuse_empty_classes(path, all.data().class_names())?;
        let split = if all
            .data()
            .split()
            .is_some_and(|split| ["train", "training"].contains(&&*split.to_lowercase()))
        {
            test_split(path)?
        } else {
            None
        };
        let Some(split) = split else {
            let (train, test) = all.hold_out(self.hold_out)?;
            return Ok(ClassData { train, test });
        };
        let test = read(Some(split))?;
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
}

/// A folder beside the classes' folders that holds no image is a class that somebody meant.
fn refuse_empty_classes(root: &Path, classes: &[String]) -> Result<()> {
    if !root.is_dir() {
        return Ok(());
    }
    let mut pending = vec![root.to_path_buf()];
    while let Some(folder) = pending.pop() {
        let children = subfolders(&folder)?;
        let is_class = |path: &PathBuf| {
            path.file_name().is_some_and(|name| classes.iter().any(|class| name.to_string_lossy() == *class))
        };
        if !children.iter().any(is_class) {
            pending.extend(children);
            continue;
        }
        for child in children {
            let name = child.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_empty = std::fs::read_dir(&child).map_err(Error::io("read", &child))?.next().is_none();
            if is_empty && !name.starts_with('.') {
                return Err(Error::Usage {
                    message: format!("the class folder `{}` is empty", child.display()),
                    hint: Some("put images of the class into it, or remove it".into()),
                });
            }
        }
    }
    Ok(())
}

fn subfolders(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let paths = entries.map(|entry| Ok(entry.map_err(Error::io("read", folder))?.path()));
    let paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    Ok(paths.into_iter().filter(|path| path.is_dir()).collect())
}
