//! One experiment, complete: which networks, on which images, trained how, scored how.

use std::fs::DirEntry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nestgen_images::is_hidden;
use serde::{Deserialize, Serialize};

use crate::data::{ImageData, LoadOptions, synthetic};
use crate::error::{Error, Result, quoted};
use crate::models::{DiscriminatorConfig, GeneratorConfig};
use crate::train::settings::TrainConfig;
use crate::train::state::CONFIG;

/// Threads that prepare images, beyond which they would only be in each other's way.
pub(super) const MOST_WORKERS: usize = 256;

/// Images below which a score says nothing.
const FEWEST_IMAGES: usize = 100;
/// More take days.
const MOST_IMAGES: usize = 10_000_000;

/// A configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The generator.
    pub model: GeneratorConfig,
    /// The discriminator.
    pub discriminator: DiscriminatorConfig,
    /// The images.
    #[serde(default)]
    pub data: DataConfig,
    /// The training.
    #[serde(default)]
    pub train: TrainConfig,
    /// The scores.
    #[serde(default)]
    pub eval: EvalConfig,
}

/// `[data]`: the images are brought to the generator's resolution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// A folder, archive or pack; empty for the built-in scenes.
    pub path: String,
    /// Use at most so many of the images, drawn at random but always the same way; 0 for all.
    pub max_images: usize,
    /// How many built-in scenes there are.
    pub scenes: usize,
    /// Show half of the images flipped left to right.
    pub mirror: bool,
    /// Images that are kept from training, to see whether D knows the others by heart; 0 for none.
    pub held_out: usize,
    /// Threads that prepare batches ahead.
    pub workers: usize,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self { path: String::new(), max_images: 0, scenes: 10_000, mirror: false, held_out: 0, workers: 1 }
    }
}

impl DataConfig {
    /// Reads or renders the images at `res` px. `progress(done, total)` may return false to stop.
    ///
    /// # Errors
    /// What reading images can meet.
    pub fn open(&self, res: usize, progress: &(dyn Fn(usize, usize) -> bool + Sync)) -> Result<Arc<ImageData>> {
        let max_images = (self.max_images > 0).then_some(self.max_images);
        if self.path.is_empty() {
            let count = self.scenes.min(max_images.unwrap_or(usize::MAX));
            return Ok(Arc::new(ImageData::synthetic(synthetic::TRAINING_SEED, count, res, progress)?));
        }
        refuse_missing(&self.path)?;
        refuse_run_folder(Path::new(&self.path))?;
        let options = LoadOptions { max_images, ..LoadOptions::new(res as u32) };
        Ok(Arc::new(ImageData::open(Path::new(&self.path), &options, progress)?))
    }

    /// The images to train on and, where some are kept from training, those.
    ///
    /// # Errors
    /// When none would be left to train on.
    pub fn parts(&self, data: Arc<ImageData>) -> Result<(Arc<ImageData>, Option<ImageData>)> {
        if self.held_out == 0 {
            return Ok((data, None));
        }
        let (rest, held_out) = data.hold_out(self.held_out)?;
        Ok((Arc::new(rest), Some(held_out)))
    }

    /// A short name for run folders.
    pub fn name(&self) -> String {
        name_of_images(&self.path)
    }
}

/// Refuses a path that leads nowhere: that of a run begun elsewhere led to its images there.
pub(super) fn refuse_missing(path: &str) -> Result<()> {
    if !matches!(Path::new(path).try_exists(), Ok(false)) {
        return Ok(());
    }
    Err(Error::Usage {
        message: format!("there are no images at `{path}`: no such file or folder"),
        hint: Some(
            "check the path; a relative one, a run's too, counts from the folder that the program is started in. Where a run's \
             images lie now, --data says"
                .into(),
        ),
    })
}

