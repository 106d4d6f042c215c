//! Writes packs: decode and resize in parallel, one block of images at a time, in order; to a temporary name in the
//! target folder, synced, then renamed, so that a pack is whole or absent.

use std::io::BufWriter;
use std::path::Path;

use rayon::prelude::*;

use super::hdf5_file::{Element, Hdf5File};
use crate::error::{Error, Result};
use crate::resample::{RESAMPLING, to_square};
use crate::set::ImageSet;
use crate::whole_file::WholeFile;

/// What goes into a pack.
#[derive(Clone, Debug)]
pub struct PackOptions {
    /// Side of the packed squares, px. `None` keeps the images' own size, which must then be one and square.
    pub res: Option<u32>,
    /// Pack at most so many of the images (see [`ImageSet::choose`]).
    pub max_images: Option<usize>,
    /// Leave out images that cannot be used instead of stopping at the first.
    pub skip_bad: bool,
    /// Images with a shorter side below this are bad: enlarged specks teach nothing.
    pub min_side: u32,
}

impl Default for PackOptions {
    fn default() -> Self {
        PackOptions { res: None, max_images: None, skip_bad: false, min_side: 8 }
    }
}

/// What was written.
#[derive(Debug)]
pub struct PackSummary {
    /// Images in the pack.
    pub images: usize,
    /// Their side, px.
    pub res: u32,
    /// Classes; 0 if unlabelled.
    pub classes: usize,
    /// Size of the file.
    pub bytes: u64,
    /// SHA-256 of the source's content.
    pub source_digest: String,
    /// Images that were left out, and why.
    pub skipped: Vec<Error>,
}

/// Images decoded at a time, by number and by size: bounds memory, large enough to keep all cores busy.
const MAX_BLOCK_IMAGES: usize = 256;
const BLOCK_BYTES: usize = 64 << 20;

/// Writes `set` to an HDF5 file at `target`: `images` u8 `[N, 3, res, res]` (contiguous, so that a row is one read),
/// `labels` u32 `[N]` and `class_names` for a labelled set, and attributes telling source, digest and resampling.
/// `progress(done, total)` may return false to stop.
///
/// # Errors
/// The first bad image by order (unless skipped), images of several sizes without `res`, an unwritable target.
pub fn write_pack(
    set: &ImageSet,
    target: &Path,
    options: &PackOptions,
    progress: &dyn Fn(usize, usize) -> bool,
) -> Result<PackSummary> {
    if options.res == Some(0) || options.max_images == Some(0) {
        return Err(Error::Argument {
            what: "resolution and number of images",
            range: "positive",
            got: "0".into(),
        });
    }
    let chosen = set.choose(options.max_images.unwrap_or(usize::MAX));
    let source_digest = set.digest()?;
    let whole = WholeFile::beside(target)?;
    let write_error = |e| Error::io(target, e);
    let mut file = Hdf5File::create(BufWriter::with_capacity(1 << 20, whole.file())).map_err(write_error)?;
    let address = file.position();
    let sizing = Sizing::new(set, &chosen, options)?;
    let res = sizing.res;
    let block_images = (BLOCK_BYTES / (res as usize * res as usize * 3)).clamp(1, MAX_BLOCK_IMAGES);
    let mut packed = 0;
    let mut labels = Vec::with_capacity(chosen.len());
    let mut skipped = Vec::new();
    let mut done = 0;
    for block in chosen.chunks(block_images) {
        let planes: Vec<Result<Vec<u8>>> = block.par_iter().map(|&i| sizing.planes(i)).collect();
        for (&i, planes) in block.iter().zip(planes) {
            match planes {
                Ok(planes) => {
                    file.write(&planes).map_err(write_error)?;
                    labels.extend(set.label(i));
                    packed += 1;
                }
                Err(error @ Error::BadImage { .. }) if options.skip_bad => skipped.push(error),
                Err(error) => return Err(error),
            }
        }
        done += block.len();
        if !progress(done, chosen.len()) {
            return Err(Error::Stopped { path: target.to_owned() });
        }
    }
    if packed == 0 {
        return Err(none_packed(set, &chosen, options));
    }
    let side = u64::from(res);
    file.dataset("images", Element::U8, &[packed as u64, 3, side, side], address).map_err(write_error)?;
    write_labels(&mut file, &labels, set.class_names()).map_err(write_error)?;
    let attributes = attributes(set, &source_digest);
    let attributes: Vec<(&str, &str)> = attributes.iter().map(|(name, text)| (*name, text.as_str())).collect();
    drop(file.finish(&attributes).map_err(write_error)?);
    let bytes = whole.keep(target)?;
    Ok(PackSummary { images: packed, res, classes: set.class_names().len(), bytes, source_digest, skipped })
}

