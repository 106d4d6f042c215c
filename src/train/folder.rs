//! The folder of a run, `runs/00007-<data>-<preset>/`, with the names that users of StyleGAN's tools know.

// Reads what may be hostile: nothing in it may end the program.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::{lies_in, sweep, write_atomic};
use super::grid::Picture;
use super::state::{CONFIG, Position};
use super::{state, stats, tensors};
use crate::error::{Error, Result};

/// Holds the reason in the folder of a run that diverged: `compare` must not take it for a short one.
pub const DIVERGED: &str = "diverged.txt";

/// The snapshot of the best score so far.
pub(super) const BEST: &str = "network-snapshot-best.safetensors";

/// Begins the names of what a run left behind when it was resumed from an earlier state.
pub(super) const ABANDONED: &str = "abandoned";

/// In the place of a run's name: the newest one.
pub const LATEST: &str = "latest";

/// Runs that begin at the same time number themselves one after the other while one has this: where a folder can be locked, and
/// nobody else holds it for long.
fn turn(outdir: &Path) -> Option<File> {
    let folder = File::open(outdir).ok()?;
    for _ in 0..100 {
        match folder.try_lock() {
            Ok(()) => return Some(folder),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
            Err(TryLockError::Error(_)) => return None,
        }
    }
    None
}

/// Refuses a folder of results among images: the next reading would take its pictures for some of them.
///
/// # Errors
/// When `outdir` lies in the folder `images`; when that cannot be told.
pub fn refuse_among_images(outdir: &Path, images: &str) -> Result<()> {
    if images.is_empty() || !lies_in(outdir, Path::new(images))? {
        return Ok(());
    }
    Err(Error::Usage {
        message: format!("`{}` lies in the folder of the images, `{images}`", outdir.display()),
        hint: Some("runs write pictures, which would be read as images later: name another --outdir".into()),
    })
}

/// An open run folder; nobody else can train in it while it is open.
pub struct RunFolder {
    path: PathBuf,
    _lock: Option<File>,
}

impl RunFolder {
    /// Makes the next folder in `outdir`: its number is one above the highest there.
    ///
    /// # Errors
    /// When `outdir` cannot be made or written to.
    pub fn create(outdir: &Path, data: &str, preset: &str) -> Result<Self> {
        fs::create_dir_all(outdir).map_err(Error::io("create", outdir))?;
        let _turn = turn(outdir);
        let mut number = numbered(outdir)?.last().map_or(0, |(number, _)| number + 1);
        let slug = |text: &str| text.replace(|c: char| !(c.is_ascii_alphanumeric() || "._".contains(c)), "_");
        loop {
            let path = outdir.join(format!("{number:05}-{}-{}", slug(data), slug(preset)));
            match fs::create_dir(&path) {
                Ok(()) => return Self::lock(&path),
                // Another run took the name in the meantime.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(Error::io("create", &path)(error)),
            }
        }
    }

    /// Opens a run folder to go on in it, and removes what a crash left unfinished.
    ///
    /// # Errors
    /// When it is none, or another process trains in it.
    pub fn open(path: &Path) -> Result<Self> {
        // Somebody's other folder may hold files of these names.
        if !path.join(CONFIG).is_file() {
            return Err(Error::no_run_folder(path));
        }
        Self::lock(path)
    }

    fn lock(path: &Path) -> Result<Self> {
        let lock = lock(path, "wait for it or stop it; training without --resume starts a run of its own")?;
        sweep(path)?;
        Ok(Self { path: path.to_path_buf(), _lock: Some(lock) })
    }

    /// The folder that another rank has opened: this one reads states from it and writes nothing.
    pub fn follow(path: PathBuf) -> Self {
        Self { path, _lock: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Replaces a small file.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_atomic(&self.file(name), |file| file.write_all(bytes))
    }

    /// Writes a picture as PNG and gives its bytes back.
    pub fn write_picture(&self, name: &str, picture: &Picture) -> Result<Vec<u8>> {
        picture.write(&self.file(name))
    }

    /// Notes that the run ended before its time.
    pub fn mark_diverged(&self, why: &str) -> Result<()> {
        self.write(DIVERGED, format!("{why}\n").as_bytes())
    }

    /// Takes the note of [`RunFolder::mark_diverged`] away: the run goes on.
    pub fn forget_divergence(&self) -> Result<()> {
        let note = self.file(DIVERGED);
        match fs::remove_file(&note) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", note)(error)),
            _ => Ok(()),
        }
    }

