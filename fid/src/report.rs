//! The result of a scoring: numbers with their errors, and everything needed to compare them with others.

use std::fmt;

use crate::extractor::RANDOM;
use crate::features::Skipped;
use crate::inception_score::InceptionScore;
use crate::kid::SubsetKid;
use crate::memorization::Memorization;
use crate::precision_recall::PrecisionRecall;
use crate::statistics::Estimate;
use crate::{fid_infinity::FidInfinity, frechet::Frechet, preprocess::Resize};

/// One side of the comparison.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct SideReport {
    /// Its path or description.
    pub source: String,
    /// The part of the source that was scored; `None` of a source without parts.
    pub split: Option<String>,
    /// Images that were scored; `None` for a file of statistics that does not tell.
    pub num_images: Option<usize>,
    /// Whether only mean and covariance were given: this side's part is not in the standard errors.
    pub statistics: bool,
    /// Images left out because they could not be read.
    pub skipped: Vec<Skipped>,
    /// Whether the features came from the cache.
    pub from_cache: bool,
}

/// A reason to be careful with the numbers.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Warning {
    /// Too few images for the bias to be small.
    FewImages {
        /// `real` or `fake`.
        side: &'static str,
        /// Images found.
        found: usize,
        /// Images below which the bias can decide.
        wanted: usize,
    },
    /// The two sides differ in number.
    UnequalCounts {
        /// Real images.
        real: usize,
        /// Fake images.
        fake: usize,
    },
    /// Most of the images of one side that were looked at have another size than those of the other.
    UnequalSizes {
        /// Width and height of most real ones, px.
        real: [u32; 2],
        /// Of most fake ones.
        fake: [u32; 2],
    },
    /// Both sides are the same images.
    SameImages,
    /// The weights are not the published ones.
    OtherWeights {
        /// The name that the distance carries instead of FID.
        name: String,
    },
    /// A metric that is computed unless something else is asked for was not: a side has no images.
    LeftOut {
        /// The metric.
        what: &'static str,
        /// `real` or `fake`.
        side: &'static str,
    },
    /// Images were left out.
    Skipped {
        /// `real` or `fake`.
        side: &'static str,
        /// How many.
        count: usize,
    },
    /// A file of statistics does not say how it was made.
    UnknownProtocol {
        /// `real` or `fake`.
        side: &'static str,
    },
    /// The features were computed but could not be kept.
    CacheNotWritten {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Warning::FewImages { side, found, wanted } => write!(
                f,
                "{found} {side} images: below {wanted} the bias of a Frechet distance can decide which of two is lower; \
                 compare it only with scores at the same N, or use KID"
            ),
            Warning::UnequalCounts { real, fake } => write!(
                f,
                "{real} real and {fake} fake images: compare the Frechet distance only with scores at the same two numbers"
            ),
            Warning::UnequalSizes { real: [w, h], fake: [width, height] } => write!(
                f,
                "real images have {w}x{h} px and fake ones {width}x{height} (most of up to 64 of each): one side is enlarged more than the \
                 other, which moves every score; bring both to one size first (`nestgen data pack --res`)"
            ),
            Warning::SameImages => write!(
                f,
                "both sides are the same images, one by one: the ± are those of sides that have nothing to do with each other"
            ),
            Warning::OtherWeights { name } if name == RANDOM => write!(
                f,
                "the score is {name}, not FID: random features tell trained generators from untrained ones, not better from worse"
            ),
            Warning::OtherWeights { name } => {
                write!(f, "these are not the published Inception weights: the score is {name}, not FID")
            }
            Warning::LeftOut { what, side } => {
                write!(f, "{what} was left out: it needs the images, and {side} is given as statistics only")
            }
            Warning::Skipped { side, count } => {
                write!(f, "{count} {side} images could not be read and were left out")
            }
            Warning::UnknownProtocol { side } => write!(
                f,
                "the {side} statistics do not tell their network and resize rule: the score holds only if they are those below"
            ),
            Warning::CacheNotWritten { reason } => write!(f, "the features were not kept: {reason}"),
        }
    }
}

/// All numbers that were asked for.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Scores {
    /// The Frechet distance.
    pub frechet: Option<Frechet>,
    /// The Frechet distance between two random halves of the real images: what a perfect generator would score at half of
    /// their number.
    pub floor: Option<Frechet>,
    /// Kernel inception distance on all images.
    pub kid: Option<Estimate>,
    /// Kernel inception distance over subsets.
    pub kid_subsets: Option<SubsetKid>,
    /// Inception score of the fakes.
    pub inception_score: Option<InceptionScore>,
    /// Precision, recall, density, coverage.
    pub precision_recall: Option<PrecisionRecall>,
    /// The Frechet distance extrapolated to infinitely many fakes.
    pub fid_infinity: Option<FidInfinity>,
    /// Copies of training images.
    pub memorization: Option<Memorization>,
}

