//! The Frechet distance between two sets of features, and its standard error.
//!
//! With means m and covariances S: |m1 - m2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2) (Heusel et al., arXiv 1706.08500).
//! The last trace is the nuclear norm of R1' R2, where S = R R'. For a set of no more images than features R is the
//! centred features over sqrt(N - 1); otherwise it is the covariance's pivoted Cholesky factor, which ends where
//! rounding begins. So no D x D square root is needed, and rank-deficient data are no special case.
//!
//! Differs from the reference: no `sqrtm`, no 1e-6 added to the diagonal. On full-rank data the results agree to
//! 2e-7 or better (measured at 2048 features); on fewer images than features it is exact where theirs is off by about 1e-5 of the value.
//!
//! The standard error is the infinitesimal jackknife: an image x (centred) moves the distance by
//! psi = 2 d.x + |x|^2 - x' T x, with T the optimal transport map to the other side. It measures the sampling noise,
//! not the bias (which N alone decides). A bootstrap with replacement would repeat images and thereby move the
//! distance itself, so it is not used.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Side};

use crate::error::{Error, Result};
use crate::features::Features;
use crate::statistics::{Estimate, Moments, at_least, columns, mean, parallelism, variance};

/// Up to this rank the singular values come from a singular value decomposition; above, from the eigenvalues of the
/// product with its transpose, several times faster.
const SVD_RANK: usize = 1024;

/// One side, ready to be compared: mean, trace and root of the covariance.
pub struct Spectrum<'a> {
    mu: Vec<f64>,
    trace: f64,
    /// R, `[dims, rank]`: R R' is the covariance.
    root: Mat<f64>,
    samples: Option<&'a Features>,
    /// Whether the columns of the root are the images themselves.
    root_is_images: bool,
}

impl<'a> Spectrum<'a> {
    /// Of a set of images.
    ///
    /// # Errors
    /// Fewer than two images, or features that are not finite.
    pub fn new(features: &'a Features, side: &str) -> Result<Self> {
        at_least("the Frechet distance", 2, features.len(), side)?;
        features.check(side)?;
        if features.len() > features.dims {
            let spectrum = Self::from_moments(&Moments::new(features, side)?);
            return Ok(Self { samples: Some(features), ..spectrum });
        }
        let mu = mean(features);
        let mut root = columns(features, 0..features.len(), Some(&mu));
        root *= faer::Scale(1.0 / ((features.len() - 1) as f64).sqrt());
        let trace = root.squared_norm_l2();
        Ok(Self { mu, trace, root, samples: Some(features), root_is_images: true })
    }

    /// Of given statistics: the side's own sampling noise is then not part of the standard error.
    pub fn from_moments(moments: &Moments) -> Self {
        let trace = (0..moments.dims()).map(|i| moments.sigma[(i, i)]).sum();
        let root = pivoted_cholesky(&moments.sigma);
        Self { mu: moments.mu.clone(), trace, root, samples: None, root_is_images: false }
    }

    /// Number of features.
    pub fn dims(&self) -> usize {
        self.mu.len()
    }
}

/// The Frechet distance and its parts.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Frechet {
    /// The distance; never negative.
    pub value: f64,
    /// First-order standard error over the images that were given: of one side alone if the other is given as statistics,
    /// `None` if both are, since nothing tells how far they would move.
    pub standard_error: Option<f64>,
    /// The part that comes from the means alone.
    pub mean_term: f64,
}

impl From<Frechet> for Estimate {
    fn from(frechet: Frechet) -> Self {
        Estimate { value: frechet.value, standard_error: frechet.standard_error }
    }
}

/// The distance between two sides.
///
/// # Errors
/// Different numbers of features; a singular value problem that does not converge.
pub fn frechet_distance(a: &Spectrum, b: &Spectrum) -> Result<Frechet> {
    if a.dims() != b.dims() {
        return Err(Error::Mismatch(format!("one side has {} features, the other {}", a.dims(), b.dims())));
    }
    let difference: Vec<f64> = a.mu.iter().zip(&b.mu).map(|(a, b)| a - b).collect();
    let mean_term: f64 = difference.iter().map(|d| d * d).sum();
    let cross = Cross::new(a, b)?;
    let value = mean_term + a.trace + b.trace - 2.0 * cross.values.iter().sum::<f64>();
    let mut error = None;
    for (side, other, vectors, other_vectors, sign) in
        [(a, b, &cross.left, &cross.right, 1.0), (b, a, &cross.right, &cross.left, -1.0)]
    {
        if let Some(features) = side.samples {
            let transport = Transport::new(side, other, vectors, other_vectors, &cross.values);
            let influence = influence(features, side, &transport, &difference, sign);
            *error.get_or_insert(0.0) += variance(&influence) / influence.len() as f64;
        }
    }
    // Rounding may leave a distance of zero slightly below it, and a set's distance to itself slightly above.
    let floor = ZERO * (a.trace + b.trace);
    let value = if value < floor { 0.0 } else { value };
    Ok(Frechet { value, standard_error: error.map(f64::sqrt), mean_term })
}

