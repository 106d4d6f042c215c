//! Drawn images as rows of an array in one file.

use std::path::Path;
use std::sync::mpsc::Receiver;

use candle_core::Tensor;
use nestgen::error::Error;
use nestgen::train::grid::Picture;
use nestgen_images::ArrayWriter;

/// Refuses a file that is there: it may hold the real images, as the reference files of evaluators do.
pub(super) fn refuse_present(file: &Path) -> Result<(), Error> {
    if !file.exists() {
        return Ok(());
    }
    Err(Error::usage(format!("`{}` is there already", file.display()), "name another file, or remove it"))
}

/// The images of a batch, one below the other.
pub(super) fn rows(_: &[u64], images: &Tensor) -> nestgen::error::Result<Vec<u8>> {
    Ok(Picture::grid(images, 1)?.pixels)
}

pub(super) fn write(writer: &mut ArrayWriter, batches: Receiver<Vec<u8>>) -> nestgen::error::Result<()> {
    for rows in batches {
        writer.push(&rows)?;
    }
    Ok(())
}
