//! Blocks of 6 rows by 16 columns, half a panel: 12 accumulators, leaving registers for two weights and a broadcast.

use std::arch::x86_64::*;

use super::{Args, Depth, PANEL, blocks};
use crate::lanes::first_lanes;

/// Most rows of a block.
const ROWS: usize = 6;
/// Columns of a block: two vectors, a cache line of a panel.
const COLUMNS: usize = 16;

/// Copies `width` numbers, at most 32, of each row to a row of 32, the rest zeros.
///
/// # Safety
/// `rows` rows of `width` numbers lie `stride` apart; AVX2 is there.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn copy_columns(from: *const f32, stride: usize, rows: usize, width: usize, to: *mut f32) {
    for row in 0..rows {
        for v in (0..PANEL).step_by(8) {
            // SAFETY: masks keep the loads inside `width` columns; the rest is the caller's promise.
            unsafe {
                let at = from.wrapping_add(row * stride + v);
                let values = match width.saturating_sub(v) {
                    8.. => _mm256_loadu_ps(at),
                    some => _mm256_maskload_ps(at, first_lanes(some)),
                };
                _mm256_storeu_ps(to.add(row * PANEL + v), values);
            }
        }
    }
}

/// Bytes that a step along the inner dimension goes ahead: a block is a quarter of one of AVX-512, which goes so many elements.
fn bytes_ahead(step: usize) -> usize {
    step * size_of::<f32>() / 4
}

/// See [`super::multiply`].
///
/// # Safety
/// As there; AVX2 and FMA are there.
pub(super) unsafe fn multiply(args: Args<'_>, a_rows: &[usize], c_rows: &[usize]) {
    let (start, step) = args.soon;
    let each = bytes_ahead(step) * args.depth.segments * args.depth.len;
    let halves = args.width.div_ceil(COLUMNS);
    for (block, rows) in blocks(a_rows.len(), ROWS).enumerate() {
        let (ar, cr) = (&a_rows[rows.clone()], &c_rows[rows.clone()]);
        for half in 0..halves {
            let soon = start.wrapping_byte_add((block * halves + half) * each);
            let args = Args { soon: (soon, step), ..args };
            // SAFETY: passed on from the caller.
            unsafe {
                match rows.len() {
                    1 => self::block::<1>(args, half * COLUMNS, ar, cr),
                    2 => self::block::<2>(args, half * COLUMNS, ar, cr),
                    3 => self::block::<3>(args, half * COLUMNS, ar, cr),
                    4 => self::block::<4>(args, half * COLUMNS, ar, cr),
                    5 => self::block::<5>(args, half * COLUMNS, ar, cr),
                    _ => self::block::<6>(args, half * COLUMNS, ar, cr),
                }
            }
        }
    }
}

/// The columns of a block from `column` on.
///
/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx2,fma")]
unsafe fn block<const R: usize>(args: Args<'_>, column: usize, a_rows: &[usize], c_rows: &[usize]) {
    let Args { a, depth, panel, epilogue, added, soon, c, width } = args;
    // SAFETY: the caller vouches for every offset; masks keep loads and stores inside `width` columns.
    unsafe {
        // A store waits until its line is in the cache; asked for now, it is there when the sums are.
        for &row in c_rows.iter().take(R) {
            _mm_prefetch::<_MM_HINT_ET0>(c.wrapping_add(row + column).cast());
        }
        let sum = match depth.step {
            1 => sums::<R, 4>(a, depth, panel.add(column), soon, a_rows),
            _ => sums::<R, 1>(a, depth, panel.add(column), soon, a_rows),
        };
        let leak = _mm256_set1_ps(epilogue.slope);
        for v in 0..2 {
            let left = width.saturating_sub(column + 8 * v);
            if left == 0 {
                return;
            }
            let (whole, mask) = (left >= 8, first_lanes(left));
            let bias = match epilogue.bias {
                Some(bias) => _mm256_maskload_ps(bias.as_ptr().add(column + 8 * v), mask),
                None => _mm256_setzero_ps(),
            };
            for i in 0..R {
                let at = *c_rows.get_unchecked(i) + column + 8 * v;
                let mut y = _mm256_add_ps(sum[i][v], bias);
                if epilogue.slope != 1.0 {
                    // Where y > 0 keep it; NaN goes the other way and stays NaN.
                    let positive = _mm256_cmp_ps::<_CMP_GT_OQ>(y, _mm256_setzero_ps());
                    y = _mm256_blendv_ps(_mm256_mul_ps(y, leak), y, positive);
                }
                if !added.is_null() {
                    y = _mm256_add_ps(y, _mm256_maskload_ps(added.add(at), mask));
                }
                // Stores under a mask are slow.
                if whole {
                    _mm256_storeu_ps(c.add(at), y);
                } else {
                    _mm256_maskstore_ps(c.add(at), mask, y);
                }
            }
        }
    }
}

/// The products of some rows and a half of a panel, summed over the inner dimension, `STEPS` at a time; 4 where its elements are
/// neighbours, else 1: of places with unknown steps, several at a time are more than the compiler keeps in registers.
///
/// # Safety
/// As [`multiply`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn sums<const R: usize, const STEPS: usize>(
    a: *const f32,
    depth: Depth,
    panel: *const f32,
    (mut soon, soon_step): (*const f32, usize),
    a_rows: &[usize],
) -> [[__m256; 2]; R] {
    let step = if STEPS > 1 { 1 } else { depth.step };
    let ahead = STEPS * bytes_ahead(soon_step);
    let (mut sum, mut b) = ([[_mm256_setzero_ps(); 2]; R], panel);
    for segment in 0..depth.segments {
        // SAFETY: the caller vouches for every offset.
        unsafe {
            let start = a.add(segment * depth.stride);
            let mut rows = [start; R];
            for i in 0..R {
                rows[i] = start.add(*a_rows.get_unchecked(i));
            }
            for _ in 0..depth.len / STEPS {
                _mm_prefetch::<_MM_HINT_T1>(soon.cast());
                soon = soon.wrapping_byte_add(ahead);
                for _ in 0..STEPS {
                    one_step(&mut rows, step, &mut b, &mut sum);
                }
            }
            for _ in 0..depth.len % STEPS {
                one_step(&mut rows, step, &mut b, &mut sum);
            }
        }
    }
    sum
}

/// Adds one element of each row times two vectors, and goes on to the next.
///
/// # Safety
/// They are there to be read.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn one_step<const R: usize>(
    rows: &mut [*const f32; R],
    step: usize,
    b: &mut *const f32,
    sum: &mut [[__m256; 2]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = (_mm256_loadu_ps(*b), _mm256_loadu_ps(b.add(8)));
        *b = b.wrapping_add(PANEL);
        for i in 0..R {
            let x = _mm256_set1_ps(*rows[i]);
            rows[i] = rows[i].wrapping_add(step);
            sum[i][0] = _mm256_fmadd_ps(x, low, sum[i][0]);
            sum[i][1] = _mm256_fmadd_ps(x, high, sum[i][1]);
        }
    }
}
