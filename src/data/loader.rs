//! Batches in a fixed order, prepared ahead.
//!
//! Worker `w` of `W` prepares batches `w, w + W, ...` and hands them over through its own bounded queue; the loader takes
//! from the queues in turn. So the order does not depend on the number of workers or their speed, memory is bounded by
//! `W * prefetch` batches, and a resume needs one number: how many images have been seen.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use candle_core::{Device, Tensor};

use super::image_data::ImageData;
use super::order::Order;
use super::share::Share;
use crate::error::{Error, Result};

/// Which batches a loader gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderConfig {
    /// Images of one batch of this rank.
    pub batch: usize,
    /// Seed of shuffling and mirroring.
    pub seed: u64,
    /// Flip half of the images left to right.
    pub mirror: bool,
    /// Threads that prepare batches; 0 prepares each when it is asked for.
    pub workers: usize,
    /// Batches a worker may be ahead, at least 1.
    pub prefetch: usize,
    /// Images seen before, by all ranks together: where a resumed run goes on.
    pub start: u64,
    /// Which images of the global batch are this rank's.
    pub share: Share,
}

impl LoaderConfig {
    /// From the start, every image, two workers two batches ahead, no mirroring.
    pub fn new(batch: usize, seed: u64) -> Self {
        LoaderConfig { batch, seed, mirror: false, workers: 2, prefetch: 2, start: 0, share: Share::whole() }
    }
}

/// One batch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[B, H, W, 3]`, f32 in -1..1 (`u8 / 127.5 - 1`), on the CPU.
    pub images: Tensor,
    /// Class of each image, in a labelled set.
    pub labels: Option<Vec<u32>>,
    /// Indices into the data set.
    pub indices: Vec<u32>,
}

/// Brings an image into a batch: of its epoch, its index in the set and its bytes `[res, res, 3]`, appends
/// `res * res * 3` values. What it draws must depend on epoch and index alone: it runs in any worker.
pub type Prepare = dyn Fn(u64, u32, &[u8], &mut Vec<f32>) + Send + Sync;

/// Endless shuffled batches of an [`ImageData`].
pub struct Loader {
    maker: Arc<BatchMaker>,
    config: LoaderConfig,
    queues: Vec<Receiver<Result<Batch>>>,
    workers: Vec<JoinHandle<()>>,
    /// Batches handed out since `config.start`.
    taken: u64,
}

struct BatchMaker {
    data: Arc<ImageData>,
    order: Order,
    /// The images in use, where these are not all of the set.
    chosen: Option<Arc<Vec<u32>>>,
    /// In place of mirroring and plain conversion.
    prepare: Option<Arc<Prepare>>,
    config: LoaderConfig,
}

impl Loader {
    /// Starts the workers.
    ///
    /// # Errors
    /// A batch of 0, a rank outside the world, no prefetch; threads that cannot be started.
    pub fn new(data: Arc<ImageData>, config: LoaderConfig) -> Result<Loader> {
        Self::start(data, None, None, config)
    }

    /// Batches of the `chosen` images alone, each brought in by `prepare`; `config.mirror` has no say.
    ///
    /// # Errors
    /// As [`Loader::new`].
    pub fn of_chosen(
        data: Arc<ImageData>,
        chosen: Arc<Vec<u32>>,
        prepare: Arc<Prepare>,
        config: LoaderConfig,
    ) -> Result<Loader> {
        Self::start(data, Some(chosen), Some(prepare), config)
    }

    fn start(
        data: Arc<ImageData>,
        chosen: Option<Arc<Vec<u32>>>,
        prepare: Option<Arc<Prepare>>,
        config: LoaderConfig,
    ) -> Result<Loader> {
        let images = chosen.as_ref().map_or(data.len(), |chosen| chosen.len());
        let Share { rank, world, run, .. } = config.share;
        if config.batch == 0 || config.prefetch == 0 || rank >= world || run == 0 || images == 0 {
            let message = format!("impossible loader settings: {config:?}");
            return Err(Error::Usage {
                message,
                hint: Some("batch and prefetch start at 1, ranks at 0".into()),
            });
        }
        let order = Order::new(images as u64, config.seed, config.mirror);
        let maker = Arc::new(BatchMaker { data, order, chosen, prepare, config: config.clone() });
        let mut loader = Loader { maker, config, queues: Vec::new(), workers: Vec::new(), taken: 0 };
        for worker in 0..loader.config.workers {
            let (sender, receiver) = sync_channel(loader.config.prefetch);
            let maker = loader.maker.clone();
            let name = format!("loader-{worker}");
            let run = move || work(&maker, worker as u64, &sender);
            let handle = std::thread::Builder::new().name(name).spawn(run).map_err(|e| Error::Usage {
                message: format!("cannot start a loader thread: {e}"),
                hint: Some("use fewer workers".into()),
            })?;
            loader.queues.push(receiver);
            loader.workers.push(handle);
        }
        Ok(loader)
    }

