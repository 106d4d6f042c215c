//! One call from two sources of images to a report.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nestgen_images::{ImageSet, OpenOptions, RgbImage8, is_array_of_images};

use crate::cache::{self, Key};
use crate::compute::{Side, compute};
use crate::config::{Metric, ScoreConfig};
use crate::error::{Error, Result};
use crate::extractor::Extractor;
use crate::features::{Extracted, Features, Progress};
use crate::inception::Tap;
use crate::npz::{self, Statistics};
use crate::plan::{Given, plan};
use crate::protocol::Protocol;
use crate::report::{Report, SideReport, Warning};
use crate::statistics::Moments;

/// Images below which the bias of a Frechet distance in pool3's 2048 features can turn an order round: about five for each
/// feature. As many as features only make the covariance whole.
pub const BIASED_BELOW: usize = 10_000;

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
    /// Opens a path: statistics if it ends in `.npz` and holds no images, else images.
    ///
    /// # Errors
    /// When there are no images, or the path cannot be read.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz")) && !is_array_of_images(path) {
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

    fn split(&self) -> Option<String> {
        match self {
            Input::Images(set) | Input::Delegated { images: set, .. } => set.split().map(str::to_owned),
            Input::Statistics(_) | Input::Generator { .. } | Input::Features { .. } => None,
        }
    }

    /// The size of more than half of the images that are looked at, px; `None` where there are none, or no size is so common.
    fn usual_size(&self) -> Option<[u32; 2]> {
        const LOOKED_AT: usize = 64;
        match self {
            Input::Images(set) | Input::Delegated { images: set, .. } => {
                let mut counts: BTreeMap<[u32; 2], usize> = BTreeMap::new();
                for i in (0..set.len()).step_by(set.len().div_ceil(LOOKED_AT).max(1)) {
                    if let Ok(header) = set.read_header(i) {
                        *counts.entry([header.width, header.height]).or_default() += 1;
                    }
                }
                let read: usize = counts.values().sum();
                counts.into_iter().find(|&(_, count)| 2 * count > read).map(|(size, _)| size)
            }
            Input::Statistics(_) | Input::Generator { .. } | Input::Features { .. } => None,
        }
    }

    /// How many images there are, or will be; `None` where there are only their statistics.
    fn images(&self) -> Option<usize> {
        match self {
            Input::Images(set) | Input::Delegated { images: set, .. } => Some(set.len()),
            Input::Statistics(_) => None,
            Input::Generator { count, .. } => Some(*count),
            Input::Features { features, .. } => Some(features.len()),
        }
    }
}

/// Told the side (`real`, `fake`, `held-out`), the images done, and of how many.
pub type SideProgress<'a> = dyn Fn(&'static str, usize, usize) + Sync + 'a;

/// Scores `fake` against `real`; with `held_out` (images of the real kind that no generator saw) also looks for
/// copies.
///
/// # Errors
/// Before features are made: metrics, a floor or a check for copies that need images where statistics are given, more
/// images, or another network; statistics that cannot be saved, or that were made otherwise than this score is. Then:
/// sources that cannot be read; sides made of one image; features of different sizes.
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
    let given = Given { real: real.images(), fake: fake.images(), held_out: held_out.map(Input::images) };
    let protocol = extractor.protocol(config.tap, config.resize);
    let metrics = plan(given, extractor, config, &mut warnings)?;
    if let (Some(real), Some(fake)) = (real.usual_size(), fake.usual_size())
        && real != fake
    {
        warnings.push(Warning::UnequalSizes { real, fake });
    }
    let mut load = |input, side| load(input, side, extractor, &protocol, config, progress, &mut warnings);
    // Statistics come first: a file that does not fit is found before the features of the other side are made.
    let fake_statistics = if given.fake.is_some() { None } else { Some(load(fake, "fake")?) };
    let (real_side, real_report) = load(real, "real")?;
    let (fake_side, fake_report) = fake_statistics.map_or_else(|| load(fake, "fake"), Ok)?;
    let held_out = held_out.map(|input| load(input, "held-out")).transpose()?.map(|(side, _)| side);
    let features_secs = started.elapsed().as_secs_f64();
    if let (Side::Features(real), Side::Features(fake)) = (&real_side, &fake_side)
        && real.data == fake.data
    {
        warnings.push(Warning::SameImages);
    }
    warn(&real_report, &fake_report, &metrics, extractor, config, &mut warnings);
    let scores = compute(&real_side, &fake_side, held_out.as_ref(), &metrics, extractor, config)?;
    if let (Some(path), Side::Features(features)) = (&config.save_stats, &real_side) {
        let moments = Moments::new(features, "real")?;
        npz::write(path, &Statistics { moments, protocol: Some(protocol.clone()) })?;
    }
    Ok(Report {
        name: protocol.features,
        dims: protocol.dims,
        extractor_sha256: protocol.network_sha256,
        resize: protocol.resize,
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
    protocol: &Protocol,
    config: &ScoreConfig,
    progress: &SideProgress,
    warnings: &mut Vec<Warning>,
) -> Result<(Side, SideReport)> {
    let mut report = SideReport { source: input.name(), split: input.split(), ..SideReport::default() };
    let features = match input {
        Input::Statistics(path) => {
            let moments = statistics(path, side, protocol, warnings)?;
            report.num_images = moments.num_images;
            report.statistics = true;
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

/// The statistics of a file, if they were made by `protocol` or the file does not tell.
fn statistics(
    path: &Path,
    side: &'static str,
    protocol: &Protocol,
    warnings: &mut Vec<Warning>,
) -> Result<Moments> {
    let found = npz::read(path)?;
    let made = found.protocol.unwrap_or_else(|| {
        warnings.push(Warning::UnknownProtocol { side });
        Protocol { dims: found.moments.dims(), ..protocol.clone() }
    });
    match made.difference(protocol) {
        Some(reason) => Err(Error::OtherProtocol { path: path.to_owned(), reason }),
        None => Ok(found.moments),
    }
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
            return Err(Error::caller(reason));
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
    crate::statistics::at_least("a score", 2, features.len(), side)?;
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
    metrics: &[Metric],
    extractor: &Extractor,
    config: &ScoreConfig,
    warnings: &mut Vec<Warning>,
) {
    if let Extractor::Inception { name, .. } = extractor
        && name != "FID"
    {
        warnings.push(Warning::OtherWeights { name: name.clone() });
    }
    let fid = metrics.contains(&Metric::Fid);
    let dims = extractor.dims(config.tap);
    // Of fewer features, as many images are enough.
    let wanted = if dims < Tap::D2048.dims() { dims } else { BIASED_BELOW };
    // Extrapolation takes away the bias of few fakes alone.
    let biased = [("real", real, fid || metrics.contains(&Metric::FidInfinity)), ("fake", fake, fid)];
    for (side, report, _) in biased.into_iter().filter(|(.., biased)| *biased) {
        if let Some(found) = report.num_images
            && found < wanted
        {
            warnings.push(Warning::FewImages { side, found, wanted });
        }
    }
    if let (Some(real), Some(fake), true) = (real.num_images, fake.num_images, fid)
        && real != fake
    {
        warnings.push(Warning::UnequalCounts { real, fake });
    }
}
