//! Winograd's minimal filtering in f32 (Lavin and Gray, 2015, arXiv:1509.09308): the transforms of a tile of six inputs.
//! Its six products give 4 outputs of a kernel of 3 taps, 3 of one of 4, or 2 of one of 5; in both directions, 36
//! products give 4x4 outputs of a 3x3 kernel instead of 144. `winograd_conv` and `inference` put them together.
//!
//! Differs from the paper: interpolation points 0, ±1/√2, ±√2 and infinity in place of 0, ±1, ±2 and infinity. With them
//! the rms error of a 3x3 layer is half that of the paper's points and 1.7 times that of a direct sum (docs/kernels.md).

// Training convolves by Winograd on x86-64 only.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};

use crate::lanes::Lanes;

/// Outputs of a tile of a 3x3 convolution in each direction.
pub(crate) const OUT: usize = 4;
/// Interpolation points: inputs of a tile in each direction.
pub(crate) const POINTS: usize = 6;
/// Products of a square tile for each pair of channels.
pub(crate) const PRODUCTS: usize = POINTS * POINTS;

/// The inner points are ±A and ±B.
const A: f32 = FRAC_1_SQRT_2 as f32;
const B: f32 = SQRT_2 as f32;

/// `x * factor + y`
#[inline(always)]
fn fma<V: Lanes>(x: V, factor: f32, y: V) -> V {
    x.mul_add(V::splat(factor), y)
}

#[inline(always)]
fn times<V: Lanes>(x: V, factor: f32) -> V {
    x.mul(V::splat(factor))
}

/// `[x + a y, x - a y]`
#[inline(always)]
fn pair<V: Lanes>(x: V, y: V, a: f32) -> [V; 2] {
    [fma(y, a, x), fma(y, -a, x)]
}

/// Six inputs to six points (the transpose of polynomial interpolation).
#[inline(always)]
pub(crate) fn input<V: Lanes>(d: [V; 6]) -> [V; 6] {
    let [r1, r2] = pair(fma(d[2], -2.0, d[4]), fma(d[1], -2.0, d[3]), A);
    let [r3, r4] = pair(fma(d[2], -0.5, d[4]), fma(d[1], -0.5, d[3]), B);
    let r0 = fma(d[2], -2.5, d[0].add(d[4]));
    let r5 = fma(d[3], -2.5, d[1].add(d[5]));
    [r0, r1, r2, r3, r4, r5]
}

/// Three weights to six points.
#[inline(always)]
pub(crate) fn weight<V: Lanes>(g: [V; 3]) -> [V; 6] {
    let third = 1.0 / 3.0;
    let even = times(fma(g[2], 0.5, g[0]), -2.0 * third);
    let [r1, r2] = pair(even, g[1], -2.0 * third * A);
    let even = times(fma(g[2], 2.0, g[0]), 0.5 * third);
    let [r3, r4] = pair(even, g[1], 0.5 * third * B);
    [g[0], r1, r2, r3, r4, g[2]]
}

/// Six points to 2, 3 or 4 outputs.
#[inline(always)]
pub(crate) fn output<V: Lanes, const N: usize>(m: [V; 6]) -> [V; N] {
    let (s1, d1) = (m[1].add(m[2]), m[1].sub(m[2]));
    let (s2, d2) = (m[3].add(m[4]), m[3].sub(m[4]));
    // The point at infinity is part of the last output; what lies past N is dead code in each instance.
    let all = [
        m[0].add(s1).add(s2),
        fma(d2, B, if N == 2 { fma(d1, A, m[5]) } else { times(d1, A) }),
        fma(s2, 2.0, if N == 3 { fma(s1, 0.5, m[5]) } else { times(s1, 0.5) }),
        fma(d2, 2.0 * B, fma(d1, 0.5 * A, m[5])),
    ];
    let mut outputs = [all[0]; N];
    outputs.copy_from_slice(&all[..N]);
    outputs
}

/// Four output gradients to six points: the transpose of [`output`].
#[inline(always)]
pub(crate) fn gradient<V: Lanes>(g: [V; 4]) -> [V; 6] {
    let [r1, r2] = pair(fma(g[2], 0.5, g[0]), fma(g[3], 0.5, g[1]), A);
    let [r3, r4] = pair(fma(g[2], 2.0, g[0]), fma(g[3], 2.0, g[1]), B);
    [g[0], r1, r2, r3, r4, g[3]]
}

/// Six points to three weight gradients: the transpose of [`weight`].
#[inline(always)]
pub(crate) fn weight_gradient<V: Lanes>(m: [V; 6]) -> [V; 3] {
    let third = 1.0 / 3.0;
    let (s1, d1) = (m[1].add(m[2]), m[1].sub(m[2]));
    let (s2, d2) = (m[3].add(m[4]), m[3].sub(m[4]));
    let y0 = fma(s2, 0.5 * third, fma(s1, -2.0 * third, m[0]));
    let y1 = fma(d2, 0.5 * third * B, times(d1, -2.0 * third * A));
    let y2 = fma(s2, third, fma(s1, -third, m[5]));
    [y0, y1, y2]
}

/// A kernel of up to 5 taps to the six points, in f64.
pub(crate) fn kernel(taps: &[f64]) -> [f64; POINTS] {
    let points = [0.0, FRAC_1_SQRT_2, -FRAC_1_SQRT_2, SQRT_2, -SQRT_2];
    let mut out = [0.0; POINTS];
    for (value, &x) in out.iter_mut().zip(&points) {
        let scale: f64 = points.iter().filter(|&&y| y != x).map(|&y| x - y).product();
        *value = taps.iter().rev().fold(0.0, |sum, &tap| sum * x + tap) / scale;
    }
    out[POINTS - 1] = taps.last().copied().unwrap_or(0.0);
    out
}

/// Applies a one-dimensional transform of `N` to `M` values along both directions of a square.
macro_rules! both_ways {
    ($name:ident, $one:ident, $n:literal, $m:literal) => {
        /// The transform along columns, then along rows.
        #[inline(always)]
        pub(crate) fn $name<V: Lanes>(x: &[[V; $n]; $n]) -> [[V; $m]; $m] {
            let mut half = [[V::splat(0.0); $n]; $m];
            for column in 0..$n {
                let mut line = [V::splat(0.0); $n];
                for row in 0..$n {
                    line[row] = x[row][column];
                }
                let line: [V; $m] = $one(line);
                for row in 0..$m {
                    half[row][column] = line[row];
                }
            }
            let mut out = [[V::splat(0.0); $m]; $m];
            for row in 0..$m {
                out[row] = $one(half[row]);
            }
            out
        }
    };
}
both_ways!(input_2d, input, 6, 6);
both_ways!(weight_2d, weight, 3, 6);
both_ways!(output_2d, output, 6, 4);
both_ways!(gradient_2d, gradient, 4, 6);
both_ways!(weight_gradient_2d, weight_gradient, 6, 3);