/// Distances below this share of the traces are rounding (measured: up to 1e-13).
const ZERO: f64 = 1e-12;

/// The singular values of R1' R2 and its singular vectors, `[rank, values]`.
struct Cross {
    values: Vec<f64>,
    left: Mat<f64>,
    right: Mat<f64>,
}

impl Cross {
    fn new(a: &Spectrum, b: &Spectrum) -> Result<Self> {
        if b.root.ncols() < a.root.ncols() {
            let Cross { values, left, right } = Cross::new(b, a)?;
            return Ok(Self { values, left: right, right: left });
        }
        let product = multiply(a.root.transpose(), b.root.as_ref());
        let rank = product.nrows();
        if rank == 0 {
            let empty = |rows| Mat::zeros(rows, 0);
            return Ok(Self { values: Vec::new(), left: empty(0), right: empty(product.ncols()) });
        }
        let Some((values, left)) = left_singular(&product, 0.0) else {
            return Err(Error::NoConvergence("the decomposition of the product of two covariances"));
        };
        let mut right = multiply(product.transpose(), left.as_ref());
        scale_columns(&mut right, values.iter().map(|s| 1.0 / s));
        Ok(Self { values, left, right })
    }
}

/// Singular values above `floor` (or above rounding, if that is more) and left singular vectors; `None`: no
/// convergence.
///
/// The eigenvalues of M M' are the squares, so those of small singular values are blurred. What lies below 1e-5 of
/// the largest is therefore projected out and decomposed again, on its own scale.
fn left_singular(matrix: &Mat<f64>, floor: f64) -> Option<(Vec<f64>, Mat<f64>)> {
    const WELL_ABOVE: f64 = 1e-5;
    let rank = matrix.nrows();
    let (mut values, mut vectors): (Vec<f64>, Mat<f64>);
    if rank <= SVD_RANK {
        let svd = matrix.thin_svd().ok()?;
        values = svd.S().column_vector().iter().copied().collect();
        vectors = svd.U().to_owned();
    } else {
        let squared = multiply(matrix.as_ref(), matrix.transpose());
        let eigen = squared.self_adjoint_eigen(Side::Lower).ok()?;
        values = eigen.S().column_vector().iter().map(|square| square.max(0.0).sqrt()).collect();
        vectors = eigen.U().to_owned();
    }
    let largest = values.iter().fold(0f64, |a, &b| a.max(b));
    let floor = floor.max(rank as f64 * f64::EPSILON * largest);
    let mut small: Option<(Vec<f64>, Mat<f64>)> = None;
    if rank > SVD_RANK {
        let below: Vec<usize> = (0..rank).filter(|&k| values[k] <= WELL_ABOVE * largest).collect();
        // An all-zero matrix has nothing well above, and nothing below it either.
        if !below.is_empty() && below.len() < rank {
            let basis = pick_columns(&vectors, &below);
            let (values, within) = left_singular(&multiply(basis.transpose(), matrix.as_ref()), floor)?;
            small = Some((values, multiply(basis.as_ref(), within.as_ref())));
        }
    }
    let limit = if small.is_some() { WELL_ABOVE * largest } else { floor };
    let kept: Vec<usize> = (0..values.len()).filter(|&k| values[k] > limit).collect();
    vectors = pick_columns(&vectors, &kept);
    values = kept.iter().map(|&k| values[k]).collect();
    if let Some((small_values, small_vectors)) = small {
        values.extend(small_values);
        vectors = faer::concat![[vectors, small_vectors]];
    }
    Some((values, vectors))
}

fn pick_columns(matrix: &Mat<f64>, columns: &[usize]) -> Mat<f64> {
    Mat::from_fn(matrix.nrows(), columns.len(), |row, k| matrix[(row, columns[k])])
}

/// How x' T x is found for an image x of one side.
enum Transport {
    /// Image i: the sum of the squares of row i of this matrix.
    Rows(Mat<f64>),
    /// The sum of the squares of x times the columns of this matrix `[dims, values]`.
    Directions(Mat<f64>),
}

