//! Winograd's minimal filtering F(4x4, 3x3) in f32: 36 products for 16 outputs instead of 144 (Lavin and Gray, 2015,
//! arXiv:1509.09308), on AVX-512 and AVX2. The one-dimensional transforms; [`crate::winograd_conv`] puts them together.
//!
//! Differs from the paper: interpolation points 0, ±1/√2, ±√2 and infinity in place of 0, ±1, ±2 and infinity. With them
//! the error is 1.7 times that of a direct f32 sum (rms), half that of the paper's points.

#![cfg(target_arch = "x86_64")]

use crate::lanes::Lanes;

/// Outputs of a tile in each direction.
pub(crate) const OUT: usize = 4;
/// Interpolation points: inputs of a tile in each direction.
pub(crate) const POINTS: usize = 6;
/// Products of a tile for each pair of channels.
pub(crate) const PRODUCTS: usize = POINTS * POINTS;

/// The inner points are ±A and ±B.
const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;

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

/// Six points to four outputs.
#[inline(always)]
pub(crate) fn output<V: Lanes>(m: [V; 6]) -> [V; 4] {
    let (s1, d1) = (m[1].add(m[2]), m[1].sub(m[2]));
    let (s2, d2) = (m[3].add(m[4]), m[3].sub(m[4]));
    let y0 = m[0].add(s1).add(s2);
    let y1 = fma(d2, B, times(d1, A));
    let y2 = fma(s2, 2.0, times(s1, 0.5));
    let y3 = fma(d2, 2.0 * B, fma(d1, 0.5 * A, m[5]));
    [y0, y1, y2, y3]
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
                let line = $one(line);
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
