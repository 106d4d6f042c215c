//! Lists and reads zip files. The central directory is read once; each read opens its own cursor on the shared file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::positioned::PositionedFile;
use super::{Entry, Location, OtherFiles, Source, Storage, is_wanted};
use crate::decode::Limits;
use crate::error::{Error, Result};

pub(super) fn list(path: &Path, limits: Limits) -> Result<Source> {
    let file = File::open(path).and_then(PositionedFile::new).map_err(|e| Error::io(path, e))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| Error::archive(path, e))?;
    // Some programs of Windows write its separator, and never the one of the format.
    let has = |byte: u8| archive.file_names().any(|name| name.as_bytes().contains(&byte));
    let windows = has(b'\\') && !has(b'/');
    let mut entries = Vec::new();
    let mut other_files = OtherFiles::default();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|e| Error::archive(path, e))?;
        let mut name = entry.name_raw().to_vec();
        if windows {
            name.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
        }
        if name.ends_with(b"/") {
            continue;
        }
        if is_wanted(&name) {
            entries.push(Entry { name, at: Location::ZipIndex(index) });
        } else {
            other_files.see(&name);
        }
    }
    Ok(Source { path: path.to_owned(), storage: Storage::Zip(archive), limits, entries, other_files })
}

/// Unpacks one entry. The claimed size is checked before, the real one while reading, so that a forged header gains nothing.
pub(super) fn read(
    archive: &zip::ZipArchive<PositionedFile>,
    index: usize,
    limit: u64,
) -> std::result::Result<Vec<u8>, String> {
    let mut archive = archive.clone();
    let entry = archive.by_index(index).map_err(|e| e.to_string())?;
    let claimed = entry.size();
    if claimed > limit {
        return Err(format!("unpacks to {claimed} bytes, above the limit of {limit}"));
    }
    // The claim is untrusted: reserve little, grow with what really arrives.
    let mut bytes = Vec::with_capacity(claimed.min(1 << 20) as usize);
    entry.take(limit + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > limit {
        return Err(format!("unpacks to more than the limit of {limit} bytes"));
    }
    Ok(bytes)
}
