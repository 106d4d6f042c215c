//! Matrix products on the matrix units: a task packs rows as it comes to them, and finishes each block of the result while it
//! is in the level-1 cache.

use std::arch::x86_64::*;
use std::ops::Range;

use rayon::prelude::*;

use super::parts::{Inner, LINES, Line, Matrix, STEP, Side, scratch};
use super::{Ahead, BLOCK, Units};
use crate::gemm::Shared;
use crate::micro::{Added, Epilogue};
use crate::threads::Tasks;

/// Bytes of packed rows that a task holds: with a block of columns they stay in a level-2 cache of 2 MiB.
const STRIP_BYTES: usize = 768 * 1024;
/// Rows of both operands of a [`strip_of_product`] at a time.
const CHUNK_ROWS: usize = 12 * STEP;

/// The right operand `[depth, n]`, packed.
pub(crate) struct Packed {
    lines: Vec<Line>,
    depth: usize,
    n: usize,
}

impl Packed {
    /// From the rows of the transpose: `w [n, depth]`, the layout of layer weights.
    pub(crate) fn from_transposed(w: &[f32], n: usize, depth: usize) -> Self {
        Self::pack(depth, n, |columns| {
            let data = &w[columns.start * depth..columns.end * depth];
            (Matrix { data, stride: depth, rows: columns.len(), columns: depth }, Inner::AlongRows)
        })
    }

    /// From a row-major `[depth, n]` matrix.
    pub(crate) fn from_rows(w: &[f32], depth: usize, n: usize) -> Self {
        Self::pack(depth, n, |columns| {
            let data = &w[columns.start..];
            (Matrix { data, stride: n, rows: depth, columns: columns.len() }, Inner::AlongColumns)
        })
    }

    fn pack<'a>(depth: usize, n: usize, block: impl Fn(Range<usize>) -> (Matrix<'a>, Inner) + Sync) -> Self {
        let each = depth.div_ceil(STEP) * LINES;
        let len = n.div_ceil(BLOCK) * each;
        let mut lines = Vec::with_capacity(len);
        // SAFETY: the capacity is `len`, and every line is written below before it is read; what is not within the rules then is
        // told in `cpu::uninit`.
        #[allow(clippy::uninit_vec)]
        unsafe {
            lines.set_len(len);
        }
        lines.par_chunks_mut(each).enumerate().one_by_one().for_each(|(p, lines)| {
            let (matrix, inner) = block(p * BLOCK..n.min((p + 1) * BLOCK));
            matrix.pack(inner, Side::Right, lines);
        });
        Self { lines, depth, n }
    }
}

/// Where the blocks of a result go.
struct Target<'a> {
    /// The first element.
    start: *mut f32,
    /// Elements from row to row.
    stride: usize,
    rows: usize,
    columns: usize,
    epilogue: Epilogue<'a>,
    added: Added<'a>,
}

impl Target<'_> {
    /// Multiplies rows by some columns, both packed in blocks, and stores the product at `first_column` on; meanwhile
    /// `ahead(part, parts, steps)` is read.
    ///
    /// # Safety
    /// `rows` by `columns` elements may be written and nobody else does; an added tensor has as many.
    unsafe fn multiply(
        &self,
        units: &Units,
        (left, right): (&[Line], &[Line]),
        steps: usize,
        first_column: usize,
        ahead: impl Fn(usize, usize, usize) -> Ahead,
    ) {
        let mut sum = Sum([0.0; BLOCK * BLOCK]);
        let blocks = left.len() / (steps * LINES);
        let parts = right.len() / (steps * LINES) * blocks;
        for (p, right) in right.chunks_exact(steps * LINES).enumerate() {
            let column = first_column + p * BLOCK;
            for (b, left) in left.chunks_exact(steps * LINES).enumerate() {
                units.multiply(left, right, ahead(p * blocks + b, parts, steps), &mut sum.0);
                let rows = b * BLOCK..self.rows.min((b + 1) * BLOCK);
                // SAFETY: AVX-512 is there with the units; the rest is the caller's promise.
                unsafe { self.store(&sum, rows, column..self.columns.min(column + BLOCK)) };
            }
        }
    }

    /// Stores a block, and asks for the lines of the one below.
    ///
    /// # Safety
    /// As [`Self::multiply`]; AVX-512 F is there.
    #[target_feature(enable = "avx512f")]
    unsafe fn store(&self, sum: &Sum, rows: Range<usize>, columns: Range<usize>) {
        let mask = |v: usize| ((1u32 << columns.len().saturating_sub(v * 16).min(16)) - 1) as __mmask16;
        let (leak, zero) = (_mm512_set1_ps(self.epilogue.slope), _mm512_setzero_ps());
        let added = self.added.start(self.start);
        // SAFETY: masks keep loads and stores inside the columns; the rest is the caller's promise.
        unsafe {
            let bias: [__m512; 2] = std::array::from_fn(|v| match self.epilogue.bias {
                Some(bias) => {
                    _mm512_maskz_loadu_ps(mask(v), bias.as_ptr().wrapping_add(columns.start + v * 16))
                }
                None => zero,
            });
            for (row, sum) in rows.zip(sum.0.chunks_exact(BLOCK)) {
                for v in 0..2 {
                    let at = row * self.stride + columns.start + v * 16;
                    let mut y = _mm512_add_ps(_mm512_load_ps(sum[v * 16..].as_ptr()), bias[v]);
                    if self.epilogue.slope != 1.0 {
                        // Where y > 0 keep it; NaN goes the other way and stays NaN.
                        let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(y, zero);
                        y = _mm512_mask_mov_ps(_mm512_mul_ps(y, leak), positive, y);
                    }
                    if !added.is_null() {
                        y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask(v), added.wrapping_add(at)));
                    }
                    let to = self.start.wrapping_add(at);
                    _mm512_mask_storeu_ps(to, mask(v), y);
                    // A store waits until its line is in the cache.
                    _mm_prefetch::<_MM_HINT_ET0>(to.wrapping_add(BLOCK * self.stride).cast());
                }
            }
        }
    }
}

