//! HDF5 packs: one file with all images of a set at one size. The rest of the crate sees only [`Pack`] and [`write_pack`];
//! which HDF5 library reads, and why this crate writes by itself, is measured in `docs/hdf5.md`.

mod chunked;
mod hdf5_file;
mod reader;
mod writer;

pub(crate) use reader::Pack;
pub use writer::{PackOptions, PackSummary, write_pack};