/// The result of [`crate::score`].
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Report {
    /// Name of the Frechet distance: `FID` only with the published weights and 2048 features.
    pub name: String,
    /// Number of features.
    pub dims: usize,
    /// SHA-256 of the feature network.
    pub extractor_sha256: String,
    /// The resize rule; `None`: the network's own.
    pub resize: Option<Resize>,
    /// The reference images.
    pub real: SideReport,
    /// The images that are judged.
    pub fake: SideReport,
    /// The numbers.
    pub scores: Scores,
    /// Reasons to be careful.
    pub warnings: Vec<Warning>,
    /// Seed of the random subsets.
    pub seed: u64,
    /// Seconds for the features of both sides.
    pub features_secs: f64,
    /// Seconds for everything.
    pub total_secs: f64,
    /// Version of this library.
    pub version: &'static str,
}

impl Report {
    /// The numbers in order: name, value, standard error, remark.
    fn rows(&self) -> Vec<(String, f64, Option<f64>, String)> {
        let mut rows = Vec::new();
        let scores = &self.scores;
        let mut row = |name: &str, value: f64, error: Option<f64>, remark: String| {
            rows.push((name.to_owned(), value, error, remark));
        };
        // As the distance is only called FID in the published features, so the others say in which they are taken.
        let space = self.name.split_once('-').map_or_else(String::new, |(_, space)| format!("-{space}"));
        let of_one_side = match (self.real.statistics, self.fake.statistics) {
            (true, false) => "; ± of the fakes alone",
            (false, true) => "; ± of the reals alone",
            _ => "",
        };
        if let Some(f) = &scores.frechet {
            let remark = format!("of which means {:.4}{of_one_side}", f.mean_term);
            row(&self.name, f.value, f.standard_error, remark);
        }
        if let Some(f) = &scores.floor {
            let half = self.real.num_images.unwrap_or(0) / 2;
            row(&format!("{} real/real", self.name), f.value, f.standard_error, format!("floor at N = {half}"));
        }
        if let Some(f) = &scores.fid_infinity {
            row(
                &format!("{} infinity", self.name),
                f.value,
                Some(f.standard_error),
                format!("residual {:.4}{of_one_side}", f.residual),
            );
        }
        if let Some(k) = &scores.kid {
            row(&format!("KID{space}"), k.value, k.standard_error, "all images".into());
        }
        if let Some(k) = &scores.kid_subsets {
            let remark =
                format!("sd {:.6} over {} subsets of {}", k.standard_deviation, k.subsets, k.subset_size);
            row(&format!("KID{space} subsets"), k.mean, None, remark);
        }
        if let Some(s) = &scores.inception_score {
            let remark = format!("sd {:.4} over {} splits", s.splits_standard_deviation, s.splits);
            let remark = if s.splits > 1 { remark } else { String::new() };
            row(&format!("IS{space}"), s.value, s.standard_error, remark);
        }
        if let Some(p) = &scores.precision_recall {
            let remark = format!("k = {}, {:?} balls", p.k, p.ball).to_lowercase();
            for (name, e) in [
                ("precision", p.precision),
                ("recall", p.recall),
                ("density", p.density),
                ("coverage", p.coverage),
            ] {
                row(name, e.value, e.standard_error, remark.clone());
            }
        }
        if let Some(m) = &scores.memorization {
            let e = m.nearer_to_train;
            let remark = format!("0.5 when nothing is copied; distance ratio {:.3}", m.median_distance_ratio);
            row("nearer to train", e.value, e.standard_error, remark);
        }
        rows
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let rows = self.rows();
        let width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        for (name, value, error, remark) in &rows {
            let error = error.map_or_else(String::new, |error| format!("± {error:<11.6}"));
            let line = format!("{name:<width$}  {value:>12.6} {error:<13} {remark}");
            writeln!(f, "{}", line.trim_end())?;
        }
        for (label, side) in [("real", &self.real), ("fake", &self.fake)] {
            let count = match (side.statistics, side.num_images) {
                (true, None) => "statistics".to_owned(),
                (true, Some(n)) => format!("statistics of {n} images"),
                (false, n) => format!("{} images", n.unwrap_or(0)),
            };
            let cached = if side.from_cache { ", cached features" } else { "" };
            let split = side.split.as_ref().map_or_else(String::new, |split| format!("split {split}, "));
            writeln!(f, "{label}: {} ({split}{count}{cached})", side.source)?;
        }
        let resize = self.resize.map_or("its own", Resize::name);
        let hash = self.extractor_sha256.get(..12).unwrap_or(&self.extractor_sha256);
        writeln!(
            f,
            "{} features, resize {resize}, network {hash}, {:.2} s (features {:.2} s)",
            self.dims, self.total_secs, self.features_secs
        )?;
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))
    }
}
