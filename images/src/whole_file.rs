//! Large files that are there whole or not at all: written under a temporary name in their folder, synced, then renamed.

use std::fs::File;
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
        let file = builder.tempfile_in(folder).map_err(|e| Error::io(folder, e.kind().into()))?;
        // Where files cannot be locked, nobody sweeps either.
        let _ = file.as_file().try_lock();
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
            let abandoned = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
            if abandoned {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}
