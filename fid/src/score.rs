//! One call from two sources of images to a report.

use std::path::{Path, PathBuf};
use std::time::Instant;

use nestgen_images::{ImageSet, OpenOptions, RgbImage8};

use crate::cache::{self, Key};
use crate::error::{Error, Result};
use crate::extractor::Extractor;
use crate::features::{Extracted, Features, Progress};
use crate::fid_infinity::fid_infinity;
use crate::frechet::{Spectrum, frechet_distance};
use crate::inception::{FEATURES, Tap};
use crate::inception_score::{inception_score, logits};
use crate::kid::{kid, kid_subsets};
use crate::memorization::memorization;
use crate::npz;
use crate::precision_recall::{Ball, precision_recall};
use crate::preprocess::Resize;
use crate::report::{Report, Scores, SideReport, Warning};
use crate::statistics::Moments;

/// Images below which a Frechet distance at 2048 features is mostly bias.
const FEW_IMAGES: usize = 2048;

/// A generator: makes the images of an index range. Called in order, one range at a time.
pub type Generate<'a> = dyn Fn(std::ops::Range<usize>) -> Result<Vec<RgbImage8>> + Sync + 'a;

/// Gives the features of all images of a set, in their order, with what it left out; tells how many are done.
pub type ExtractAll<'a> = dyn Fn(&ImageSet, &Progress) -> Result<Extracted> + 'a;

/// One side of a comparison.
#[allow(clippy::large_enum_variant, reason = "a program holds two or three of them")]
pub enum Input<'a> {
    /// A folder, archive or pack.
    Images(ImageSet),
    /// A folder, archive or pack whose features somebody else makes, with the same network, resize rule and tap: for
    /// example several processes together. Not asked where the cache has them.
    Delegated {
        /// The images.
        images: ImageSet,
        /// Makes the features.
        extract: Box<ExtractAll<'a>>,
    },
    /// A file of statistics (`.npz` with `mu` and `sigma`).
    Statistics(PathBuf),
    /// A running generator of `count` images.
    Generator {
        /// What the report calls it.
        name: String,
        /// Number of images to make.
        count: usize,
        /// Makes them.
        generate: Box<Generate<'a>>,
    },
    /// Features that are at hand already, of the same network, resize rule and tap.
    Features {
        /// What the report calls them.
        name: String,
        /// The features.
        features: Features,
    },
}

impl Input<'_> {
    /// Opens a path: statistics if it ends in `.npz`, else images.
    ///
    /// # Errors
    /// When there are no images, or the path cannot be read.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz")) {
            std::fs::metadata(path).map_err(Error::io(path))?;
            return Ok(Input::Statistics(path.to_owned()));
        }
        Ok(Input::Images(ImageSet::open(path, options)?))
    }

    fn name(&self) -> String {
        match self {
            Input::Images(set) | Input::Delegated { images: set, .. } => set.path().display().to_string(),
            Input::Statistics(path) => path.display().to_string(),
            Input::Generator { name, .. } | Input::Features { name, .. } => name.clone(),
        }
    }
}

/// What to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The Frechet distance.
    Fid,
    /// Kernel inception distance.
    Kid,
    /// Inception score.
    Is,
    /// Precision, recall, density, coverage.
    Prdc,
    /// The extrapolated Frechet distance.
    FidInfinity,
}

impl std::str::FromStr for Metric {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "fid" => Metric::Fid,
            "kid" => Metric::Kid,
            "is" => Metric::Is,
            "prdc" => Metric::Prdc,
            "fid-infinity" => Metric::FidInfinity,
            _ => {
                let reason = "one of fid, kid, is, prdc, fid-infinity".into();
                return Err(Error::Setting { setting: "metrics", value: text.into(), reason });
            }
        })
    }
}

