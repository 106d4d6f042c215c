//! `ImageSet`: any source, opened: names, labels and pixels by index, in one fixed order (names sorted as raw bytes).

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::decode::{self, Header, Limits, RgbImage8};
use crate::error::{Error, Result};
use crate::layout::{Layout, layout};
use crate::source::{self, Source};

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
}

enum Kind {
    /// Encoded files: entries of `source` that are kept, and how many bytes of their names are common folders.
    Files { source: Source, kept: Vec<usize>, stripped: usize },
}

impl ImageSet {
    /// Opens a folder, `.zip`, `.tar` or `.tar.gz` and lists its images. No pixel is decoded.
    ///
    /// # Errors
    /// A missing or unreadable path, a damaged archive, a set without images, an unknown split.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<ImageSet> {
        let kind = source::kind_of(path)?;
        let mut source = Source::open(path, kind, options.limits, options.spool_bytes)?;
        let listed = source.entries.len();
        source.entries.retain(|entry| source::is_image_name(&entry.name));
        if source.entries.is_empty() {
            let other_files = source.other_files + listed;
            return Err(Error::NoImages { path: path.to_owned(), other_files });
        }
        let names: Vec<&[u8]> = source.entries.iter().map(|e| e.name.as_slice()).collect();
        let Layout { kept, stripped, labels, class_names, split } = layout(&names, options.split.as_deref())
            .map_err(|found| Error::NoSuchSplit {
                path: path.to_owned(),
                split: options.split.clone().unwrap_or_default(),
                found,
            })?;
        let kind = Kind::Files { source, kept, stripped };
        Ok(ImageSet { path: path.to_owned(), kind, labels, class_names, split })
    }

    /// Number of images; never 0.
    #[allow(clippy::len_without_is_empty)] // An empty set is an error of `open`.
    pub fn len(&self) -> usize {
        match &self.kind {
            Kind::Files { kept, .. } => kept.len(),
        }
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name of image `i` inside the source, for people (bytes that are not UTF-8 are replaced); empty if out of range.
    pub fn name(&self, i: usize) -> Cow<'_, str> {
        match &self.kind {
            Kind::Files { source, kept, .. } => {
                let entry = kept.get(i).and_then(|&at| source.entries.get(at));
                entry.map_or(Cow::Borrowed(""), |e| String::from_utf8_lossy(&e.name))
            }
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
                let at = self.entry(i)?;
                decode::decode_rgb(&source.read(at)?, source.limits()).map_err(|reason| source.bad(at, reason))
            }
        }
    }

    /// The encoded file of image `i`.
    ///
    /// # Errors
    /// `Error::BadImage` when it cannot be read.
    pub fn read_encoded(&self, i: usize) -> Result<Vec<u8>> {
        match &self.kind {
            Kind::Files { source, .. } => source.read(self.entry(i)?),
        }
    }

    /// Size, channels and depth of image `i` as stored.
    ///
    /// # Errors
    /// `Error::BadImage` with the image's name and the reason.
    pub fn read_header(&self, i: usize) -> Result<Header> {
        match &self.kind {
            Kind::Files { source, .. } => {
                let at = self.entry(i)?;
                decode::read_header(&source.read(at)?, source.limits()).map_err(|reason| source.bad(at, reason))
            }
        }
    }

    /// SHA-256 (hex) over the images' names below their common folder and the SHA-256 of their encoded bytes, in order:
    /// the same files give the same digest from a folder, a zip or a tar.
    ///
    /// # Errors
    /// The first file that cannot be read.
    pub fn digest(&self) -> Result<String> {
        let mut whole = Sha256::new();
        match &self.kind {
            Kind::Files { source, kept, stripped } => {
                for &at in kept {
                    let name = source.entries.get(at).and_then(|e| e.name.get(*stripped..)).unwrap_or_default();
                    whole.update((name.len() as u64).to_le_bytes());
                    whole.update(name);
                    whole.update(Sha256::digest(source.read(at)?));
                }
            }
        }
        Ok(hex(&whole.finalize()))
    }

    fn entry(&self, i: usize) -> Result<usize> {
        let Kind::Files { kept, .. } = &self.kind;
        kept.get(i).copied().ok_or_else(|| Error::BadImage {
            path: self.path.clone(),
            name: format!("number {i}"),
            reason: format!("the set has {} images", kept.len()),
        })
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
