//! Kernel inception distance: the squared maximum mean discrepancy with the kernel (x.y / D + 1)^3.
//!
//! Source: Binkowski et al., "Demystifying MMD GANs" (arXiv 1801.01401). The estimate is the U-statistic on all images
//! (unbiased, also for different numbers of them), its standard error the jackknife over images of both sides. The mean over
//! random subsets, which other tools print, is offered for comparison; its spread is not a standard error, because
//! the subsets overlap.

use crate::error::{Error, Result};
use crate::features::Features;
use crate::formula::draw;
use crate::statistics::{Estimate, at_least, columns, parallelism};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat};

/// Images of a side that meet the other side at a time.
const BLOCK: usize = 1024;

/// Refuses a side too small for [`kid`].
pub(crate) fn enough(images: usize, side: &str) -> Result<()> {
    at_least("KID", 3, images, side)
}

/// Refuses subsets that do not exist, and a side too small for them.
pub(crate) fn enough_for_subsets(subsets: usize, size: usize, images: usize, side: &str) -> Result<()> {
    if size < 2 || subsets == 0 {
        return Err(Error::Setting {
            setting: "kid_subset_size",
            value: format!("{subsets} x {size}"),
            reason: "at least one subset of two images".into(),
        });
    }
    at_least("this KID subset size", size, images, side)
}

/// KID on all images.
///
/// # Errors
/// Fewer than three images on a side (the jackknife leaves one out of a pair), or different numbers of features.
pub fn kid(real: &Features, fake: &Features) -> Result<Estimate> {
    enough(real.len(), "real")?;
    enough(fake.len(), "fake")?;
    same_dims(real, fake)?;
    let sums = KernelSums {
        xx: row_sums(real, real, true),
        yy: row_sums(fake, fake, true),
        xy: row_sums(real, fake, false),
        yx: row_sums(fake, real, false),
    };
    Ok(Estimate { value: sums.estimate(), standard_error: Some(sums.jackknife().sqrt()) })
}

/// Mean and spread of KID over random subsets, the form in which other tools report it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct SubsetKid {
    /// Mean over the subsets.
    pub mean: f64,
    /// Standard deviation over the subsets (division by their number); not a standard error.
    pub standard_deviation: f64,
    /// Number of subsets.
    pub subsets: usize,
    /// Images of each side in a subset.
    pub subset_size: usize,
}

/// KID of `subsets` random subsets of `size` images of each side, drawn without replacement from `seed`.
///
/// # Errors
/// A size below 2 or above the number of images of a side; no subsets.
pub fn kid_subsets(
    real: &Features,
    fake: &Features,
    subsets: usize,
    size: usize,
    seed: u64,
) -> Result<SubsetKid> {
    enough_for_subsets(subsets, size, real.len(), "real")?;
    enough_for_subsets(subsets, size, fake.len(), "fake")?;
    same_dims(real, fake)?;
    let mut values = Vec::new();
    for subset in 0..subsets as u64 {
        let x = real.select(&sample(real.len(), size, draw(seed, 2 * subset)));
        let y = fake.select(&sample(fake.len(), size, draw(seed, 2 * subset + 1)));
        let (xx, yy) = (row_sums(&x, &x, true), row_sums(&y, &y, true));
        values.push(KernelSums { xx, yy, xy: row_sums(&x, &y, false), yx: Vec::new() }.estimate());
    }
    let mean = values.iter().sum::<f64>() / subsets as f64;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / subsets as f64;
    Ok(SubsetKid { mean, standard_deviation: variance.sqrt(), subsets, subset_size: size })
}

/// `size` of the numbers `0..count`, without repetition, as `seed` decides (the head of a Fisher-Yates shuffle).
pub(crate) fn sample(count: usize, size: usize, seed: u64) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).collect();
    for i in 0..size.min(count) {
        // The remainder's bias is below count / 2^64.
        let other = i + (draw(seed, i as u64) % (count - i) as u64) as usize;
        all.swap(i, other);
    }
    all.truncate(size);
    all
}

pub(crate) fn same_dims(real: &Features, fake: &Features) -> Result<()> {
    if real.dims == fake.dims {
        return Ok(());
    }
    Err(Error::Mismatch(format!("real has {} features, fake {}", real.dims, fake.dims)))
}

/// Sums of the kernel over all partners of each image. Within a side, an image is not its own partner.
struct KernelSums {
    xx: Vec<f64>,
    yy: Vec<f64>,
    xy: Vec<f64>,
    yx: Vec<f64>,
}

impl KernelSums {
    fn estimate(&self) -> f64 {
        let (n, m) = (self.xx.len() as f64, self.yy.len() as f64);
        let total = |sums: &[f64]| sums.iter().sum::<f64>();
        total(&self.xx) / (n * (n - 1.0)) + total(&self.yy) / (m * (m - 1.0)) - 2.0 * total(&self.xy) / (n * m)
    }