/// A block of the result.
#[repr(C, align(64))]
struct Sum([f32; BLOCK * BLOCK]);

/// Rows `mine` of `x [rows, depth]` times packed weights, into `out [rows, n]`.
///
/// # Safety
/// The units are there ([`super::pays`]); nobody else writes these rows of `out`; what is added has the layout of `out`.
pub(crate) unsafe fn rows(
    x: &[f32],
    mine: Range<usize>,
    w: &Packed,
    epilogue: Epilogue<'_>,
    added: Added<'_>,
    out: Shared<f32>,
) {
    // SAFETY: the caller vouches for the units; nothing below leaves this thread.
    let units = unsafe { Units::new() };
    let (depth, steps) = (w.depth, w.depth.div_ceil(STEP));
    let strip = (STRIP_BYTES / (steps * LINES * size_of::<Line>())).max(1) * BLOCK;
    for start in mine.clone().step_by(strip) {
        let rows = start..mine.end.min(start + strip);
        let data = &x[rows.start * depth..rows.end * depth];
        let matrix = Matrix { data, stride: depth, rows: rows.len(), columns: depth };
        scratch(matrix.lines(Inner::AlongRows), |left| {
            matrix.pack(Inner::AlongRows, Side::Left, left);
            let first = rows.start * w.n;
            let target = Target {
                // SAFETY: the row is there.
                start: unsafe { out.start().add(first) },
                stride: w.n,
                rows: rows.len(),
                columns: w.n,
                epilogue,
                added: added.starting_at(first),
            };
            let next = &x[rows.end * depth..x.len().min((rows.end + rows.len()) * depth)];
            let ahead = |part, parts, steps| Ahead::part(next, part, parts, steps);
            // SAFETY: passed on from the caller.
            unsafe { target.multiply(&units, (left, &w.lines), steps, 0, ahead) };
        });
    }
}