/// Refuses a generator's run, whose pictures are grids of many images, or a folder that holds some, where images are wanted.
///
/// # Errors
/// When it is one.
pub fn refuse_run_folder(path: &Path) -> Result<()> {
    let Some(found) = run_in(path) else { return Ok(()) };
    if found != path {
        return Err(Error::Usage {
            message: format!(
                "`{}` holds runs (`{}`), whose pictures are grids of many images",
                path.display(),
                found.display()
            ),
            hint: Some(
                "name a folder of images without runs in it; `nestgen sample` draws images of a run".into(),
            ),
        });
    }
    let run = quoted(path);
    Err(Error::Usage {
        message: format!("`{}` is a run folder, whose pictures are grids of many images", path.display()),
        hint: Some(format!(
            "draw images of it with `nestgen sample -n 10000 --run {run} --outdir fake`; `nestgen score {run}` scores its snapshots, \
             `nestgen train --resume {run}` goes on with it"
        )),
    })
}

/// The first run of a generator that is found at `path` or below: a folder of studies has them four folders deep.
fn run_in(path: &Path) -> Option<PathBuf> {
    const DEPTH: usize = 4;
    /// Enough for every study; sets of images may have more.
    const MOST_FOLDERS: usize = 2000;
    let is_run = |path: &Path| path.join(CONFIG).is_file() && path.join("fakes_init.png").is_file();
    let mut folders = vec![(path.to_path_buf(), 0)];
    let mut next = 0;
    while let Some((folder, depth)) = folders.get(next).cloned() {
        if is_run(&folder) {
            return Some(folder);
        }
        if depth < DEPTH {
            let below = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            let is_seen = |entry: &DirEntry| !is_hidden(entry.file_name().as_encoded_bytes());
            let is_folder = |entry: &DirEntry| {
                entry.file_type().is_ok_and(|kind| kind.is_dir() || kind.is_symlink() && entry.path().is_dir())
            };
            let left = MOST_FOLDERS.saturating_sub(folders.len());
            let below = below.filter(|entry| is_seen(entry) && is_folder(entry)).take(left);
            folders.extend(below.map(|entry| (entry.path(), depth + 1)));
        }
        next += 1;
    }
    None
}

/// What the images at `path` are called in the names of run folders: the name of the file or folder up to its first dot.
pub(super) fn name_of_images(path: &str) -> String {
    if path.is_empty() {
        return "scenes".into();
    }
    let path = Path::new(path);
    // `.` and `..` name nothing: what they stand for does.
    let real = if path.file_name().is_none() { path.canonicalize().ok() } else { None };
    let name = real.as_deref().unwrap_or(path).file_name().unwrap_or_default().to_string_lossy();
    match name.trim_start_matches('.').split('.').next() {
        None | Some("") => "images".into(),
        Some(name) => name.to_owned(),
    }
}

/// `[eval]`: scores while training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Thousands of images between scores; 0 for none.
    pub every_kimg: f64,
    /// Images of either side of a score, but no more than there are real ones; 100 and more.
    pub images: usize,
    /// What they are compared by: `auto` (Inception where its weights are found, else `scenes-v1`), `inception`, `scenes-v1`
    /// (a small network that is part of the program), `random-v1`, or a .safetensors file of DINOv2 or of a classifier of
    /// ours.
    pub features: String,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { every_kimg: 0.0, images: 2000, features: "auto".into() }
    }
}

