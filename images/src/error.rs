//! What can go wrong between a path and a picture. Each message names the file and the reason; `hint` says what to do.

use std::path::{Path, PathBuf};

/// Errors of opening, reading, packing and checking image sets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The path exists but is no kind of image set that is understood here.
    #[error("`{}` is not an image set: {reason}", path.display())]
    NotAnImageSet {
        /// The path that was given.
        path: PathBuf,
        /// What was found instead.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// A folder or archive without a single image in it.
    #[error("`{}` holds no images ({other_files} other files)", path.display())]
    NoImages {
        /// The path that was given.
        path: PathBuf,
        /// Files seen whose names do not end like an image's.
        other_files: usize,
    },
    /// None of the images of a set can be packed.
    #[error(
        "`{}`: none of {images} images can be packed: {too_small} have a shorter side below {min_side} px (the largest has {largest} px), \
         {unreadable} cannot be read",
        path.display()
    )]
    NonePacked {
        /// Folder or archive.
        path: PathBuf,
        /// How many were tried.
        images: usize,
        /// Of these, the ones that are too small.
        too_small: usize,
        /// `PackOptions::min_side`.
        min_side: u32,
        /// The longest of their shorter sides, px; 0 where none is too small.
        largest: u32,
        /// Those that cannot be read.
        unreadable: usize,
    },
    /// `OpenOptions::split` names a folder that is not there.
    #[error("`{}` has no split `{split}` ({})", path.display(), splits(found))]
    NoSuchSplit {
        /// The path that was given.
        path: PathBuf,
        /// What was asked for.
        split: String,
        /// First-level folders.
        found: Vec<String>,
    },
    /// A damaged or unsupported archive.
    #[error("`{}`: damaged or unsupported archive: {reason}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What its reader said.
        reason: String,
    },
    /// An archive that unpacks to more than the limit allows.
    #[error("`{}` unpacks to more than {limit_bytes} bytes", path.display())]
    ArchiveTooLarge {
        /// The archive.
        path: PathBuf,
        /// `Limits::max_unpacked_bytes`.
        limit_bytes: u64,
    },
    /// One image that cannot be used.
    #[error("`{}`: image `{name}`: {reason}", path.display())]
    BadImage {
        /// Folder or archive.
        path: PathBuf,
        /// Name inside it.
        name: String,
        /// Why.
        reason: String,
    },
    /// A damaged or foreign HDF5 pack.
    #[error("`{}`: not a usable HDF5 pack: {reason}", path.display())]
    Pack {
        /// The pack.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// Images of different sizes where one size is needed.
    #[error(
        "`{}`: images differ in size: `{first}` is {}x{} px, `{other}` is {}x{} px",
        path.display(), first_size.0, first_size.1, other_size.0, other_size.1
    )]
    MixedSizes {
        /// Folder or archive.
        path: PathBuf,
        /// Name of the image that set the size.
        first: String,
        /// Its width and height.
        first_size: (u32, u32),
        /// Name of the image that differs.
        other: String,
        /// Its width and height.
        other_size: (u32, u32),
    },
    /// An argument outside its range.
    #[error("{what} must be {range}, got {got}")]
    Argument {
        /// Which argument.
        what: &'static str,
        /// Allowed values.
        range: &'static str,
        /// The value given.
        got: String,
    },
    /// The caller asked to stop (progress callback returned false).
    #[error("stopped before the end; nothing was written to `{}`", path.display())]
    Stopped {
        /// The file that would have been written.
        path: PathBuf,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The splits that there are, for a message.
fn splits(found: &[String]) -> String {
    if found.is_empty() { "it has none".into() } else { format!("it has: {}", found.join(", ")) }
}

impl Error {
    /// One sentence on what the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => "check the path; relative paths start at the current folder",
                std::io::ErrorKind::PermissionDenied => "make the path readable and writable for this user",
                std::io::ErrorKind::StorageFull => "free some disk space or write elsewhere",
                std::io::ErrorKind::ReadOnlyFilesystem => {
                    "nothing can be written on that disk; choose another path"
                }
                _ => "check that the path can be read and that the disk is healthy",
            },
            Error::NotAnImageSet { hint, .. } => hint,
            Error::NoImages { .. } => {
                "images are files ending in .png, .jpg, .jpeg, .webp, .bmp, .gif, .tif or .tiff, in any subfolder; of CIFAR-10 the binary \
                 version is read, not Python's"
            }
            Error::NonePacked { too_small: 0, .. } => {
                "`nestgen data check` says of every image what is wrong with it"
            }
            Error::NonePacked { largest, .. } => {
                return Some(format!(
                    "take larger images, or smaller ones too: --min-side {largest} and below"
                ));
            }
            Error::NoSuchSplit { found, .. } if found.is_empty() => {
                "leave the split out: all images are read then"
            }
            Error::NoSuchSplit { .. } => "name one of those listed, or `all` for every image",
            Error::Archive { .. } => "copy or download the archive again and compare its checksum",
            Error::ArchiveTooLarge { .. } => "unpack it yourself and give the folder, if it is trusted",
            Error::BadImage { .. } => {
                "remove or replace the file; `nestgen data check` lists every bad file of the set, and `nestgen data pack \
                 --skip-bad` packs the others"
            }
            Error::Pack { .. } => {
                "write the pack again with `nestgen data pack`; in others' files call the images `images`: u8 [N, 3, H, W] or [N, H, W, 3]"
            }
            Error::MixedSizes { .. } => {
                "give a resolution with --res, to which each image is cropped and resized"
            }
            Error::Argument { .. } | Error::Stopped { .. } => return None,
        };
        Some(text.to_owned())
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Error {
        Error::Io { path: path.to_owned(), source }
    }

    pub(crate) fn archive(path: &Path, reason: impl ToString) -> Error {
        Error::Archive { path: path.to_owned(), reason: reason.to_string() }
    }
}