/// Some columns of `a [k, m]`, transposed, times `b [k, n]`, over a part of the inner dimension, into `out [columns, n]`.
///
/// # Safety
/// The units are there ([`super::pays`]); `out` has as many elements, and nobody else writes them.
pub(crate) unsafe fn strip_of_product(
    (m, n): (usize, usize),
    a: &[f32],
    b: &[f32],
    columns: Range<usize>,
    depth: Range<usize>,
    out: *mut f32,
) {
    // SAFETY: the caller vouches for the units; nothing below leaves this thread.
    let units = unsafe { Units::new() };
    let chunk_of = |data, stride, rows, columns| Matrix { data, stride, rows, columns };
    for start in depth.clone().step_by(CHUNK_ROWS) {
        let len = CHUNK_ROWS.min(depth.end - start);
        let steps = len.div_ceil(STEP);
        let left = chunk_of(&a[start * m + columns.start..], m, len, columns.len());
        let added = if start == depth.start { Added::Nothing } else { Added::Result };
        let target =
            Target { start: out, stride: n, rows: columns.len(), columns: n, epilogue: Epilogue::NONE, added };
        scratch(left.lines(Inner::AlongColumns) + steps * LINES, |lines| {
            let (rows, panel) = lines.split_at_mut(left.lines(Inner::AlongColumns));
            left.pack(Inner::AlongColumns, Side::Left, rows);
            for column in (0..n).step_by(BLOCK) {
                let right = chunk_of(&b[start * n + column..], n, len, BLOCK.min(n - column));
                right.pack(Inner::AlongColumns, Side::Right, panel);
                let next = right.data.get(BLOCK..).unwrap_or_default();
                let ahead = |part, parts, steps| Ahead::rows(next, n, len, part, parts, steps);
                // SAFETY: passed on from the caller.
                unsafe { target.multiply(&units, (rows, panel), steps, column, ahead) };
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers in (-1, 1) that fill the 24 bits.
    fn numbers(len: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    /// `a [m, k]` times `b [k, n]` in all the ways there are, where there are matrix units.
    fn products((m, n, k): (usize, usize, usize), a: &[f32], b: &[f32]) -> Vec<Vec<f32>> {
        if crate::simd::level() != crate::simd::Level::Amx {
            return Vec::new();
        }
        let turned = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
            (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
        };
        let by_rows = |w: &Packed| {
            let mut out = vec![f32::NAN; m * n];
            let (epilogue, added) = (Epilogue::NONE, Added::Nothing);
            // SAFETY: the units are there; one task writes all of `out`.
            unsafe { rows(a, 0..m, w, epilogue, added, Shared::new(&mut out)) };
            out
        };
        let mut by_columns = vec![f32::NAN; m * n];
        let at = turned(a, m, k);
        // SAFETY: as above.
        unsafe { strip_of_product((m, n), &at, b, 0..m, 0..k, by_columns.as_mut_ptr()) };
        let transposed = Packed::from_transposed(&turned(b, k, n), n, k);
        vec![by_rows(&transposed), by_rows(&Packed::from_rows(b, k, n)), by_columns]
    }

    fn exact((n, k): (usize, usize), a: &[f32], b: &[f32], (i, j): (usize, usize)) -> f64 {
        (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[p * n + j])).sum()
    }

    const SIZES: [(usize, usize, usize); 5] =
        [(1, 1, 1), (33, 17, 31), (32, 32, 64), (70, 65, 33), (97, 40, 800)];

    #[test]
    fn small_whole_numbers_are_exact() {
        for (m, n, k) in SIZES {
            let whole = |x: Vec<f32>| x.into_iter().map(|x| (x * 9.0).round()).collect::<Vec<_>>();
            let (a, b) = (whole(numbers(m * k, 1)), whole(numbers(k * n, 2)));
            for (way, found) in products((m, n, k), &a, &b).into_iter().enumerate() {
                for (i, x) in found.into_iter().enumerate() {
                    assert_eq!(
                        f64::from(x),
                        exact((n, k), &a, &b, (i / n, i % n)),
                        "{m} {n} {k} way {way} at {i}"
                    );
                }
            }
        }
    }

    /// The error against f64 is not more than that of a chain of f32 multiply-adds.
    #[test]
    fn products_are_as_exact_as_in_f32() {
        for (m, n, k) in SIZES.into_iter().skip(1) {
            let (a, b) = (numbers(m * k, 3), numbers(k * n, 4));
            let (mut chain, mut norm) = (0.0, 0.0);
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let found = (0..k).fold(0f32, |sum, p| a[i * k + p].mul_add(b[p * n + j], sum));
                let want = exact((n, k), &a, &b, (i, j));
                chain += (f64::from(found) - want).powi(2);
                norm += want * want;
            }
            for (way, found) in products((m, n, k), &a, &b).into_iter().enumerate() {
                let error = |(i, x): (usize, &f32)| f64::from(*x) - exact((n, k), &a, &b, (i / n, i % n));
                let ours: f64 = found.iter().enumerate().map(|x| error(x).powi(2)).sum();
                assert!(
                    ours <= chain,
                    "{m} {n} {k} way {way}: {} and {}",
                    (ours / norm).sqrt(),
                    (chain / norm).sqrt()
                );
            }
        }
    }

    #[test]
    fn rows_do_not_depend_on_their_neighbours() {
        let (m, n, k) = (70, 65, 33);
        let (a, b) = (numbers(m * k, 5), numbers(k * n, 6));
        let all = products((m, n, k), &a, &b);
        for (way, one) in products((1, n, k), &a[69 * k..], &b).into_iter().enumerate() {
            assert_eq!(one, all[way][69 * n..], "way {way}");
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for odd in [f32::NAN, f32::from_bits(0x7FFF_FFFF), f32::INFINITY, f32::NEG_INFINITY] {
            let (mut a, b) = (numbers(40 * 33, 7), numbers(33 * 40, 8));
            a[5 * 33 + 7] = odd;
            for found in products((40, 40, 33), &a, &b) {
                for (i, x) in found.into_iter().enumerate() {
                    assert_eq!(x.is_finite(), i / 40 != 5, "{odd} at {i}: {x}");
                }
            }
        }
    }

    #[test]
    fn bias_slope_and_addend_come_in_this_order() {
        let (m, n, k) = (40, 40, 33);
        let (a, b, bias, addend) = (numbers(m * k, 1), numbers(k * n, 2), numbers(n, 3), numbers(m * n, 4));
        for plain in products((m, n, k), &a, &b) {
            let mut out = vec![f32::NAN; m * n];
            let epilogue = Epilogue { bias: Some(&bias), slope: 0.2 };
            // SAFETY: the units are there, or there would be no product; one task writes all of `out`.
            unsafe {
                let w = Packed::from_rows(&b, k, n);
                rows(&a, 0..m, &w, epilogue, Added::Tensor(&addend), Shared::new(&mut out));
            }
            for (i, found) in out.into_iter().enumerate() {
                let y = plain[i] + bias[i % n];
                let want = if y > 0.0 { y } else { 0.2 * y } + addend[i];
                assert!((found - want).abs() < 1e-5, "{found} {want} at {i}");
            }
        }
    }
}
