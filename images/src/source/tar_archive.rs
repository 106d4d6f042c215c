//! Lists tar files: one pass over the headers gives offset and size of each file; links share their target's bytes.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::{Entry, Location, OtherFiles, RandomAccess, Source, Storage, is_wanted, read_exact_at};
use crate::decode::Limits;
use crate::error::{Error, Result};

pub(super) fn list(path: &Path, limits: Limits) -> Result<Source> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
    let mut other_files = OtherFiles::default();
    let mut archive = tar::Archive::new(BufReader::new(&file));
    let walk = walk_entries(
        archive.entries_with_seek().map_err(|e| Error::archive(path, e))?,
        None,
        &mut other_files,
        |entry| {
            let (offset, size) = (entry.raw_file_position(), entry.size());
            if offset.checked_add(size).is_none_or(|end| end > length) {
                return Err("it ends in the middle of a file".to_owned());
            }
            Ok((offset, size))
        },
    );
    let entries = walk.map_err(|reason| Error::archive(path, reason))?;
    if !ends_as_archives_do(&file, length).map_err(|e| Error::io(path, e))? {
        return Err(Error::archive(path, CUT_OFF));
    }
    Ok(Source {
        path: path.to_owned(),
        storage: Storage::Spans(RandomAccess::File(file)),
        limits,
        entries,
        other_files,
    })
}

/// Whether a block of zeros ends the file. What was cut off between two files, or within one that is not wanted, shows in nothing else.
fn ends_as_archives_do(file: &File, length: u64) -> std::io::Result<bool> {
    let mut last = [1; BLOCK];
    let Some(at) = length.checked_sub(BLOCK as u64) else { return Ok(false) };
    read_exact_at(file, &mut last, at)?;
    Ok(last == [0; BLOCK])
}

/// Bytes of a tar's units.
pub(super) const BLOCK: usize = 512;

/// What is wrong with an archive that no block of zeros ends.
pub(super) const CUT_OFF: &str = "it does not end as an archive does: it may be cut off";

/// Bytes of headers and long names before a file; real ones have a few hundred.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// Visits the wanted regular files, of which `keep` tells the spans, and lists them with the wanted links to them.
///
/// `allowance`, for a reader that heeds it, bounds what is read between two files: names are held in memory, and those
/// of a compressed archive can be a thousand times its size.
pub(super) fn walk_entries<'a, R: Read + 'a>(
    mut files: tar::Entries<'a, R>,
    allowance: Option<&Cell<u64>>,
    other_files: &mut OtherFiles,
    mut keep: impl FnMut(&mut tar::Entry<'a, R>) -> std::result::Result<(u64, u64), String>,
) -> std::result::Result<Vec<Entry>, String> {
    let allow = |bytes| allowance.iter().for_each(|allowance| allowance.set(bytes));
    let mut entries = Vec::new();
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    loop {
        allow(MAX_HEADER_BYTES);
        let Some(file) = files.next() else { break };
        allow(u64::MAX);
        let mut file = file.map_err(|e| e.to_string())?;
        let name = file.path_bytes().into_owned();
        let kind = file.header().entry_type();
        let target = || file.link_name_bytes().unwrap_or_default().into_owned();
        let at = if !is_wanted(&name) {
            None
        } else if kind.is_file() || kind.is_contiguous() {
            let (offset, size) = keep(&mut file)?;
            Some(Location::Span { offset, size })
        } else if kind.is_hard_link() {
            // The file of that name until now: a later one is another file.
            let target = target();
            let span = places.get(&below(b"", &target)).and_then(|&at| span(&entries, at));
            Some(span.unwrap_or(Location::Broken { folder: Vec::new(), target }))
        } else if kind.is_symlink() {
            // Relative to the folder of the link; a hard link's is to the whole archive.
            let folder = name.iter().rposition(|&b| b == b'/').and_then(|slash| name.get(..slash));
            Some(Location::Broken { folder: folder.unwrap_or_default().to_vec(), target: target() })
        } else {
            None
        };
        if let Some(at) = at {
            places.insert(below(b"", &name), entries.len());
            entries.push(Entry { name, at });
        } else if !kind.is_dir() {
            other_files.see(&name);
        }
        if allowance.is_some() {
            // The content of a file that is not wanted is no header.
            std::io::copy(&mut file, &mut std::io::sink()).map_err(|e| e.to_string())?;
        }
    }
    follow_links(&mut entries, &places);
    Ok(entries)
}

/// Gives symbolic links the bytes of the files that they lead to, over other links too.
fn follow_links(entries: &mut [Entry], places: &HashMap<Vec<u8>, usize>) {
    /// Links on a way, as on Linux: those that lead in a circle end nowhere.
    const MOST_LINKS: usize = 40;
    for i in 0..entries.len() {
        let mut at = Some(i);
        for _ in 0..MOST_LINKS {
            let Some(Location::Broken { folder, target }) =
                at.and_then(|at| entries.get(at)).map(|entry| &entry.at)
            else {
                break;
            };
            at = places.get(&below(folder, target)).copied();
        }
        if let (Some(found), Some(entry)) = (at.and_then(|at| span(entries, at)), entries.get_mut(i)) {
            entry.at = found;
        }
    }
}

/// Where the bytes of an entry lie, if it has some.
fn span(entries: &[Entry], at: usize) -> Option<Location> {
    match entries.get(at)?.at {
        Location::Span { offset, size } => Some(Location::Span { offset, size }),
        _ => None,
    }
}

/// The name that `path` has for one in `folder`, without `.` and `..`.
fn below(folder: &[u8], path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in folder.split(|&b| b == b'/').chain(path.split(|&b| b == b'/')) {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}