/// Settings of a scoring.
#[derive(Clone, Debug)]
pub struct ScoreConfig {
    /// What to compute.
    pub metrics: Vec<Metric>,
    /// How images become network inputs.
    pub resize: Resize,
    /// Which features.
    pub tap: Tap,
    /// Subsets of KID: number and size. `None`: all images only.
    pub kid_subsets: Option<(usize, usize)>,
    /// Splits of the Inception score.
    pub is_splits: usize,
    /// The neighbour that sets the balls of precision and recall.
    pub k: usize,
    /// Whether the balls include their border.
    pub ball: Ball,
    /// Also compare two halves of the real images.
    pub floor: bool,
    /// Leave out images that cannot be read, and list them, instead of stopping.
    pub skip_bad: bool,
    /// A folder in which features are kept.
    pub cache: Option<PathBuf>,
    /// Where to write the real side's statistics.
    pub save_stats: Option<PathBuf>,
    /// Seed of all random subsets.
    pub seed: u64,
}

impl Default for ScoreConfig {
    fn default() -> Self {
        Self {
            metrics: vec![Metric::Fid, Metric::Kid],
            resize: Resize::default(),
            tap: Tap::D2048,
            kid_subsets: None,
            is_splits: 1,
            k: 3,
            ball: Ball::default(),
            floor: false,
            skip_bad: false,
            cache: None,
            save_stats: None,
            seed: 0,
        }
    }
}

/// Told the side (`real`, `fake`, `held-out`), the images done, and of how many.
pub type SideProgress<'a> = dyn Fn(&'static str, usize, usize) + Sync + 'a;

/// The features of a side, or its statistics.
enum Side {
    Features(Features),
    Statistics(Moments),
}

