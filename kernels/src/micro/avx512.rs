//! Blocks of 12 rows by 32 columns: 24 accumulators, leaving registers for two weights and a broadcast.

use std::arch::x86_64::*;

use super::{Args, PANEL, blocks};

/// Most rows of a block.
pub(super) const ROWS: usize = 12;

/// Copies `width` numbers, at most 32, of each row to a row of 32, the rest zeros.
///
/// # Safety
/// `rows` rows of `width` numbers lie `stride` apart; AVX-512 F is there.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn copy_columns(from: *const f32, stride: usize, rows: usize, width: usize, to: *mut f32) {
    let mask = |v: usize| ((1u32 << width.saturating_sub(v * 16).min(16)) - 1) as __mmask16;
    for row in 0..rows {
        for v in 0..PANEL / 16 {
            // SAFETY: masks keep the loads inside `width` columns; the rest is the caller's promise.
            unsafe {
                let values = _mm512_maskz_loadu_ps(mask(v), from.wrapping_add(row * stride + v * 16));
                _mm512_storeu_ps(to.add(row * PANEL + v * 16), values);
            }
        }
    }
}

/// See [`super::multiply`].
///
/// # Safety
/// As there; AVX-512 F is there.
pub(super) unsafe fn multiply(args: Args<'_>, a_rows: &[usize], c_rows: &[usize]) {
    for (block, rows) in blocks(a_rows.len(), ROWS).enumerate() {
        let (ar, cr) = (&a_rows[rows.clone()], &c_rows[rows.clone()]);
        let (start, step) = args.soon;
        let soon = start.wrapping_add(block * args.depth.segments * args.depth.len * step);
        let args = Args { soon: (soon, step), ..args };
        // SAFETY: passed on from the caller.
        unsafe {
            match rows.len() {
                1 => block_of::<1>(args, ar, cr),
                2 => block_of::<2>(args, ar, cr),
                3 => block_of::<3>(args, ar, cr),
                4 => block_of::<4>(args, ar, cr),
                5 => block_of::<5>(args, ar, cr),
                6 => block_of::<6>(args, ar, cr),
                7 => block_of::<7>(args, ar, cr),
                8 => block_of::<8>(args, ar, cr),
                9 => block_of::<9>(args, ar, cr),
                10 => block_of::<10>(args, ar, cr),
                11 => block_of::<11>(args, ar, cr),
                _ => block_of::<12>(args, ar, cr),
            }
        }
    }
}

/// Picks one or two vectors of columns.
#[target_feature(enable = "avx512f")]
unsafe fn block_of<const R: usize>(args: Args<'_>, a_rows: &[usize], c_rows: &[usize]) {
    // SAFETY: passed on from the caller.
    unsafe {
        if args.width > 16 {
            block::<R, 2>(args, a_rows, c_rows);
        } else {
            block::<R, 1>(args, a_rows, c_rows);
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn block<const R: usize, const V: usize>(args: Args<'_>, a_rows: &[usize], c_rows: &[usize]) {
    let Args { a, depth, panel, epilogue, added, soon: (mut soon, soon_step), c, width } = args;
    let mask = |v: usize| -> __mmask16 { ((1u32 << width.saturating_sub(v * 16).min(16)) - 1) as __mmask16 };
    // SAFETY: the caller vouches for every offset; masks keep loads and stores inside `width` columns.
    unsafe {
        let mut sum = [[_mm512_setzero_ps(); V]; R];
        // A store waits until its line is in the cache; asked for now, it is there when the sums are.
        for &row in c_rows.iter().take(R) {
            for v in 0..V {
                _mm_prefetch::<_MM_HINT_ET0>(c.wrapping_add(row + v * 16).cast());
            }
        }
        let mut b = panel;
        for segment in 0..depth.segments {
            let start = a.add(segment * depth.stride);
            let mut rows = [start; R];
            for i in 0..R {
                rows[i] = start.add(*a_rows.get_unchecked(i));
            }
            for k in 0..depth.len {
                _mm_prefetch::<_MM_HINT_T1>(soon.cast());
                soon = soon.wrapping_add(soon_step);
                let mut weights = [_mm512_setzero_ps(); V];
                for v in 0..V {
                    weights[v] = _mm512_loadu_ps(b.add(v * 16));
                }
                for i in 0..R {
                    let x = _mm512_set1_ps(*rows[i].add(k * depth.step));
                    for v in 0..V {
                        sum[i][v] = _mm512_fmadd_ps(x, weights[v], sum[i][v]);
                    }
                }
                b = b.add(PANEL);
            }
        }
        let leak = _mm512_set1_ps(epilogue.slope);
        for v in 0..V {
            let bias = match epilogue.bias {
                Some(bias) => _mm512_maskz_loadu_ps(mask(v), bias.as_ptr().add(v * 16)),
                None => _mm512_setzero_ps(),
            };
            for i in 0..R {
                let at = *c_rows.get_unchecked(i) + v * 16;
                let mut y = _mm512_add_ps(sum[i][v], bias);
                if epilogue.slope != 1.0 {
                    // Where y > 0 keep it; NaN goes the other way and stays NaN.
                    let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(y, _mm512_setzero_ps());
                    y = _mm512_mask_mov_ps(_mm512_mul_ps(y, leak), positive, y);
                }
                if !added.is_null() {
                    y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask(v), added.add(at)));
                }
                _mm512_mask_storeu_ps(c.add(at), mask(v), y);
            }
        }
    }
}
