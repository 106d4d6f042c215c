//! A whole image set at one resolution, 8-bit RGB, channels last.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nestgen_images::{ImageSet, OpenOptions, RESAMPLING, to_square};
use rayon::prelude::*;

use crate::error::{Error, Result};

/// How a set is brought into memory.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Side of the square images, px.
    pub res: u32,
    /// Use only the first images of the set.
    pub max_images: Option<usize>,
    /// How to open the source (split, limits).
    pub open: OpenOptions,
    /// Pixels held in memory at most, bytes; a larger set must be a pack, which is then read as it is needed.
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
    pixels: Vec<u8>,
    labels: Option<Vec<u32>>,
    class_names: Vec<String>,
    description: String,
    digest: String,
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
        let count = set.len().min(options.max_images.unwrap_or(usize::MAX));
        let res = options.res as usize;
        let needed = (count * res * res * 3) as u64;
        if needed > options.memory_budget_bytes {
            return Err(Error::Usage {
                message: format!(
                    "`{}`: {count} images of {res} px need {} MiB, more than the {} MiB of the memory budget",
                    path.display(),
                    needed >> 20,
                    options.memory_budget_bytes >> 20
                ),
                hint: Some(
                    "write a pack with `nestgen data pack` and train from it, or raise the budget".into(),
                ),
            });
        }
        let pixels = decode_all(&set, count, options.res, progress)?;
        let labels = (0..count).map(|i| set.label(i)).collect();
        Ok(ImageData {
            res,
            pixels,
            labels,
            class_names: set.class_names().to_vec(),
            description: format!(
                "{}{}",
                path.display(),
                set.split().map_or(String::new(), |s| format!(" ({s})"))
            ),
            digest: set.digest()?,
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
        Ok(ImageData { res, pixels, labels, class_names, description, digest })
    }

    /// Number of images; never 0.
    #[allow(clippy::len_without_is_empty)] // A set without images cannot be made.
    pub fn len(&self) -> usize {
        self.pixels.len() / (self.res * self.res * 3)
    }

    /// Side of the images, px.
    pub fn res(&self) -> usize {
        self.res
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

    /// Path (and split) or settings that the images come from, for records.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// SHA-256 (hex) of the source's content.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// How images were brought to `res`.
    pub fn resampling(&self) -> &'static str {
        RESAMPLING
    }

    /// Copies image `i`, `[res, res, 3]`, into `out` (of `res * res * 3` bytes).
    ///
    /// # Errors
    /// An index or buffer that does not fit.
    pub fn read(&self, i: usize, out: &mut [u8]) -> Result<()> {
        let size = self.res * self.res * 3;
        match self.pixels.get(i * size..(i + 1) * size) {
            Some(pixels) if out.len() == size => out.copy_from_slice(pixels),
            _ => {
                let message = format!("no image {i} of {size} bytes for a buffer of {}", out.len());
                return Err(Error::Usage { message, hint: None });
            }
        }
        Ok(())
    }
}

/// Decodes and resizes in parallel; stops early at a bad image and reports the first by order among those seen.
fn decode_all(
    set: &ImageSet,
    count: usize,
    res: u32,
    progress: &(dyn Fn(usize, usize) -> bool + Sync),
) -> Result<Vec<u8>> {
    let mut pixels = vec![0; count * (res * res * 3) as usize];
    let done = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let first_error: Mutex<Option<(usize, nestgen_images::Error)>> = Mutex::new(None);
    let lock = || first_error.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    pixels.par_chunks_exact_mut((res * res * 3) as usize).enumerate().for_each(|(i, out)| {
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
        if !progress(done.fetch_add(1, Ordering::Relaxed) + 1, count) {
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
