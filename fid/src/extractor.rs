//! Feature spaces: a network, its name, and the hash that says which one it was.

use std::path::Path;

use candle_core::Device;
use nestgen_images::RgbImage8;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::features::{Extracted, Features, Progress, Read, Skipped, extract};
use crate::formula;
use crate::inception::{FEATURES, Inception, Place, Tap};
use crate::preprocess::Resize;
use crate::protocol::Protocol;
use crate::weights;

/// Images that a caller's network gets at a time.
pub const CUSTOM_BATCH: usize = 64;

/// The name of the Frechet distance in the features of the formula's weights.
pub(crate) const RANDOM: &str = "FD-random-v1";

/// A function from images to features, `[images, dims]` row-major; it resizes and scales by its own rule.
pub type CustomFeatures<'a> = dyn Fn(&[RgbImage8]) -> std::result::Result<Vec<f32>, String> + Sync + 'a;

/// A feature space.
pub enum Extractor<'a> {
    /// The Inception network, with the published weights or others.
    Inception {
        /// The network.
        network: Box<Inception>,
        /// `FID` with the published weights, else a name of its own.
        name: String,
        /// SHA-256 of the weight file; for `random-v1` of all its values.
        sha256: String,
    },
    /// Any other network, for example a classifier; its distance is called `FD-<name>`.
    Custom {
        /// The network's name, without `FD-`.
        name: String,
        /// A hash of its weights.
        sha256: String,
        /// Number of features.
        dims: usize,
        /// The network.
        features: Box<CustomFeatures<'a>>,
        /// Whether its features have other bits than the processor's own, because it runs on a device.
        on_device: bool,
    },
}

