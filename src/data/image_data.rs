//! A whole image set at one resolution, 8-bit RGB, channels last.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nestgen_images::{ImageSet, OpenOptions, hex, to_square};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::rng::Rng;

/// How a set is brought into memory.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Side of the square images, px.
    pub res: u32,
    /// Use at most so many of the images, drawn at random but always the same way.
    pub max_images: Option<usize>,
    /// How to open the source (split, limits).
    pub open: OpenOptions,
    /// Pixels held in memory at most, bytes. A larger pack is read row by row as it is needed; any other larger source is
    /// refused, since decoding in the middle of training is slow and meets bad files late.
    pub memory_budget_bytes: u64,
}

impl LoadOptions {
    /// Everything at `res` px, at most 4 GiB in memory.
    pub fn new(res: u32) -> Self {
        LoadOptions { res, max_images: None, open: OpenOptions::default(), memory_budget_bytes: 4 << 30 }
    }
}

/// Images `[N, res, res, 3]` with optional labels.
pub struct ImageData {
    res: usize,
    count: usize,
    storage: Arc<Storage>,
    /// For a part of a set: where its images are in the whole.
    part: Option<Vec<usize>>,
    labels: Option<Vec<u32>>,
    class_names: Vec<String>,
    split: Option<String>,
    description: String,
    digest: String,
    /// Of the whole source, of which this may be a part.
    source_digest: String,
    /// Of the set that a pack was made of.
    packed_from: Option<String>,
    /// Name of an image that lies beside folders, which are no classes because of it.
    loose: Option<String>,
}

enum Storage {
    /// All pixels, `[N, res, res, 3]`.
    Memory(Vec<u8>),
    /// A pack, read and resized row by row.
    Pack(Box<ImageSet>),
}

impl ImageData {
    /// Reads a source of any kind. `progress(done, total)` is called from worker threads and may return false to stop.
    ///
    /// # Errors
    /// What opening and decoding can meet; the first bad image by order. A set that exceeds the memory budget.
    pub fn open(
        path: &Path,
        options: &LoadOptions,
        progress: &(dyn Fn(usize, usize) -> bool + Sync),
    ) -> Result<ImageData> {
        let set = ImageSet::open(path, &options.open)?;
        let chosen = set.choose(options.max_images.unwrap_or(usize::MAX));
        let count = chosen.len();
        let res = options.res as usize;
        let needed = count as u64 * (res * res * 3) as u64;
        let labels = chosen.iter().map(|&i| set.label(i)).collect();
        let class_names = set.class_names().to_vec();
        let description =
            format!("{}{}", path.display(), set.split().map_or(String::new(), |s| format!(" ({s})")));
        let whole = set.digest()?;
        let is_part = count < set.len();
        let digest = if is_part { digest_of_part(&whole, "drawn", count) } else { whole.clone() };
        let split = set.split().map(str::to_owned);
        let packed_from = set.packed_from().map(str::to_owned);
        let loose = set.loose().map(str::to_owned);
        let (storage, part) = if needed <= options.memory_budget_bytes {
            (Storage::Memory(decode_all(&set, &chosen, options.res, progress)?), None)
        } else if set.is_pack() {
            (Storage::Pack(Box::new(set)), is_part.then_some(chosen))
        } else {
            return Err(Error::Usage {
                message: format!(
                    "`{}`: {count} images of {res} px need {} MiB, more than the {} MiB of the memory budget",
                    path.display(),
                    needed >> 20,
                    options.memory_budget_bytes >> 20
                ),
                hint: Some("write a pack with `nestgen data pack` and train from it".into()),
            });
        };
        Ok(ImageData {
            res,
            count,
            storage: Arc::new(storage),
            part,
            labels,
            class_names,
            split,
            description,
            digest,
            source_digest: whole,
            packed_from,
            loose,
        })
    }

