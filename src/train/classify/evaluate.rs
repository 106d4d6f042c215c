//! How often a classifier is right: top-1, top-5, loss, and what is taken for what.

use candle_core::{Device, Tensor};
use nestgen_kernels::{Var, cross_entropy, no_grad};

use super::augment::Normalise;
use crate::data::LabelledImages;
use crate::error::Result;
use crate::models::Classifier;
use crate::ranks::Ranks;

/// Images that are classified at once.
const BATCH: usize = 64;

/// The result of a test.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Images tested.
    pub count: usize,
    /// Mean cross-entropy with the true class, natural logarithm.
    pub loss: f64,
    /// Per cent of images whose class has the highest logit.
    pub top1: f64,
    /// Per cent of images whose class is among the five highest logits.
    pub top5: f64,
    /// `[class][answer]`: how many images of a class got each answer.
    pub confusion: Vec<Vec<u32>>,
}

impl Evaluation {
    /// The binomial standard error of `top1`, in per cent.
    pub fn standard_error(&self) -> f64 {
        self.error_of(self.top1)
    }

    /// That of `top5`.
    pub fn top5_standard_error(&self) -> f64 {
        self.error_of(self.top5)
    }

    /// With half an image more on either side: where all are right, that does not mean that nothing could be wrong.
    fn error_of(&self, per_cent: f64) -> f64 {
        let count = self.count as f64;
        let p = (per_cent / 100.0 * count + 0.5) / (count + 1.0);
        100.0 * (p * (1.0 - p) / (count + 1.0)).sqrt()
    }
}

/// Classifies every image, each rank its share of the batches; `progress` is told how many are done.
///
/// # Errors
/// When an image cannot be read, or a tensor operation fails.
pub fn evaluate(
    classifier: &Classifier,
    images: &LabelledImages,
    normalise: Normalise,
    ranks: &Ranks,
    progress: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    let classes = images.data().class_names().len();
    // Of this rank's share: the loss, how many are right, how many are among five, and how many of each class got each
    // answer.
    let mut tally = vec![0.0; 3 + classes * classes];
    let places: Vec<usize> = (0..images.len()).collect();
    for places in places.chunks(BATCH).skip(ranks.rank()).step_by(ranks.size()) {
        let labels: Vec<u32> = places.iter().map(|&i| images.label(i).unwrap_or_default()).collect();
        let batch = read(images, places, normalise)?;
        let logits = no_grad(|| classifier.forward(&Var::constant(batch), None))?;
        let one_hot =
            labels.iter().flat_map(|&label| (0..classes as u32).map(move |k| f32::from(u8::from(k == label))));
        let targets =
            Tensor::from_vec(one_hot.collect::<Vec<f32>>(), (labels.len(), classes), logits.device())?;
        let mean = f64::from(cross_entropy(&logits, &targets)?.value().to_scalar::<f32>()?);
        tally[0] += mean * labels.len() as f64;
        for (row, &label) in logits.value().to_vec2::<f32>()?.iter().zip(&labels) {
            let rank = rank(row, label as usize);
            tally[1] += f64::from(u8::from(rank == 0));
            tally[2] += f64::from(u8::from(rank < 5));
            let answer = answer(row);
            if let Some(cell) = tally.get_mut(3 + label as usize * classes + answer) {
                *cell += 1.0;
            }
        }
        progress(places.last().map_or(0, |last| last + 1));
    }
    ranks.sum(&mut tally);
    let count = images.len();
    let mean = |sum: f64| sum / count.max(1) as f64;
    let confusion =
        tally[3..].chunks(classes.max(1)).map(|row| row.iter().map(|&n| n as u32).collect()).collect();
    Ok(Evaluation {
        count,
        loss: mean(tally[0]),
        top1: 100.0 * mean(tally[1]),
        top5: 100.0 * mean(tally[2]),
        confusion,
    })
}

/// How many classes have a higher logit, or an equal one and come earlier. A logit that is not a number is last.
fn rank(logits: &[f32], class: usize) -> usize {
    let Some(&own) = logits.get(class) else { return logits.len() };
    if own.is_nan() {
        return logits.len();
    }
    logits.iter().enumerate().filter(|&(k, &logit)| logit > own || (logit == own && k < class)).count()
}

/// The class of [`rank`] 0; the first where no logit is a number.
fn answer(logits: &[f32]) -> usize {
    let mut best = (0, f32::NAN);
    for (class, &logit) in logits.iter().enumerate() {
        if logit > best.1 || (best.1.is_nan() && !logit.is_nan()) {
            best = (class, logit);
        }
    }
    best.0
}

/// Normalised images `[B, res, res, 3]` at these places of the list.
pub(super) fn read(images: &LabelledImages, places: &[usize], normalise: Normalise) -> Result<Tensor> {
    let res = images.data().res();
    let mut bytes = vec![0; res * res * 3];
    let mut values = Vec::with_capacity(places.len() * bytes.len());
    for &place in places {
        let index = images.indices().get(place).copied().unwrap_or_default();
        images.data().read(index as usize, &mut bytes)?;
        normalise.append(&bytes, &mut values);
    }
    Ok(Tensor::from_vec(values, (places.len(), res, res, 3), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_better_classes_and_break_ties_by_order() {
        let logits = [0.1, 0.7, 0.7, -1.0, f32::NAN];
        assert_eq!([0, 1, 2, 3, 4, 9].map(|class| rank(&logits, class)), [2, 0, 1, 3, 5, 5]);
    }

    #[test]
    fn the_answer_is_the_class_of_rank_0() {
        let (nan, low) = (f32::NAN, f32::NEG_INFINITY);
        let rows: [&[f32]; 9] = [
            &[0.1, 0.7, 0.7, -1.0],
            &[nan, 0.5, 0.6, nan, 0.6],
            &[0.5, nan, 0.4],
            &[low, low],
            &[nan, low, low],
            &[-0.0, 0.0],
            &[f32::INFINITY, nan, f32::INFINITY],
            &[nan, nan],
            &[],
        ];
        for row in rows {
            let first = (0..row.len()).find(|&class| rank(row, class) == 0);
            assert_eq!(answer(row), first.unwrap_or_default(), "{row:?}");
        }
    }

    #[test]
    fn the_standard_error_is_binomial() {
        let evaluation = Evaluation { count: 400, loss: 0.0, top1: 50.0, top5: 100.0, confusion: Vec::new() };
        assert!((evaluation.standard_error() - 2.5).abs() < 0.01);
        // All of 400 right does not mean that none could be wrong.
        let error = evaluation.top5_standard_error();
        assert!(
            (error - 100.0 * (0.5_f64 / 401.0 * (400.5 / 401.0) / 401.0).sqrt()).abs() < 1e-9 && error > 0.1
        );
    }
}
