//! Lists tar files: one pass over the headers gives offset and size of each file; hard links share their target's bytes.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::{Entry, Location, Source, Storage, is_wanted, read_exact_at};
use crate::decode::Limits;
use crate::error::{Error, Result};

pub(super) fn list(path: &Path, limits: Limits) -> Result<Source> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
    let mut entries = Vec::new();
    let mut other_files = 0;
    let mut archive = tar::Archive::new(BufReader::new(&file));
    let walk = walk_entries(
        archive.entries_with_seek().map_err(|e| Error::archive(path, e))?,
        None,
        &mut other_files,
        |name, entry| {
            let (offset, size) = (entry.raw_file_position(), entry.size());
            if offset.checked_add(size).is_none_or(|end| end > length) {
                return Err("it ends in the middle of a file".to_owned());
            }
            entries.push(Entry { name, at: Location::Span { offset, size } });
            Ok((offset, size))
        },
    );
    let links = walk.map_err(|reason| Error::archive(path, reason))?;
    if !ends_as_archives_do(&file, length).map_err(|e| Error::io(path, e))? {
        return Err(Error::archive(path, "it does not end as an archive does: it may be cut off"));
    }
    entries.extend(links);
    Ok(Source { path: path.to_owned(), storage: Storage::File(file), limits, entries, other_files })
}

/// Whether a block of zeros ends the file. What was cut off between two files, or within one that is not wanted, shows in nothing else.
fn ends_as_archives_do(file: &File, length: u64) -> std::io::Result<bool> {
    let mut last = [1; BLOCK];
    let Some(at) = length.checked_sub(BLOCK as u64) else { return Ok(false) };
    read_exact_at(file, &mut last, at)?;
    Ok(last == [0; BLOCK])
}

/// Bytes of a tar's units.
const BLOCK: usize = 512;

/// Bytes of headers and long names before a file; real ones have a few hundred.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// Visits the wanted regular files and returns the wanted hard links, resolved to spans that `keep` returned.
///
/// `allowance`, for a reader that heeds it, bounds what is read between two files: names are held in memory, and those
/// of a compressed archive can be a thousand times its size.
pub(super) fn walk_entries<'a, R: Read + 'a>(
    mut entries: tar::Entries<'a, R>,
    allowance: Option<&Cell<u64>>,
    other_files: &mut usize,
    mut keep: impl FnMut(Vec<u8>, &mut tar::Entry<'a, R>) -> std::result::Result<(u64, u64), String>,
) -> std::result::Result<Vec<Entry>, String> {
    let allow = |bytes| allowance.iter().for_each(|allowance| allowance.set(bytes));
    let mut spans: HashMap<Vec<u8>, (u64, u64)> = HashMap::new();
    let mut links = Vec::new();
    loop {
        allow(MAX_HEADER_BYTES);
        let Some(entry) = entries.next() else { break };
        allow(u64::MAX);
        let mut entry = entry.map_err(|e| e.to_string())?;
        let name = entry.path_bytes().into_owned();
        let kind = entry.header().entry_type();
        let is_file = kind.is_file() || kind.is_contiguous();
        if is_file && is_wanted(&name) {
            let span = keep(name.clone(), &mut entry)?;
            spans.insert(name, span);
        } else if kind.is_hard_link() && is_wanted(&name) {
            let target = entry.link_name_bytes().unwrap_or_default().into_owned();
            match spans.get(&target) {
                Some(&(offset, size)) => links.push(Entry { name, at: Location::Span { offset, size } }),
                None => *other_files += 1,
            }
        } else if !kind.is_dir() {
            *other_files += 1;
        }
        if allowance.is_some() {
            // The content of a file that is not wanted is no header.
            std::io::copy(&mut entry, &mut std::io::sink()).map_err(|e| e.to_string())?;
        }
    }
    Ok(links)
}
