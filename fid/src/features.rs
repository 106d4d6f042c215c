//! Features of many images: each thread decodes, resizes and runs the network on its own images.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nestgen_images::RgbImage8;
use nestgen_kernels::inference::{Layer, Workspace};

use crate::batches;
use crate::error::{Error, Result};
use crate::inception::{CHUNK, Inception, Layers, Place, Tap};
use crate::preprocess::{Preprocessor, Resize};

/// Features of one tap: a row for each image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    /// Features of one image.
    pub dims: usize,
    /// `[images, dims]`, row-major.
    pub data: Vec<f32>,
}

impl Features {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.data.len().checked_div(self.dims).unwrap_or(0)
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One image's features.
    pub fn row(&self, image: usize) -> &[f32] {
        &self.data[image * self.dims..][..self.dims]
    }

    /// The rows of `images`, in that order.
    pub fn select(&self, images: &[usize]) -> Features {
        Features { dims: self.dims, data: images.iter().flat_map(|&i| self.row(i).iter().copied()).collect() }
    }

    /// Checks that every number is finite.
    pub(crate) fn check(&self, side: &str) -> Result<()> {
        match self.data.iter().position(|x| !x.is_finite()) {
            Some(at) => Err(Error::NotFinite {
                what: format!("features of the {side} images"),
                place: format!(" (image {}, feature {})", at / self.dims, at % self.dims),
            }),
            None => Ok(()),
        }
    }
}

/// A function that reads image `i`; called from many threads.
pub type Read<'a> = dyn Fn(usize) -> Result<RgbImage8> + Sync + 'a;

/// Told how many images are done, of how many.
pub type Progress<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// An image that was left out because it could not be read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Skipped {
    /// Its index in the source.
    pub index: usize,
    /// The reason, with its name.
    pub reason: String,
}

/// What [`extract`] found.
#[derive(Debug)]
pub struct Extracted {
    /// One [`Features`] for each tap asked for, in the taps' order.
    pub taps: Vec<Features>,
    /// The images left out.
    pub skipped: Vec<Skipped>,
}

/// Features of images `0..count` at `taps` (sorted, without repetition), by all threads of the current rayon pool; a
/// network on a device gets batches that the threads have prepared.
///
/// On the processor an image's features are the same bits whatever the number of threads or its neighbours. With
/// `skip_bad`, images that cannot be read are listed and left out; otherwise the first one ends the work.
///
/// # Errors
/// The first image that cannot be read, unless `skip_bad`; a device that fails.
pub fn extract(
    network: &Inception,
    resize: Resize,
    taps: &[Tap],
    count: usize,
    read: &Read,
    skip_bad: bool,
    progress: &Progress,
) -> Result<Extracted> {
    match network.place() {
        Place::Processor(network) => on_processor(network, resize, taps, count, read, skip_bad, progress),
        Place::Device(network) => batches::extract(network, resize, taps, count, read, skip_bad, progress),
    }
}

fn on_processor(
    network: &Layers<Layer>,
    resize: Resize,
    taps: &[Tap],
    count: usize,
    read: &Read,
    skip_bad: bool,
    progress: &Progress,
) -> Result<Extracted> {
    let threads = rayon::current_num_threads().max(1);
    // Equal shares: all threads have work to the end, and weights are read for as many images as there are.
    let rounds = count.div_ceil(threads * CHUNK).max(1);
    let chunk = count.div_ceil(threads * rounds).max(1);
    let (next, done, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let rows: Mutex<Vec<Option<Outcome>>> = Mutex::new((0..count).map(|_| None).collect());
    let work = || {
        let mut worker =
            Worker { network, taps, preprocessor: Preprocessor::new(resize), work: Workspace::default() };
        loop {
            let first = next.fetch_add(chunk, Ordering::Relaxed);
            // Stop early, but never before an image that precedes the failed one: the error named is the first.
            if first >= count || first > failed.load(Ordering::Relaxed) {
                return;
            }
            let indices: Vec<usize> = (first..count.min(first + chunk)).collect();
            let outcomes = worker.run(&indices, read);
            for (&index, outcome) in indices.iter().zip(&outcomes) {
                if outcome.is_err() && !skip_bad {
                    failed.fetch_min(index, Ordering::Relaxed);
                }
            }
            let finished = done.fetch_add(indices.len(), Ordering::Relaxed) + indices.len();
            let mut rows = rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for (index, outcome) in indices.into_iter().zip(outcomes) {
                rows[index] = Some(outcome);
            }
            drop(rows);
            progress(finished, count);
        }
    };
    rayon::scope(|scope| {
        for _ in 0..threads.min(count.div_ceil(chunk)) {
            scope.spawn(|_| work());
        }
    });
    collect(rows.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner), taps, skip_bad)
}

/// An image's features, all taps in a row, or why it has none.
pub(crate) type Outcome = Result<Vec<f32>>;

/// One thread's tools.
struct Worker<'a> {
    network: &'a Layers<Layer>,
    taps: &'a [Tap],
    preprocessor: Preprocessor,
    work: Workspace,
}

impl Worker<'_> {
    /// Features of a few images; those that cannot be read drop out before the network.
    fn run(&mut self, indices: &[usize], read: &Read) -> Vec<Outcome> {
        let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(indices.len());
        let mut images = Vec::new();
        for &index in indices {
            match read(index) {
                Ok(image) => {
                    images.push(image);
                    outcomes.push(None);
                }
                Err(error) => outcomes.push(Some(Err(error))),
            }
        }
        let load = |image: usize, pixels: &mut [f32]| self.preprocessor.run(&images[image], pixels);
        let mut features = self.network.features(images.len(), self.taps, &mut self.work, load).into_iter();
        outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(|| Ok(features.next().unwrap_or_default())))
            .collect()
    }
}

/// Sorts each image's features into their taps.
pub(crate) fn collect(outcomes: Vec<Option<Outcome>>, taps: &[Tap], skip_bad: bool) -> Result<Extracted> {
    let mut features: Vec<Features> =
        taps.iter().map(|tap| Features { dims: tap.dims(), data: Vec::new() }).collect();
    let mut skipped = Vec::new();
    for (index, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Some(Ok(row)) => {
                let mut rest = row.as_slice();
                for tap in &mut features {
                    let (own, others) = rest.split_at(tap.dims);
                    tap.data.extend_from_slice(own);
                    rest = others;
                }
            }
            Some(Err(error)) if skip_bad => skipped.push(Skipped { index, reason: error.to_string() }),
            Some(Err(error)) => return Err(error),
            // Not reached before another image failed; that one is met first or later in this loop.
            None => {}
        }
    }
    Ok(Extracted { taps: features, skipped })
}
