//! What can go wrong while scoring, and what the user can do about it.

use std::path::PathBuf;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a score could not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// No file of Inception weights was given or found.
    #[error("no Inception-v3 weights: looked at {looked}")]
    NoWeights {
        /// The places that were tried.
        looked: String,
    },
    /// A weight file cannot be used.
    #[error("weights {}: {reason}", path.display())]
    Weights {
        /// The weight file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of statistics (`.npz`) cannot be used.
    #[error("statistics {}: {reason}", path.display())]
    Statistics {
        /// The `.npz` file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of statistics was made by another protocol than the score's.
    #[error("statistics {}: {reason}", path.display())]
    OtherProtocol {
        /// The `.npz` file.
        path: PathBuf,
        /// In what the two differ.
        reason: String,
    },
    /// Statistics would replace a file of another kind.
    #[error("`{}` exists and holds no statistics", path.display())]
    NotReplaced {
        /// Where they were to be written.
        path: PathBuf,
    },
    /// An image source could not be opened, or one of its images not read.
    #[error(transparent)]
    Images(#[from] nestgen_images::Error),
    /// All images of one side look the same to the network.
    #[error("all {count} {side} images have the same features: they are copies of one image")]
    Identical {
        /// The side: `real` or `fake`.
        side: String,
        /// Number of images.
        count: usize,
    },
    /// The metric needs more images than there are.
    #[error("{what} needs at least {needed} images, {side} has {found}")]
    TooFewImages {
        /// The metric.
        what: &'static str,
        /// The side that is short: `real` or `fake`.
        side: String,
        /// The smallest number that works.
        needed: usize,
        /// The number found.
        found: usize,
    },
    /// The features contain a NaN or an infinity.
    #[error("{what} contains a number that is not finite{place}")]
    NotFinite {
        /// The features or statistics concerned.
        what: String,
        /// Where, when it is known.
        place: String,
    },
    /// Two sides cannot be compared.
    #[error("{0}")]
    Mismatch(String),
    /// A metric was asked of an input that does not carry what it needs.
    #[error("{what} needs the images, but {side} is given as statistics only")]
    NeedsImages {
        /// The metric.
        what: &'static str,
        /// The side given as statistics.
        side: String,
    },
    /// A setting outside its range.
    #[error("{setting} = {value} is not possible: {reason}")]
    Setting {
        /// The name of the setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What is accepted.
        reason: String,
    },
    /// The feature cache is damaged or not writable.
    #[error("feature cache {}: {reason}", path.display())]
    Cache {
        /// The cache file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A numerical routine did not converge.
    #[error("{0} did not converge")]
    NoConvergence(&'static str),
    /// A device that computes features failed.
    #[error("features: {reason}")]
    Device {
        /// What it said.
        reason: String,
    },
    /// A generator or feature extractor given by the caller failed.
    #[error("{message}")]
    Caller {
        /// What it said.
        message: String,
        /// What it advised.
        hint: Option<String>,
    },
}

/// How the verbs of `nestgen` score without a file of weights.
const OTHER_SPACE: &str = "which is not FID: --features scenes-v1 of `nestgen fid` and `score`, --set eval.features=scenes-v1 in training";

impl Error {
    /// One sentence that says what to do, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::NoWeights { .. } => format!(
                "name the published file in NESTGEN_INCEPTION, or for `nestgen fid` with --weights FILE; its authors publish \
                 {} (SHA-256 {}) as a release asset of mseitzer/pytorch-fid (tag fid_weights); or score in another \
                 feature space, {OTHER_SPACE}",
                crate::weights::PUBLISHED_NAME,
                crate::weights::PUBLISHED_SHA256
            ),
            Error::Weights { .. } => format!(
                "the expected file is {}, {} bytes; download it again, or score in another feature space, {OTHER_SPACE}",
                crate::weights::PUBLISHED_NAME,
                crate::weights::PUBLISHED_BYTES
            ),
            Error::Statistics { .. } => {
                "the file must hold `mu` [D] and `sigma` [D, D] as pytorch-fid writes them; make it with --save-stats"
                    .into()
            }
            Error::OtherProtocol { .. } => {
                "score with the settings that the statistics were made with, or make them anew from the images with --save-stats"
                    .into()
            }
            Error::NotReplaced { .. } => "name another file, or remove this one".into(),
            Error::Identical { .. } => "check that the folder, archive or generator is the one you meant".into(),
            Error::TooFewImages { .. } => "add images, or leave this metric out".into(),
            Error::NotFinite { .. } => "the images or weights are damaged; nothing was scored".into(),
            Error::NeedsImages { .. } => "give the images instead of an .npz, or leave this metric out".into(),
            Error::Cache { .. } => "delete the file: it is rebuilt from the images".into(),
            Error::Images(source) => return source.hint(),
            Error::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => "check the path".into(),
                std::io::ErrorKind::StorageFull => "free some disk space or write elsewhere".into(),
                std::io::ErrorKind::ReadOnlyFilesystem => {
                    "nothing can be written on that disk; choose another path".into()
                }
                _ => "check that the path can be read and written".into(),
            },
            Error::Mismatch(_) => "score both sides in the same features, or leave out the score that needs others (--metrics names scores)".into(),
            Error::Device { .. } => "compute the features on the processor: --device cpu".into(),
            Error::Setting { .. } => "`nestgen fid --help` says what each option takes".into(),
            Error::Caller { hint, .. } => return hint.clone(),
            _ => return None,
        };
        Some(hint)
    }

    /// A failure of what a caller has given, without advice.
    pub fn caller(message: impl Into<String>) -> Self {
        Self::Caller { message: message.into(), hint: None }
    }

    /// A failure of a device, as candle words it.
    pub(crate) fn device(error: candle_core::Error) -> Self {
        Self::Device { reason: error.to_string() }
    }

    /// An I/O error with its path.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}
