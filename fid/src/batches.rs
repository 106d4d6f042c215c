//! Features by a network on a device: the threads read and resize one batch while the device works on the one before.

use rayon::prelude::*;

use crate::error::Result;
use crate::features::{Extracted, Outcome, Progress, Read, collect};
use crate::inception::{BATCH, OnDevice, SIDE, Tap};
use crate::preprocess::{Preprocessor, Resize};

/// As [`crate::features::extract`].
pub(crate) fn extract(
    network: &OnDevice,
    resize: Resize,
    taps: &[Tap],
    count: usize,
    read: &Read,
    skip_bad: bool,
    progress: &Progress,
) -> Result<Extracted> {
    let prepare = |first: usize| -> Vec<Result<Vec<f32>>> {
        let prepared = (first..count.min(first + BATCH)).into_par_iter().map_init(
            || Preprocessor::new(resize),
            |preprocessor, index| {
                let mut pixels = vec![0.0; SIDE * SIDE * 3];
                preprocessor.run(&read(index)?, &mut pixels);
                Ok(pixels)
            },
        );
        prepared.collect()
    };
    let mut outcomes = Vec::with_capacity(count);
    let mut prepared = prepare(0);
    for first in (0..count).step_by(BATCH) {
        let batch = std::mem::take(&mut prepared);
        let failed = batch.iter().any(Result::is_err) && !skip_bad;
        let found = rayon::in_place_scope(|scope| {
            if !failed && first + BATCH < count {
                scope.spawn(|_| prepared = prepare(first + BATCH));
            }
            run(network, taps, batch, failed)
        })?;
        outcomes.extend(found.into_iter().map(Some));
        if failed {
            break;
        }
        progress(count.min(first + BATCH), count);
    }
    collect(outcomes, taps, skip_bad)
}

/// The features of a prepared batch, all taps of an image in a row; nothing but the failures if `only_failures`.
fn run(
    network: &OnDevice,
    taps: &[Tap],
    batch: Vec<Result<Vec<f32>>>,
    only_failures: bool,
) -> Result<Vec<Outcome>> {
    if only_failures {
        return Ok(batch.into_iter().filter(Result::is_err).collect());
    }
    let images = batch.iter().filter(|image| image.is_ok()).count();
    let pixels = batch.iter().flatten().map(Vec::as_slice).collect::<Vec<_>>().concat();
    let found = if images == 0 { Vec::new() } else { network.features(images, taps, pixels)? };
    let row = |image: usize| {
        let parts = taps.iter().zip(&found).map(|(tap, rows)| &rows[image * tap.dims()..][..tap.dims()]);
        parts.collect::<Vec<_>>().concat()
    };
    let mut image = 0..;
    Ok(batch.into_iter().map(|one| one.map(|_| image.next().map(row).unwrap_or_default())).collect())
}