impl Extractor<'_> {
    /// Inception with the weights of a file (see [`weights::find`]), on the processor.
    ///
    /// The distance is named `FID` only when the file is the published one.
    ///
    /// # Errors
    /// When the file cannot be read or is not a weight file of this network.
    pub fn inception(path: &Path) -> Result<Self> {
        Self::inception_on(path, &Device::Cpu)
    }

    /// [`Extractor::inception`] on a device; see [`Inception::on`].
    ///
    /// # Errors
    /// As [`Extractor::inception`], and when the device has no room.
    pub fn inception_on(path: &Path, device: &Device) -> Result<Self> {
        let weights = weights::load(path)?;
        let name = if weights.is_published() {
            "FID".into()
        } else {
            format!("FD-inception-{}", &weights.sha256[..8])
        };
        Ok(Extractor::Inception {
            network: Box::new(Inception::on(&weights.tensors, device)?),
            name,
            sha256: weights.sha256,
        })
    }

    /// The Inception network with formula weights: needs no file, is not FID.
    ///
    /// # Errors
    /// None in practice: the formula's tensors always fit.
    pub fn random_v1() -> Result<Self> {
        Self::random_v1_on(&Device::Cpu)
    }

    /// [`Extractor::random_v1`] on a device; see [`Inception::on`].
    ///
    /// # Errors
    /// When the device has no room.
    pub fn random_v1_on(device: &Device) -> Result<Self> {
        Ok(Extractor::Inception {
            network: Box::new(Inception::on(&formula::state_dict(), device)?),
            name: RANDOM.into(),
            sha256: formula::SHA256.into(),
        })
    }

    /// The name of the Frechet distance in this space.
    pub fn name(&self) -> String {
        match self {
            Extractor::Inception { name, .. } => name.clone(),
            Extractor::Custom { name, .. } => format!("FD-{name}"),
        }
    }

    /// The hash of the network.
    pub fn sha256(&self) -> &str {
        match self {
            Extractor::Inception { sha256, .. } | Extractor::Custom { sha256, .. } => sha256,
        }
    }

    /// Whether the weights are random. Such features tell trained generators from untrained ones, but not better from worse: KID
    /// in `random-v1` rose from 0.010 to 0.025 (errors 0.003 and 0.005) while a generator went from blots to objects, and
    /// in the features of a trained network fell from 0.39 to 0.085.
    pub fn is_random(&self) -> bool {
        self.sha256() == formula::SHA256
    }

    /// What features at this tap under this rule are, to be told from others.
    pub fn protocol(&self, tap: Tap, resize: Resize) -> Protocol {
        let (name, dims) = (self.name(), self.dims(tap));
        let whole = dims == FEATURES || matches!(self, Extractor::Custom { .. });
        Protocol {
            features: if whole { name } else { format!("{name}-{dims}") },
            network_sha256: self.sha256().to_owned(),
            dims,
            resize: self.resize(resize),
        }
    }

    /// The rule by which images are resized when `asked` is asked for; none for a caller's own network, which has its own.
    pub fn resize(&self, asked: Resize) -> Option<Resize> {
        matches!(self, Extractor::Inception { .. }).then_some(asked)
    }

    /// What kept features are known by: the network, and the arithmetic if it is not the processor's, whose bits are
    /// always the same.
    pub(crate) fn cache_key(&self) -> String {
        match self {
            Extractor::Inception { network, sha256, .. } if matches!(network.place(), Place::Device(_)) => {
                format!("{sha256} on a device")
            }
            Extractor::Custom { sha256, on_device: true, .. } => format!("{sha256} on a device"),
            other => other.sha256().to_owned(),
        }
    }

    /// Number of features at a tap; a caller's own network has only one place.
    pub fn dims(&self, tap: Tap) -> usize {
        match self {
            Extractor::Inception { .. } => tap.dims(),
            Extractor::Custom { dims, .. } => *dims,
        }
    }

    /// Features of images `0..count`, at each of `taps` (sorted; ignored by a caller's own network).
    ///
    /// # Errors
    /// The first image that cannot be read, unless `skip_bad`; a failure of the caller's network.
    pub fn extract(
        &self,
        taps: &[Tap],
        resize: Resize,
        count: usize,
        read: &Read,
        skip_bad: bool,
        progress: &Progress,
    ) -> Result<Extracted> {
        match self {
            Extractor::Inception { network, .. } => {
                extract(network, resize, taps, count, read, skip_bad, progress)
            }
            Extractor::Custom { dims, features, .. } => {
                custom(*dims, features, count, read, skip_bad, progress)
            }
        }
    }

    /// Features of images in memory: `pixels` is `[images, height, width, 3]`, 8-bit RGB. For a training loop.
    ///
    /// # Errors
    /// A number of bytes that is no whole number of images.
    pub fn extract_pixels(
        &self,
        tap: Tap,
        resize: Resize,
        pixels: &[u8],
        height: usize,
        width: usize,
        progress: &Progress,
    ) -> Result<Features> {
        let size = height * width * 3;
        if size == 0 || !pixels.len().is_multiple_of(size) {
            return Err(Error::Mismatch(format!(
                "{} bytes are no images of {height}x{width} RGB pixels",
                pixels.len()
            )));
        }
        let read = |image: usize| {
            let data = pixels[image * size..][..size].to_vec();
            Ok(RgbImage8 { width: width as u32, height: height as u32, data })
        };
        let extracted = self.extract(&[tap], resize, pixels.len() / size, &read, false, progress)?;
        Ok(extracted.taps.into_iter().next().unwrap_or_default())
    }
}

/// Runs a caller's network batch by batch: it brings its own threads.
fn custom(
    dims: usize,
    network: &CustomFeatures,
    count: usize,
    read: &Read,
    skip_bad: bool,
    progress: &Progress,
) -> Result<Extracted> {
    let mut features = Features { dims, data: Vec::with_capacity(count * dims) };
    let mut skipped = Vec::new();
    for first in (0..count).step_by(CUSTOM_BATCH) {
        let mut images = Vec::with_capacity(CUSTOM_BATCH);
        let found: Vec<_> = (first..count.min(first + CUSTOM_BATCH)).into_par_iter().map(read).collect();
        for (index, found) in found.into_iter().enumerate() {
            let index = first + index;
            match found {
                Ok(image) => images.push(image),
                Err(error) if skip_bad => skipped.push(Skipped { index, reason: error.to_string() }),
                Err(error) => return Err(error),
            }
        }
        let batch = network(&images).map_err(Error::caller)?;
        if batch.len() != images.len() * dims {
            let expected = images.len() * dims;
            return Err(Error::caller(format!(
                "the network gave {} features, expected {expected}",
                batch.len()
            )));
        }
        features.data.extend(batch);
        progress(count.min(first + CUSTOM_BATCH), count);
    }
    Ok(Extracted { taps: vec![features], skipped })
}
