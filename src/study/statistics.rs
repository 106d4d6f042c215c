//! Means with intervals, and tests, over the few seeds of an arm.
//!
//! Student's t throughout: with three seeds nothing finer is to be had, and a normal interval would be less than
//! half as wide as it should be.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// Two-sided coverage of every interval.
pub const CONFIDENCE: f64 = 0.95;

/// A mean over seeds, with the half width of its 95 % interval if there are two seeds or more.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// How many values it is of.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Half of the width of the interval for the mean; `None` of one value, and of equal ones, whose deviation says nothing of
    /// what others would be.
    pub half_width: Option<f64>,
}

/// Deviations below this share of the mean are rounding.
const ROUNDING: f64 = 1e-12;

impl Estimate {
    /// Of some values; `None` of none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let (mean, deviation) = moments(values);
        let half_width =
            quantile(count).filter(|_| deviation > 0.0).map(|t| t * deviation / (count as f64).sqrt());
        Some(Self { count, mean, half_width })
    }
}

/// The mean and the standard deviation with n - 1 (0 for one value, and for values that differ by rounding).
fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
    let deviation = if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
    (mean, if deviation > ROUNDING * mean.abs() { deviation } else { 0.0 })
}

/// The standard deviation with n - 1; `None` of fewer than two values.
pub fn spread(values: &[f64]) -> Option<f64> {
    (values.len() > 1).then(|| moments(values).1)
}

/// Student's t that bounds [`CONFIDENCE`] for the mean of `count` values.
fn quantile(count: usize) -> Option<f64> {
    student(count).map(|student| student.inverse_cdf(0.5 + CONFIDENCE / 2.0))
}

fn student(count: usize) -> Option<StudentsT> {
    if count < 2 { None } else { StudentsT::new(0.0, 1.0, (count - 1) as f64).ok() }
}

/// A paired t-test of "no difference".
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct PairedTest {
    /// First minus second, over pairs.
    pub difference: Estimate,
    /// Two-sided p; `None` with fewer than two pairs, and where all differ by the same amount, other than 0: scores that come in
    /// steps do so by chance.
    pub p: Option<f64>,
}

/// Tests pairs `(first, second)`, one for each seed that both arms have; `None` without pairs.
pub fn paired_test(pairs: &[(f64, f64)]) -> Option<PairedTest> {
    let differences: Vec<f64> = pairs.iter().map(|(first, second)| first - second).collect();
    let difference = Estimate::of(&differences)?;
    let (mean, deviation) = moments(&differences);
    let error = deviation / (differences.len() as f64).sqrt();
    let p = student(differences.len()).and_then(|student| match (mean == 0.0, error == 0.0) {
        (true, _) => Some(1.0),
        (false, true) => None,
        (false, false) => Some(2.0 * student.sf((mean / error).abs())),
    });
    Some(PairedTest { difference, p })
}

/// The value at `x` of the line through `points` (x rising); the end points hold beyond the ends. `None` of nothing.
pub fn interpolate(points: &[(f64, f64)], x: f64) -> Option<f64> {
    let after = points.partition_point(|point| point.0 < x);
    let (Some(&first), Some(&last)) = (points.first(), points.last()) else { return None };
    match (after.checked_sub(1).and_then(|before| points.get(before)), points.get(after)) {
        (Some(&(x0, y0)), Some(&(x1, y1))) => Some(y0 + (y1 - y0) * (x - x0) / (x1 - x0)),
        (None, _) => Some(first.1),
        (_, None) => Some(last.1),
    }
}

/// The mean of the line through `points` between `from` and `to`: the area under it over its width.
pub fn mean_between(points: &[(f64, f64)], from: f64, to: f64) -> Option<f64> {
    if to <= from {
        return interpolate(points, from);
    }
    let inside = points.iter().copied().filter(|&(x, _)| x > from && x < to);
    let ends = (interpolate(points, from)?, interpolate(points, to)?);
    let all: Vec<_> = std::iter::once((from, ends.0)).chain(inside).chain([(to, ends.1)]).collect();
    let area: f64 = all.windows(2).map(|w| (w[1].0 - w[0].0) * (w[0].1 + w[1].1) / 2.0).sum();
    Some(area / (to - from))
}

/// Where a curve came down to a threshold.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Reached {
    /// The place.
    pub at: f64,
    /// It was there at its first point already, and so at `at` or before.
    pub or_before: bool,
}

