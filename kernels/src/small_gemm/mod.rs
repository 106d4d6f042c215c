//! Matrix products so small (16 to 196 rows, 16 to 64 columns) that a general one spends its time on packing.
//!
//! `b` is read in place along its rows, `a` element by element with any strides, so a transposed `a` is free;
//! a transposed `b` is made with [`transpose`]. On AVX-512, f32 has its own tiles; everything else takes a
//! plain loop that the compiler vectorises.

use std::any::TypeId;

use crate::cpu::Element;
use crate::gemm::Mat;
use crate::simd::{self, Level, multiversion};

/// `c = a b`, or `c += a b` with `accumulate`: `a: [m, k]`, `b: [k, n]` with contiguous rows, `c: [m, n]` row-major
/// with `c_stride` elements from row to row.
pub(crate) fn small_gemm<T: Element>(
    (m, n, k): (usize, usize, usize),
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    c: &mut [T],
    c_stride: usize,
    accumulate: bool,
) {
    assert!(
        b.col_stride == 1 && a.covers(m, k) && b.covers(k, n) && Mat::rows(&*c, c_stride).covers(m, n),
        "small_gemm: operand too short"
    );
    #[cfg(target_arch = "x86_64")]
    if TypeId::of::<T>() == TypeId::of::<f32>() && simd::level() >= Level::Avx512 {
        let (a_ptr, b_ptr, c_ptr) = (a.data.as_ptr().cast(), b.data.as_ptr().cast(), c.as_mut_ptr().cast());
        let a = (a_ptr, a.row_stride, a.col_stride);
        // SAFETY: T is f32, the processor has AVX-512 and all indices were checked above.
        return unsafe { avx512::product((m, n, k), a, (b_ptr, b.row_stride), (c_ptr, c_stride), accumulate) };
    }
    product(m, n, k, a, b, c, c_stride, accumulate);
}

multiversion! {
    fn product<T: Element>(
        m: usize, n: usize, k: usize, a: Mat<'_, T>, b: Mat<'_, T>, c: &mut [T], c_stride: usize, accumulate: bool,
    ) {
        for i in 0..m {
            let c = &mut c[i * c_stride..][..n];
            if !accumulate {
                c.fill(T::zero());
            }
            for p in 0..k {
                let x = a.data[i * a.row_stride + p * a.col_stride];
                for (c, b) in c.iter_mut().zip(&b.data[p * b.row_stride..][..n]) {
                    *c = x.fma(*b, *c);
                }
            }
        }
    }
}

/// Writes the transpose of a `[rows, cols]` matrix with `stride` elements from row to row to `out`, `[cols,
/// out_stride]`; columns from `rows` to `out_stride` become 0.
pub(crate) fn transpose<T: Element>(
    (rows, cols): (usize, usize),
    x: &[T],
    stride: usize,
    out: &mut [T],
    out_stride: usize,
) {
    assert!(rows <= out_stride && out.len() >= cols * out_stride && Mat::rows(x, stride).covers(rows, cols));
    #[cfg(target_arch = "x86_64")]
    if TypeId::of::<T>() == TypeId::of::<f32>()
        && simd::level() >= Level::Avx512
        && out_stride.is_multiple_of(16)
    {
        // SAFETY: T is f32, the processor has AVX-512 and all indices were checked above.
        return unsafe {
            avx512::transpose((rows, cols), x.as_ptr().cast(), stride, out.as_mut_ptr().cast(), out_stride)
        };
    }
    for (j, out) in out.chunks_exact_mut(out_stride).take(cols).enumerate() {
        for (i, out) in out.iter_mut().enumerate() {
            *out = if i < rows { x[i * stride + j] } else { T::zero() };
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512 {
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
        while i + MR <= m {
            // SAFETY: as below.
            unsafe {
                let (a, c) = ((a.add(i * a_row), a_row, a_col), (c.add(i * c_row), c_row));
                tile::<MR, NV>(k, a, b, c, mask, accumulate);
            }
            i += MR;
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers: products and sums of them are exact in f32.
    fn numbers(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + 13) % 17) as f32 - 8.0).collect()
    }

    #[test]
    fn products_of_all_small_shapes_are_exact() {
        for m in [1, 3, 16, 17, 23, 49] {
            for n in [1, 15, 16, 33, 48, 64, 81] {
                for (k, transposed, accumulate) in [(1, false, false), (16, true, true), (33, true, false)] {
                    let stride = if transposed { m + 2 } else { k + 3 };
                    let (a, b) = (numbers(100 * 100), numbers(200 * 100));
                    let a = Mat::rows(&a, stride).t_if(transposed);
                    let mut c = vec![1.0; m * (n + 5)];
                    small_gemm((m, n, k), a, Mat::rows(&b, n + 1), &mut c, n + 5, accumulate);
                    for i in 0..m {
                        for j in 0..n {
                            let dot = |p| a.data[i * a.row_stride + p * a.col_stride] * b[p * (n + 1) + j];
                            let want = (0..k).map(dot).sum::<f32>() + if accumulate { 1.0 } else { 0.0 };
                            assert_eq!(c[i * (n + 5) + j], want, "{m} {n} {k} at {i},{j}");
                        }
                        assert!(
                            c[i * (n + 5) + n..(i + 1) * (n + 5)].iter().all(|c| *c == 1.0),
                            "wrote past a row"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn transposes_of_all_small_shapes_are_exact() {
        for (rows, cols) in [(1, 1), (16, 64), (49, 24), (65, 33), (64, 16)] {
            let (x, out_stride) = (numbers(rows * (cols + 3)), rows.next_multiple_of(16));
            let mut out = vec![9.0; cols * out_stride];
            transpose((rows, cols), &x, cols + 3, &mut out, out_stride);
            for (j, out) in out.chunks(out_stride).enumerate() {
                for (i, out) in out.iter().enumerate() {
                    assert_eq!(*out, if i < rows { x[i * (cols + 3) + j] } else { 0.0 });
                }
            }
        }
    }
}
