//! What can go wrong, with the place it went wrong at and, where there is one, a way out.

use std::path::{Path, PathBuf};

/// The result of anything that can fail in this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this library. [`Error::hint`] says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried ("read", "write", "create").
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A setting that is unknown, malformed or out of range.
    #[error("{place}: `{key}`: {reason}")]
    Config {
        /// The file, preset or flag that holds the setting.
        place: String,
        /// The dotted key.
        key: String,
        /// What is wrong with it.
        reason: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// A file that should hold a network or a training state and does not.
    #[error("`{}` is not usable: {reason}", path.display())]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, naming the tensor or field.
        reason: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Training left the range of numbers.
    #[error("{what} is not finite at {kimg:.3} kimg")]
    NonFinite {
        /// The loss or tensor.
        what: String,
        /// Thousands of real images seen by then.
        kimg: f64,
        /// The last state that can be resumed from.
        last_good: Option<PathBuf>,
    },
    /// A request that makes no sense, with the way to make sense of it.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Ranks of a data-parallel run are gone, or hang.
    #[error("no answer within {secs} s from {ranks}")]
    RanksLost {
        /// Which ones, and where they run.
        ranks: String,
        /// How long the others waited.
        secs: u64,
    },
    /// Reading images failed.
    #[error(transparent)]
    Images(#[from] nestgen_images::Error),
    /// Scoring failed.
    #[error(transparent)]
    Fid(#[from] nestgen_fid::Error),
    /// A tensor operation failed: a defect of this program, or memory ran out.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// An [`Error::Io`] for `path`; for use with `map_err`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// An [`Error::Usage`] with a hint.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: Some(hint.into()) }
    }

    /// What is at `path`, if anything is, is no run folder.
    pub fn no_run_folder(path: &Path) -> Self {
        let what = if path.exists() { "is not a run folder: it has no config.toml" } else { "is not there" };
        let hint = match path.join("study.toml").is_file() {
            true => format!("it is a study's: its runs are {}/*/seed*/0*", quoted(path)),
            false => "name a folder that training made, such as runs/00000-...".into(),
        };
        Self::Usage { message: format!("`{}` {what}", path.display()), hint: Some(hint) }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, action, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => Some("check the path".into()),
                std::io::ErrorKind::PermissionDenied => Some(format!("you have no right to {action} it")),
                std::io::ErrorKind::StorageFull => {
                    Some("free some space; what was saved before is whole".into())
                }
                std::io::ErrorKind::ReadOnlyFilesystem => {
                    Some("nothing can be written on that disk; choose another path".into())
                }
                std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory => {
                    Some("there is a file where a folder is needed; choose another path".into())
                }
                std::io::ErrorKind::IsADirectory => Some("it is a folder: name a file".into()),
                std::io::ErrorKind::InvalidData => Some("it is no text: name a file of the right kind".into()),
                _ => Some("check that the path can be used and that the disk is healthy".into()),
            },
            Self::Config { hint, .. } => {
                hint.clone().or_else(|| Some("`nestgen train -n` prints every setting with its value".into()))
            }
            Self::Checkpoint { hint, .. } | Self::Usage { hint, .. } => hint.clone(),
            Self::NonFinite { last_good, .. } => Some(match last_good {
                Some(path) => format!(
                    "begin anew from its last good state, with a lower rate: nestgen classify train --transfer {} --base-lr …",
                    quoted(path)
                ),
                None => "lower the learning rate".into(),
            }),
            Self::RanksLost { .. } => Some(
                "look at that machine, then go on from the last state with --resume; where steps take longer, \
                 raise --rank-timeout"
                    .into(),
            ),
            Self::Images(error) => error.hint(),
            Self::Fid(error) => error.hint(),
            Self::Tensor(_) => None,
        }
    }
}

/// A path as a word of a command line that can be copied.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}
