//! Features by a network on a device. Threads read and resize the next batch while the device works on this one, and this one is
//! queued before anybody waits for the last.

use rayon::prelude::*;

use crate::error::Result;
use crate::features::{Extracted, Outcome, Progress, Read, collect};
use crate::inception::{BATCH, OnDevice, SIDE, Started, Tap};
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
    let (mut before, mut failed): (Option<Batch>, bool) = (None, false);
    for first in (0..count).step_by(BATCH) {
        let batch = std::mem::take(&mut prepared);
        failed = batch.iter().any(Result::is_err) && !skip_bad;
        let started = rayon::in_place_scope(|scope| {
            if !failed && first + BATCH < count {
                scope.spawn(|_| prepared = prepare(first + BATCH));
            }
            let started = Batch::start(network, taps, batch, failed);
            if let Some(before) = before.take() {
                outcomes.extend(before.finish(taps)?.into_iter().map(Some));
                progress(first, count);
            }
            started
        })?;
        before = Some(started);
        if failed {
            break;
        }
    }
    if let Some(last) = before {
        outcomes.extend(last.finish(taps)?.into_iter().map(Some));
        if !failed {
            progress(count, count);
        }
    }
    collect(outcomes, taps, skip_bad)
}

/// A prepared batch whose features are on their way.
struct Batch {
    /// Of each image, whether it could be prepared.
    images: Vec<Result<()>>,
    features: Option<Started>,
}

impl Batch {
    /// Queues the features; nothing but the failures if `only_failures`.
    fn start(
        network: &OnDevice,
        taps: &[Tap],
        prepared: Vec<Result<Vec<f32>>>,
        only_failures: bool,
    ) -> Result<Self> {
        if only_failures {
            let failures = prepared.into_iter().filter_map(Result::err).map(Err).collect();
            return Ok(Self { images: failures, features: None });
        }
        let count = prepared.iter().filter(|image| image.is_ok()).count();
        let pixels = prepared.iter().flatten().map(Vec::as_slice).collect::<Vec<_>>().concat();
        let features = if count == 0 { None } else { Some(network.start(count, taps, pixels)?) };
        Ok(Self { images: prepared.into_iter().map(|image| image.map(drop)).collect(), features })
    }

    /// Waits for the features, all taps of an image in a row.
    fn finish(self, taps: &[Tap]) -> Result<Vec<Outcome>> {
        let found = self.features.map_or(Ok(Vec::new()), Started::finish)?;
        let row = |image: usize| {
            let parts = taps.iter().zip(&found).map(|(tap, rows)| &rows[image * tap.dims()..][..tap.dims()]);
            parts.collect::<Vec<_>>().concat()
        };
        let mut image = 0..;
        let rows = self.images.into_iter().map(|one| one.map(|()| image.next().map(row).unwrap_or_default()));
        Ok(rows.collect())
    }
}
