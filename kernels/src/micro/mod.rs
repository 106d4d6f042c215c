//! The innermost loop of f32 matrix products and convolutions on vector units, and the weight layout it reads.
//!
//! A block of the result, up to 12 rows by 32 columns on AVX-512 and 6 by 16 on AVX2, stays in registers over the whole inner
//! dimension. Rows of the left operand are read where they are, through one offset each, so a convolution needs no gathered
//! copy: the rows are pixels. Weights are packed once into panels of 32 columns.
//!
//! Every element of a result is one chain of fused multiply-adds in the order of the inner dimension, whatever
//! block it falls in: results depend neither on how work was split nor on what else is in the batch.

#![cfg(target_arch = "x86_64")]
// Register blocks are arrays indexed by constants: iterators there cost the compiler its view of the registers.
#![allow(clippy::needless_range_loop)]

mod avx2;
mod avx512;

use rayon::prelude::*;

use crate::simd::{self, Level};

use crate::small_gemm::transpose;
use crate::threads::Tasks;

/// Columns of a panel.
pub(crate) const PANEL: usize = 32;
/// Rows whose number tasks are made of: those of any block divide it.
pub(crate) const ROWS: usize = avx512::ROWS;

/// Whether the kernels of this file can work on a tensor: an f32 one, on a processor with AVX2 (and no
/// [`crate::simd::force`] against it).
pub(crate) fn takes(x: &candle_core::Tensor) -> bool {
    x.dtype() == candle_core::DType::F32 && simd::level() >= Level::Avx2
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
    // SAFETY: AVX2 is there at least (panels are made for it and what is above it alone); the columns are inside each of the
    // `w.len() / n` rows, and the panel has as many.
    unsafe {
        let from = w.as_ptr().add(columns.start.min(w.len()));
        let (rows, width, to) = (w.len() / n.max(1), columns.len(), panel.as_mut_ptr());
        if simd::level() >= Level::Avx512 {
            avx512::copy_columns(from, n, rows, width, to);
        } else {
            avx2::copy_columns(from, n, rows, width, to);
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
/// AVX2 is there ([`takes`]); the rows, at the given offsets and depth, lie inside `a`; `width` elements at each
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
    let start = if ahead.step == 0 { a.as_ptr() } else { ahead.from.as_ptr() };
    let (a, panel, added) = (a.as_ptr(), panel.as_ptr(), added.start(c));
    let args = Args { a, depth, panel, epilogue, added, soon: (start, ahead.step), c, width };
    // SAFETY: passed on from the caller.
    unsafe {
        if simd::level() >= Level::Avx512 {
            avx512::multiply(args, a_rows, c_rows);
        } else {
            avx2::multiply(args, a_rows, c_rows);
        }
    }
}

/// The operands of [`multiply`], without the places of rows.
#[derive(Clone, Copy)]
struct Args<'a> {
    a: *const f32,
    depth: Depth,
    panel: *const f32,
    epilogue: Epilogue<'a>,
    /// Null: nothing.
    added: *const f32,
    /// What is read next, and its elements for each step along the inner dimension.
    soon: (*const f32, usize),
    c: *mut f32,
    width: usize,
}

/// Blocks of nearly equal height, none above `most`: 64 rows are 4 of 11 and 2 of 10, not 5 of 12 and one of 4.
fn blocks(rows: usize, most: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let blocks = rows.div_ceil(most);
    (0..blocks).scan(0, move |done, block| {
        let start = *done;
        *done += (rows - start).div_ceil(blocks - block);
        Some(start..*done)
    })
}
