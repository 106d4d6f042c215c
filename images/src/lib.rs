//! Image sets: folders, archives, HDF5 packs and arrays of pictures, read by index under limits, in one fixed order.
//!
//! `ImageSet::open` lists a source; `read_rgb(i)` gives 8-bit RGB by the rule stated in [`decode`]. This crate knows nothing
//! of tensors or models.

#![forbid(unsafe_code)]
// Whatever is read may be hostile: nothing in it may end the program.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod arrays;
mod check;
mod cifar;
mod dataset_json;
pub mod decode;
mod error;
mod jpeg;
mod layout;
mod npy;
mod pack;
pub mod resample;
mod set;
mod source;
mod whole_file;

pub use arrays::{ArrayWriter, is_array_of_images};
pub use check::{CheckReport, check};
pub use decode::{Header, Limits, RgbImage8};
pub use error::{Error, Result};
pub use layout::{EVERY_SPLIT, TEST_SPLITS, VALIDATION_SPLITS, is_split_called, is_training_split};
pub use npy::{NpyHeader, npy_header};
pub use pack::{PackOptions, PackSummary, write_pack};
pub use resample::{RESAMPLING, to_square};
pub use set::{ImageSet, OpenOptions, hex};
pub use source::{OtherFiles, is_hdf5, is_hidden, is_image_name};
