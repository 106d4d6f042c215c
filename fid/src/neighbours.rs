//! Nearest neighbours in feature space: distances in blocks, f64.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat};

use crate::features::Features;
use crate::statistics::{columns, parallelism};

/// Images of each side that meet at a time.
const BLOCK: usize = 1024;

/// A squared distance below this share of the squared lengths is found again from the differences: the form
/// |x|^2 + |y|^2 - 2 x.y has lost its digits by then, and copies must be at distance zero.
const CANCELLED: f64 = 1e-9;

/// Calls `visit(i, first, distances)` with the distances from image `i` of `from` to images `first..` of `to`, block by
/// block, in order of `first` for each i.
pub(crate) fn distances(from: &Features, to: &Features, mut visit: impl FnMut(usize, usize, &[f64])) {
    let (lengths_from, lengths_to) = (squared_lengths(from), squared_lengths(to));
    let mut row = Vec::with_capacity(BLOCK);
    for first_from in (0..from.len()).step_by(BLOCK) {
        let left = columns(from, first_from..from.len().min(first_from + BLOCK), None);
        for first_to in (0..to.len()).step_by(BLOCK) {
            let right = columns(to, first_to..to.len().min(first_to + BLOCK), None);
            // [images of `to`, images of `from`]
            let mut products = Mat::zeros(right.ncols(), left.ncols());
            matmul(products.as_mut(), Accum::Replace, right.transpose(), &left, 1.0, parallelism());
            for i in 0..left.ncols() {
                row.clear();
                for (j, product) in products.col_as_slice(i).iter().enumerate() {
                    let lengths = lengths_from[first_from + i] + lengths_to[first_to + j];
                    let mut square = lengths - 2.0 * product;
                    if square < CANCELLED * lengths {
                        let pairs = left.col_as_slice(i).iter().zip(right.col_as_slice(j));
                        square = pairs.map(|(x, y)| (x - y).powi(2)).sum();
                    }
                    row.push(square.sqrt());
                }
                visit(first_from + i, first_to, &row);
            }
        }
    }
}

/// For each image, the `count` other images of the same set that are nearest to it (all, if there are fewer): distance
/// and index, nearest first.
pub(crate) fn nearest_others(set: &Features, count: usize) -> Vec<Vec<(f64, usize)>> {
    let order = |a: &(f64, usize), b: &(f64, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
    let mut nearest: Vec<Vec<(f64, usize)>> = vec![Vec::new(); set.len()];
    let mut candidates = Vec::with_capacity(count + BLOCK);
    distances(set, set, |i, first, row| {
        candidates.clear();
        candidates.append(&mut nearest[i]);
        let others = row.iter().enumerate().filter(|(j, _)| first + j != i);
        candidates.extend(others.map(|(j, &distance)| (distance, first + j)));
        if candidates.len() > count {
            candidates.select_nth_unstable_by(count - 1, order);
            candidates.truncate(count);
        }
        nearest[i].extend_from_slice(&candidates);
    });
    nearest.iter_mut().for_each(|own| own.sort_unstable_by(order));
    nearest
}

/// For each image of `from`, its nearest image of `to`: distance and index.
pub(crate) fn nearest(from: &Features, to: &Features) -> Vec<(f64, usize)> {
    let mut best = vec![(f64::INFINITY, 0); from.len()];
    distances(from, to, |i, first, row| {
        for (j, &distance) in row.iter().enumerate() {
            if distance < best[i].0 {
                best[i] = (distance, first + j);
            }
        }
    });
    best
}

fn squared_lengths(set: &Features) -> Vec<f64> {
    set.data.chunks_exact(set.dims).map(|row| row.iter().map(|&x| f64::from(x).powi(2)).sum()).collect()
}
