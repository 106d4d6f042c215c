//! Files that are either the old ones or the new ones, never half of each.
//!
//! A file is written under a temporary name in its folder, synced to the disk, then renamed; a folder of files
//! likewise. What a crash or a full disk leaves behind is a temporary name, which [`sweep`] removes. Many small
//! files share one sync: [`Pending`].

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// Marks names of unfinished files and folders.
const UNFINISHED: &str = ".unfinished-";
/// Marks names of whole folders that are about to be replaced.
const REPLACED: &str = ".replaced-";

fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{UNFINISHED}{name}"))
}

/// A name that no other process takes: two may write one report at once, and the last one's is then there, whole.
fn unfinished_here(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{UNFINISHED}{}-{name}", std::process::id()))
}

fn replaced(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{REPLACED}{name}"))
}

/// Replaces the file at `path`, or at the end of the links there, by what `write` writes, wholly or not at all.
///
/// What is there and is not a regular file, a device or a pipe, is written to: a rename would put a file in its place.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => Err(Error::Usage {
            message: format!("cannot write `{}`: it is a folder", path.display()),
            hint: Some("name a file".into()),
        }),
        Ok(there) if !there.is_file() || is_own_output(path) => {
            write_through(path, write).map_err(Error::io("write", path))
        }
        _ => {
            let place = behind_links(path)?;
            let temporary = unfinished_here(&place);
            let written = write_synced(&temporary, write).and_then(|()| fs::rename(&temporary, &place));
            finish(&place, &temporary, written, |temporary| fs::remove_file(temporary))
        }
    }
}

/// Whether a path is one of this process's open files. It may end at a regular file, to which others write as well. Other files
/// below `/dev`, such as those of `/dev/shm`, are files.
fn is_own_output(path: &Path) -> bool {
    ["/dev/stdout", "/dev/stderr"].iter().any(|name| path == Path::new(name))
        || path.starts_with("/dev/fd")
        || path.starts_with("/proc/self/fd")
}

/// Writes into what is there, which is neither created nor cut nor synced: pipes can do none of it.
fn write_through(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    // At its end, if it has one: what others have written stays.
    let mut file = BufWriter::new(File::options().append(true).open(path)?);
    write(&mut file)?;
    file.flush()
}

/// Where a file written to `path` would be: `path` itself, or where the symbolic links from there end, whether or not
/// something is there yet.
///
/// # Errors
/// When links go round in a circle.
pub fn behind_links(path: &Path) -> Result<PathBuf> {
    // As many as Linux follows.
    const MOST_LINKS: usize = 40;
    let mut place = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        let Ok(target) = fs::read_link(&place) else { return Ok(place) };
        place.pop();
        place.push(target);
    }
    Err(Error::Usage {
        message: format!("cannot write `{}`: its symbolic links go round in a circle", path.display()),
        hint: Some("name another file, or remove the link".into()),
    })
}

/// Whether both paths lead to one file or folder that is there; a path without names is the current folder.
pub fn same_place(a: &Path, b: &Path) -> bool {
    let place =
        |path: &Path| if path.as_os_str().is_empty() { Path::new(".") } else { path }.canonicalize().ok();
    place(a).is_some_and(|a| Some(a) == place(b))
}

/// Whether `folder`, which may not be there yet, lies in the folder `outer` or is it.
///
/// # Errors
/// When the current folder is gone.
pub fn lies_in(folder: &Path, outer: &Path) -> Result<bool> {
    let now = std::path::absolute(folder).map_err(Error::io("find", folder))?;
    let there = now.ancestors().find_map(|part| part.canonicalize().ok());
    let outer = outer.canonicalize().ok().filter(|outer| outer.is_dir());
    Ok(matches!((there, outer), (Some(there), Some(outer)) if there.starts_with(&outer)))
}

