//! Lists a folder and its subfolders. Links to files and folders are followed; a folder that contains itself is not
//! entered again. An image that cannot be opened (a broken link, say) is listed and fails when it is read.

use std::path::{Path, PathBuf};

use super::{Entry, Location, OtherFiles, Source, Storage, is_hidden, is_wanted};
use crate::decode::Limits;
use crate::error::{Error, Result};

pub(super) fn list(path: &Path, limits: Limits) -> Result<Source> {
    let mut source = Source {
        path: path.to_owned(),
        storage: Storage::Folder,
        limits,
        entries: Vec::new(),
        other_files: OtherFiles::default(),
    };
    walk(path, &[], &mut Way::default(), &mut source)?;
    Ok(source)
}

/// Folders that are visited at most. Links to folders can make a few look like millions.
const MAX_FOLDERS: usize = 1 << 18;

/// Where a walk is.
#[derive(Default)]
struct Way {
    /// The real paths from the root to here.
    ancestors: Vec<PathBuf>,
    visited: usize,
}

fn walk(folder: &Path, prefix: &[u8], way: &mut Way, source: &mut Source) -> Result<()> {
    let real = folder.canonicalize().map_err(|e| Error::io(folder, e))?;
    if way.ancestors.contains(&real) {
        return Ok(());
    }
    way.visited += 1;
    if way.visited > MAX_FOLDERS {
        return Err(Error::NotAnImageSet {
            path: source.path().to_owned(),
            reason: format!("it has more than {MAX_FOLDERS} folders, with those that links lead to"),
            hint: "remove links between its folders, or pack it as .tar or .zip",
        });
    }
    way.ancestors.push(real);
    for item in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let item = item.map_err(|e| Error::io(folder, e))?;
        let file_name = item.file_name();
        let mut name = prefix.to_vec();
        name.extend_from_slice(&name_bytes(&file_name));
        let path = item.path();
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => {
                if !is_hidden(&name) {
                    name.push(b'/');
                    walk(&path, &name, way, source)?;
                }
            }
            Ok(meta) if !meta.is_file() => source.other_files.see(&name),
            _ if is_wanted(&name) => source.entries.push(Entry { name, at: Location::Path(path) }),
            _ => source.other_files.see(&name),
        }
    }
    way.ancestors.pop();
    Ok(())
}

#[cfg(unix)]
fn name_bytes(name: &std::ffi::OsStr) -> Vec<u8> {
    std::os::unix::ffi::OsStrExt::as_bytes(name).to_vec()
}

#[cfg(not(unix))]
fn name_bytes(name: &std::ffi::OsStr) -> Vec<u8> {
    name.to_string_lossy().into_owned().into_bytes()
}
