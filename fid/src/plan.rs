//! Which scores two sides allow: known before features are made, which takes hours where the images are many.

use crate::compute::{COPIES, FLOOR, classifier, enough_for_floor};
use crate::config::{Metric, ScoreConfig};
use crate::error::{Error, Result};
use crate::extractor::Extractor;
use crate::report::Warning;
use crate::statistics::at_least;
use crate::{fid_infinity, inception_score, kid, memorization, npz, precision_recall};

/// Images of each side, as far as they are known: some may turn out to be unreadable. `None` where only statistics are given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given {
    pub(crate) real: Option<usize>,
    pub(crate) fake: Option<usize>,
    /// `None`: there is no held-out side.
    pub(crate) held_out: Option<Option<usize>>,
}

impl Given {
    fn needs(what: &'static str, side: &'static str, images: Option<usize>) -> Result<usize> {
        images.ok_or_else(|| Error::NeedsImages { what, side: side.to_owned() })
    }

    fn reals(self, what: &'static str) -> Result<usize> {
        Self::needs(what, "real", self.real)
    }

    fn fakes(self, what: &'static str) -> Result<usize> {
        Self::needs(what, "fake", self.fake)
    }
}

/// What will be computed: what was asked for or, where nothing was, what the sides allow, with a warning of what they
/// do not.
///
/// # Errors
/// Something was asked for that these sides or this network cannot give, or that could not be written.
pub(crate) fn plan(
    given: Given,
    extractor: &Extractor,
    config: &ScoreConfig,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<Metric>> {
    let metrics = config.metrics.clone().unwrap_or_else(|| {
        let without =
            [("real", given.real), ("fake", given.fake)].into_iter().find(|(_, images)| images.is_none());
        // Whoever sets KID's subsets asks for KID.
        match without {
            Some((side, _)) if config.kid_subsets.is_none() => {
                warnings.push(Warning::LeftOut { what: Metric::Kid.title(), side });
                vec![Metric::Fid]
            }
            _ => vec![Metric::Fid, Metric::Kid],
        }
    });
    for (images, side) in [(given.real, "real"), (given.fake, "fake")] {
        images.map_or(Ok(()), |images| at_least("a score", 2, images, side))?;
    }
    for &metric in &metrics {
        allowed(metric, given, extractor, config)?;
    }
    if config.floor {
        enough_for_floor(given.reals(FLOOR)?)?;
    }
    if let Some(held_out) = given.held_out {
        memorization::enough(given.reals(COPIES)?, "training")?;
        memorization::enough(given.fakes(COPIES)?, "fake")?;
        memorization::enough(Given::needs(COPIES, "held-out", held_out)?, "held-out")?;
    }
    if let Some(path) = &config.save_stats {
        given.reals("saving statistics")?;
        npz::writable(path)?;
        if !path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npz")) {
            let reason = "it must end in .npz: by that it is known for statistics when it is read".to_owned();
            return Err(Error::Setting { setting: "save_stats", value: path.display().to_string(), reason });
        }
    }
    Ok(metrics)
}

fn allowed(metric: Metric, given: Given, extractor: &Extractor, config: &ScoreConfig) -> Result<()> {
    let what = metric.title();
    match metric {
        Metric::Fid => Ok(()),
        Metric::Kid => {
            for (images, side) in [(given.reals(what)?, "real"), (given.fakes(what)?, "fake")] {
                kid::enough(images, side)?;
                if let Some((subsets, size)) = config.kid_subsets {
                    kid::enough_for_subsets(subsets, size, images, side)?;
                }
            }
            Ok(())
        }
        Metric::Is => {
            let fakes = given.fakes(what)?;
            classifier(extractor, config)?;
            inception_score::enough(config.is_splits, fakes)
        }
        Metric::Prdc => {
            let (reals, fakes) = (given.reals(what)?, given.fakes(what)?);
            precision_recall::enough(config.k, reals, "real")?;
            precision_recall::enough(config.k, fakes, "fake")
        }
        Metric::FidInfinity => fid_infinity::enough(extractor.dims(config.tap), given.fakes(what)?),
    }
}