/// Where the line through `points` first comes down to `threshold`; `None` if it never does.
pub fn first_at_or_below(points: &[(f64, f64)], threshold: f64) -> Option<Reached> {
    let index = points.iter().position(|point| point.1 <= threshold)?;
    let (x1, y1) = *points.get(index)?;
    Some(match index.checked_sub(1).and_then(|before| points.get(before)) {
        Some(&(x0, y0)) => Reached { at: x0 + (x1 - x0) * (y0 - threshold) / (y0 - y1), or_before: false },
        None => Reached { at: x1, or_before: true },
    })
}

/// The part of the line through `points` from `from` to `to`.
pub fn between(points: &[(f64, f64)], (from, to): (f64, f64)) -> Vec<(f64, f64)> {
    let end = |x: f64| interpolate(points, x).map(|value| (x, value));
    let inside = points.iter().copied().filter(|point| point.0 > from && point.0 < to);
    let mut part: Vec<(f64, f64)> = end(from).into_iter().chain(inside).collect();
    part.extend(end(to).filter(|_| to > from));
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables of Student's t have four digits.
    const TOLERANCE: f64 = 5e-4;

    #[test]
    fn intervals_are_those_of_students_t() {
        // t(0.975, 2 degrees) = 4.3027; the deviation of 1, 2, 3 is 1.
        let estimate = Estimate::of(&[1.0, 2.0, 3.0]).unwrap();
        assert!((estimate.mean - 2.0).abs() < TOLERANCE);
        assert!((estimate.half_width.unwrap() - 4.3027 / 3f64.sqrt()).abs() < TOLERANCE);
        assert_eq!(Estimate::of(&[5.0]).unwrap().half_width, None);
        assert_eq!(Estimate::of(&[]), None);
        // Of one value nothing is known.
        assert_eq!(spread(&[1.0]), None);
        assert!((spread(&[1.0, 2.0, 3.0]).unwrap() - 1.0).abs() < TOLERANCE);
    }

    #[test]
    fn the_paired_test_agrees_with_scipy() {
        // scipy.stats.ttest_rel([3.1, 2.9, 3.6, 3.3], [2.7, 2.8, 2.9, 3.1]): t = 2.6457513, p = 0.0772743
        let pairs = [(3.1, 2.7), (2.9, 2.8), (3.6, 2.9), (3.3, 3.1)];
        let test = paired_test(&pairs).unwrap();
        assert!((test.p.unwrap() - 0.077_274_3).abs() < 1e-7, "{test:?}");
        assert!((test.difference.mean - 0.35).abs() < 1e-12);
        assert_eq!(paired_test(&[(1.0, 0.0)]).unwrap().p, None);
        assert_eq!(paired_test(&[(1.0, 1.0), (2.0, 2.0)]).unwrap().p, Some(1.0));
        assert_eq!(paired_test(&[]), None);
        // Equal differences, but for rounding, are no proof.
        let equal = paired_test(&[(60.0, 60.5), (61.0, 61.5), (60.1, 60.6)]).unwrap();
        assert_eq!((equal.p, equal.difference.half_width), (None, None));
    }

    #[test]
    fn lines_are_read_between_their_points() {
        let points = [(1.0, 10.0), (3.0, 6.0), (5.0, 6.0), (6.0, 2.0)];
        assert_eq!(interpolate(&points, 2.0), Some(8.0));
        assert_eq!(interpolate(&points, 3.0), Some(6.0));
        assert_eq!(interpolate(&points, 0.0), Some(10.0));
        assert_eq!(interpolate(&points, 9.0), Some(2.0));
        assert_eq!(mean_between(&points, 1.0, 3.0), Some(8.0));
        assert_eq!(mean_between(&points, 2.0, 5.0), Some((7.0 + 12.0) / 3.0));
        let reached = |threshold| first_at_or_below(&points, threshold).map(|r| (r.at, r.or_before));
        assert_eq!(reached(8.0), Some((2.0, false)));
        assert_eq!(reached(10.0), Some((1.0, true)));
        assert_eq!(reached(4.0), Some((5.5, false)));
        assert_eq!(reached(1.0), None);
        assert_eq!(between(&points, (1.0, 2.0)), [(1.0, 10.0), (2.0, 8.0)]);
        assert_eq!(between(&points, (2.0, 3.0)), [(2.0, 8.0), (3.0, 6.0)]);
        assert_eq!(between(&points, (2.0, 5.5)), [(2.0, 8.0), (3.0, 6.0), (5.0, 6.0), (5.5, 4.0)]);
        assert_eq!(between(&points, (3.0, 3.0)), [(3.0, 6.0)]);
    }
}
