//! Mean and covariance of features, in f64.

use faer::Mat;
use faer::linalg::matmul::matmul;
use faer::{Accum, Par};

use crate::error::{Error, Result};
use crate::features::Features;

/// Images that are converted to f64 at a time.
const BLOCK: usize = 2048;

/// Mean and covariance of a set's features. The covariance divides by N - 1, as numpy's `cov` and pytorch-fid do.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Number of images; `None` when a file of statistics does not tell.
    pub num_images: Option<usize>,
    /// Mean, `[dims]`.
    pub mu: Vec<f64>,
    /// Covariance, `[dims, dims]`.
    pub sigma: Mat<f64>,
}

impl Moments {
    /// Of all rows.
    ///
    /// # Errors
    /// With fewer than two images there is no covariance.
    pub fn new(features: &Features, side: &str) -> Result<Self> {
        at_least("a covariance", 2, features.len(), side)?;
        let mu = mean(features);
        let mut sigma = Mat::zeros(features.dims, features.dims);
        let scale = 1.0 / (features.len() - 1) as f64;
        for first in (0..features.len()).step_by(BLOCK) {
            let block = columns(features, first..features.len().min(first + BLOCK), Some(&mu));
            matmul(sigma.as_mut(), Accum::Add, &block, block.transpose(), scale, parallelism());
        }
        Ok(Self { num_images: Some(features.len()), mu, sigma })
    }

    /// Number of features.
    pub fn dims(&self) -> usize {
        self.mu.len()
    }
}

/// An error when `found` images are fewer than `needed`.
pub(crate) fn at_least(what: &'static str, needed: usize, found: usize, side: &str) -> Result<()> {
    if found < needed {
        return Err(Error::TooFewImages { what, side: side.to_owned(), needed, found });
    }
    Ok(())
}

/// The mean of each feature, `[dims]`.
pub(crate) fn mean(features: &Features) -> Vec<f64> {
    let mut mu = vec![0f64; features.dims];
    for row in features.data.chunks_exact(features.dims) {
        for (sum, &x) in mu.iter_mut().zip(row) {
            *sum += f64::from(x);
        }
    }
    let count = features.len() as f64;
    mu.iter_mut().for_each(|sum| *sum /= count);
    mu
}

/// Rows `images` as the columns of a matrix `[dims, images]`, less `mean` if there is one.
pub(crate) fn columns(features: &Features, images: std::ops::Range<usize>, mean: Option<&[f64]>) -> Mat<f64> {
    let first = images.start;
    let mut matrix = Mat::zeros(features.dims, images.len());
    for image in images {
        let column = matrix.col_as_slice_mut(image - first);
        for (to, &x) in column.iter_mut().zip(features.row(image)) {
            *to = f64::from(x);
        }
        if let Some(mean) = mean {
            column.iter_mut().zip(mean).for_each(|(x, mean)| *x -= mean);
        }
    }
    matrix
}

/// The threads of the current rayon pool, for faer.
pub(crate) fn parallelism() -> Par {
    match rayon::current_num_threads() {
        0 | 1 => Par::Seq,
        threads => Par::rayon(threads),
    }
}

/// Sample variance (division by N - 1) of some numbers.
pub(crate) fn variance(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (count - 1.0)
}

/// A value with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Its standard error: how far the value would move with other images of the same kind; `None`: unknown.
    pub standard_error: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_definition() {
        let features = Features { dims: 2, data: vec![1.0, 2.0, 3.0, 2.0, 2.0, 5.0] };
        let moments = Moments::new(&features, "real").expect("three images");
        assert_eq!(moments.mu, [2.0, 3.0]);
        assert_eq!(moments.sigma, faer::mat![[1.0, 0.0], [0.0, 3.0]]);
    }

    #[test]
    fn one_image_has_no_covariance() {
        let error = Moments::new(&Features { dims: 1, data: vec![1.0] }, "fake").expect_err("one image");
        assert_eq!(error.to_string(), "a covariance needs at least 2 images, fake has 1");
    }
}