    /// The next batch.
    ///
    /// # Errors
    /// An image that can no longer be read from a pack.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let batch = match self.queues.len() as u64 {
            0 => self.maker.batch(self.taken),
            workers => self.queues[(self.taken % workers) as usize].recv().unwrap_or_else(|_| {
                let message = "a loader thread ended before its time".to_owned();
                Err(Error::Usage { message, hint: None })
            }),
        }?;
        self.taken += 1;
        Ok(batch)
    }

    /// Images seen by all ranks together, `config.start` included: give it as `start` to go on from here.
    pub fn position(&self) -> u64 {
        self.config.start + self.taken * (self.config.batch * self.config.share.world) as u64
    }

    /// The set that is read.
    pub fn data(&self) -> &Arc<ImageData> {
        &self.maker.data
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Closed queues end the workers at their next hand-over.
        self.queues.clear();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn work(maker: &BatchMaker, worker: u64, queue: &SyncSender<Result<Batch>>) {
    let mut number = worker;
    while queue.send(maker.batch(number)).is_ok() {
        number += maker.config.workers as u64;
    }
}

impl BatchMaker {
    /// Batch `number` since the start: this rank's share of a global one.
    fn batch(&self, number: u64) -> Result<Batch> {
        let LoaderConfig { batch, start, share, .. } = self.config;
        let first = start + number * (share.world * batch) as u64;
        let res = self.data.res();
        let mut bytes = vec![0; res * res * 3];
        let mut pixels: Vec<f32> = Vec::with_capacity(batch * bytes.len());
        let mut indices = Vec::with_capacity(batch);
        for n in share.numbers(first, 0..batch) {
            let shown = self.order.at(n);
            let chosen = self.chosen.as_ref().and_then(|chosen| chosen.get(shown.image as usize));
            let image = chosen.copied().unwrap_or(shown.image);
            self.data.read(image as usize, &mut bytes)?;
            indices.push(image);
            if let Some(prepare) = &self.prepare {
                prepare(shown.epoch, image, &bytes, &mut pixels);
                continue;
            }
            for row in bytes.chunks_exact(res * 3) {
                if shown.mirrored {
                    pixels.extend(row.rchunks_exact(3).flatten().map(|&value| to_unit(value)));
                } else {
                    pixels.extend(row.iter().map(|&value| to_unit(value)));
                }
            }
        }
        let images = Tensor::from_vec(pixels, (batch, res, res, 3), &Device::Cpu)?;
        let labels = indices.iter().map(|&i| self.data.label(i as usize)).collect();
        Ok(Batch { images, labels, indices })
    }
}

/// 0..255 to -1..1.
fn to_unit(value: u8) -> f32 {
    f32::from(value) / 127.5 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten images of 2 px; the first byte of image i is 10 * i, its pixels all differ.
    fn data() -> Arc<ImageData> {
        let pixels = (0..10_u8).flat_map(|i| (0..12).map(move |j| 10 * i + j)).collect();
        let labels = Some((0..10).collect());
        Arc::new(ImageData::from_pixels(2, pixels, labels, vec![], "test".into(), String::new()).unwrap())
    }

    fn take(config: LoaderConfig, batches: usize) -> Vec<(Vec<u32>, Vec<f32>)> {
        let mut loader = Loader::new(data(), config).unwrap();
        let next = |_| loader.next_batch().unwrap();
        let values = |batch: &Batch| batch.images.flatten_all().unwrap().to_vec1().unwrap();
        (0..batches).map(next).map(|batch| (batch.labels.clone().unwrap(), values(&batch))).collect()
    }

    #[test]
    fn the_order_does_not_depend_on_workers() {
        let config = LoaderConfig { mirror: true, workers: 0, ..LoaderConfig::new(4, 3) };
        let alone = take(config.clone(), 12);
        for workers in [1, 2, 5] {
            assert_eq!(take(LoaderConfig { workers, ..config.clone() }, 12), alone, "{workers} workers");
        }
    }

    #[test]
    fn resuming_at_the_position_continues_the_sequence() {
        let config = LoaderConfig { mirror: true, ..LoaderConfig::new(3, 3) };
        let whole = take(config.clone(), 9);
        let mut first = Loader::new(data(), config.clone()).unwrap();
        for _ in 0..4 {
            first.next_batch().unwrap();
        }
        assert_eq!(first.position(), 12);
        assert_eq!(take(LoaderConfig { start: first.position(), ..config }, 5), whole[4..]);
    }

    #[test]
    fn ranks_share_the_global_batch() {
        let one = take(LoaderConfig::new(6, 3), 3);
        let rank = |rank, run| {
            let share = Share { rank, world: 2, run, back: false };
            take(LoaderConfig { share, ..LoaderConfig::new(3, 3) }, 3)
        };
        for ((whole, left), right) in one.iter().zip(rank(0, 3)).zip(rank(1, 3)) {
            assert_eq!(whole.0, [left.0, right.0].concat());
        }
        for ((whole, left), right) in one.iter().zip(rank(0, 1)).zip(rank(1, 1)) {
            assert_eq!([whole.0[0], whole.0[2], whole.0[4]], *left.0);
            assert_eq!([whole.0[1], whole.0[3], whole.0[5]], *right.0);
        }
    }

    #[test]
    fn chosen_images_come_once_an_epoch_and_know_it() {
        let prepare = |epoch: u64, image: u32, bytes: &[u8], out: &mut Vec<f32>| {
            assert_eq!(bytes[0], 10 * image as u8);
            out.extend([epoch as f32; 12]);
        };
        let config = LoaderConfig { workers: 2, ..LoaderConfig::new(3, 3) };
        let chosen = Arc::new(vec![2, 5, 7]);
        let mut loader = Loader::of_chosen(data(), chosen, Arc::new(prepare), config).unwrap();
        for epoch in 0..3 {
            let batch = loader.next_batch().unwrap();
            let mut indices = batch.indices.clone();
            indices.sort_unstable();
            assert_eq!((indices, batch.labels), (vec![2, 5, 7], Some(batch.indices)));
            assert_eq!(batch.images.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [epoch as f32; 36]);
        }
    }

    #[test]
    fn mirroring_swaps_columns_and_values_span_minus_one_to_one() {
        let pixels: Vec<u8> = [[0, 1, 2, 255, 254, 253], [9, 8, 7, 6, 5, 4]].concat();
        let data = ImageData::from_pixels(2, pixels, None, vec![], String::new(), String::new()).unwrap();
        let config = LoaderConfig { mirror: true, workers: 0, ..LoaderConfig::new(16, 1) };
        let batch = Loader::new(Arc::new(data), config).unwrap().next_batch().unwrap();
        assert!(batch.labels.is_none());
        let unit = |v: [u8; 6]| v.map(|v| f32::from(v) / 127.5 - 1.0);
        let rows: Vec<Vec<f32>> = batch.images.reshape((32, 6)).unwrap().to_vec2().unwrap();
        let straight = unit([0, 1, 2, 255, 254, 253]).to_vec();
        let flipped = unit([255, 254, 253, 0, 1, 2]).to_vec();
        let tops: Vec<_> = rows.iter().step_by(2).collect();
        assert!(tops.iter().all(|row| **row == straight || **row == flipped));
        assert!(tops.contains(&&straight) && tops.contains(&&flipped));
        assert_eq!((straight[0], straight[3]), (-1.0, 1.0));
    }

    #[test]
    fn dropping_a_loader_ends_its_threads() {
        let data = data();
        drop(Loader::new(data.clone(), LoaderConfig::new(4, 0)).unwrap());
        assert_eq!(Arc::strong_count(&data), 1);
    }
}
