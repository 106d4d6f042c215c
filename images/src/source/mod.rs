//! Where encoded files come from: a folder, a zip, a tar, or a tar.gz unpacked once into a spool. Each gives a list of
//! entries sorted by name bytes and random reads that many threads may do at once. Names are only ever compared and shown,
//! never used to write.

mod folder;
mod gzip;
mod positioned;
mod spool;
mod tar_archive;
mod zip_archive;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::dataset_json::is_dataset_json;
use crate::decode::Limits;
use crate::error::{Error, Result};
pub(crate) use positioned::{PositionedFile, RandomAccess, read_exact_at};
pub(crate) use spool::{Spool, no_room};

/// One file of a source.
pub(crate) struct Entry {
    /// Name inside the source, `/`-separated bytes.
    pub(crate) name: Vec<u8>,
    at: Location,
}

enum Location {
    Path(PathBuf),
    ZipIndex(usize),
    Span {
        offset: u64,
        size: u64,
    },
    /// A link to another file of its archive, by a name that leads to none that is kept.
    Broken {
        /// What the name is relative to.
        folder: Vec<u8>,
        target: Vec<u8>,
    },
}

enum Storage {
    Folder,
    Zip(zip::ZipArchive<PositionedFile>),
    /// Of a tar, and of a tar.gz unpacked.
    Spans(RandomAccess),
}

/// A listed source.
pub(crate) struct Source {
    path: PathBuf,
    storage: Storage,
    limits: Limits,
    /// Image and data files, sorted by name.
    pub(crate) entries: Vec<Entry>,
    pub(crate) other_files: OtherFiles,
}

/// The files of a set that are no images; hidden ones are not among them.
#[derive(Clone, Debug, Default)]
pub struct OtherFiles {
    /// How many there are.
    pub count: usize,
    /// How their names end, in lower case and without the dot; a handful, where there are more.
    pub endings: BTreeSet<String>,
}

impl OtherFiles {
    fn see(&mut self, name: &[u8]) {
        /// An archive may hold any number of endings, of any length.
        const MOST: usize = 16;
        if is_hidden(name) {
            return;
        }
        self.count += 1;
        let mut parts = base_name(name).rsplit(|&b| b == b'.');
        if let (Some(ending), Some(_)) = (parts.next(), parts.next())
            && (1..=MOST).contains(&ending.len())
            && self.endings.len() < MOST
        {
            self.endings.insert(shown(ending).to_lowercase());
        }
    }
}

/// What kind of source a path is, by its content.
pub(crate) enum Kind {
    Folder,
    Zip,
    Tar,
    TarGz,
    Hdf5,
}

pub(crate) const HDF5_MAGIC: &[u8] = b"\x89HDF\r\n\x1a\n";
const TAR_MAGIC_AT: usize = 257;

/// Whether a file begins as HDF5 files do.
///
/// # Errors
/// When it cannot be read.
pub fn is_hdf5(path: &Path) -> std::io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(HDF5_MAGIC.len() as u64).read_to_end(&mut head)?;
    Ok(head == HDF5_MAGIC)
}

/// Tells the kind of `path` from its first bytes (its name only breaks ties).
pub(crate) fn kind_of(path: &Path) -> Result<Kind> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if meta.is_dir() {
        return Ok(Kind::Folder);
    }
    // Opening a pipe would wait for a writer, perhaps for ever, and nothing in it can be read twice.
    if !meta.is_file() {
        return Err(Error::NotAnImageSet {
            path: path.to_owned(),
            reason: "it is neither a file nor a folder".into(),
            hint: "give a folder, .zip, .tar, .tar.gz, an HDF5 pack or an .npz of images",
        });
    }
    let mut head = Vec::new();
    File::open(path).and_then(|f| f.take(512).read_to_end(&mut head)).map_err(|e| Error::io(path, e))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let refuse = |reason: &str, hint| {
        Err(Error::NotAnImageSet { path: path.to_owned(), reason: reason.to_owned(), hint })
    };
    const REPACK: &str = "pack it again as .tar, .tar.gz or .zip, or unpack it and give the folder";
    if head.starts_with(b"PK") {
        Ok(Kind::Zip)
    } else if head.starts_with(HDF5_MAGIC) {
        Ok(Kind::Hdf5)
    } else if head.starts_with(&[0x1f, 0x8b]) {
        Ok(Kind::TarGz)
    } else if head.get(TAR_MAGIC_AT..TAR_MAGIC_AT + 5) == Some(b"ustar") {
        Ok(Kind::Tar)
    } else if head.starts_with(b"BZh") || head.starts_with(b"\xfd7zXZ") || head.starts_with(b"\x28\xb5\x2f\xfd")
    {
        refuse("its compression is not supported", REPACK)
    } else if image::guess_format(&head).is_ok() {
        refuse("it is a single image", "give the folder that holds the images")
    } else if [".zip", ".tar", ".gz", ".tgz"].iter().any(|suffix| name.ends_with(suffix)) {
        Err(Error::archive(path, "its first bytes are not those of such an archive"))
    } else if [".h5", ".hdf5"].iter().any(|suffix| name.ends_with(suffix)) {
        Err(Error::Pack { path: path.to_owned(), reason: "its first bytes are not those of HDF5".into() })
    } else {
        refuse("unknown kind of file", "give a folder, .zip, .tar, .tar.gz, an HDF5 pack or an .npz of images")
    }
}