impl RunConfig {
    /// Checks every range and how the sections fit together.
    ///
    /// # Errors
    /// The dotted key of the first bad setting, and what is wrong with it.
    pub fn validate(&self) -> std::result::Result<(), (String, String)> {
        self.model.validate().map_err(|bad| (format!("model.{}", bad.field), bad.reason))?;
        self.discriminator.validate().map_err(|bad| (format!("discriminator.{}", bad.field), bad.reason))?;
        let bad = |key: &str, reason: String| Err((key.to_owned(), reason));
        let (resolution, other) = (self.model.resolution(), self.discriminator.resolution());
        if resolution != other {
            return bad(
                "discriminator.resolution",
                format!("{other} px, but the generator draws {resolution} px"),
            );
        }
        if self.data.workers > MOST_WORKERS {
            return bad("data.workers", format!("{} threads are more than {MOST_WORKERS}", self.data.workers));
        }
        if self.data.scenes == 0 {
            return bad("data.scenes", "there must be at least one".into());
        }
        if !(self.eval.every_kimg >= 0.0 && self.eval.every_kimg.is_finite()) {
            return bad(
                "eval.every_kimg",
                format!("{} is not a finite number, 0 or more", self.eval.every_kimg),
            );
        }
        if self.eval.images > MOST_IMAGES {
            return bad("eval.images", format!("{} are more than {MOST_IMAGES}", self.eval.images));
        }
        if self.eval.images < FEWEST_IMAGES {
            let reason =
                format!("{} images are too few for a score, which needs {FEWEST_IMAGES}", self.eval.images);
            return bad("eval.images", reason);
        }
        self.train.validate().map_err(|(key, reason)| (format!("train.{key}"), reason))
    }

    /// The configuration as a complete file: every setting, defaults included.
    pub fn to_toml(&self) -> String {
        // Only maps with keys that are not text can fail, and there are none.
        toml::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::classify::ClassDataConfig;

    /// The pixels of all images.
    fn pixels(data: &ImageData) -> Vec<Vec<u8>> {
        let read = |i| {
            let mut pixels = vec![0; data.res() * data.res() * 3];
            data.read(i, &mut pixels).map(|()| pixels)
        };
        (0..data.len()).map(|i| read(i).unwrap()).collect()
    }

    #[test]
    fn held_out_images_are_not_trained_on() {
        let config = DataConfig { scenes: 32, held_out: 8, ..DataConfig::default() };
        let whole = config.open(16, &|_, _| true).unwrap();
        let (rest, held_out) = config.parts(whole.clone()).unwrap();
        let mut parts = [pixels(&rest), pixels(&held_out.unwrap())];
        assert_eq!([parts[0].len(), parts[1].len()], [24, 8]);
        assert!(parts[1].iter().all(|image| !parts[0].contains(image)));
        let (mut together, mut all) = (std::mem::take(&mut parts).concat(), pixels(&whole));
        together.sort();
        all.sort();
        assert_eq!(together, all);
    }

    #[test]
    fn a_limit_counts_for_scenes_and_for_files() {
        let dir = tempfile::tempdir().unwrap();
        let shade = |i: u8| image::RgbImage::from_pixel(8, 8, image::Rgb([i * 20; 3]));
        (0..6).for_each(|i| shade(i).save(dir.path().join(format!("{i}.png"))).unwrap());
        for path in [String::new(), dir.path().to_str().unwrap().to_owned()] {
            let all = DataConfig { path, scenes: 6, ..DataConfig::default() };
            let few = DataConfig { max_images: 4, ..all.clone() };
            let [all, few] = [all, few].map(|config| config.open(8, &|_, _| true).unwrap());
            assert_eq!((all.len(), few.len()), (6, 4), "{}", all.description());
            assert_ne!(all.digest(), few.digest(), "{}", all.description());
        }
    }

    #[test]
    fn images_that_are_not_there_have_a_way_out() {
        let path = "no-such-images".to_owned();
        let generators = DataConfig { path: path.clone(), ..DataConfig::default() };
        let classifiers = ClassDataConfig { path, ..ClassDataConfig::default() };
        let going = |_, _| true;
        for error in [
            generators.open(8, &going).err().unwrap(),
            classifiers.open(8, &going).err().unwrap(),
            classifiers.open_to_test(8, None, None, &going).err().unwrap(),
        ] {
            assert!(error.to_string().contains("`no-such-images`"), "{error}");
            assert!(error.hint().unwrap().contains("a relative one, a run's too"), "{error}");
        }
    }
}