    /// Renames the states, snapshots and pictures of more kimg than a resumed run is at, and gives how many: they belong to
    /// another future, which the next resume, `sample`, scores and reports would take for this one's.
    ///
    /// Where the numbered snapshot of the best score until then was kept, it is the best one again.
    pub fn set_aside_beyond(&self, position: &Position) -> Result<usize> {
        let cur_nimg = position.cur_nimg;
        let states_and_snapshots = [state::numbered(&self.path)?, snapshots(&self.path)?].concat();
        let mut beyond: Vec<PathBuf> = later_than(cur_nimg, states_and_snapshots).collect();
        // After a kill a best one that is ahead is not of another future: the run comes by it again.
        let best = self.file(BEST);
        let turned_back =
            !beyond.is_empty() && snapshot_kimg(&best).is_some_and(|kimg| kimg > cur_nimg as f64 / 1e3);
        beyond.extend(turned_back.then(|| best.clone()));
        if !beyond.is_empty() {
            beyond.extend(later_than(cur_nimg, pictures(&self.path)?));
        }
        beyond.iter().try_for_each(|path| set_aside(path))?;
        if let Some(kimg) = position.best.as_ref().map(|best| best.kimg).filter(|_| turned_back) {
            let kept = self.file(&snapshot_name((kimg * 1e3).round() as u64));
            if snapshot_kimg(&kept).is_some_and(|of| (of - kimg).abs() < 5e-4) {
                let bytes = fs::read(&kept).map_err(Error::io("read", &kept))?;
                self.write(BEST, &bytes)?;
            }
        }
        Ok(beyond.len())
    }

    /// Renames states, snapshots and pictures of what a run gives up that goes back to `nimg`: `latest` is none of them, nor are they
    /// what it has learned. The best generator so far stays the best.
    pub(super) fn set_aside_after(&self, nimg: u64) -> Result<()> {
        let all = [state::numbered(&self.path)?, snapshots(&self.path)?, pictures(&self.path)?].concat();
        later_than(nimg, all).try_for_each(|path| set_aside(&path))
    }

    /// Appends a line to `log.txt`.
    pub fn log(&self, line: &str) -> Result<()> {
        stats::append_line(&self.file("log.txt"), line)
    }
}

/// The paths that were written after `nimg` images, by the kimg in their names.
fn later_than(nimg: u64, numbered: Vec<(u64, PathBuf)>) -> impl Iterator<Item = PathBuf> {
    numbered.into_iter().filter(move |(kimg, _)| *kimg > nimg / 1000).map(|(_, path)| path)
}

fn pictures(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    numbered_files(run, "fakes", ".png")
}

fn set_aside(path: &Path) -> Result<()> {
    fs::rename(path, free_name(path, ABANDONED)).map_err(Error::io("rename", path))
}

/// Holds a folder for this process, until the file is dropped.
///
/// # Errors
/// When another process holds it; `hint` says what to do then.
pub(crate) fn lock(folder: &Path, hint: &str) -> Result<File> {
    let path = folder.join("lock");
    let file = File::options().create(true).append(true).open(&path).map_err(Error::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Usage {
            message: format!("another process works in `{}`", folder.display()),
            hint: Some(hint.into()),
        }),
        Err(TryLockError::Error(error)) => Err(Error::Usage {
            message: format!("cannot lock `{}`: {error}", path.display()),
            hint: Some(
                "two processes in one folder would spoil each other's files: give an --outdir on a file system with locks \
                 (Lustre: mounted with `flock`)"
                    .into(),
            ),
        }),
    }
}

/// Renames the runs in `outdir`, which left nothing to go on from.
pub(crate) fn set_runs_aside(outdir: &Path) -> Result<()> {
    let runs = if outdir.is_dir() { numbered(outdir)? } else { Vec::new() };
    for (_, run) in runs {
        fs::rename(&run, free_name(&run, ABANDONED)).map_err(Error::io("rename", &run))?;
    }
    Ok(())
}

