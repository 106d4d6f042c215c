//! Large files that are there whole or not at all: written under a temporary name in their folder, synced, then renamed.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::error::{Error, Result};

/// Begin and end of the names of unfinished files.
const UNFINISHED: [&str; 2] = [".whole-", ".tmp"];

/// A file that has no name yet; it is gone when this is dropped.
pub(crate) struct WholeFile(tempfile::NamedTempFile);

impl WholeFile {
    /// An empty file in the folder of `target`.
    pub(crate) fn beside(target: &Path) -> Result<Self> {
        let folder = folder_of(target);
        sweep(folder);
        let mut builder = tempfile::Builder::new();
        builder.prefix(UNFINISHED[0]).suffix(UNFINISHED[1]);
        // The default mode keeps others out; this is an ordinary file, left to the umask.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        // The kind alone: the message would name a temporary file that the user never asked for.
        let make = || builder.tempfile_in(folder).map_err(|e| Error::io(folder, e.kind().into()));
        let mut file = make()?;
        // Once is rare. Where it goes on, locks mean nothing here.
        for _ in 0..10 {
            if is_ours(&file) {
                break;
            }
            file = make()?;
        }
        Ok(Self(file))
    }

    pub(crate) fn file(&self) -> &File {
        self.0.as_file()
    }

    /// Puts what was written on the disk and gives it its name, in the place of what was there; says how many bytes it is.
    pub(crate) fn keep(self, target: &Path) -> Result<u64> {
        let bytes = self.sync(target)?;
        self.0.persist(target).map_err(|e| Error::io(target, e.error))?;
        sync_folder(target);
        Ok(bytes)
    }

    /// The same, but where something is there already, it stays and this is gone.
    pub(crate) fn keep_new(self, target: &Path) -> Result<()> {
        self.sync(target)?;
        self.0.persist_noclobber(target).map_err(|e| Error::io(target, e.error))?;
        sync_folder(target);
        Ok(())
    }

    fn sync(&self, target: &Path) -> Result<u64> {
        self.file().sync_all().map_err(|e| Error::io(target, e))?;
        Ok(self.file().metadata().map_err(|e| Error::io(target, e))?.len())
    }
}

/// Locks a file that was just made. Not so where another process, which sweeps, found it before it was locked: that removes it.
fn is_ours(file: &tempfile::NamedTempFile) -> bool {
    match file.as_file().try_lock() {
        Ok(()) => is_named(file),
        Err(TryLockError::WouldBlock) => false,
        // Where files cannot be locked, nobody sweeps either.
        Err(TryLockError::Error(_)) => true,
    }
}

/// Whether the file still goes by its name.
#[cfg(unix)]
fn is_named(file: &tempfile::NamedTempFile) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let named = std::fs::metadata(file.path()).ok().map(place);
    named.is_some() && named == file.as_file().metadata().ok().map(place)
}

/// Open files cannot be removed here.
#[cfg(not(unix))]
fn is_named(_: &tempfile::NamedTempFile) -> bool {
    true
}

/// Makes the rename last through a power cut, where the system can.
fn sync_folder(target: &Path) {
    if let Ok(folder) = File::open(folder_of(target)) {
        let _ = folder.sync_all();
    }
}

fn folder_of(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes what a killed process has left here: such a file is hidden, may be as large as the set, and nobody holds it.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(UNFINISHED[0]) && name.ends_with(UNFINISHED[1]) {
            // Held until the file is gone, so that nobody takes it for theirs in between.
            if let Ok(file) = File::open(entry.path())
                && file.try_lock().is_ok()
            {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another process may sweep between the making of a file and its locking.
    #[test]
    fn a_file_that_was_swept_before_it_was_locked_is_not_ours() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made = || tempfile::NamedTempFile::new_in(folder.path()).expect("a file");
        let (kept, held, swept) = (made(), made(), made());
        assert!(is_ours(&kept));
        let sweeper = File::open(held.path()).expect("opened");
        sweeper.lock().expect("locked");
        assert!(!is_ours(&held));
        std::fs::remove_file(swept.path()).expect("removed");
        assert!(!is_ours(&swept));
        std::fs::write(swept.path(), b"another").expect("written");
        assert!(!is_ours(&swept), "another file of the name");
        drop(sweeper);
        assert!(is_ours(&held));
        // What is ours is swept by nobody; what nobody holds is.
        let whole = WholeFile::beside(&folder.path().join("target")).expect("a file");
        std::fs::write(folder.path().join(".whole-abandoned.tmp"), b"").expect("written");
        sweep(folder.path());
        assert!(is_named(&whole.0) && !folder.path().join(".whole-abandoned.tmp").exists());
    }
}