impl Transport {
    /// From the side's own singular vectors where its images are the root, else from the other side's.
    fn new(side: &Spectrum, other: &Spectrum, vectors: &Mat<f64>, others: &Mat<f64>, values: &[f64]) -> Self {
        if side.root_is_images {
            let mut rows = vectors.clone();
            let scale = (side.root.ncols() - 1) as f64;
            scale_columns(&mut rows, values.iter().map(|s| (s * scale).sqrt()));
            return Transport::Rows(rows);
        }
        let mut directions = multiply(other.root.as_ref(), others.as_ref());
        let least = values.iter().fold(0f64, |a, &b| a.max(b)) * f64::EPSILON.sqrt();
        scale_columns(&mut directions, values.iter().map(|&s| if s > least { 1.0 / s.sqrt() } else { 0.0 }));
        Transport::Directions(directions)
    }
}

/// How much each image of a side moves the distance.
fn influence(
    features: &Features,
    side: &Spectrum,
    transport: &Transport,
    difference: &[f64],
    sign: f64,
) -> Vec<f64> {
    const BLOCK: usize = 1024;
    let mut influence = Vec::with_capacity(features.len());
    for first in (0..features.len()).step_by(BLOCK) {
        let images = first..features.len().min(first + BLOCK);
        let centred = columns(features, images.clone(), Some(&side.mu));
        let coordinates = match transport {
            Transport::Directions(directions) => Some(multiply(directions.transpose(), centred.as_ref())),
            Transport::Rows(_) => None,
        };
        for (column, image) in images.enumerate() {
            let x = centred.col_as_slice(column);
            let along: f64 = x.iter().zip(difference).map(|(x, d)| x * d).sum();
            let square: f64 = x.iter().map(|x| x * x).sum();
            let transported: f64 = match (&coordinates, transport) {
                (Some(u), _) => u.col_as_slice(column).iter().map(|u| u * u).sum(),
                (None, Transport::Rows(rows) | Transport::Directions(rows)) => {
                    rows.row(image).iter().map(|u| u * u).sum()
                }
            };
            influence.push(sign * 2.0 * along + square - transported);
        }
    }
    influence
}

/// A factor R `[dims, rank]` of a covariance, R R' = S, by Cholesky's method with the largest remaining variance
/// first; it stops when that is rounding noise.
fn pivoted_cholesky(sigma: &Mat<f64>) -> Mat<f64> {
    /// Columns between updates of the rest of the matrix.
    const PANEL: usize = 64;
    let dims = sigma.nrows();
    let mut rest = sigma.clone();
    let mut variances: Vec<f64> = (0..dims).map(|i| sigma[(i, i)]).collect();
    let largest = variances.iter().fold(0f64, |a, &b| a.max(b));
    let threshold = dims as f64 * f64::EPSILON * largest;
    let mut factor = Mat::<f64>::zeros(dims, dims);
    let (mut rank, mut updated) = (0, 0);
    while rank < dims {
        let pivot = (0..dims).fold(0, |best, i| if variances[i] > variances[best] { i } else { best });
        // Negated so that a NaN ends the loop too.
        if !(variances[pivot] > threshold) {
            break;
        }
        // This column of the rest, less the columns since the last update.
        let mut column = rest.col_as_slice(pivot).to_vec();
        for earlier in updated..rank {
            let weight = factor[(pivot, earlier)];
            column.iter_mut().zip(factor.col_as_slice(earlier)).for_each(|(x, f)| *x -= weight * f);
        }
        let scale = 1.0 / variances[pivot].sqrt();
        for (i, (x, variance)) in column.iter_mut().zip(&mut variances).enumerate() {
            // Rows that were pivots are finished: their variance is marked below zero.
            *x = if *variance < 0.0 && i != pivot { 0.0 } else { *x * scale };
            *variance -= *x * *x;
        }
        variances[pivot] = -1.0;
        factor.col_as_slice_mut(rank).copy_from_slice(&column);
        rank += 1;
        if rank - updated == PANEL {
            let panel = factor.subcols(updated, PANEL);
            matmul(rest.as_mut(), Accum::Add, panel, panel.transpose(), -1.0, parallelism());
            updated = rank;
        }
    }
    factor.subcols(0, rank).to_owned()
}

fn multiply(a: faer::MatRef<f64>, b: faer::MatRef<f64>) -> Mat<f64> {
    let mut product = Mat::zeros(a.nrows(), b.ncols());
    matmul(product.as_mut(), Accum::Replace, a, b, 1.0, parallelism());
    product
}

