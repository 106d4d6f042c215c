//! Reads packs: ours, and HDF5 files of others with `images` (or `imgs`) u8 `[N, 3, H, W]` or `[N, H, W, 3]` and optional integer
//! `labels` `[N]`, contiguous or chunked, gzip and shuffle included. Only the rows asked for are read.

use std::fs::File;
use std::path::{Path, PathBuf};

use hdf5::{AttrValue, DType, Dataset, Layout};
use sha2::{Digest, Sha256};

use super::chunked::ChunkedRows;
use crate::decode::{Limits, RgbImage8};
use crate::error::{Error, Result};
use crate::layout::{MOST_NUMBERED_CLASSES, numbered_classes};
use crate::set::hex;
use crate::source::read_exact_at;

/// An opened pack.
pub(crate) struct Pack {
    path: PathBuf,
    images: Rows,
    count: usize,
    height: usize,
    width: usize,
    channels_first: bool,
    pub(crate) labels: Option<Vec<u32>>,
    pub(crate) class_names: Vec<String>,
    pub(crate) split: Option<String>,
    /// The digest of the set that it was packed from, if it says so.
    pub(crate) packed_from: Option<String>,
}

enum Rows {
    /// One run of bytes: read where it lies, from any number of threads.
    Contiguous {
        file: File,
        address: u64,
    },
    Chunked(ChunkedRows),
}

/// What the images are called: by us, and by BigGAN-PyTorch and StudioGAN.
const IMAGES: [&str; 2] = ["images", "imgs"];

/// Rows hashed at a time, by number and by size.
const DIGEST_ROWS: usize = 256;
const DIGEST_BYTES: usize = 16 << 20;

/// More images than any data set has; labels are held in memory.
const MAX_IMAGES: u64 = 1 << 26;
/// All class names together.
const MAX_NAME_BYTES: u64 = 1 << 24;
/// Deflate packs at most 1032 bytes into one; the chunks of a file that claims more are damaged.
const MAX_RATIO: u64 = 1100;

