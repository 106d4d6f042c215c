//! Files that are either the old ones or the new ones, never half of each, and digests as text.

use std::io::Write;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// Replaces the file at `path`: a reader sees the old one or the whole new one, after a power cut too.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = beside(path)?;
    file.write_all(bytes).map_err(Error::io(path))?;
    file.as_file().sync_all().map_err(Error::io(path))?;
    file.persist(path).map_err(|e| Error::io(path)(e.error))?;
    Ok(())
}

/// A temporary file in the folder of `path`.
pub(crate) fn beside(path: &Path) -> Result<NamedTempFile> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // The default mode keeps others out; statistics and features are shared, and left to the umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder).map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As any other program would make them, whatever the umask is.
    #[test]
    #[cfg(unix)]
    fn files_are_as_readable_as_others() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mode = |name: &str| {
            let meta = std::fs::metadata(folder.path().join(name)).expect("a file");
            meta.permissions().mode() & 0o777
        };
        std::fs::write(folder.path().join("plain"), b"1").expect("written");
        write_atomic(&folder.path().join("ours"), b"2").expect("written");
        write_atomic(&folder.path().join("plain"), b"3").expect("replaced");
        assert_eq!(mode("ours"), mode("plain"));
        let usual = std::fs::File::create(folder.path().join("usual")).expect("created");
        assert_eq!(mode("ours"), usual.metadata().expect("a file").permissions().mode() & 0o777);
        assert_eq!(std::fs::read(folder.path().join("plain")).expect("read"), b"3");
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 3, "no temporary files stay");
    }
}
