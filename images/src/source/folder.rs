//! Lists a folder and its subfolders. Links to files and folders are followed; a folder that contains itself is not
//! entered again. An image that cannot be opened (a broken link, say) is listed and fails when it is read.

use std::path::{Path, PathBuf};

use super::{Entry, Location, Source, Storage, is_hidden, is_wanted};
use crate::decode::Limits;
use crate::error::{Error, Result};

pub(super) fn list(path: &Path, limits: Limits) -> Result<Source> {
    let mut source =
        Source { path: path.to_owned(), storage: Storage::Folder, limits, entries: Vec::new(), other_files: 0 };
    let mut ancestors = Vec::new();
    walk(path, &[], &mut ancestors, &mut source)?;
    Ok(source)
}

fn walk(folder: &Path, prefix: &[u8], ancestors: &mut Vec<PathBuf>, source: &mut Source) -> Result<()> {
    let real = folder.canonicalize().map_err(|e| Error::io(folder, e))?;
    if ancestors.contains(&real) {
        return Ok(());
    }
    ancestors.push(real);
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
                    walk(&path, &name, ancestors, source)?;
                }
            }
            Ok(meta) if !meta.is_file() => source.other_files += 1,
            _ if is_wanted(&name) => source.entries.push(Entry { name, at: Location::Path(path) }),
            _ => source.other_files += 1,
        }
    }
    ancestors.pop();
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
