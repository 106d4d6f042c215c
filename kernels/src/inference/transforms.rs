//! Winograd's short convolutions with six products (Lavin and Gray, "Fast Algorithms for Convolutional Neural
//! Networks", arXiv 1509.09308), one family for every kernel of the network.
//!
//! Six products give 4 outputs of a 3-tap kernel, 3 of a 4-tap one, or 2 of a 5-tap one; the input transform is the
//! same for all. Differs from the usual points (0, ±1, ±2, ∞): the points here are 0, ±3/4, ±3/2, ∞, exact in binary
//! like the usual ones, with half their rounding error (measured on random 3x3 layers in f32: 1.0e-6 of the output's
//! deviation against 1.9e-6; the direct sum has 0.4e-6).

use crate::lanes::Lanes;

/// Products of one short convolution: input samples of a tile along one axis.
pub(super) const POINTS: usize = 6;

const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

/// Six input samples to the six points.
#[inline(always)]
pub(super) fn input<V: Lanes>(d: [V; POINTS]) -> [V; POINTS] {
    let (product, minus_sum) = (V::splat(A2 * B2), V::splat(-(A2 + B2)));
    let (minus_a2, minus_b2) = (V::splat(-A2), V::splat(-B2));
    let (even_a, odd_a) = (d[2].mul_add(minus_b2, d[4]), d[1].mul_add(minus_b2, d[3]).mul(V::splat(A)));
    let (even_b, odd_b) = (d[2].mul_add(minus_a2, d[4]), d[1].mul_add(minus_a2, d[3]).mul(V::splat(B)));
    [
        d[0].mul_add(product, d[2].mul_add(minus_sum, d[4])),
        even_a.add(odd_a),
        even_a.sub(odd_a),
        even_b.add(odd_b),
        even_b.sub(odd_b),
        d[1].mul_add(product, d[3].mul_add(minus_sum, d[5])),
    ]
}

/// The six products to `OUT` outputs (2, 3 or 4).
#[inline(always)]
pub(super) fn output<V: Lanes, const OUT: usize>(m: [V; POINTS]) -> [V; OUT] {
    let (sum_a, difference_a) = (m[1].add(m[2]), m[1].sub(m[2]));
    let (sum_b, difference_b) = (m[3].add(m[4]), m[3].sub(m[4]));
    // All four; those past OUT are dead code in each instance.
    let all = [
        m[0].add(sum_a).add(sum_b),
        difference_a.mul_add(V::splat(A), difference_b.mul(V::splat(B))),
        sum_a.mul_add(V::splat(A2), sum_b.mul(V::splat(B2))),
        difference_a.mul_add(V::splat(A2 * A), difference_b.mul(V::splat(B2 * B))),
    ];
    let mut out = [all[0]; OUT];
    out[1..].copy_from_slice(&all[1..OUT]);
    out[OUT - 1] = out[OUT - 1].add(m[POINTS - 1]);
    out
}

/// A kernel of any length up to 5 to the six points, in f64.
pub(super) fn kernel(taps: &[f64]) -> [f64; POINTS] {
    let points = [0.0, f64::from(A), -f64::from(A), f64::from(B), -f64::from(B)];
    let mut out = [0.0; POINTS];
    for (value, &x) in out.iter_mut().zip(&points) {
        let scale: f64 = points.iter().filter(|&&y| y != x).map(|&y| x - y).product();
        *value = taps.iter().rev().fold(0.0, |sum, &tap| sum * x + tap) / scale;
    }
    out[POINTS - 1] = taps.last().copied().unwrap_or(0.0);
    out
}
