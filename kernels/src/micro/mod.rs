//! The innermost loop of f32 matrix products and convolutions on AVX-512, and the weight layout it reads.
//!
//! A block of the result, up to 12 rows by 32 columns, stays in registers over the whole inner dimension. Rows of
//! the left operand are read where they are, through one offset each, so a convolution needs no gathered copy: the
//! rows are pixels. Weights are packed once into panels of 32 columns.
//!
//! Every element of a result is one chain of fused multiply-adds in the order of the inner dimension, whatever
//! block it falls in: results depend neither on how work was split nor on what else is in the batch.

#![cfg(target_arch = "x86_64")]
// Register blocks are arrays indexed by constants: iterators there cost the compiler its view of the registers.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use rayon::prelude::*;

use crate::small_gemm::transpose;
use crate::threads::Tasks;

/// Columns of a panel: two vectors.
pub(crate) const PANEL: usize = 32;
/// Most rows of a block: 24 accumulators, leaving registers for two weights and a broadcast.
pub(crate) const ROWS: usize = 12;

/// Whether the kernels of this file can work on a tensor: an f32 one, on a processor with AVX-512 (and no
/// [`crate::simd::force`] against it).
pub(crate) fn takes(x: &candle_core::Tensor) -> bool {
    x.dtype() == candle_core::DType::F32 && crate::simd::level() >= crate::simd::Level::Avx512
}

/// The right operand `[depth, n]`, in panels of [`PANEL`] columns (the last one padded with zeros): panel after
/// panel, row after row.
pub(crate) struct Panels {
    pub(crate) data: Vec<f32>,
    pub(crate) depth: usize,
    pub(crate) n: usize,
}

impl Panels {
    /// Packs `n` columns; `fill(columns, panel)` writes the panel of a range of columns, zeros beyond them included.
    pub(crate) fn pack(
        depth: usize,
        n: usize,
        fill: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync,
    ) -> Self {
        let mut data = crate::cpu::uninit(n.div_ceil(PANEL) * PANEL * depth);
        data.par_chunks_mut((depth * PANEL).max(1)).enumerate().one_by_one().for_each(|(p, panel)| {
            fill(p * PANEL..n.min((p + 1) * PANEL), panel);
        });
        Self { data, depth, n }
    }

    /// From the rows of the transpose: `w [n, depth]`, the layout of layer weights.
    pub(crate) fn from_transposed(w: &[f32], n: usize, depth: usize) -> Self {
        Self::pack(depth, n, |columns, panel| {
            transpose((columns.len(), depth), &w[columns.start * depth..], depth, panel, PANEL);
        })
    }

    /// From a row-major `[depth, n]` matrix.
    pub(crate) fn from_rows(w: &[f32], depth: usize, n: usize) -> Self {
        Self::pack(depth, n, |columns, panel| pack_rows(w, n, columns, panel))
    }

    pub(crate) fn count(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// The packed panel `p`.
    pub(crate) fn panel(&self, p: usize) -> &[f32] {
        &self.data[p * self.depth * PANEL..(p + 1) * self.depth * PANEL]
    }

    /// Unpacks to the transpose, `[n, depth]` row-major: the inverse of [`Panels::from_transposed`].
    pub(crate) fn to_transposed(&self) -> Vec<f32> {
        let mut w = crate::cpu::uninit(self.n * self.depth);
        w.par_chunks_mut((PANEL * self.depth).max(1)).enumerate().one_by_one().for_each(|(p, rows)| {
            transpose((self.depth, rows.len() / self.depth), self.panel(p), PANEL, rows, self.depth);
        });
        w
    }

    /// The columns of panel `p`.
    pub(crate) fn columns(&self, p: usize) -> std::ops::Range<usize> {
        p * PANEL..self.n.min((p + 1) * PANEL)
    }
}

/// Packs some columns of the rows of a `[depth, n]` matrix into a panel, as many rows as it has.
pub(crate) fn pack_rows(w: &[f32], n: usize, columns: std::ops::Range<usize>, panel: &mut [f32]) {
    assert!(columns.len() <= PANEL && columns.end <= n && w.len() <= panel.len() / PANEL * n, "pack_rows");
    // SAFETY: AVX-512 is there (panels are made for it alone); the columns are inside each of the `w.len() / n` rows, and
    // the panel has as many.
    unsafe {
        let from = w.as_ptr().add(columns.start.min(w.len()));
        copy_columns(from, n, w.len() / n.max(1), columns.len(), panel.as_mut_ptr());
    }
}

/// Copies `width` numbers, at most 32, of each row to a row of 32, the rest zeros.
///
/// # Safety
/// `rows` rows of `width` numbers lie `stride` apart; AVX-512 F is there.
#[target_feature(enable = "avx512f")]
unsafe fn copy_columns(from: *const f32, stride: usize, rows: usize, width: usize, to: *mut f32) {
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

/// How the inner dimension lies in memory: `segments` runs `stride` apart, of `len` elements `step` apart.
#[derive(Clone, Copy)]
pub(crate) struct Depth {
    pub(crate) segments: usize,
    pub(crate) stride: usize,
    pub(crate) len: usize,
    pub(crate) step: usize,
}

impl Depth {
    /// One run.
    pub(crate) fn flat(len: usize) -> Self {
        Self { segments: 1, stride: 0, len, step: 1 }
    }
}

/// What happens to a block before it is stored.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// One number a column of the whole result.
    pub(crate) bias: Option<&'a [f32]>,
    /// Factor of negative results (1: none).
    pub(crate) slope: f32,
}

impl Epilogue<'_> {
    pub(crate) const NONE: Epilogue<'static> = Epilogue { bias: None, slope: 1.0 };