/// Replaces the folder at `path` by one that `fill` fills, wholly or not at all.
///
/// `fill` gets the temporary folder, where it creates files with [`write_synced`].
pub fn write_folder_atomic(path: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    let temporary = unfinished(path);
    let written = (|| {
        remove_folder(&temporary)?;
        fs::create_dir(&temporary)?;
        fill(&temporary)?;
        sync_folder(&temporary)?;
        if path.exists() {
            // A folder with content cannot be renamed over: the old one steps aside first. A crash between the
            // two renames leaves it under a name from which `sweep` brings it back.
            let old = replaced(path);
            remove_folder(&old)?;
            fs::rename(path, &old)?;
            fs::rename(&temporary, path)?;
            remove_folder(&old)
        } else {
            fs::rename(&temporary, path)
        }
    })();
    finish(path, &temporary, written, |temporary| fs::remove_dir_all(temporary))
}

fn finish(
    path: &Path,
    temporary: &Path,
    written: io::Result<()>,
    remove: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    match written.and_then(|()| sync_folder(parent)) {
        Ok(()) => Ok(()),
        Err(error) => {
            // Give the space back; the error that is reported is the first one.
            let _ = remove(temporary);
            Err(Error::io("write", path)(error))
        }
    }
}

/// Creates a file and makes sure that it is on the disk before returning.
pub fn write_synced(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    write(&mut file)?;
    file.flush()?;
    file.get_ref().sync_all()
}

/// Files that are written one by one, from any thread, and get their names together after one sync for all of
/// them: syncing each of a thousand small files takes longer than making them.
///
/// What is not committed is removed when this is dropped.
pub struct Pending {
    folder: PathBuf,
    /// Final names of the files that wait under temporary ones.
    written: Mutex<Vec<PathBuf>>,
}

impl Pending {
    /// For files in `folder`, which is there already.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), written: Mutex::default() }
    }

    /// Writes the file `name` under its temporary name.
    ///
    /// # Errors
    /// When the file cannot be written whole.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        let temporary = unfinished(&path);
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
        fs::write(temporary, bytes).map_err(Error::io("write", path))
    }

    /// Puts what was written on the disk, then gives every file its name.
    ///
    /// # Errors
    /// When the disk fails. Files that have no name yet are removed on drop.
    pub fn commit(&self) -> Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.is_empty() {
            return Ok(());
        }
        sync_files(&self.folder, &written).map_err(Error::io("write", &self.folder))?;
        while let Some(path) = written.last() {
            fs::rename(unfinished(path), path).map_err(Error::io("write", path))?;
            written.pop();
        }
        sync_folder(&self.folder).map_err(Error::io("write", &self.folder))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        for path in self.written.get_mut().unwrap_or_else(PoisonError::into_inner) {
            // One that was never created is no loss; others give their space back.
            let _ = fs::remove_file(unfinished(path));
        }
    }
}

/// Makes sure that the unfinished files of `paths`, all in `folder`, are on the disk.
#[cfg(target_os = "linux")]
fn sync_files(folder: &Path, _: &[PathBuf]) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

/// Makes sure that the unfinished files of `paths`, all in `folder`, are on the disk.
#[cfg(not(target_os = "linux"))]
fn sync_files(_: &Path, paths: &[PathBuf]) -> io::Result<()> {
    paths.iter().try_for_each(|path| File::options().write(true).open(unfinished(path))?.sync_all())
}

/// A rename is durable only once its folder is synced.
fn sync_folder(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)?.sync_all()
}

