//! Tiles of products and transposes on AVX-512.

use std::arch::x86_64::*;

/// The transpose of 16 by 16 lanes, whatever they hold: four rounds of interleaving row `i` with row `i + 8`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn turned(mut tile: [__m512; 16]) -> [__m512; 16] {
    let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    for _ in 0..4 {
        let mut mixed = tile;
        for r in 0..8 {
            mixed[2 * r] = _mm512_permutex2var_ps(tile[r], low, tile[r + 8]);
            mixed[2 * r + 1] = _mm512_permutex2var_ps(tile[r], high, tile[r + 8]);
        }
        tile = mixed;
    }
    tile
}

/// One tile: `MR` rows and `NV` vectors of columns of the product, kept in registers over the inner dimension.
///
/// # Safety
/// Every element that the sizes and strides name must be valid; the last vector of a row is under `mask`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn tile<const MR: usize, const NV: usize>(
    k: usize,
    (a, a_row, a_col): (*const f32, usize, usize),
    (b, b_row): (*const f32, usize),
    (c, c_row): (*mut f32, usize),
    mask: __mmask16,
    accumulate: bool,
) {
    let lane_mask = |v: usize| if v + 1 == NV { mask } else { 0xFFFF };
    let mut sums = [[_mm512_setzero_ps(); NV]; MR];
    for p in 0..k {
        let mut row = [_mm512_setzero_ps(); NV];
        for (v, row) in row.iter_mut().enumerate() {
            // SAFETY: inside `b` by the caller's promise.
            *row = unsafe { _mm512_maskz_loadu_ps(lane_mask(v), b.add(p * b_row + 16 * v)) };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: inside `a` by the caller's promise.
            let x = _mm512_set1_ps(unsafe { *a.add(r * a_row + p * a_col) });
            for (sum, row) in sums.iter_mut().zip(row) {
                *sum = _mm512_fmadd_ps(x, row, *sum);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (v, &sum) in sums.iter().enumerate() {
            // SAFETY: inside `c` by the caller's promise.
            unsafe {
                let at = c.add(r * c_row + 16 * v);
                let old =
                    if accumulate { _mm512_maskz_loadu_ps(lane_mask(v), at) } else { _mm512_setzero_ps() };
                _mm512_mask_storeu_ps(at, lane_mask(v), _mm512_add_ps(sum, old));
            }
        }
    }
}

/// All rows of a panel of `NV` vectors of columns.
///
/// # Safety
/// As [`tile`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn panel<const MR: usize, const NV: usize>(
    (m, k): (usize, usize),
    (a, a_row, a_col): (*const f32, usize, usize),
    b: (*const f32, usize),
    (c, c_row): (*mut f32, usize),
    mask: __mmask16,
    accumulate: bool,
) {
    let mut i = 0;
    macro_rules! rows {
        ($rows:expr) => {
            while i + $rows <= m {
                // SAFETY: rows i.. of `a` and `c` exist, the rest is the caller's promise.
                unsafe {
                    let (a, c) = ((a.add(i * a_row), a_row, a_col), (c.add(i * c_row), c_row));
                    tile::<{ $rows }, NV>(k, a, b, c, mask, accumulate);
                }
                i += $rows;
            }
        };
    }
    rows!(MR);
    rows!(4);
    rows!(2);
    rows!(1);
}

/// The whole product, panel by panel. Tiles have at least 8 sums in flight, which hides the latency of a
/// fused multiply-add, and at most 24, which fit in the registers.
///
/// # Safety
/// Every element that the sizes and strides name must be valid.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn product(
    (m, n, k): (usize, usize, usize),
    a: (*const f32, usize, usize),
    (b, b_row): (*const f32, usize),
    (c, c_row): (*mut f32, usize),
    accumulate: bool,
) {
    let mut j = 0;
    while j < n {
        let width = (n - j).min(64);
        let vectors = width.div_ceil(16);
        let mask = 0xFFFF >> (16 * vectors - width);
        // SAFETY: columns j..j + width exist in `b` and `c`; `mask` covers the last vector's.
        unsafe {
            let (b, c) = ((b.add(j), b_row), (c.add(j), c_row));
            match vectors {
                1 => panel::<16, 1>((m, k), a, b, c, mask, accumulate),
                2 => panel::<8, 2>((m, k), a, b, c, mask, accumulate),
                3 => panel::<8, 3>((m, k), a, b, c, mask, accumulate),
                _ => panel::<4, 4>((m, k), a, b, c, mask, accumulate),
            }
        }
        j += width;
    }
}

/// Transposes tiles of 16 by 16 in registers.
///
/// # Safety
/// `x` has `rows` rows of `cols` elements, `out` has `cols` rows of `out_stride`, a multiple of 16 not below `rows`.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose(
    (rows, cols): (usize, usize),
    x: *const f32,
    stride: usize,
    out: *mut f32,
    out_stride: usize,
) {
    for j in (0..cols).step_by(16) {
        let mask: __mmask16 = 0xFFFF >> (16 - (cols - j).min(16));
        for i in (0..out_stride).step_by(16) {
            let mut tile = [_mm512_setzero_ps(); 16];
            for (r, row) in tile.iter_mut().enumerate().take(rows.saturating_sub(i)) {
                // SAFETY: row i + r is below `rows`, and `mask` ends at the last column.
                *row = unsafe { _mm512_maskz_loadu_ps(mask, x.add((i + r) * stride + j)) };
            }
            for (r, &row) in turned(tile).iter().enumerate().take(cols - j) {
                // SAFETY: row j + r is below `cols`, and a row has `out_stride` elements.
                unsafe { _mm512_storeu_ps(out.add((j + r) * out_stride + i), row) };
            }
        }
    }
}
