//! Scores while training: KID and the Frechet distance of the averaged generator to the real images, by a protocol
//! that stays the same over the run.
//!
//! The real side is drawn at random from the set, the same images in every run; the fake side has seeds of its own; both as bytes. The names of the scores say which features they are taken in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use nestgen_fid::extractor::CUSTOM_BATCH;
use nestgen_fid::frechet::{Spectrum, frechet_distance};
use nestgen_fid::kid::kid;
use nestgen_fid::{Extractor, Features, Resize, Tap};

use super::fakes::{generate, latents};
use super::grid::to_byte;
use super::score::Score;
use crate::data::ImageData;
use crate::error::{Error, Result};
use crate::models::Generator;
use crate::rng::Rng;

/// Images that are drawn at once.
const BATCH: usize = 32;
/// Images whose features are made between two looks at whether to stop.
const BLOCK: usize = 4 * CUSTOM_BATCH;
/// The latents of scores: the same in every run, apart from those of training and of samples.
const STREAM: &str = "z-score";
/// Images that KID's error is made from, at least.
const FEWEST: usize = 3;

/// Scores generators against one set of real images.
pub struct Evaluator {
    extractor: Extractor<'static>,
    data: Arc<ImageData>,
    /// Images a side, at most.
    images: usize,
    real: Option<Features>,
}

impl Evaluator {
    /// Scores by at most `images` images a side, in the features of `extractor`.
    ///
    /// # Errors
    /// When there are too few real images for KID's error.
    pub fn new(data: Arc<ImageData>, images: usize, extractor: Extractor<'static>) -> Result<Self> {
        let images = images.min(data.len());
        if images < FEWEST {
            return Err(Error::Usage {
                message: format!("a score needs {FEWEST} real images at least, there are {images}"),
                hint: Some("give more images; `--eval 0` trains without scores".into()),
            });
        }
        Ok(Self { extractor, data, images, real: None })
    }

    /// KID first, then the Frechet distance; `None` once `stop` is set.
    ///
    /// # Errors
    /// When an image cannot be read or a feature is not finite.
    pub fn score(&mut self, generator: &Generator, stop: &AtomicBool) -> Result<Option<Vec<Score>>> {
        if self.real.is_none() {
            self.real = self.features(&self.real_pixels()?, stop)?;
        }
        let Some(pixels) = self.fake_pixels(generator, stop)? else { return Ok(None) };
        let (Some(real), Some(fake)) = (&self.real, self.features(&pixels, stop)?) else { return Ok(None) };
        let kid = kid(real, &fake)?;
        let distance = frechet_distance(&Spectrum::new(real, "real")?, &Spectrum::new(&fake, "fake")?)?;
        let score = |metric: String, value: f64, standard_error: Option<f64>| Score {
            metric,
            value,
            standard_error,
            num_real: real.len(),
            num_fake: fake.len(),
            features: self.space(),
        };
        let [kid_name, distance_name] = self.metrics();
        Ok(Some(vec![
            score(kid_name, kid.value, kid.standard_error),
            score(distance_name, distance.value, distance.standard_error),
        ]))
    }

    /// The names of the scores: of `FD-random-v1` and 2000 images `kid2000-random-v1` and `fd2000-random-v1`, of plain `FID`
    /// `kid2000` and `fid2000`.
    pub fn metrics(&self) -> [String; 2] {
        let name = self.extractor.name();
        let (kind, tail) =
            name.split_once('-').map_or((name.as_str(), String::new()), |(a, b)| (a, format!("-{b}")));
        ["kid", kind].map(|kind| format!("{}{}{tail}", kind.to_lowercase(), self.images))
    }

    /// Whether a lower score can be taken for a better generator; see [`Extractor::is_random`].
    pub fn ranks_generators(&self) -> bool {
        !self.extractor.is_random()
    }

    /// What the scores are taken in: the feature space, with all that tells it from others.
    pub fn space(&self) -> String {
        let resize = self.extractor.resize(Resize::default()).map_or("its own", Resize::name);
        format!("{}, resize {resize}, sha256 {}", self.extractor.name(), self.extractor.sha256())
    }

    fn features(&self, pixels: &[u8], stop: &AtomicBool) -> Result<Option<Features>> {
        let side = self.data.res();
        let mut all = Features { dims: self.extractor.dims(Tap::D2048), data: Vec::new() };
        for pixels in pixels.chunks(BLOCK * side * side * 3) {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let (tap, resize) = (Tap::D2048, Resize::default());
            let part = self.extractor.extract_pixels(tap, resize, pixels, side, side, &|_, _| {})?;
            all.data.extend(part.data);
        }
        Ok(Some(all))
    }

    fn real_pixels(&self) -> Result<Vec<u8>> {
        let size = self.data.res() * self.data.res() * 3;
        let mut pixels = vec![0; self.images * size];
        let order = chosen(self.data.len(), self.images);
        for (&index, image) in order.iter().zip(pixels.chunks_exact_mut(size)) {
            self.data.read(index, image)?;
        }
        Ok(pixels)
    }

    fn fake_pixels(&self, generator: &Generator, stop: &AtomicBool) -> Result<Option<Vec<u8>>> {
        let stream = Rng::new(0).split(STREAM);
        let mut pixels = Vec::with_capacity(self.images * self.data.res() * self.data.res() * 3);
        for first in (0..self.images).step_by(BATCH) {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let count = BATCH.min(self.images - first);
            let numbers: Vec<u64> = (first..first + count).map(|number| number as u64).collect();
            let z = latents(&stream, &numbers, generator.z_dim())?;
            let images: Tensor = generate(generator, z.value(), BATCH)?;
            pixels.extend(images.flatten_all()?.to_vec1::<f32>()?.into_iter().map(to_byte));
        }
        Ok(Some(pixels))
    }
}

/// Which of `len` images the real side is, rising, so that a streamed pack is read forwards.
///
/// At random: the set may be sorted by class, or, as the built-in one, go round them, where every second image is one of half of
/// the classes.
fn chosen(len: usize, images: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    Rng::new(0).split("score-reals").shuffle(&mut order);
    order.truncate(images);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_images_are_of_all_classes_however_the_set_is_ordered() {
        const CLASSES: usize = 12;
        for (len, images) in [(10_000, 5000), (10_000, 2500), (24_000, 2000)] {
            let order = chosen(len, images);
            assert_eq!(order.len(), images);
            for class in [|i: usize, _: usize| i % CLASSES, |i: usize, len: usize| i * CLASSES / len] {
                let mut counts = [0; CLASSES];
                order.iter().for_each(|&i| counts[class(i, len)] += 1);
                let fair = images / CLASSES;
                assert!(
                    counts.iter().all(|&n| n > fair * 3 / 4 && n < fair * 5 / 4),
                    "{len}, {images}: {counts:?}"
                );
            }
        }
        assert_eq!(chosen(5, 9), [0, 1, 2, 3, 4]);
    }
}