    /// The part for some columns.
    pub(crate) fn columns(&self, columns: std::ops::Range<usize>) -> Self {
        Self { bias: self.bias.map(|b| &b[columns]), ..*self }
    }
}

/// What is added to a block after its [`Epilogue`].
#[derive(Clone, Copy)]
pub(crate) enum Added<'a> {
    /// Nothing.
    Nothing,
    /// What the result holds: the block is one part of a sum.
    Result,
    /// A tensor in the layout of the result.
    Tensor(&'a [f32]),
}

impl Added<'_> {
    /// The part that starts at a column.
    pub(crate) fn starting_at(&self, column: usize) -> Self {
        match *self {
            Self::Tensor(tensor) => Self::Tensor(&tensor[column..]),
            other => other,
        }
    }

    /// Where the addends lie, at the offsets of the results; null for none.
    pub(crate) fn start(&self, result: *const f32) -> *const f32 {
        match self {
            Self::Nothing => std::ptr::null(),
            Self::Result => result,
            Self::Tensor(tensor) => tensor.as_ptr(),
        }
    }
}

/// What will be read next: it is brought into the level-2 cache bit by bit while a product is under way, since the
/// processor does not foresee a dozen rows at once.
#[derive(Clone, Copy)]
pub(crate) struct Ahead<'a> {
    /// From here on.
    pub(crate) from: &'a [f32],
    /// Elements for every step along the inner dimension; every 16th starts a cache line.
    pub(crate) step: usize,
}

impl Ahead<'_> {
    pub(crate) const NOTHING: Ahead<'static> = Ahead { from: &[], step: 0 };
}

/// Multiplies rows of `a` by a panel: row `i` starts at `a[a_rows[i]]`, and its result goes to
/// `c + c_rows[i]`, `width` columns of it. The bias holds `width` numbers.
///
/// # Safety
/// AVX-512 F is there ([`takes`]); the rows, at the given offsets and depth, lie inside `a`; `width` elements at each
/// offset of `c_rows` may be written through `c`, and nobody else does; `width` elements at each of them lie inside an
/// added tensor.
pub(crate) unsafe fn multiply(
    a: &[f32],
    a_rows: &[usize],
    depth: Depth,
    panel: &[f32],
    epilogue: Epilogue<'_>,
    added: Added<'_>,
    ahead: Ahead<'_>,
    c: *mut f32,
    c_rows: &[usize],
    width: usize,
) {
    debug_assert!(panel.len() >= depth.segments * depth.len * PANEL && a_rows.len() == c_rows.len());
    debug_assert!(
        a_rows.iter().all(|r| r + (depth.segments - 1) * depth.stride + (depth.len - 1) * depth.step < a.len())
    );
    let blocks = a_rows.len().div_ceil(ROWS);
    let mut done = 0;
    for block in 0..blocks {
        // Blocks of nearly equal height: 64 rows are 4 of 11 and 2 of 10, not 5 of 12 and one of 4.
        let rows = (a_rows.len() - done).div_ceil(blocks - block);
        let (ar, cr) = (&a_rows[done..done + rows], &c_rows[done..done + rows]);
        let start = if ahead.step == 0 { a.as_ptr() } else { ahead.from.as_ptr() };
        let soon = start.wrapping_add(block * depth.segments * depth.len * ahead.step);
        // SAFETY: passed on from the caller.
        unsafe {
            let args =
                (a.as_ptr(), depth, panel.as_ptr(), epilogue, added.start(c), (soon, ahead.step), c, width);
            match rows {
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
        done += rows;
    }
}

type Args<'a> = (*const f32, Depth, *const f32, Epilogue<'a>, *const f32, (*const f32, usize), *mut f32, usize);

/// Picks one or two vectors of columns.
#[target_feature(enable = "avx512f")]
unsafe fn block_of<const R: usize>(args: Args<'_>, a_rows: &[usize], c_rows: &[usize]) {
    // SAFETY: passed on from the caller.
    unsafe {
        if args.7 > 16 {
            block::<R, 2>(args, a_rows, c_rows);
        } else {
            block::<R, 1>(args, a_rows, c_rows);
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn block<const R: usize, const V: usize>(args: Args<'_>, a_rows: &[usize], c_rows: &[usize]) {
    let (a, depth, panel, epilogue, added, (mut soon, soon_step), c, width) = args;
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