/// Why none of these images could be packed.
fn none_packed(set: &ImageSet, chosen: &[usize], options: &PackOptions) -> Error {
    let side = |&i: &usize| set.read_header(i).ok().map(|header| header.width.min(header.height));
    let small = chosen.iter().filter_map(side).filter(|&side| side < options.min_side);
    let small: Vec<u32> = small.collect();
    Error::NonePacked {
        path: set.path().to_owned(),
        images: chosen.len(),
        too_small: small.len(),
        min_side: options.min_side,
        largest: small.iter().copied().max().unwrap_or(0),
        unreadable: chosen.len() - small.len(),
    }
}

/// Brings images to the pack's one size: the one asked for, else that of the first image.
struct Sizing<'a> {
    set: &'a ImageSet,
    res: u32,
    min_side: u32,
    /// The image that set the size, when none was asked for.
    first: Option<(usize, (u32, u32))>,
}

impl<'a> Sizing<'a> {
    fn new(set: &'a ImageSet, chosen: &[usize], options: &PackOptions) -> Result<Self> {
        let mut sizing = Sizing { set, res: options.res.unwrap_or(0), min_side: options.min_side, first: None };
        if options.res.is_some() {
            return Ok(sizing);
        }
        for &i in chosen {
            let size = set.read_header(i).map(|header| (header.width, header.height));
            match size.and_then(|size| sizing.large_enough(i, size).map(|()| size)) {
                Ok(size) => {
                    sizing.first = Some((i, size));
                    sizing.res = size.0;
                    return Ok(sizing);
                }
                Err(_) if options.skip_bad => {}
                Err(error) => return Err(error),
            }
        }
        Err(none_packed(set, chosen, options))
    }

    fn large_enough(&self, i: usize, (width, height): (u32, u32)) -> Result<()> {
        if width.min(height) >= self.min_side {
            return Ok(());
        }
        let reason = format!("{width}x{height} px, its shorter side is below {} px", self.min_side);
        Err(self.set.bad(i, reason))
    }

    /// The planes `[3, res, res]` of image `i`.
    fn planes(&self, i: usize) -> Result<Vec<u8>> {
        let image = self.set.read_rgb(i)?;
        let size = (image.width, image.height);
        self.large_enough(i, size)?;
        let pixels = match self.first {
            None => to_square(&image, self.res),
            Some((_, first_size)) if size == first_size && size.0 == size.1 => image.data,
            Some((first, first_size)) => {
                return Err(Error::MixedSizes {
                    path: self.set.path().to_owned(),
                    first: self.set.name(first).into_owned(),
                    first_size,
                    other: self.set.name(i).into_owned(),
                    other_size: size,
                });
            }
        };
        Ok((0..3).flat_map(|channel| pixels.iter().skip(channel).step_by(3).copied()).collect())
    }
}

fn write_labels<W: std::io::Write + std::io::Seek>(
    file: &mut Hdf5File<W>,
    labels: &[u32],
    class_names: &[String],
) -> std::io::Result<()> {
    if labels.is_empty() {
        return Ok(());
    }
    let address = file.position();
    file.write(&labels.iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<_>>())?;
    file.dataset("labels", Element::U32, &[labels.len() as u64], address)?;
    let width = class_names.iter().map(String::len).max().unwrap_or(0).max(1);
    let address = file.position();
    for name in class_names {
        let mut padded = name.as_bytes().to_vec();
        padded.resize(width, 0);
        file.write(&padded)?;
    }
    file.dataset("class_names", Element::Text(width as u32), &[class_names.len() as u64], address)
}

fn attributes(set: &ImageSet, source_digest: &str) -> Vec<(&'static str, String)> {
    let source = set.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    vec![
        ("format", "nestgen-pack 1".to_owned()),
        ("nestgen_version", env!("CARGO_PKG_VERSION").to_owned()),
        ("source", source),
        ("source_digest", source_digest.to_owned()),
        ("split", set.split().unwrap_or_default().to_owned()),
        ("resampling", RESAMPLING.to_owned()),
    ]
}
