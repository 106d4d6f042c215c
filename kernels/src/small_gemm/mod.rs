//! Matrix products so small (16 to 196 rows, 16 to 64 columns) that a general one spends its time on packing.
//!
//! `b` is read in place along its rows, `a` element by element with any strides, so a transposed `a` is free;
//! a transposed `b` is made with [`transpose`]. On AVX-512 and AVX2, f32 has its own tiles; everything else takes a
//! plain loop that the compiler vectorises.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;

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
    if TypeId::of::<T>() == TypeId::of::<f32>() && simd::level() >= Level::Avx2 {
        let (a_ptr, b_ptr, c_ptr) = (a.data.as_ptr().cast(), b.data.as_ptr().cast(), c.as_mut_ptr().cast());
        let (a, b, c) = ((a_ptr, a.row_stride, a.col_stride), (b_ptr, b.row_stride), (c_ptr, c_stride));
        // SAFETY: T is f32, the processor has these instructions and all indices were checked above.
        return unsafe {
            match simd::level() {
                Level::Avx2 => avx2::product((m, n, k), a, b, c, accumulate),
                _ => avx512::product((m, n, k), a, b, c, accumulate),
            }
        };
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
    if TypeId::of::<T>() == TypeId::of::<f32>() && simd::level() >= Level::Avx2 && out_stride.is_multiple_of(16)
    {
        let (x, out) = (x.as_ptr().cast(), out.as_mut_ptr().cast());
        // SAFETY: T is f32, the processor has these instructions and all indices were checked above.
        return unsafe {
            match simd::level() {
                Level::Avx2 => avx2::transpose((rows, cols), x, stride, out, out_stride),
                _ => avx512::transpose((rows, cols), x, stride, out, out_stride),
            }
        };
    }
    for (j, out) in out.chunks_exact_mut(out_stride).take(cols).enumerate() {
        for (i, out) in out.iter_mut().enumerate() {
            *out = if i < rows { x[i * stride + j] } else { T::zero() };
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
        for (rows, cols) in [(1, 1), (9, 6), (16, 64), (17, 45), (49, 24), (65, 33), (64, 16)] {
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