/// Removes a folder so that it is there whole or not at all, whenever the process ends.
pub fn remove_folder_atomic(path: &Path) -> Result<()> {
    let temporary = unfinished(path);
    let removed = remove_folder(&temporary).and_then(|()| fs::rename(path, &temporary));
    removed.and_then(|()| remove_folder(&temporary)).map_err(Error::io("remove", path))
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes what a crashed run left unfinished in `dir`, and brings back what it was about to replace.
pub fn sweep(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        let swept = match name.strip_prefix(REPLACED) {
            Some(name) if !dir.join(name).exists() => fs::rename(&path, dir.join(name)),
            Some(_) => fs::remove_dir_all(&path),
            None if !name.starts_with(UNFINISHED) => Ok(()),
            None if path.is_dir() => fs::remove_dir_all(&path),
            None => fs::remove_file(&path),
        };
        swept.map_err(Error::io("tidy up", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_full() -> io::Error {
        io::Error::from(io::ErrorKind::StorageFull)
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_open_files_are_written_through() {
        for path in ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/2"] {
            assert!(is_own_output(Path::new(path)), "{path}");
        }
        for path in ["/dev/shm/runs/config.toml", "/dev/stdout.csv", "stdout", "/proc/self/fdx"] {
            assert!(!is_own_output(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn a_full_disk_leaves_the_old_file_and_no_rubbish() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_atomic(&path, |file| file.write_all(b"old")).unwrap();
        let failed = write_atomic(&path, |file| {
            file.write_all(b"half of the n")?;
            Err(disk_full())
        });
        assert!(failed.unwrap_err().hint().unwrap().contains("free some space"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    #[cfg(unix)]
    fn links_are_followed_and_stay() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("far")).unwrap();
        fs::write(at("far/file"), b"old").unwrap();
        for (link, target) in [("a", "b"), ("b", "far/file"), ("new", "far/new"), ("circle", "circle")] {
            symlink(target, at(link)).unwrap();
        }
        write_atomic(&at("a"), |file| file.write_all(b"one")).unwrap();
        write_atomic(&at("new"), |file| file.write_all(b"two")).unwrap();
        assert!(write_atomic(&at("circle"), |file| file.write_all(b"three")).is_err());
        assert_eq!(
            (fs::read(at("far/file")).unwrap(), fs::read(at("far/new")).unwrap()),
            (b"one".into(), b"two".into())
        );
        assert!(["a", "b", "new", "circle"].iter().all(|name| at(name).is_symlink()));
        assert_eq!((names(dir.path()).len(), names(&at("far"))), (5, vec!["file".into(), "new".into()]));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_device_is_written_to_and_a_folder_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("full");
        std::os::unix::fs::symlink("/dev/full", &link).unwrap();
        let error = write_atomic(&link, |file| file.write_all(b"x")).unwrap_err();
        assert!(error.to_string().contains("No space left") && link.is_symlink(), "{error}");
        let error = write_atomic(dir.path(), |file| file.write_all(b"x")).unwrap_err();
        assert!(error.to_string().contains("it is a folder") && error.hint().is_some(), "{error}");
    }

    #[test]
    fn a_file_is_begun_under_a_name_that_only_this_process_takes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.html");
        write_atomic(&path, |file| {
            assert_eq!(names(dir.path()), [format!(".unfinished-{}-report.html", std::process::id())]);
            file.write_all(b"x")
        })
        .unwrap();
        assert_eq!(names(dir.path()), ["report.html"]);
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let fill =
            |text: &'static [u8]| move |dir: &Path| write_synced(&dir.join("a"), |file| file.write_all(text));
        write_folder_atomic(&path, fill(b"one")).unwrap();
        let failed = write_folder_atomic(&path, |dir| {
            fill(b"two")(dir)?;
            Err(disk_full())
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(path.join("a")).unwrap(), b"one");
        write_folder_atomic(&path, fill(b"three")).unwrap();
        assert_eq!(fs::read(path.join("a")).unwrap(), b"three");
        assert_eq!(names(dir.path()), ["state"]);
    }

    #[test]
    fn pending_files_appear_together_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let pending = Pending::new(dir.path());
        pending.write("a", b"1").unwrap();
        pending.write("b", b"2").unwrap();
        assert_eq!(names(dir.path()), [".unfinished-a", ".unfinished-b"]);
        pending.commit().unwrap();
        assert_eq!(names(dir.path()), ["a", "b"]);
        pending.write("a", b"3").unwrap();
        // A folder stands where a file has to go: the others stay as they were.
        fs::create_dir(dir.path().join(".unfinished-c")).unwrap();
        assert!(pending.write("c", b"4").is_err());
        fs::remove_dir(dir.path().join(".unfinished-c")).unwrap();
        drop(pending);
        assert_eq!(
            (names(dir.path()), fs::read(dir.path().join("a")).unwrap()),
            (vec!["a".into(), "b".into()], b"1".to_vec())
        );
    }

    #[test]
    fn sweeping_removes_only_what_is_unfinished() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".replaced-whole")).unwrap();
        fs::create_dir(dir.path().join(".replaced-z")).unwrap();
        fs::write(dir.path().join(".unfinished-x"), "").unwrap();
        fs::create_dir(dir.path().join(".unfinished-y")).unwrap();
        fs::write(dir.path().join("z"), "").unwrap();
        sweep(dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["whole", "z"]);
    }
}