/// Scores `fake` against `real`; with `held_out` (images of the real kind that no generator saw) also looks for
/// copies.
///
/// # Errors
/// Sources that cannot be read; sides too small or made of one image; metrics that need images where statistics are
/// given; features of different sizes.
pub fn score(
    real: &Input,
    fake: &Input,
    held_out: Option<&Input>,
    extractor: &Extractor,
    config: &ScoreConfig,
    progress: &SideProgress,
) -> Result<Report> {
    let started = Instant::now();
    let mut warnings = Vec::new();
    let (real_side, real_report) = load(real, "real", extractor, config, progress, &mut warnings)?;
    let (fake_side, fake_report) = load(fake, "fake", extractor, config, progress, &mut warnings)?;
    let held_out = match held_out {
        Some(input) => Some(load(input, "held-out", extractor, config, progress, &mut warnings)?.0),
        None => None,
    };
    let features_secs = started.elapsed().as_secs_f64();
    warn(&real_report, &fake_report, extractor, config, &mut warnings);
    let scores = compute(&real_side, &fake_side, held_out.as_ref(), extractor, config)?;
    if let Some(path) = &config.save_stats {
        match &real_side {
            Side::Features(features) => npz::write(path, &Moments::new(features, "real")?)?,
            Side::Statistics(moments) => npz::write(path, moments)?,
        }
    }
    let dims = extractor.dims(config.tap);
    let name = extractor.name();
    Ok(Report {
        name: if dims == FEATURES || matches!(extractor, Extractor::Custom { .. }) {
            name
        } else {
            format!("{name}-{dims}")
        },
        dims,
        extractor_sha256: extractor.sha256().to_owned(),
        resize: extractor.resize(config.resize),
        real: real_report,
        fake: fake_report,
        scores,
        warnings,
        seed: config.seed,
        features_secs,
        total_secs: started.elapsed().as_secs_f64(),
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// Features or statistics of one input.
fn load(
    input: &Input,
    side: &'static str,
    extractor: &Extractor,
    config: &ScoreConfig,
    progress: &SideProgress,
    warnings: &mut Vec<Warning>,
) -> Result<(Side, SideReport)> {
    let mut report =
        SideReport { source: input.name(), num_images: None, skipped: Vec::new(), from_cache: false };
    let features = match input {
        Input::Statistics(path) => {
            let (moments, dims) = (npz::read(path)?, extractor.dims(config.tap));
            if moments.dims() != dims {
                let reason = format!("it has {} features, this score uses {dims}", moments.dims());
                return Err(Error::Statistics { path: path.clone(), reason });
            }
            return Ok((Side::Statistics(moments), report));
        }
        Input::Features { features, .. } => features.clone(),
        Input::Images(set) => {
            let read = |i: usize| set.read_rgb(i).map_err(Error::Images);
            let extract = |set: &ImageSet, told: &Progress| {
                extractor.extract(&[config.tap], config.resize, set.len(), &read, config.skip_bad, told)
            };
            images(set, &extract, side, extractor, config, progress, &mut report, warnings)?
        }
        Input::Delegated { images: set, extract } => {
            images(set, extract, side, extractor, config, progress, &mut report, warnings)?
        }
        Input::Generator { count, generate, .. } => {
            generated(*count, generate, side, extractor, config, progress)?
        }
    };
    if !report.skipped.is_empty() {
        warnings.push(Warning::Skipped { side, count: report.skipped.len() });
    }
    check(&features, side)?;
    report.num_images = Some(features.len());
    Ok((Side::Features(features), report))
}

/// Features of an image set, from the cache where it has them.
fn images(
    set: &ImageSet,
    extract: &ExtractAll,
    side: &'static str,
    extractor: &Extractor,
    config: &ScoreConfig,
    progress: &SideProgress,
    report: &mut SideReport,
    warnings: &mut Vec<Warning>,
) -> Result<Features> {
    let place = match &config.cache {
        Some(folder) => {
            let (images, extractor_hash) = (set.digest()?, extractor.cache_key());
            let resize = config.resize.to_string();
            Some((folder, Key { images, extractor: extractor_hash, resize, dims: extractor.dims(config.tap) }))
        }
        None => None,
    };
    if let Some(features) = place.as_ref().and_then(|(folder, key)| cache::load(folder, key)) {
        report.from_cache = true;
        return Ok(features);
    }
    let extracted = extract(set, &|done, total| progress(side, done, total))?;
    report.skipped = extracted.skipped;
    let features = extracted.taps.into_iter().next().unwrap_or_default();
    // A set with gaps is not kept: the next run must list the bad files again.
    if let (Some((folder, key)), true) = (place, report.skipped.is_empty())
        && let Err(error) = cache::store(folder, &key, &features)
    {
        warnings.push(Warning::CacheNotWritten { reason: error.to_string() });
    }
    Ok(features)
}

/// Features of a generator's images, made in batches.
fn generated(
    count: usize,
    generate: &Generate,
    side: &'static str,
    extractor: &Extractor,
    config: &ScoreConfig,
    progress: &SideProgress,
) -> Result<Features> {
    const BATCH: usize = 64;
    let mut features = Features { dims: extractor.dims(config.tap), data: Vec::new() };
    for first in (0..count).step_by(BATCH) {
        let range = first..count.min(first + BATCH);
        let images = generate(range.clone())?;
        if images.len() != range.len() {
            let reason = format!("the generator made {} images, {} were asked for", images.len(), range.len());
            return Err(Error::Caller(reason));
        }
        let read = |i: usize| Ok(images[i].clone());
        let told = |done: usize, _| progress(side, first + done, count);
        let extracted = extractor.extract(&[config.tap], config.resize, images.len(), &read, false, &told)?;
        features.data.extend(extracted.taps.into_iter().flat_map(|tap| tap.data));
    }
    Ok(features)
}

/// Refuses sides that no metric can use.
fn check(features: &Features, side: &'static str) -> Result<()> {
    crate::statistics::at_least("a score", 2, features, side)?;
    features.check(side)?;
    let first = features.row(0);
    if features.data.chunks_exact(features.dims).all(|row| row == first) {
        return Err(Error::Identical { side: side.to_owned(), count: features.len() });
    }
    Ok(())
}

fn warn(
    real: &SideReport,
    fake: &SideReport,
    extractor: &Extractor,
    config: &ScoreConfig,
    warnings: &mut Vec<Warning>,
) {
    if let Extractor::Inception { name, .. } = extractor
        && name != "FID"
    {
        warnings.push(Warning::OtherWeights { name: name.clone() });
    }
    if !config.metrics.contains(&Metric::Fid) {
        return;
    }
    let wanted = FEW_IMAGES.min(extractor.dims(config.tap));
    for (side, report) in [("real", real), ("fake", fake)] {
        if let Some(found) = report.num_images
            && found < wanted
        {
            warnings.push(Warning::FewImages { side, found, wanted });
        }
    }
    if let (Some(real), Some(fake)) = (real.num_images, fake.num_images)
        && real != fake
    {
        warnings.push(Warning::UnequalCounts { real, fake });
    }
}

/// All metrics from the features of both sides.
fn compute(
    real: &Side,
    fake: &Side,
    held_out: Option<&Side>,
    extractor: &Extractor,
    config: &ScoreConfig,
) -> Result<Scores> {
    let needs = |metric: &'static str, side: &'static str| Error::NeedsImages { metric, side: side.to_owned() };
    let both = |metric| match (real, fake) {
        (Side::Features(real), Side::Features(fake)) => Ok((real, fake)),
        (Side::Statistics(_), _) => Err(needs(metric, "real")),
        (_, Side::Statistics(_)) => Err(needs(metric, "fake")),
    };
    let fake_images = |metric| match fake {
        Side::Features(features) => Ok(features),
        Side::Statistics(_) => Err(needs(metric, "fake")),
    };
    let mut scores = Scores::default();
    let wanted = |metric| config.metrics.contains(&metric);
    if wanted(Metric::Fid) || wanted(Metric::FidInfinity) {
        let real_spectrum = spectrum(real, "real")?;
        if wanted(Metric::Fid) {
            scores.frechet = Some(frechet_distance(&real_spectrum, &spectrum(fake, "fake")?)?);
        }
        if wanted(Metric::FidInfinity) {
            scores.fid_infinity =
                Some(fid_infinity(&real_spectrum, fake_images("FID-infinity")?, config.seed)?);
        }
    }
    if config.floor {
        let Side::Features(real) = real else { return Err(needs("the real/real floor", "real")) };
        let (first, second) = real.split_at(real.len() / 2);
        let second = second.select(&(0..first.len()).collect::<Vec<_>>());
        scores.floor =
            Some(frechet_distance(&Spectrum::new(&first, "real")?, &Spectrum::new(&second, "real")?)?);
    }
    if wanted(Metric::Kid) {
        let (real, fake) = both("KID")?;
        scores.kid = Some(kid(real, fake)?);
        if let Some((subsets, size)) = config.kid_subsets {
            scores.kid_subsets = Some(kid_subsets(real, fake, subsets, size, config.seed)?);
        }
    }
    if wanted(Metric::Is) {
        let Extractor::Inception { network, .. } = extractor else {
            return Err(Error::Mismatch("the Inception score needs the Inception network".into()));
        };
        if config.tap != Tap::D2048 {
            return Err(Error::Mismatch("the Inception score needs the 2048 last features".into()));
        }
        let logits = logits(fake_images("the Inception score")?, network.classifier().0, None);
        scores.inception_score = Some(inception_score(&logits, config.is_splits)?);
    }
    if wanted(Metric::Prdc) {
        let (real, fake) = both("precision and recall")?;
        scores.precision_recall = Some(precision_recall(real, fake, config.k, config.ball)?);
    }
    if let Some(held_out) = held_out {
        let (real, fake) = both("the memorisation check")?;
        let Side::Features(held_out) = held_out else {
            return Err(needs("the memorisation check", "held-out"));
        };
        scores.memorization = Some(memorization(real, held_out, fake, config.seed)?);
    }
    Ok(scores)
}

fn spectrum<'a>(side: &'a Side, name: &str) -> Result<Spectrum<'a>> {
    match side {
        Side::Features(features) => Spectrum::new(features, name),
        Side::Statistics(moments) => Ok(Spectrum::from_moments(moments)),
    }
}