impl Pack {
    pub(crate) fn open(path: &Path, limits: &Limits) -> Result<Pack> {
        let bad = |reason: String| Error::Pack { path: path.to_owned(), reason };
        let broken = |error: hdf5::Error| bad(error.to_string());
        let file = hdf5::File::open_streaming(path).map_err(broken)?;
        let length = std::fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
        let expected = file.superblock().eof_address;
        if length < expected {
            return Err(bad(format!("truncated: {length} bytes of {expected}")));
        }
        let (name, images) = images(&file).map_err(bad)?;
        let shape = images.shape().map_err(broken)?;
        if images.dtype().map_err(broken)? != DType::U8 {
            return Err(bad(format!("`{name}` must hold 8-bit unsigned integers")));
        }
        let (count, height, width, channels_first) = match shape[..] {
            [n, 3, h, w] => (n, h, w, true),
            [n, h, w, 3] => (n, h, w, false),
            _ => return Err(bad(format!("`{name}` must be [N, 3, H, W] or [N, H, W, 3], got {shape:?}"))),
        };
        let pixels = height.saturating_mul(width);
        let claimed = pixels.saturating_mul(3).saturating_mul(count);
        if claimed == 0 || count > MAX_IMAGES || claimed / MAX_RATIO > length {
            return Err(bad(format!(
                "`{name}` has the impossible shape {shape:?} for a file of {length} bytes"
            )));
        }
        if pixels > limits.max_pixels {
            let limit = limits.max_pixels / 1_000_000;
            return Err(bad(format!(
                "`{name}` has the shape {shape:?}, above the limit of {limit} megapixels"
            )));
        }
        let rows = rows(path, images, &shape)?;
        let labels = optional(&file, "labels").map_err(bad)?;
        let labels = labels.map(|labels| read_labels(&labels, count).map_err(bad)).transpose()?;
        let class_names = match optional(&file, "class_names").map_err(bad)? {
            Some(names) => read_names(&names).map_err(bad)?,
            None => Vec::new(),
        };
        let class_names = class_names.iter().map(|name| name.trim_end_matches('\0').to_owned()).collect();
        let class_names = names_of_all(class_names, labels.as_deref().unwrap_or_default()).map_err(bad)?;
        let attributes = file.root().attrs().map_err(broken)?;
        let text = |key: &str| match attributes.get(key) {
            Some(AttrValue::String(text) | AttrValue::AsciiString(text)) => {
                Some(text.trim_end_matches('\0').to_owned()).filter(|text| !text.is_empty())
            }
            _ => None,
        };
        Ok(Pack {
            path: path.to_owned(),
            images: rows,
            count: count as usize,
            height: height as usize,
            width: width as usize,
            channels_first,
            labels,
            class_names,
            split: text("split"),
            packed_from: text("source_digest"),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn size(&self) -> (u32, u32) {
        (self.width as u32, self.height as u32)
    }

    pub(crate) fn read_rgb(&self, i: usize) -> Result<RgbImage8> {
        let stored = self.read_rows(i, 1)?;
        let (width, height) = self.size();
        let data = if self.channels_first { to_channels_last(&stored) } else { stored };
        Ok(RgbImage8 { width, height, data })
    }

    /// Rows `start..start + count`, as stored.
    fn read_rows(&self, start: usize, count: usize) -> Result<Vec<u8>> {
        let row_bytes = self.height * self.width * 3;
        let damaged =
            |reason: String| Error::BadImage { path: self.path.clone(), name: format!("row {start}"), reason };
        if start + count > self.count {
            return Err(damaged(format!("the pack has {} rows", self.count)));
        }
        match &self.images {
            Rows::Contiguous { file, address } => {
                let mut bytes = vec![0; count * row_bytes];
                read_exact_at(file, &mut bytes, address + (start * row_bytes) as u64)
                    .map_err(|e| damaged(e.to_string()))?;
                Ok(bytes)
            }
            Rows::Chunked(rows) => rows.read(start, count).map_err(damaged),
        }
    }

    /// SHA-256 over the shape, pixels (channels last) and labels.
    pub(crate) fn digest(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for dim in [self.count, self.height, self.width] {
            hash.update((dim as u64).to_le_bytes());
        }
        let row_bytes = self.height * self.width * 3;
        let step = (DIGEST_BYTES / row_bytes).clamp(1, DIGEST_ROWS);
        for start in (0..self.count).step_by(step) {
            let rows = self.read_rows(start, step.min(self.count - start))?;
            for row in rows.chunks_exact(row_bytes) {
                if self.channels_first { hash.update(to_channels_last(row)) } else { hash.update(row) }
            }
        }
        for label in self.labels.iter().flatten() {
            hash.update(label.to_le_bytes());
        }
        Ok(hex(&hash.finalize()))
    }
}

fn rows(path: &Path, images: Dataset, shape: &[u64]) -> Result<Rows> {
    let needed: u64 = shape.iter().product();
    let bad = |reason: &str| Error::Pack { path: path.to_owned(), reason: reason.to_owned() };
    match images.layout().map_err(|e| bad(&e.to_string()))? {
        Layout::Contiguous { address: Some(address), size } => {
            let file = File::open(path).map_err(|e| Error::io(path, e))?;
            let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
            if size < needed || address.checked_add(needed).is_none_or(|end| end > length) {
                return Err(bad("truncated: `images` reaches beyond the end of the file"));
            }
            Ok(Rows::Contiguous { file, address })
        }
        Layout::Contiguous { address: None, .. } => Err(bad("`images` was never written")),
        Layout::Virtual => Err(bad("`images` is a virtual dataset, which is not supported")),
        _ => {
            let row_bytes = shape.iter().skip(1).product::<u64>() as usize;
            ChunkedRows::open(path, images, shape, row_bytes).map(Rows::Chunked).map_err(|e| bad(&e))
        }
    }
}

fn read_names(names: &Dataset) -> std::result::Result<Vec<String>, String> {
    let text = |error: hdf5::Error| error.to_string();
    let count = names.shape().map_err(text)?.iter().fold(1, |count: u64, &n| count.saturating_mul(n));
    let bytes = names.element_size().map_err(text)?.max(1).saturating_mul(count);
    if bytes > MAX_NAME_BYTES {
        return Err(format!("`class_names` claims {bytes} bytes"));
    }
    names.read_string().map_err(text)
}

/// The dataset of images and its name.
fn images(file: &hdf5::File) -> std::result::Result<(&'static str, Dataset), String> {
    for name in IMAGES {
        if let Some(found) = optional(file, name)? {
            return Ok((name, found));
        }
    }
    let names = file.root().datasets().unwrap_or_default();
    let listed: Vec<String> = names.iter().take(8).map(|name| format!("`{name}`")).collect();
    let there = if listed.is_empty() { "none at its root".into() } else { listed.join(", ") };
    Err(format!("no dataset `images`, but {there}"))
}

/// The dataset called `name`; `None` only where there is nothing of that name.
fn optional(file: &hdf5::File, name: &str) -> std::result::Result<Option<Dataset>, String> {
    match file.dataset(name) {
        Ok(found) => Ok(Some(found)),
        Err(hdf5::Error::Format(hdf5::FormatError::PathNotFound(_))) => Ok(None),
        Err(error) => Err(format!("`{name}` cannot be read: {error}")),
    }
}

/// Names of all classes: those of the file, or else their numbers.
fn names_of_all(names: Vec<String>, labels: &[u32]) -> std::result::Result<Vec<String>, String> {
    match labels.iter().max() {
        Some(&highest) if names.is_empty() && highest < MOST_NUMBERED_CLASSES => Ok(numbered_classes(labels)),
        Some(&highest) if highest as usize >= names.len() => {
            Err(format!("`labels` holds {highest}, and there are {} class names", names.len()))
        }
        _ => Ok(names),
    }
}

fn read_labels(labels: &Dataset, count: u64) -> std::result::Result<Vec<u32>, String> {
    let shape = labels.shape().map_err(|e| e.to_string())?;
    if shape != [count] {
        return Err(format!("`labels` must be [{count}], one for each image, got {shape:?}"));
    }
    let values = match labels.dtype().map_err(|e| e.to_string())? {
        DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::U8 | DType::U16 | DType::U32 | DType::U64 => {
            labels.read_i64().map_err(|e| e.to_string())?
        }
        other => return Err(format!("`labels` must hold integers, got {other}")),
    };
    let label = |&value: &i64| u32::try_from(value).map_err(|_| format!("`labels` holds {value}"));
    values.iter().map(label).collect()
}

/// `[3, H * W]` to `[H * W, 3]`.
fn to_channels_last(planes: &[u8]) -> Vec<u8> {
    let plane = planes.len() / 3;
    let (red, rest) = planes.split_at(plane);
    let (green, blue) = rest.split_at(plane);
    red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]).collect()
}
