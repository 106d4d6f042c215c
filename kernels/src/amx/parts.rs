//! f32 matrices as three of bf16, in the tiles that the matrix units read.
//!
//! A tile is 16 lines of 16 pairs: for a left operand a line is a row of the matrix and a pair two neighbours along the
//! inner dimension; for a right operand a line is a pair of neighbours along the inner dimension, and its pairs are columns. One
//! is the other turned, pair for pair, so that two ways of reading a matrix serve both operands in both layouts.

// Lines are arrays indexed by constants: iterators there cost the compiler its view of the registers.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::BLOCK;
use crate::small_gemm::avx512::turned;

/// 32 numbers of bf16, a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([u32; 16]);

/// Lines of a tile.
const TILE: usize = 16;
/// Numbers along the inner dimension of a step.
pub(crate) const STEP: usize = 32;
/// Lines of one step of a block: three parts of two tiles.
pub(crate) const LINES: usize = 6 * TILE;

/// Rows from one that is packed to one that will be soon: the processor does not foresee pieces of many rows.
const AHEAD: usize = 64;

/// A matrix in memory.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    /// Elements from row to row.
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

/// Which dimension of a [`Matrix`] is the inner one of a product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inner {
    /// A row of the matrix is a row (of a left operand) or column (of a right one) of the product.
    AlongRows,
    /// A column of the matrix is.
    AlongColumns,
}

/// Which operand of a product it will be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

impl Matrix<'_> {
    fn inner(&self, inner: Inner) -> usize {
        if inner == Inner::AlongRows { self.columns } else { self.rows }
    }

    fn outer(&self, inner: Inner) -> usize {
        if inner == Inner::AlongRows { self.rows } else { self.columns }
    }

    /// Lines that [`Self::pack`] writes.
    pub(crate) fn lines(&self, inner: Inner) -> usize {
        self.outer(inner).div_ceil(BLOCK) * self.inner(inner).div_ceil(STEP) * LINES
    }

    /// Writes block after block of 32 rows or columns, filled up with zeros, each step after step.
    pub(crate) fn pack(&self, inner: Inner, side: Side, out: &mut [Line]) {
        assert!(crate::simd::level() == crate::simd::Level::Amx, "packed for units that are not there");
        assert!(out.len() == self.lines(inner), "parts: {} lines", out.len());
        assert!(crate::gemm::Mat::rows(self.data, self.stride).covers(self.rows, self.columns), "parts: data");
        let steps = self.inner(inner).div_ceil(STEP);
        for (index, to) in out.chunks_exact_mut(LINES).enumerate() {
            let (outer, along) = (index / steps * BLOCK, index % steps * STEP);
            for half in 0..2 {
                let start = outer + half * TILE;
                let (row, column) = if inner == Inner::AlongRows { (start, along) } else { (along, start) };
                let rows = self.rows.saturating_sub(row);
                let columns = self.columns.saturating_sub(column);
                let to = &mut to[half * TILE..][..5 * TILE];
                let turned = (inner == Inner::AlongRows) == (side == Side::Right);
                // SAFETY: processors with these units have AVX-512; `rows` by `columns` elements from here on are inside the
                // data, as was checked for all of them.
                unsafe {
                    let from = self.data.as_ptr().wrapping_add(row * self.stride + column);
                    match inner {
                        Inner::AlongRows => runs(from, self.stride, rows.min(TILE), columns.min(STEP), to),
                        Inner::AlongColumns => pairs(from, self.stride, rows.min(STEP), columns.min(TILE), to),
                    }
                    if turned {
                        (0..3).for_each(|part| turn(&mut to[2 * part * TILE..][..TILE]));
                    }
                }
            }
        }
    }
}

/// The first `count` of 16 lanes, less `skipped` before them.
fn mask(count: usize, skipped: usize) -> __mmask16 {
    ((1u32 << count.saturating_sub(skipped).min(16)) - 1) as __mmask16
}

