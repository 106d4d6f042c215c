//! `ImageSet`: any source, opened: names, labels and pixels by index, in one fixed order (names sorted as raw bytes).

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::arrays::Arrays;
use crate::cifar::Cifar;
use crate::dataset_json::{Listed, unlisted};
use crate::decode::{self, Header, Limits, RgbImage8};
use crate::error::{Error, Result};
use crate::layout::{EVERY_SPLIT, Layout, is_split_called, layout};
use crate::pack::Pack;
use crate::source::{self, Entry, OtherFiles, Source};

/// How to open a source.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// First-level folder to use; `all` for every image. `None` takes `train` where the set has splits, else everything.
    pub split: Option<String>,
    /// Sizes beyond which files are refused.
    pub limits: Limits,
    /// A tar.gz is unpacked into memory up to this many bytes, beyond them into a temporary file.
    pub spool_bytes: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions { split: None, limits: Limits::default(), spool_bytes: 512 << 20 }
    }
}

/// An opened image set; cheap to share between threads.
pub struct ImageSet {
    path: PathBuf,
    kind: Kind,
    labels: Option<Vec<u32>>,
    class_names: Vec<String>,
    split: Option<String>,
    other_files: OtherFiles,
    /// Name of an image that lies beside folders, which are no classes because of it.
    loose: Option<String>,
}

enum Kind {
    /// Encoded files: entries of `source` that are kept, and how many bytes of their names are common folders.
    Files {
        source: Source,
        kept: Vec<usize>,
        stripped: usize,
        /// Whether a list beside them says of which classes they are, not their names.
        listed: bool,
    },
    /// CIFAR-10's binary version.
    Cifar(Cifar),
    /// An HDF5 pack.
    Pack(Pack),
    /// An `.npz` of images.
    Arrays(Arrays),
}

