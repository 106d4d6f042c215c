//! The real images of a run, by their number in its order.

use std::sync::Arc;

use candle_core::Tensor;

use crate::data::{ImageData, Loader, LoaderConfig, Share};
use crate::error::Result;

/// Batches of real images, prepared ahead for as long as they are asked for in order.
pub struct RealImages {
    data: Arc<ImageData>,
    config: LoaderConfig,
    loader: Option<Loader>,
}

impl RealImages {
    /// `config.batch` images at a time; `config.start` is ignored.
    pub fn new(data: Arc<ImageData>, config: LoaderConfig) -> Self {
        Self { data, config, loader: None }
    }

    /// This rank's share of the batch that begins with image number `first` of the run: `[batch, H, W, 3]` in -1..1.
    ///
    /// # Errors
    /// When an image can no longer be read.
    pub fn batch(&mut self, first: u64) -> Result<Tensor> {
        let mut loader = match self.loader.take() {
            Some(loader) if loader.position() == first => loader,
            _ => Loader::new(self.data.clone(), LoaderConfig { start: first, ..self.config.clone() })?,
        };
        let images = loader.next_batch()?.images;
        self.loader = Some(loader);
        Ok(images)
    }

    /// The first `count` images of the run.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn first_images(&self, count: usize) -> Result<Tensor> {
        let config =
            LoaderConfig { batch: count, start: 0, workers: 0, share: Share::whole(), ..self.config.clone() };
        Ok(Loader::new(self.data.clone(), config)?.next_batch()?.images)
    }
}