/// The three parts of 16 numbers, each in the upper half of its lane; lower halves are not cleared everywhere.
#[target_feature(enable = "avx512f")]
#[inline]
fn split(x: __m512) -> [__m512i; 3] {
    let (half, upper) = (_mm512_set1_epi32(0x8000), _mm512_set1_epi32(0xFFFF_0000_u32 as i32));
    // To the nearest bf16: what is left fits the two others.
    let high = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), half), upper);
    let rest = _mm512_sub_ps(x, _mm512_castsi512_ps(high));
    let middle = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(rest), half), upper);
    // Eight bits are left: cut off, not rounded, they are the same, and NaN stays NaN.
    let low = _mm512_sub_ps(rest, _mm512_castsi512_ps(middle));
    [high, middle, _mm512_castps_si512(low)]
}

/// Lines of 32 neighbours of a row: 16 rows, beyond `rows` and `columns` zeros.
///
/// # Safety
/// The elements are there.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn runs(from: *const f32, stride: usize, rows: usize, columns: usize, to: &mut [Line]) {
    let to = to.as_mut_ptr();
    let mut uppers = [0u16; 32];
    for (i, upper) in uppers.iter_mut().enumerate() {
        *upper = (2 * i + 1) as u16;
    }
    // SAFETY: masks keep loads inside the row; `to` has 5 tiles, every second of which is written.
    unsafe {
        let uppers = _mm512_loadu_si512(uppers.as_ptr().cast());
        let masks = [mask(columns, 0), mask(columns, 16)];
        for row in 0..TILE {
            let mut x = [_mm512_setzero_ps(); 2];
            if row < rows {
                let from = from.wrapping_add(row * stride);
                for line in 0..2 {
                    _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(AHEAD * stride + line * 16).cast());
                }
                x = [
                    _mm512_maskz_loadu_ps(masks[0], from),
                    _mm512_maskz_loadu_ps(masks[1], from.wrapping_add(16)),
                ];
            }
            let (first, second) = (split(x[0]), split(x[1]));
            for part in 0..3 {
                let line = _mm512_permutex2var_epi16(first[part], uppers, second[part]);
                _mm512_store_si512(to.add(2 * part * TILE + row).cast(), line);
            }
        }
    }
}

/// Lines of 16 columns of two neighbouring rows: 32 rows, beyond `rows` and `columns` zeros.
///
/// # Safety
/// The elements are there.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pairs(from: *const f32, stride: usize, rows: usize, columns: usize, to: &mut [Line]) {
    let to = to.as_mut_ptr();
    let mask = mask(columns, 0);
    // SAFETY: the mask keeps loads inside the row; `to` has 5 tiles, every second of which is written.
    unsafe {
        for pair in 0..TILE {
            let mut x = [_mm512_setzero_ps(); 2];
            for (i, x) in x.iter_mut().enumerate() {
                if 2 * pair + i < rows {
                    let from = from.wrapping_add((2 * pair + i) * stride);
                    _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(AHEAD * stride).cast());
                    *x = _mm512_maskz_loadu_ps(mask, from);
                }
            }
            let (first, second) = (split(x[0]), split(x[1]));
            for part in 0..3 {
                // The upper half of the second beside that of the first.
                let line =
                    _mm512_mask_blend_epi16(0xAAAA_AAAA, _mm512_srli_epi32::<16>(first[part]), second[part]);
                _mm512_store_si512(to.add(2 * part * TILE + pair).cast(), line);
            }
        }
    }
}

/// Turns a tile, pair for pair.
#[target_feature(enable = "avx512f")]
fn turn(tile: &mut [Line]) {
    let tile: &mut [Line; TILE] = tile.try_into().expect("a tile");
    // SAFETY: a line has 64 bytes.
    let lines = std::array::from_fn(|i| unsafe { _mm512_load_ps((&raw const tile[i]).cast()) });
    for (to, line) in tile.iter_mut().zip(turned(lines)) {
        // SAFETY: as above.
        unsafe { _mm512_store_ps((&raw mut *to).cast(), line) };
    }
}

/// Lines of unspecified contents, from the thread's working memory.
pub(crate) fn scratch<R>(len: usize, f: impl FnOnce(&mut [Line]) -> R) -> R {
    const FLOATS: usize = size_of::<Line>() / size_of::<f32>();
    crate::scratch::scratch(len * FLOATS, |floats: &mut [f32]| {
        assert!(floats.as_ptr().cast::<Line>().is_aligned(), "working memory starts at a cache line");
        // SAFETY: the memory is aligned, initialised and of the right length, and any bits are a line.
        f(unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), len) })
    })
}