    /// The jackknife variance: each image of each side left out in turn.
    fn jackknife(&self) -> f64 {
        let side = |own: &[f64], across: &[f64], other: &[f64]| {
            let (n, m) = (own.len() as f64, other.len() as f64);
            let (own_total, across_total) = (own.iter().sum::<f64>(), across.iter().sum::<f64>());
            let without: Vec<f64> = own
                .iter()
                .zip(across)
                .map(|(own, across)| {
                    (own_total - 2.0 * own) / ((n - 1.0) * (n - 2.0))
                        - 2.0 * (across_total - across) / ((n - 1.0) * m)
                })
                .collect();
            let mean = without.iter().sum::<f64>() / n;
            (n - 1.0) / n * without.iter().map(|v| (v - mean).powi(2)).sum::<f64>()
        };
        side(&self.xx, &self.xy, &self.yy) + side(&self.yy, &self.yx, &self.xx)
    }
}

/// For each image of `a`, the sum of its kernel with every image of `b` (not itself, if `same`).
fn row_sums(a: &Features, b: &Features, same: bool) -> Vec<f64> {
    let mut sums = vec![0f64; a.len()];
    for first_b in (0..b.len()).step_by(BLOCK) {
        let right = columns(b, first_b..b.len().min(first_b + BLOCK), None);
        for first_a in (0..a.len()).step_by(BLOCK) {
            let left = columns(a, first_a..a.len().min(first_a + BLOCK), None);
            // [images of b, images of a]
            let mut products = Mat::zeros(right.ncols(), left.ncols());
            let scale = 1.0 / a.dims as f64;
            matmul(products.as_mut(), Accum::Replace, right.transpose(), &left, scale, parallelism());
            for (column, sum) in sums[first_a..][..left.ncols()].iter_mut().enumerate() {
                for (row, product) in products.col_as_slice(column).iter().enumerate() {
                    if !(same && first_b + row == first_a + column) {
                        *sum += (product + 1.0).powi(3);
                    }
                }
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A few images whose features are noise around `shift`.
    fn noise(seed: u64, images: usize, dims: usize, shift: f32) -> Features {
        let data = (0..images * dims).map(|i| crate::formula::unit(seed, i as u64) as f32 + shift).collect();
        Features { dims, data }
    }

    #[test]
    fn the_estimate_is_the_sum_over_pairs() {
        let (x, y) = (noise(1, 5, 3, 0.0), noise(2, 4, 3, 0.5));
        let kernel = |a: &[f32], b: &[f32]| {
            let dot: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            (dot / 3.0 + 1.0).powi(3)
        };
        let within = |f: &Features| {
            let pairs = (0..f.len()).flat_map(|i| (0..f.len()).map(move |j| (i, j))).filter(|(i, j)| i != j);
            let sums: Vec<f64> = pairs.map(|(i, j)| kernel(f.row(i), f.row(j))).collect();
            sums.iter().sum::<f64>() / sums.len() as f64
        };
        let across: f64 =
            (0..5).flat_map(|i| (0..4).map(move |j| (i, j))).map(|(i, j)| kernel(x.row(i), y.row(j))).sum();
        let expected = within(&x) + within(&y) - 2.0 * across / 20.0;
        let got = kid(&x, &y).expect("enough images");
        assert!((got.value - expected).abs() < 1e-12);
    }

    #[test]
    fn subsets_estimate_what_the_whole_does() {
        let (x, y) = (noise(1, 40, 4, 0.0), noise(2, 40, 4, 0.3));
        let whole = kid(&x, &y).expect("enough images");
        let all = kid_subsets(&x, &y, 1, 40, 0).expect("enough images");
        assert!((all.mean - whole.value).abs() < 1e-12 && all.standard_deviation == 0.0, "{all:?}");
        let many = kid_subsets(&x, &y, 200, 20, 0).expect("enough images");
        let error = many.standard_deviation / 200_f64.sqrt();
        assert!(error > 0.0 && (many.mean - whole.value).abs() < 4.0 * error, "{many:?} {whole:?}");
    }

    #[test]
    fn the_jackknife_is_the_spread_over_repeats() {
        // 200 repeats give the spread itself to 5 %; the mean jackknife error must be near it.
        let repeats: Vec<Estimate> = (0..200)
            .map(|r| kid(&noise(2 * r, 40, 4, 0.0), &noise(2 * r + 1, 50, 4, 0.2)).expect("enough images"))
            .collect();
        let values: Vec<f64> = repeats.iter().map(|e| e.value).collect();
        let spread = crate::statistics::variance(&values).sqrt();
        let mean = repeats.iter().filter_map(|e| e.standard_error).sum::<f64>() / 200.0;
        assert!((mean / spread - 1.0).abs() < 0.15, "jackknife {mean}, spread {spread}");
    }

    #[test]
    fn a_sample_has_no_repetitions() {
        let mut drawn = sample(50, 20, 7);
        assert_eq!(drawn.len(), 20);
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 20);
        assert_eq!(sample(3, 10, 1).len(), 3);
    }
}