    /// From pixels in memory: `pixels` is `[N, res, res, 3]`, at least one image; `labels`, if any, one a picture.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn from_pixels(
        res: usize,
        pixels: Vec<u8>,
        labels: Option<Vec<u32>>,
        class_names: Vec<String>,
        description: String,
        digest: String,
    ) -> Result<ImageData> {
        let image_bytes = res * res * 3;
        let fits = image_bytes > 0 && !pixels.is_empty() && pixels.len().is_multiple_of(image_bytes);
        if !fits || labels.as_ref().is_some_and(|labels| labels.len() * image_bytes != pixels.len()) {
            return Err(Error::Usage {
                message: format!(
                    "{} bytes and {:?} labels are not whole images of {res} px",
                    pixels.len(),
                    labels.map(|l| l.len())
                ),
                hint: None,
            });
        }
        let count = pixels.len() / image_bytes;
        let storage = Arc::new(Storage::Memory(pixels));
        Ok(ImageData {
            res,
            count,
            storage,
            part: None,
            labels,
            class_names,
            split: None,
            description,
            source_digest: digest.clone(),
            packed_from: None,
            loose: None,
            digest,
        })
    }

    /// Two parts of the set, which share its pixels: all but `count` images, and those, chosen at random but always the
    /// same way.
    ///
    /// # Errors
    /// When nothing would be left.
    pub fn hold_out(&self, count: usize) -> Result<(ImageData, ImageData)> {
        if count >= self.count {
            return Err(Error::Usage {
                message: format!("data.held_out = {count}, but there are only {} images", self.count),
                hint: Some("a few hundred are enough, and half of the set at most".into()),
            });
        }
        let mut order: Vec<usize> = (0..self.count).collect();
        Rng::new(0).split("held-out").shuffle(&mut order);
        let mut held_out = order.split_off(self.count - count);
        // In the order of the set again, so that a streamed pack is read forwards.
        order.sort_unstable();
        held_out.sort_unstable();
        Ok((self.part(order, "without its held-out images"), self.part(held_out, "held out")))
    }

    fn part(&self, images: Vec<usize>, which: &str) -> ImageData {
        let labels = |labels: &Vec<u32>| images.iter().filter_map(|&i| labels.get(i).copied()).collect();
        ImageData {
            res: self.res,
            count: images.len(),
            storage: self.storage.clone(),
            labels: self.labels.as_ref().map(labels),
            class_names: self.class_names.clone(),
            split: self.split.clone(),
            description: format!("{}, {which}", self.description),
            digest: digest_of_part(&self.digest, which, images.len()),
            source_digest: self.source_digest.clone(),
            packed_from: self.packed_from.clone(),
            loose: self.loose.clone(),
            part: Some(images.into_iter().map(|i| self.part.as_ref().map_or(i, |part| part[i])).collect()),
        }
    }

    /// Number of images; never 0.
    #[allow(clippy::len_without_is_empty)] // A set without images cannot be made.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Side of the images, px.
    pub fn res(&self) -> usize {
        self.res
    }

    /// Whether images are read from a pack as they are needed.
    pub fn is_streamed(&self) -> bool {
        matches!(*self.storage, Storage::Pack(_))
    }

    /// Class of image `i`; `None` in an unlabelled set.
    pub fn label(&self, i: usize) -> Option<u32> {
        self.labels.as_ref()?.get(i).copied()
    }

    /// Whether images have labels.
    pub fn is_labelled(&self) -> bool {
        self.labels.is_some()
    }

    /// Class names in label order; empty in an unlabelled set.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The first image that lies beside several folders, which are no classes because of it.
    pub fn loose(&self) -> Option<&str> {
        self.loose.as_deref()
    }

    /// The split in use, where the source has splits.
    pub fn split(&self) -> Option<&str> {
        self.split.as_deref()
    }

    /// Path (and split) or settings that the images come from, for records.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// SHA-256 (hex) of the source's content; of a part of it, of that and which part it is.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// SHA-256 of the set that a pack was made of, where it says so.
    pub fn packed_from(&self) -> Option<&str> {
        self.packed_from.as_deref()
    }

    /// SHA-256 (hex) of the whole source.
    pub fn source_digest(&self) -> &str {
        &self.source_digest
    }

    /// Copies image `i`, `[res, res, 3]`, into `out` (of `res * res * 3` bytes).
    ///
    /// # Errors
    /// An index or buffer that does not fit; a row of a pack that cannot be read.
    pub fn read(&self, i: usize, out: &mut [u8]) -> Result<()> {
        let size = self.res * self.res * 3;
        if i >= self.count || out.len() != size {
            let message = format!("no image {i} of {size} bytes for a buffer of {}", out.len());
            return Err(Error::Usage { message, hint: None });
        }
        let i = self.part.as_ref().map_or(i, |part| part[i]);
        match &*self.storage {
            Storage::Memory(pixels) => out.copy_from_slice(&pixels[i * size..(i + 1) * size]),
            Storage::Pack(set) => out.copy_from_slice(&to_square(&set.read_rgb(i)?, self.res as u32)),
        }
        Ok(())
    }
}

/// What a part of a set is known by: other images are another set.
fn digest_of_part(whole: &str, which: &str, count: usize) -> String {
    hex(&Sha256::digest(format!("{whole} {which} {count}")))
}

/// Decodes and resizes the `chosen` images in parallel; stops early at a bad image and reports the first by order among those seen.
fn decode_all(
    set: &ImageSet,
    chosen: &[usize],
    res: u32,
    progress: &(dyn Fn(usize, usize) -> bool + Sync),
) -> Result<Vec<u8>> {
    let image_bytes = res as usize * res as usize * 3;
    let mut pixels = vec![0; chosen.len() * image_bytes];
    let done = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let first_error: Mutex<Option<(usize, nestgen_images::Error)>> = Mutex::new(None);
    let lock = || first_error.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    pixels.par_chunks_exact_mut(image_bytes).zip(chosen).for_each(|(out, &i)| {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        match set.read_rgb(i) {
            Ok(image) => out.copy_from_slice(&to_square(&image, res)),
            Err(error) => {
                stop.store(true, Ordering::Relaxed);
                let mut first = lock();
                if first.as_ref().is_none_or(|(at, _)| i < *at) {
                    *first = Some((i, error));
                }
                return;
            }
        }
        if !progress(done.fetch_add(1, Ordering::Relaxed) + 1, chosen.len()) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    if let Some((_, error)) = lock().take() {
        return Err(error.into());
    }
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Usage { message: "stopped while reading the images".into(), hint: None });
    }
    Ok(pixels)
}

#[cfg(test)]
mod tests;
