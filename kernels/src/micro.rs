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

/// Columns of a panel: two vectors.
pub(crate) const PANEL: usize = 32;
/// Most rows of a block: 24 accumulators, leaving registers for two weights and a broadcast.
pub(crate) const ROWS: usize = 12;

/// Elements of a row that packing moves at a time: long enough for the processor to fetch ahead, and the panel rows they
/// go to stay in the level-1 cache.
const STRIP: usize = 128;

/// Whether the kernels of this file can work on a tensor: an f32 one, on a processor with AVX-512 (and no
/// [`crate::simd::force`] against it).
pub(crate) fn takes(x: &candle_core::Tensor) -> bool {
    x.dtype() == candle_core::DType::F32 && crate::simd::level() == crate::simd::Level::Avx512
}

/// The right operand `[depth, n]`, in panels of [`PANEL`] columns (the last one padded with zeros): panel after
/// panel, row after row.
pub(crate) struct Panels {
    pub(crate) data: Vec<f32>,
    pub(crate) depth: usize,
    pub(crate) n: usize,
}

impl Panels {
    /// Packs `n` columns; `fill(columns, panel)` writes the panel of a range of columns.
    pub(crate) fn pack(
        depth: usize,
        n: usize,
        fill: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync,
    ) -> Self {
        let mut data = crate::cpu::uninit(n.div_ceil(PANEL) * PANEL * depth);
        data.par_chunks_mut((depth * PANEL).max(1)).enumerate().for_each(|(p, panel)| {
            let columns = p * PANEL..n.min((p + 1) * PANEL);
            if columns.len() < PANEL {
                panel.fill(0.0);
            }
            fill(columns, panel);
        });
        Self { data, depth, n }
    }

    /// From the rows of the transpose: `w [n, depth]`, the layout of layer weights.
    pub(crate) fn from_transposed(w: &[f32], n: usize, depth: usize) -> Self {
        Self::pack(depth, n, |columns, panel| {
            for k0 in (0..depth).step_by(STRIP) {
                let part = STRIP.min(depth - k0);
                for (j, n) in columns.clone().enumerate() {
                    let to = panel[k0 * PANEL..].iter_mut().skip(j).step_by(PANEL);
                    for (to, value) in to.zip(&w[n * depth + k0..][..part]) {
                        *to = *value;
                    }
                }
            }
        })
    }

    /// From a row-major `[depth, n]` matrix.
    pub(crate) fn from_rows(w: &[f32], depth: usize, n: usize) -> Self {
        Self::pack(depth, n, |columns, panel| {
            for (row, to) in w.chunks_exact(n).zip(panel.chunks_exact_mut(PANEL)) {
                to[..columns.len()].copy_from_slice(&row[columns.clone()]);
            }
        })
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
        w.par_chunks_mut((PANEL * self.depth).max(1)).enumerate().for_each(|(p, rows)| {
            let panel = self.panel(p);
            for k0 in (0..self.depth).step_by(STRIP) {
                let part = STRIP.min(self.depth - k0);
                for (j, row) in rows.chunks_exact_mut(self.depth).enumerate() {
                    let from = panel[k0 * PANEL..].iter().skip(j).step_by(PANEL);
                    for (value, from) in row[k0..k0 + part].iter_mut().zip(from) {
                        *value = *from;
                    }
                }
            }
        });
        w
    }

    /// The columns of panel `p`.
    pub(crate) fn columns(&self, p: usize) -> std::ops::Range<usize> {
        p * PANEL..self.n.min((p + 1) * PANEL)
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

/// Multiplies rows of `a` by a panel: row `i` starts at `a[a_rows[i]]`, and its result goes to
/// `c + c_rows[i]`, `width` columns of it. The bias holds `width` numbers.
///
/// # Safety
/// AVX-512 F is there ([`takes`]); the rows, at the given offsets and depth, lie inside `a`; `width` elements at each
/// offset of `c_rows` may be written through `c`, and nobody else does.
pub(crate) unsafe fn multiply(
    a: &[f32],
    a_rows: &[usize],
    depth: Depth,
    panel: &[f32],
    epilogue: Epilogue<'_>,
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
        // SAFETY: passed on from the caller.
        unsafe {
            let args = (a.as_ptr(), depth, panel.as_ptr(), epilogue, c, width);
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

type Args<'a> = (*const f32, Depth, *const f32, Epilogue<'a>, *mut f32, usize);

/// Picks one or two vectors of columns.
#[target_feature(enable = "avx512f")]
unsafe fn block_of<const R: usize>(args: Args<'_>, a_rows: &[usize], c_rows: &[usize]) {
    // SAFETY: passed on from the caller.
    unsafe {
        if args.5 > 16 {
            block::<R, 2>(args, a_rows, c_rows);
        } else {
            block::<R, 1>(args, a_rows, c_rows);
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn block<const R: usize, const V: usize>(args: Args<'_>, a_rows: &[usize], c_rows: &[usize]) {
    let (a, depth, panel, epilogue, c, width) = args;
    let mask = |v: usize| -> __mmask16 { ((1u32 << width.saturating_sub(v * 16).min(16)) - 1) as __mmask16 };
    // SAFETY: the caller vouches for every offset; masks keep loads and stores inside `width` columns.
    unsafe {
        let mut sum = [[_mm512_setzero_ps(); V]; R];
        let mut b = panel;
        for segment in 0..depth.segments {
            let start = a.add(segment * depth.stride);
            let mut rows = [start; R];
            for i in 0..R {
                rows[i] = start.add(*a_rows.get_unchecked(i));
            }
            for k in 0..depth.len {
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
                let to = c.add(*c_rows.get_unchecked(i) + v * 16);
                let mut y = _mm512_add_ps(sum[i][v], bias);
                if epilogue.slope != 1.0 {
                    // Where y > 0 keep it; NaN goes the other way and stays NaN.
                    let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(y, _mm512_setzero_ps());
                    y = _mm512_mask_mov_ps(_mm512_mul_ps(y, leak), positive, y);
                }
                _mm512_mask_storeu_ps(to, mask(v), y);
            }
        }
    }
}
