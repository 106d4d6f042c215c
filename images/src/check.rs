//! Reads every image of a set and reports everything that is wrong with it, not only the first thing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::decode::Header;
use crate::error::Error;
use crate::set::ImageSet;

/// What a full reading of a set found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// Images read.
    pub images: usize,
    /// Every image that cannot be used, by order.
    pub bad: Vec<Error>,
    /// How many images have which width and height.
    pub sizes: BTreeMap<(u32, u32), usize>,
    /// How many images have which channels and bits per channel, as stored.
    pub formats: BTreeMap<(u8, u8), usize>,
    /// How many images each class has, by label.
    pub classes: BTreeMap<u32, usize>,
    /// Groups of images (indices, ascending) with the same size and pixels.
    pub duplicates: Vec<Vec<usize>>,
    /// Whether the reading was stopped by the progress callback.
    pub stopped: bool,
}

struct Seen {
    index: usize,
    outcome: Result<(Header, [u8; 32]), Error>,
}

/// Decodes all images in parallel, one at a time a thread. `progress(done, total)` may return false to stop.
pub fn check(set: &ImageSet, progress: &(dyn Fn(usize, usize) -> bool + Sync)) -> CheckReport {
    let total = set.len();
    let done = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let seen: Mutex<Vec<Seen>> = Mutex::new(Vec::with_capacity(total));
    (0..total).into_par_iter().for_each(|index| {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let outcome = look(set, index);
        seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(Seen { index, outcome });
        if !progress(done.fetch_add(1, Ordering::Relaxed) + 1, total) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    let mut seen = seen.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    seen.sort_unstable_by_key(|s| s.index);
    let mut report = summarize(set, seen);
    report.stopped = stop.into_inner();
    report
}

fn look(set: &ImageSet, index: usize) -> Result<(Header, [u8; 32]), Error> {
    let header = set.read_header(index)?;
    let image = set.read_rgb(index)?;
    let mut hash = Sha256::new();
    hash.update(image.width.to_le_bytes());
    hash.update(&image.data);
    Ok((header, hash.finalize().into()))
}

fn summarize(set: &ImageSet, seen: Vec<Seen>) -> CheckReport {
    let mut report = CheckReport { images: seen.len(), ..Default::default() };
    let mut by_pixels: HashMap<[u8; 32], Vec<usize>> = HashMap::new();
    for Seen { index, outcome } in seen {
        if let Some(label) = set.label(index) {
            *report.classes.entry(label).or_default() += 1;
        }
        match outcome {
            Err(error) => report.bad.push(error),
            Ok((header, pixels)) => {
                *report.sizes.entry((header.width, header.height)).or_default() += 1;
                *report.formats.entry((header.channels, header.bits)).or_default() += 1;
                by_pixels.entry(pixels).or_default().push(index);
            }
        }
    }
    report.duplicates = by_pixels.into_values().filter(|same| same.len() > 1).collect();
    report.duplicates.sort_unstable();
    report
}
