//! Tiles of products and transposes on AVX2.

use std::arch::x86_64::*;

use crate::lanes::first_lanes;

/// One tile: `MR` rows and `NV` vectors of columns of the product, kept in registers over the inner dimension. The last vector
/// has `last` columns, 8 where it is `WHOLE`.
///
/// # Safety
/// Every element that the sizes and strides name must be valid.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const MR: usize, const NV: usize, const WHOLE: bool>(
    k: usize,
    (a, a_row, a_col): (*const f32, usize, usize),
    (b, b_row): (*const f32, usize),
    (c, c_row): (*mut f32, usize),
    last: usize,
    accumulate: bool,
) {
    let mask = first_lanes(last);
    let whole = |v: usize| WHOLE || v + 1 < NV;
    let mut sums = [[_mm256_setzero_ps(); NV]; MR];
    for p in 0..k {
        let mut row = [_mm256_setzero_ps(); NV];
        for (v, row) in row.iter_mut().enumerate() {
            // SAFETY: inside `b` by the caller's promise.
            unsafe {
                let at = b.add(p * b_row + 8 * v);
                *row = if whole(v) { _mm256_loadu_ps(at) } else { _mm256_maskload_ps(at, mask) };
            }
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: inside `a` by the caller's promise.
            let x = _mm256_set1_ps(unsafe { *a.add(r * a_row + p * a_col) });
            for (sum, row) in sums.iter_mut().zip(row) {
                *sum = _mm256_fmadd_ps(x, row, *sum);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (v, &sum) in sums.iter().enumerate() {
            // SAFETY: inside `c` by the caller's promise.
            unsafe {
                let at = c.add(r * c_row + 8 * v);
                if whole(v) {
                    let old = if accumulate { _mm256_loadu_ps(at) } else { _mm256_setzero_ps() };
                    _mm256_storeu_ps(at, _mm256_add_ps(sum, old));
                } else {
                    let old = if accumulate { _mm256_maskload_ps(at, mask) } else { _mm256_setzero_ps() };
                    _mm256_maskstore_ps(at, mask, _mm256_add_ps(sum, old));
                }
            }
        }
    }
}

/// All rows of a panel of `NV` vectors of columns.
///
/// # Safety
/// As [`tile`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn panel<const MR: usize, const NV: usize, const WHOLE: bool>(
    (m, k): (usize, usize),
    (a, a_row, a_col): (*const f32, usize, usize),
    b: (*const f32, usize),
    (c, c_row): (*mut f32, usize),
    last: usize,
    accumulate: bool,
) {
    let mut i = 0;
    macro_rules! rows {
        ($rows:expr) => {
            while i + $rows <= m {
                // SAFETY: rows i.. of `a` and `c` exist, the rest is the caller's promise.
                unsafe {
                    let (a, c) = ((a.add(i * a_row), a_row, a_col), (c.add(i * c_row), c_row));
                    tile::<{ $rows }, NV, WHOLE>(k, a, b, c, last, accumulate);
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

/// The whole product, panel by panel. Tiles of 6 rows have 12 sums in flight, which hide the latency of a fused multiply-add
/// and fit in the registers.
///
/// # Safety
/// Every element that the sizes and strides name must be valid.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn product(
    (m, n, k): (usize, usize, usize),
    a: (*const f32, usize, usize),
    (b, b_row): (*const f32, usize),
    (c, c_row): (*mut f32, usize),
    accumulate: bool,
) {
    let mut j = 0;
    while j < n {
        let width = (n - j).min(16);
        let last = (width - 1) % 8 + 1;
        // SAFETY: columns j..j + width exist in `b` and `c`.
        unsafe {
            let (b, c) = ((b.add(j), b_row), (c.add(j), c_row));
            match (width > 8, last == 8) {
                (true, true) => panel::<6, 2, true>((m, k), a, b, c, last, accumulate),
                (true, false) => panel::<6, 2, false>((m, k), a, b, c, last, accumulate),
                (false, true) => panel::<8, 1, true>((m, k), a, b, c, last, accumulate),
                (false, false) => panel::<8, 1, false>((m, k), a, b, c, last, accumulate),
            }
        }
        j += width;
    }
}

/// The transpose of 8 by 8 lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn turned(tile: [__m256; 8]) -> [__m256; 8] {
    let mut pairs = tile;
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_ps(tile[2 * i], tile[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_ps(tile[2 * i], tile[2 * i + 1]);
    }
    let mut fours = pairs;
    for i in 0..2 {
        for half in 0..2 {
            let (x, y) = (pairs[4 * i + half], pairs[4 * i + half + 2]);
            fours[4 * i + 2 * half] = _mm256_shuffle_ps::<0x44>(x, y);
            fours[4 * i + 2 * half + 1] = _mm256_shuffle_ps::<0xEE>(x, y);
        }
    }
    let mut eights = fours;
    for i in 0..4 {
        eights[i] = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
        eights[i + 4] = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
    }
    eights
}

/// Transposes tiles of 8 by 8 in registers.
///
/// # Safety
/// `x` has `rows` rows of `cols` elements, `out` has `cols` rows of `out_stride`, a multiple of 8 not below `rows`.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn transpose(
    (rows, cols): (usize, usize),
    x: *const f32,
    stride: usize,
    out: *mut f32,
    out_stride: usize,
) {
    for j in (0..cols).step_by(8) {
        let (whole, mask) = (cols - j >= 8, first_lanes(cols - j));
        for i in (0..out_stride).step_by(8) {
            let mut tile = [_mm256_setzero_ps(); 8];
            for (r, row) in tile.iter_mut().enumerate().take(rows.saturating_sub(i)) {
                // SAFETY: row i + r is below `rows`, and `mask` ends at the last column.
                unsafe {
                    let at = x.add((i + r) * stride + j);
                    *row = if whole { _mm256_loadu_ps(at) } else { _mm256_maskload_ps(at, mask) };
                }
            }
            for (r, &row) in turned(tile).iter().enumerate().take(cols - j) {
                // SAFETY: row j + r is below `cols`, and a row has `out_stride` elements.
                unsafe { _mm256_storeu_ps(out.add((j + r) * out_stride + i), row) };
            }
        }
    }
}