impl Source {
    /// Lists a folder, zip, tar or tar.gz. `spool_bytes`: unpacked size up to which a tar.gz stays in memory.
    pub(crate) fn open(path: &Path, kind: Kind, limits: Limits, spool_bytes: usize) -> Result<Source> {
        let mut source = match kind {
            Kind::Folder => folder::list(path, limits)?,
            Kind::Zip => zip_archive::list(path, limits)?,
            Kind::Tar => tar_archive::list(path, limits)?,
            Kind::TarGz => gzip::unpack(path, limits, spool_bytes)?,
            Kind::Hdf5 => return Err(Error::Pack { path: path.to_owned(), reason: "is a pack".into() }),
        };
        source.entries.sort_by(|a, b| a.name.cmp(&b.name));
        // An archive may hold a name twice: the later file counts, as when it is unpacked.
        source.entries.dedup_by(|later, kept| {
            let same = later.name == kept.name;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        Ok(source)
    }

    /// The file of entry `at` of a folder.
    pub(crate) fn file(&self, at: usize) -> Option<&Path> {
        match &self.entries.get(at)?.at {
            Location::Path(path) => Some(path),
            _ => None,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// An error about entry `i`.
    pub(crate) fn bad(&self, i: usize, reason: impl ToString) -> Error {
        let name = self.entries.get(i).map_or(String::new(), |e| shown(&e.name));
        Error::BadImage { path: self.path.clone(), name, reason: reason.to_string() }
    }

    /// The bytes of entry `i`.
    pub(crate) fn read(&self, i: usize) -> Result<Vec<u8>> {
        let entry = self.entries.get(i).ok_or_else(|| self.bad(i, format!("no entry {i}")))?;
        let limit = self.limits.max_file_bytes;
        let too_large = |size: u64| self.bad(i, format!("{size} bytes, above the limit of {limit}"));
        match (&entry.at, &self.storage) {
            (Location::Path(path), _) => {
                let meta = std::fs::metadata(path).map_err(|e| self.bad(i, e))?;
                // It was a file when the folder was listed.
                if !meta.is_file() {
                    return Err(self.bad(i, "it is no file any more"));
                }
                if meta.len() > limit {
                    return Err(too_large(meta.len()));
                }
                let mut bytes = Vec::with_capacity(meta.len() as usize);
                let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
                match read.map_err(|e| self.bad(i, e))? {
                    size if size as u64 > limit => Err(too_large(size as u64)),
                    _ => Ok(bytes),
                }
            }
            (Location::ZipIndex(index), Storage::Zip(archive)) => {
                zip_archive::read(archive, *index, limit).map_err(|reason| self.bad(i, reason))
            }
            (Location::Broken { target, .. }, _) => {
                Err(self.bad(i, format!("a link to `{}`, which is no image of the archive", shown(target))))
            }
            (Location::Span { size, .. }, _) if *size > limit => Err(too_large(*size)),
            (Location::Span { offset, size }, Storage::Spans(archive)) => {
                let mut bytes = vec![0; *size as usize];
                archive.read_exact_at(&mut bytes, *offset).map_err(|e| self.bad(i, e))?;
                Ok(bytes)
            }
            _ => Err(self.bad(i, "listed in another kind of source")),
        }
    }
}

/// A name for people: bytes that are not UTF-8 are replaced, and characters that would move a terminal's cursor or
/// begin a new line are written as escapes.
pub(crate) fn shown(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for c in String::from_utf8_lossy(name).chars() {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text
}

/// Whether a listing keeps this file: images by their extension, the files of the CIFAR-10 binary version, and lists of classes.
fn is_wanted(name: &[u8]) -> bool {
    is_image_name(name) || is_cifar_name(name) || is_dataset_json(name)
}

/// True for the extensions that count as images; hidden files and macOS resource forks do not.
pub fn is_image_name(name: &[u8]) -> bool {
    const EXTENSIONS: [&[u8]; 9] = [b"png", b"jpg", b"jpeg", b"jfif", b"webp", b"bmp", b"gif", b"tif", b"tiff"];
    if is_hidden(name) {
        return false;
    }
    let mut parts = name.rsplit(|&b| b == b'.');
    let (Some(extension), Some(_)) = (parts.next(), parts.next()) else { return false };
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// True for `data_batch_*.bin`, `test_batch.bin` and `batches.meta.txt`.
pub(crate) fn is_cifar_name(name: &[u8]) -> bool {
    let file = base_name(name);
    file == b"test_batch.bin"
        || file == b"batches.meta.txt"
        || (file.starts_with(b"data_batch_") && file.ends_with(b".bin"))
}

pub(crate) fn base_name(name: &[u8]) -> &[u8] {
    name.rsplit(|&b| b == b'/').next().unwrap_or(name)
}

/// Whether a file or folder of this name, or in one, is passed over: what begins with a dot, and what systems put beside people's
/// files.
pub fn is_hidden(name: &[u8]) -> bool {
    /// Of systems and storage boxes: resource forks, thumbnails, wastebaskets.
    const NOBODYS: [&[u8]; 6] =
        [b"__MACOSX", b"@eaDir", b"#recycle", b"$RECYCLE.BIN", b"System Volume Information", b"lost+found"];
    name.split(|&b| b == b'/')
        .any(|part| (part.starts_with(b".") && part != b"." && part != b"..") || NOBODYS.contains(&part))
}
