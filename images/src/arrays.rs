//! Images as an array in an `.npz`, as samplers of diffusion models write them (`np.savez(path, images, labels)`: `arr_0`
//! uint8 `[N, H, W, 3]`, and where there are classes `arr_1` `[N]`). The array is not loaded: rows are read from the file.

use std::fs::File;
use std::path::Path;

use crate::decode::{Limits, RgbImage8};
use crate::error::{Error, Result};
use crate::layout::{MOST_NUMBERED_CLASSES, numbered_classes};
use crate::npy::{NPY_HEADER_BYTES, NpyHeader};
use crate::source::read_exact_at;

/// The array of images, and that of their classes.
const IMAGES: &str = "arr_0.npy";
const LABELS: &str = "arr_1.npy";

/// An opened `.npz` of images.
pub(crate) struct Arrays {
    file: File,
    /// Where the first image is in the file.
    first: u64,
    count: usize,
    height: usize,
    width: usize,
    pub(crate) labels: Option<Vec<u32>>,
}

/// Whether a file is an `.npz` with an array of images in it.
pub fn is_array_of_images(path: &Path) -> bool {
    // Opening a pipe would wait for a writer, perhaps for ever.
    let file = path.is_file().then(|| File::open(path).ok()).flatten();
    let archive = file.and_then(|file| zip::ZipArchive::new(file).ok());
    archive.is_some_and(|archive| archive.file_names().any(|name| name == IMAGES))
}

impl Arrays {
    /// Reads the headers, and the classes where there are some.
    pub(crate) fn open(path: &Path, limits: &Limits) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let file_bytes = file.metadata().map_err(|e| Error::io(path, e))?.len();
        let archive = file.try_clone().map_err(|e| Error::io(path, e))?;
        let mut archive = zip::ZipArchive::new(archive).map_err(|e| Error::archive(path, e))?;
        let bad = |key: &str, reason: String| Error::NotAnImageSet {
            path: path.to_owned(),
            reason: format!("array `{}`: {reason}", key.trim_end_matches(".npy")),
            hint: "save uint8 images [N, H, W, 3], and classes [N] if there are any, with numpy's `savez`",
        };
        let mut span = |key: &str| -> Result<Option<(u64, u64)>> {
            match archive.by_name(key) {
                Err(zip::result::ZipError::FileNotFound) => Ok(None),
                Err(error) => Err(bad(key, error.to_string())),
                Ok(entry) if entry.compression() == zip::CompressionMethod::Stored => {
                    let start =
                        entry.data_start().ok_or_else(|| bad(key, "it has no place in the file".into()))?;
                    match start.checked_add(entry.size()).filter(|end| *end <= file_bytes) {
                        Some(_) => Ok(Some((start, entry.size()))),
                        None => Err(bad(key, "it reaches beyond the end of the file".into())),
                    }
                }
                Ok(_) => Err(bad(key, "it is compressed, as by numpy's `savez_compressed`".into())),
            }
        };
        let Some((start, size)) = span(IMAGES)? else {
            return Err(bad(IMAGES, "there is none, so these are no images".into()));
        };
        let header = read_header(&file, start, size).map_err(|reason| bad(IMAGES, reason))?;
        let &[count, height, width, 3] = header.shape.as_slice() else {
            return Err(bad(IMAGES, format!("shape {:?}, expected [N, H, W, 3]", header.shape)));
        };
        let whole =
            header.count().is_some_and(|bytes| (bytes as u64).checked_add(header.len as u64) == Some(size));
        let reason = match &header {
            _ if count == 0 || height == 0 || width == 0 => {
                Some(format!("shape {:?} of no images", header.shape))
            }
            NpyHeader { descr, .. } if descr != "|u1" => {
                Some(format!("elements {descr}, expected |u1 (uint8)"))
            }
            NpyHeader { fortran_order: true, .. } => {
                Some("in Fortran's order; pass `np.ascontiguousarray` of it".into())
            }
            _ if !whole => Some(format!("{size} bytes for shape {:?}: cut off or damaged", header.shape)),
            _ => None,
        };
        if let Some(reason) = reason {
            return Err(bad(IMAGES, reason));
        }
        if (height as u64).saturating_mul(width as u64) > limits.max_pixels {
            return Err(bad(IMAGES, format!("{width}x{height} px are more than {} pixels", limits.max_pixels)));
        }
        let labels = span(LABELS)?
            .map(|(start, size)| read_labels(&file, start, size, count).map_err(|reason| bad(LABELS, reason)));
        let first = start + header.len as u64;
        Ok(Self { file, first, count, height, width, labels: labels.transpose()? })
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Width and height, px.
    pub(crate) fn size(&self) -> (u32, u32) {
        (self.width as u32, self.height as u32)
    }

    /// Image `i`, or why it cannot be read.
    pub(crate) fn read_rgb(&self, i: usize) -> std::result::Result<RgbImage8, String> {
        let bytes = self.height * self.width * 3;
        if i >= self.count {
            return Err(format!("the array has {} images", self.count));
        }
        let mut data = vec![0; bytes];
        read_exact_at(&self.file, &mut data, self.first + (i * bytes) as u64).map_err(|e| e.to_string())?;
        Ok(RgbImage8 { width: self.width as u32, height: self.height as u32, data })
    }

    /// Classes are numbers only.
    pub(crate) fn class_names(&self) -> Vec<String> {
        self.labels.as_deref().map_or_else(Vec::new, numbered_classes)
    }
}

fn read_header(file: &File, start: u64, size: u64) -> std::result::Result<NpyHeader, String> {
    let mut head = vec![0; size.min(NPY_HEADER_BYTES as u64) as usize];
    read_exact_at(file, &mut head, start).map_err(|e| e.to_string())?;
    NpyHeader::parse(&head)
}

/// Whole numbers of 1, 4 or 8 bytes, one for each of `count` images.
fn read_labels(file: &File, start: u64, size: u64, count: usize) -> std::result::Result<Vec<u32>, String> {
    let header = read_header(file, start, size)?;
    if header.shape != [count] {
        return Err(format!("shape {:?}, expected [{count}]: the class of each image", header.shape));
    }
    let width = match header.descr.as_str() {
        "|u1" => 1,
        "<i4" | "<u4" => 4,
        "<i8" | "<u8" => 8,
        other => return Err(format!("elements {other}, expected whole numbers")),
    };
    if (count * width) as u64 + header.len as u64 != size {
        return Err(format!("{size} bytes for {count} numbers: cut off or damaged"));
    }
    let mut bytes = vec![0; count * width];
    read_exact_at(file, &mut bytes, start + header.len as u64).map_err(|e| e.to_string())?;
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte));
    let labels = bytes.chunks_exact(width).map(|bytes| {
        let label = number(bytes);
        if label < u64::from(MOST_NUMBERED_CLASSES) {
            Ok(label as u32)
        } else {
            Err(format!("{label} is no class"))
        }
    });
    labels.collect()
}
