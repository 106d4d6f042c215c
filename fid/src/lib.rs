//! FID and its family for sets of images, with standard errors.
//!
//! ```no_run
//! use nestgen_fid::{Extractor, Input, ScoreConfig, score};
//! let extractor = Extractor::inception("pt_inception-2015-12-05-6726825d.pth".as_ref())?;
//! let real = Input::open("real/".as_ref(), &Default::default())?;
//! let fake = Input::open("fake/".as_ref(), &Default::default())?;
//! let report = score(&real, &fake, None, &extractor, &ScoreConfig::default(), &|_, _, _| {})?;
//! println!("{report}");
//! # Ok::<(), nestgen_fid::Error>(())
//! ```
//!
//! The path of a score: [`Input`] -> [`preprocess`] (8-bit RGB to 299x299) -> [`inception`] (pooled features, f32)
//! -> [`frechet`], [`kid`], [`inception_score`], [`precision_recall`], ... (f64) -> [`Report`].

#![forbid(unsafe_code)]

mod batches;
pub mod cache;
mod compute;
pub mod config;
pub mod error;
pub mod extractor;
pub mod features;
pub mod fid_infinity;
mod files;
pub mod formula;
pub mod frechet;
pub mod inception;
pub mod inception_score;
pub mod kid;
pub mod memorization;
mod neighbours;
pub mod npz;
mod plan;
pub mod precision_recall;
pub mod preprocess;
pub mod protocol;
pub mod report;
pub mod score;
pub mod statistics;
pub mod weights;

pub use config::{Metric, ScoreConfig};
pub use error::{Error, Result};
pub use extractor::Extractor;
pub use features::Features;
pub use inception::{Inception, Tap};
pub use precision_recall::Ball;
pub use preprocess::Resize;
pub use protocol::Protocol;
pub use report::{Report, Scores, Warning};
pub use score::{BIASED_BELOW, Input, score};