impl ImageSet {
    /// Opens a folder, `.zip`, `.tar`, `.tar.gz`, the binary version of CIFAR-10 in any of these, an HDF5 pack, or an `.npz` of
    /// images. No image is decoded.
    ///
    /// # Errors
    /// A missing or unreadable path, a damaged archive or pack, a set without images, an unknown split.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<ImageSet> {
        let kind = source::kind_of(path)?;
        if matches!(kind, source::Kind::Hdf5) {
            return Self::from_pack(path, options);
        }
        let is_npz = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npz"));
        if is_npz && matches!(kind, source::Kind::Zip) {
            return Self::from_arrays(path, options);
        }
        let mut source = Source::open(path, kind, options.limits, options.spool_bytes)?;
        let (images, data_files): (Vec<_>, Vec<_>) =
            std::mem::take(&mut source.entries).into_iter().partition(|e| source::is_image_name(&e.name));
        if let Some(image) = images.first() {
            refuse_records_beside(path, image, &data_files)?;
            source.entries = images;
            return Self::from_files(path, source, data_files, options);
        }
        let other_files = source.other_files.count + data_files.len();
        source.entries = data_files;
        let Some(cifar) = Cifar::open(&source, options.split.as_deref())? else {
            return Err(Error::NoImages { path: path.to_owned(), other_files });
        };
        Ok(ImageSet {
            path: path.to_owned(),
            labels: Some(cifar.labels.clone()),
            class_names: cifar.class_names.clone(),
            split: cifar.split.clone(),
            kind: Kind::Cifar(cifar),
            other_files: source.other_files,
            loose: None,
        })
    }

    fn from_files(
        path: &Path,
        mut source: Source,
        data_files: Vec<Entry>,
        options: &OpenOptions,
    ) -> Result<ImageSet> {
        let names: Vec<&[u8]> = source.entries.iter().map(|e| e.name.as_slice()).collect();
        let Layout { kept, stripped, mut labels, mut class_names, split, loose } =
            layout(&names, options.split.as_deref()).map_err(|found| no_such_split(path, options, found))?;
        let mut loose = loose.and_then(|i| names.get(i)).map(|name| source::shown(name));
        let listed = Listed::of(&mut source, data_files, &kept)?;
        if let Some(listed) = &listed {
            let of_kept = kept.iter().filter_map(|&at| Some(source.entries.get(at)?.name.as_slice()));
            let found = listed.labels(of_kept).map_err(|name| unlisted(&source, name))?;
            (labels, class_names) = found.map_or((None, Vec::new()), |(labels, names)| (Some(labels), names));
            loose = None;
        }
        let other_files = source.other_files.clone();
        let kind = Kind::Files { source, kept, stripped, listed: listed.is_some() };
        Ok(ImageSet { path: path.to_owned(), kind, labels, class_names, split, other_files, loose })
    }

    fn from_pack(path: &Path, options: &OpenOptions) -> Result<ImageSet> {
        let mut pack = Pack::open(path, &options.limits)?;
        let (labels, class_names, split) =
            (pack.labels.clone(), std::mem::take(&mut pack.class_names), pack.split.take());
        let is_there = |wanted: &str| split.as_deref().is_some_and(|split| is_split_called(split, wanted));
        if options.split.as_deref().is_some_and(|wanted| wanted != EVERY_SPLIT && !is_there(wanted)) {
            return Err(no_such_split(path, options, split.into_iter().collect()));
        }
        let (kind, other_files) = (Kind::Pack(pack), OtherFiles::default());
        Ok(ImageSet { path: path.to_owned(), kind, labels, class_names, split, other_files, loose: None })
    }

    fn from_arrays(path: &Path, options: &OpenOptions) -> Result<ImageSet> {
        let mut arrays = Arrays::open(path, &options.limits, options.spool_bytes, options.split.as_deref())?;
        let (labels, split) = (arrays.labels.take(), arrays.split.take());
        let class_names = std::mem::take(&mut arrays.class_names);
        let (kind, other_files) = (Kind::Arrays(arrays), OtherFiles::default());
        Ok(ImageSet { path: path.to_owned(), kind, labels, class_names, split, other_files, loose: None })
    }

    /// Number of images; never 0.
    #[allow(clippy::len_without_is_empty)] // An empty set is an error of `open`.
    pub fn len(&self) -> usize {
        match &self.kind {
            Kind::Files { kept, .. } => kept.len(),
            Kind::Cifar(cifar) => cifar.labels.len(),
            Kind::Pack(pack) => pack.len(),
            Kind::Arrays(arrays) => arrays.len(),
        }
    }

    /// At most `count` of the images, drawn at random but always the same way, rising: the first of a sorted set would be
    /// those of its first classes. A smaller choice is a part of every larger one.
    pub fn choose(&self, count: usize) -> Vec<usize> {
        let mut indices: Vec<usize> = (0..self.len()).collect();
        if count < indices.len() {
            indices.sort_unstable_by_key(|&i| scramble(i as u64));
            indices.truncate(count);
            indices.sort_unstable();
        }
        indices
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name of image `i` inside the source, for people (see `source::shown`); empty if out of range.
    pub fn name(&self, i: usize) -> Cow<'_, str> {
        match &self.kind {
            Kind::Files { source, kept, .. } => {
                let entry = kept.get(i).and_then(|&at| source.entries.get(at));
                entry.map_or(Cow::Borrowed(""), |e| Cow::Owned(source::shown(&e.name)))
            }
            Kind::Cifar(cifar) => Cow::Owned(cifar.name(i)),
            Kind::Pack(_) | Kind::Arrays(_) => Cow::Owned(format!("row {i}")),
        }
    }

    /// The file that image `i` is, where the set is a folder: its name may hold what people are not shown.
    pub fn file(&self, i: usize) -> Option<&Path> {
        match &self.kind {
            Kind::Files { source, kept, .. } => source.file(*kept.get(i)?),
            _ => None,
        }
    }

    /// Class of image `i`, an index into `class_names`; `None` in an unlabelled set.
    pub fn label(&self, i: usize) -> Option<u32> {
        self.labels.as_ref()?.get(i).copied()
    }

    /// Class names in label order; empty in an unlabelled set.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The files of the source that are no images.
    pub fn other_files(&self) -> &OtherFiles {
        &self.other_files
    }

    /// The first image that lies beside several folders, which are no classes because of it.
    pub fn loose(&self) -> Option<&str> {
        self.loose.as_deref()
    }

    /// The digest of the set that a pack was made of, where it says so.
    pub fn packed_from(&self) -> Option<&str> {
        match &self.kind {
            Kind::Pack(pack) => pack.packed_from.as_deref(),
            _ => None,
        }
    }

    /// The split in use, where the set has splits and one was chosen.
    pub fn split(&self) -> Option<&str> {
        self.split.as_deref()
    }

    /// Reads and decodes image `i`. May be called from many threads at once.
    ///
    /// # Errors
    /// `Error::BadImage` with the image's name and the reason.
    pub fn read_rgb(&self, i: usize) -> Result<RgbImage8> {
        match &self.kind {
            Kind::Files { source, .. } => {
                let bytes = source.read(self.entry(i)?)?;
                decode::decode_rgb(&bytes, source.limits()).map_err(|reason| self.bad(i, reason))
            }
            Kind::Cifar(cifar) => cifar.read_rgb(i).ok_or_else(|| self.bad(i, "no such record")),
            Kind::Pack(pack) => pack.read_rgb(i),
            Kind::Arrays(arrays) => arrays.read_rgb(i).map_err(|reason| self.bad(i, reason)),
        }
    }

    /// Size, channels and depth of image `i` as stored.
    ///
    /// # Errors
    /// `Error::BadImage` with the image's name and the reason.
    pub fn read_header(&self, i: usize) -> Result<Header> {
        let of_bytes = |(width, height), channels| Ok(Header { width, height, channels, bits: 8 });
        match &self.kind {
            Kind::Files { source, .. } => {
                let bytes = source.read(self.entry(i)?)?;
                decode::read_header(&bytes, source.limits()).map_err(|reason| self.bad(i, reason))
            }
            Kind::Cifar(_) => of_bytes((32, 32), 3),
            Kind::Pack(pack) => of_bytes(pack.size(), 3),
            Kind::Arrays(arrays) => of_bytes(arrays.size(), arrays.channels(i)),
        }
    }

    /// Content digest, SHA-256 in hex. Of files: over their names below the common folder and their encoded bytes, in
    /// order, so that the same files give the same digest from a folder, a zip or a tar; with their classes where a list has
    /// them. A file that cannot be read counts with its name and that it cannot. Of CIFAR-10 batches: over the records. Of a pack or an array: over shape, pixels and labels.
    ///
    /// # Errors
    /// A pack that cannot be read.
    pub fn digest(&self) -> Result<String> {
        let mut whole = Sha256::new();
        match &self.kind {
            Kind::Files { source, kept, stripped, listed } => {
                for &at in kept {
                    let name = source.entries.get(at).and_then(|e| e.name.get(*stripped..)).unwrap_or_default();
                    whole.update((name.len() as u64).to_le_bytes());
                    whole.update(name);
                    match source.read(at) {
                        Ok(bytes) => whole.update(Sha256::digest(bytes)),
                        Err(_) => whole.update(b"unreadable"),
                    }
                }
                if *listed {
                    self.labels.iter().flatten().for_each(|label| whole.update(label.to_le_bytes()));
                }
            }
            Kind::Cifar(cifar) => {
                (0..self.len()).filter_map(|i| cifar.record(i)).for_each(|record| whole.update(record));
            }
            Kind::Pack(pack) => return pack.digest(),
            Kind::Arrays(arrays) => {
                let (width, height) = arrays.size();
                for dim in [arrays.len() as u64, u64::from(height), u64::from(width)] {
                    whole.update(dim.to_le_bytes());
                }
                for i in 0..arrays.len() {
                    whole.update(self.read_rgb(i)?.data);
                }
                self.labels.iter().flatten().for_each(|label| whole.update(label.to_le_bytes()));
            }
        }
        Ok(hex(&whole.finalize()))
    }

    /// True for a pack or an array, whose rows can be read at random at little cost.
    pub fn is_pack(&self) -> bool {
        matches!(self.kind, Kind::Pack(_) | Kind::Arrays(_))
    }

    /// An error about image `i`.
    pub(crate) fn bad(&self, i: usize, reason: impl ToString) -> Error {
        Error::BadImage { path: self.path.clone(), name: self.name(i).into_owned(), reason: reason.to_string() }
    }

    fn entry(&self, i: usize) -> Result<usize> {
        let kept: &[usize] = if let Kind::Files { kept, .. } = &self.kind { kept } else { &[] };
        kept.get(i).copied().ok_or_else(|| self.bad(i, format!("the set has no image {i}")))
    }
}

/// Numbers in an order without order: the mixing of SplitMix64 (Steele et al., "Fast splittable pseudorandom number
/// generators", OOPSLA 2014), which gives no two of them the same.
fn scramble(i: u64) -> u64 {
    let z = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A set of CIFAR-10's records with a picture among them would be that picture alone.
fn refuse_records_beside(path: &Path, image: &Entry, data_files: &[Entry]) -> Result<()> {
    match data_files.iter().find(|file| file.name.ends_with(b".bin")) {
        None => Ok(()),
        Some(records) => Err(Error::NotAnImageSet {
            path: path.to_owned(),
            reason: format!(
                "it holds images (`{}`) and CIFAR-10's records (`{}`)",
                source::shown(&image.name),
                source::shown(&records.name)
            ),
            hint: "give a folder or archive that holds either images or records",
        }),
    }
}

fn no_such_split(path: &Path, options: &OpenOptions, found: Vec<String>) -> Error {
    Error::NoSuchSplit { path: path.to_owned(), split: options.split.clone().unwrap_or_default(), found }
}

/// The bytes of a digest in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
