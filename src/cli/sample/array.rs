//! Drawn images as rows of an array in one file.

use std::path::Path;
use std::sync::mpsc::Receiver;

use candle_core::Tensor;
use nestgen::error::Error;
use nestgen::train::grid::Picture;
use nestgen_images::ArrayWriter;

/// Refuses a file that is there, since it may hold the real images, as the reference files of evaluators do, and a name by which
/// it would not be known.
pub(super) fn refuse(file: &Path) -> Result<(), Error> {
    let shown = file.display();
    if file.extension().is_none() {
        return Err(Error::usage(
            format!("--npz {shown}: by its ending it is known for an array when it is read"),
            format!("--npz {shown}.npz"),
        ));
    }
    // A link that leads nowhere is something too.
    match file.symlink_metadata() {
        Ok(_) => Err(Error::usage(format!("`{shown}` is there already"), "name another file, or remove it")),
        Err(_) => Ok(()),
    }
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