fn scale_columns(matrix: &mut Mat<f64>, scales: impl Iterator<Item = f64>) {
    for (k, scale) in scales.enumerate() {
        matrix.col_as_slice_mut(k).iter_mut().for_each(|x| *x *= scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Agreement of the ways to find the same distance: rounding of f64 sums, and the eigenvalue way's square roots.
    const SAME: f64 = 1e-9;

    /// Images with correlated features of falling variance around `shift`.
    fn noise(seed: u64, images: usize, dims: usize, shift: f32) -> Features {
        let mut data = Vec::new();
        for image in 0..images {
            let unit = |k: usize| crate::formula::unit(seed, (image * dims + k) as u64) as f32;
            data.extend((0..dims).map(|k| (unit(k) + 0.5 * unit(k / 2)) / (1.0 + k as f32) + shift));
        }
        Features { dims, data }
    }

    fn distance(a: &Features, b: &Features) -> Frechet {
        let spectra = [Spectrum::new(a, "real").expect("images"), Spectrum::new(b, "fake").expect("images")];
        frechet_distance(&spectra[0], &spectra[1]).expect("converges")
    }

    fn from_moments(a: &Features, b: &Features) -> f64 {
        let moments = [Moments::new(a, "real").expect("images"), Moments::new(b, "fake").expect("images")];
        let spectra = moments.each_ref().map(Spectrum::from_moments);
        frechet_distance(&spectra[0], &spectra[1]).expect("converges").value
    }

    #[test]
    fn one_feature_has_the_closed_form() {
        let a = Features { dims: 1, data: vec![1.0, 3.0, 5.0] };
        let b = Features { dims: 1, data: vec![0.0, 1.0, 2.0, 3.0] };
        let expected = (3.0f64 - 1.5).powi(2) + (4.0f64.sqrt() - (5.0f64 / 3.0).sqrt()).powi(2);
        assert!((distance(&a, &b).value - expected).abs() < SAME);
    }

    #[test]
    fn a_set_is_at_distance_zero_from_itself_and_a_shift_costs_its_square() {
        for (images, dims) in [(20, 30), (60, 30)] {
            let a = noise(1, images, dims, 0.0);
            let shifted = Features { dims, data: a.data.iter().map(|x| x + 0.5).collect() };
            assert_eq!(distance(&a, &a).value, 0.0);
            // The shift is exact up to f32 rounding of the sums.
            assert!((distance(&a, &shifted).value - 0.25 * dims as f64).abs() < 1e-5);
        }
    }

    #[test]
    fn images_and_their_statistics_give_the_same_distance() {
        for (n, m) in [(20, 25), (20, 90), (90, 80)] {
            let (a, b) = (noise(1, n, 40, 0.0), noise(2, m, 40, 0.1));
            let (direct, moments) = (distance(&a, &b).value, from_moments(&a, &b));
            assert!((direct - moments).abs() < SAME * direct, "{n}/{m}: {direct} and {moments}");
        }
    }

    #[test]
    fn the_eigenvalue_way_agrees_with_the_singular_value_way() {
        let (a, b) = (noise(1, SVD_RANK + 6, 1100, 0.0), noise(2, SVD_RANK + 1, 1100, 0.05));
        let direct = distance(&a, &b).value;
        let product = {
            let spectra =
                [Spectrum::new(&a, "real").expect("images"), Spectrum::new(&b, "fake").expect("images")];
            let cross = multiply(spectra[0].root.transpose(), spectra[1].root.as_ref());
            let nuclear: f64 = cross.singular_values().expect("converges").iter().sum();
            let d: f64 = spectra[0].mu.iter().zip(&spectra[1].mu).map(|(a, b)| (a - b).powi(2)).sum();
            d + spectra[0].trace + spectra[1].trace - 2.0 * nuclear
        };
        assert!((direct - product).abs() < SAME * product, "{direct} and {product}");
    }

    #[test]
    fn the_standard_error_is_the_spread_over_repeats() {
        for (n, m) in [(25, 28), (90, 80)] {
            let repeats: Vec<Frechet> = (0..200)
                .map(|r| distance(&noise(10 + 2 * r, n, 30, 0.0), &noise(11 + 2 * r, m, 30, 0.15)))
                .collect();
            let values: Vec<f64> = repeats.iter().map(|f| f.value).collect();
            let spread = variance(&values).sqrt();
            let mean = repeats.iter().filter_map(|f| f.standard_error).sum::<f64>() / 200.0;
            // 200 repeats give the spread to 5 %; the first order leaves out curvature, which small sets have.
            assert!((mean / spread - 1.0).abs() < 0.2, "{n}/{m}: first order {mean}, spread {spread}");
        }
    }
}