/// A name beside `path` that nothing has: `<what>-<name>`, or `<what>2-<name>` and so on.
pub(super) fn free_name(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut free = path.with_file_name(format!("{what}-{name}"));
    let mut number = 2;
    while free.exists() {
        free = path.with_file_name(format!("{what}{number}-{name}"));
        number += 1;
    }
    free
}

/// The folders in `outdir` whose names begin with a number, in its order.
pub fn numbered(outdir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(outdir).map_err(Error::io("read", outdir))? {
        let path = entry.map_err(Error::io("read", outdir))?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.split('-').next()?.parse().ok());
        found.extend(number.filter(|_| path.is_dir()).map(|number| (number, path)));
    }
    found.sort();
    Ok(found)
}

/// The run folder called `run`; for `latest` all in `outdir`, newest first.
///
/// # Errors
/// When `outdir` cannot be read.
pub fn meant(run: &str, outdir: &Path) -> Result<Vec<PathBuf>> {
    match run {
        LATEST if !outdir.is_dir() => Ok(Vec::new()),
        LATEST => Ok(numbered(outdir)?.into_iter().rev().map(|(_, run)| run).collect()),
        run => Ok(vec![PathBuf::from(run)]),
    }
}

/// The name of the snapshot after so many images.
pub(super) fn snapshot_name(cur_nimg: u64) -> String {
    format!("network-snapshot-{:06}.safetensors", cur_nimg / 1000)
}

/// The kimg that a snapshot tells of itself; nothing where there is none that can be read.
fn snapshot_kimg(path: &Path) -> Option<f64> {
    tensors::read(path).ok()?.0.get("kimg")?.parse().ok()
}

/// The numbered snapshots of a run, oldest first, with the kimg in their names. Not the best one: that is one of them.
///
/// # Errors
/// When the folder cannot be read.
pub fn snapshots(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    numbered_files(run, "network-snapshot-", ".safetensors")
}

fn numbered_files(run: &Path, prefix: &str, suffix: &str) -> Result<Vec<(u64, PathBuf)>> {
    let number =
        |path: &Path| path.file_name()?.to_str()?.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok();
    let mut found = Vec::new();
    for entry in fs::read_dir(run).map_err(Error::io("read", run))? {
        let path = entry.map_err(Error::io("read", run))?.path();
        found.extend(number(&path).map(|number: u64| (number, path)));
    }
    found.sort();
    Ok(found)
}

/// The name of the settings that a run folder was made with: what [`RunFolder::create`] was told.
pub fn settings_name(run: &Path) -> Option<String> {
    let mut parts = run.file_name()?.to_str()?.splitn(3, '-');
    parts.next()?.parse::<u64>().ok()?;
    parts.nth(1).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::resume_point::resume_point;

    #[test]
    fn numbers_go_up_and_names_are_tame() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("00006-old-x")).unwrap();
        let run = RunFolder::create(dir.path(), "my data/é", "demo64").unwrap();
        assert_eq!(run.path().file_name().unwrap(), "00007-my_data__-demo64");
        let next = RunFolder::create(dir.path(), "d", "p").unwrap();
        assert_eq!(next.path().file_name().unwrap(), "00008-d-p");
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder::create(dir.path(), "d", "p").unwrap();
        assert_eq!(settings_name(run.path()).unwrap(), "p");
        run.write("config.toml", b"").unwrap();
        let error = RunFolder::open(run.path()).err().unwrap();
        assert!(error.to_string().contains("another process"), "{error}");
        let path = run.path().to_path_buf();
        drop(run);
        RunFolder::open(&path).unwrap();
    }

    #[test]
    fn what_is_no_run_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("lock"), "keep").unwrap();
        fs::create_dir(dir.path().join(".unfinished-thesis")).unwrap();
        assert!(resume_point(dir.path(), dir.path().to_str().unwrap()).is_err());
        assert!(RunFolder::open(dir.path()).err().unwrap().to_string().contains("not a run folder"));
        assert_eq!(fs::read_to_string(dir.path().join("lock")).unwrap(), "keep");
        assert!(dir.path().join(".unfinished-thesis").is_dir());
    }
}
