//! Data: from any source of images (or the built-in scenes) to shuffled batches for training.
//!
//! [`ImageData`] holds a set at one resolution as 8-bit pixels, in memory or in a pack on disk. [`Loader`] hands out its
//! images in an order that is a pure function of (seed, number of images seen), prepared ahead in worker threads.

mod image_data;
mod labelled;
mod loader;
mod order;
mod share;
pub mod synthetic;

pub use image_data::{ImageData, LoadOptions};
pub use labelled::{LabelledImages, labelled_split, splits_called};
pub use loader::{Batch, Loader, LoaderConfig, Prepare};
pub use share::Share;

/// Mean and deviation of each channel of ImageNet's pixels in 0..1, by which many published networks see images.
pub(crate) const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];
