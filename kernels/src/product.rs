//! Plain f32 matrix products on the kernel of [`crate::micro`].

#![cfg(target_arch = "x86_64")]

use std::ops::Range;

use rayon::prelude::*;

use crate::amx;
use crate::cpu;
use crate::gemm::{Shared, add_assign};
use crate::micro::{self, Added, Ahead, Depth, Epilogue, PANEL, Panels, ROWS};
use crate::scratch::scratch;
use crate::small_gemm::transpose;
use crate::threads::Tasks;

/// Rows of one task: 8 blocks, so that a panel of weights is read from far away once for many rows.
const TASK_ROWS: usize = 8 * ROWS;

/// What multiplies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// [`crate::micro`].
    Vectors,
    /// [`crate::amx`].
    Tiles,
}

/// The right operand `[depth, n]` of a product, packed for the kernel that will read it.
pub(crate) enum Packed {
    Vectors(Panels),
    Tiles(amx::product::Packed),
}

impl Packed {
    /// From the rows of the transpose: `w [n, depth]`, the layout of layer weights.
    pub(crate) fn from_transposed(w: &[f32], n: usize, depth: usize) -> Self {
        match amx::pays(depth, n) {
            true => Self::Tiles(amx::product::Packed::from_transposed(w, n, depth)),
            false => Self::Vectors(Panels::from_transposed(w, n, depth)),
        }
    }

    /// From a row-major `[depth, n]` matrix.
    pub(crate) fn from_rows(w: &[f32], depth: usize, n: usize) -> Self {
        match amx::pays(depth, n) {
            true => Self::Tiles(amx::product::Packed::from_rows(w, depth, n)),
            false => Self::Vectors(Panels::from_rows(w, depth, n)),
        }
    }

    /// How many tasks [`rows`] makes.
    pub(crate) fn tasks(&self, rows: usize) -> usize {
        tasks(rows, self.unit())
    }

    /// Rows that the kernel takes at a time.
    pub(crate) fn unit(&self) -> usize {
        if let Self::Tiles(_) = self { amx::BLOCK } else { 1 }
    }
}

/// How many tasks share some rows, in units of a few. Where there are enough, a multiple of 8, so that threads get equal
/// shares: 11 tasks on two threads take as long as 12.
fn tasks(rows: usize, unit: usize) -> usize {
    let tasks = rows.div_ceil(TASK_ROWS);
    let tasks = if rows >= 4 * TASK_ROWS { tasks.next_multiple_of(8) } else { tasks.max(2) };
    tasks.min(rows.div_ceil(unit))
}

/// Calls `f` for each of the [`tasks`] with its number and rows, on all threads.
pub(crate) fn by_shares(rows: usize, unit: usize, f: impl Fn(usize, Range<usize>) + Sync) {
    let tasks = tasks(rows, unit);
    (0..tasks).into_par_iter().one_by_one().for_each(|task| f(task, share(rows, unit, task, tasks)));
}

/// The share of a task.
fn share(rows: usize, unit: usize, task: usize, tasks: usize) -> Range<usize> {
    let bound = |task: usize| rows.min(rows.div_ceil(unit) * task / tasks * unit);
    bound(task)..bound(task + 1)
}

/// `x [rows, depth]` times packed weights, into `out [rows, n]`. `finish` is called with each task's number and rows when they are
/// complete and still in its cache.
pub(crate) fn rows(
    rows: usize,
    x: &[f32],
    w: &Packed,
    epilogue: Epilogue<'_>,
    added: Added<'_>,
    out: Shared<f32>,
    finish: impl Fn(usize, Range<usize>) + Sync,
) {
    by_shares(rows, w.unit(), |task, mine| {
        some_rows(x, mine.clone(), w, epilogue, added, out);
        finish(task, mine);
    });
}

/// The rows `mine` of [`rows`], on this thread.
pub(crate) fn some_rows(
    x: &[f32],
    mine: Range<usize>,
    w: &Packed,
    epilogue: Epilogue<'_>,
    added: Added<'_>,
    out: Shared<f32>,
) {
    match w {
        Packed::Vectors(w) => rows_of_vectors(x, mine, w, epilogue, added, out),
        // SAFETY: weights are packed for the units where they are there; each task has its own rows, and callers add
        // tensors of the result's shape.
        Packed::Tiles(w) => unsafe { amx::product::rows(x, mine, w, epilogue, added, out) },
    }
}

/// [`some_rows`] on vector units.
pub(crate) fn rows_of_vectors(
    x: &[f32],
    mine: Range<usize>,
    w: &Panels,
    epilogue: Epilogue<'_>,
    added: Added<'_>,
    out: Shared<f32>,
) {
    let from: Vec<usize> = mine.clone().map(|r| r * w.depth).collect();
    let to: Vec<usize> = mine.clone().map(|r| r * w.n).collect();
    for p in 0..w.count() {
        let columns = w.columns(p);
        let (epilogue, added) = (epilogue.columns(columns.clone()), added.starting_at(columns.start));
        // The first panel meets rows that nobody has read yet.
        let next = x.get((mine.start + ROWS) * w.depth..).unwrap_or_default();
        let ahead = if p == 0 { Ahead { from: next, step: ROWS } } else { Ahead::NOTHING };
        // SAFETY: vector units are there (callers check `micro::takes`); each row is written by one task alone, and
        // `to` + columns stays inside `out` and what is added to it.
        unsafe {
            let c = out.start().add(columns.start);
            let depth = Depth::flat(w.depth);
            micro::multiply(x, &from, depth, w.panel(p), epilogue, added, ahead, c, &to, columns.len());
        }
    }
}

/// `op(a) op(b)` for `op(a) [m, k]`.
pub(crate) fn matmul(
    (m, n, k): (usize, usize, usize),
    a: &[f32],
    b: &[f32],
    trans_a: bool,
    trans_b: bool,
) -> Vec<f32> {
    if trans_a && !trans_b {
        // Not a matter of the inner dimension, which depends on the batch.
        let kernel = if amx::pays(m, n) { Kernel::Tiles } else { Kernel::Vectors };
        return transposed_left(kernel, (m, n, k), a, b);
    }
    let packed = if trans_b { Packed::from_transposed(b, n, k) } else { Packed::from_rows(b, k, n) };
    let mut out = cpu::uninit(m * n);
    rows(m, a, &packed, Epilogue::NONE, Added::Nothing, Shared::new(&mut out), |_, _| {});
    out
}

/// Rows of both operands that a task works on at a time: a panel of `b` is 32 KiB then, and waits in the level-1 cache while
/// the strip of `a` (at most 288 KiB, in the level-2 cache) goes by.
const CHUNK_ROWS: usize = 256;
/// Most rows of the result, columns of `a`, of one task.
const STRIP: usize = 24 * ROWS;
/// Columns of `a` worth a task, since each packs all of `b`.
const MIN_STRIP: usize = 8 * ROWS;
/// Tasks that are enough for a good many threads.
const ENOUGH_TASKS: usize = 16;
/// Shortest part of the inner dimension worth a task: its result is written and added up.
const MIN_DEPTH: usize = 1024;

/// `a^T b` for `a [k, m]` and `b [k, n]`: the gradient of a layer's weights. It goes by chunks of rows, packed by
/// copying runs of a row; nothing is turned, and an `a` that is one strip is read where it lies.
pub(crate) fn transposed_left(
    kernel: Kernel,
    (m, n, k): (usize, usize, usize),
    a: &[f32],
    b: &[f32],
) -> Vec<f32> {
    if k == 0 {
        return vec![0.0; m * n];
    }
    if kernel == Kernel::Tiles && m > n {
        // Each strip packs all of `b`, and strips of the narrower operand are fewer.
        return transposed(&transposed_left(kernel, (n, m, k), b, a), n, m);
    }
    // How work is split depends on the sizes alone, so that results do not depend on the number of threads.
    let mut strips = m.div_ceil(STRIP);
    let parts = ENOUGH_TASKS.div_ceil(strips.max(1)).min(k / MIN_DEPTH).max(1);
    if strips * parts < ENOUGH_TASKS / 2 {
        strips = (m / MIN_STRIP / 2 * 2).clamp(strips, ENOUGH_TASKS / 2);
    }
    let unit = if kernel == Kernel::Tiles { amx::BLOCK } else { 1 };
    let (mut out, mut others): (Vec<f32>, Vec<f32>) = (cpu::uninit(m * n), cpu::uninit(m * n * (parts - 1)));
    let (first, rest) = (Shared::new(&mut out), Shared::new(&mut others));
    (0..strips * parts).into_par_iter().one_by_one().for_each(|task| {
        let (part, strip) = (task / strips, task % strips);
        let columns = share(m, unit, strip, strips);
        let depth = part * k / parts..(part + 1) * k / parts;
        let (shared, row) = match part.checked_sub(1) {
            None => (first, columns.start),
            Some(part) => (rest, part * m + columns.start),
        };
        // SAFETY: in bounds; every task has its own part or rows.
        let to = unsafe { shared.start().add(row * n) };
        match kernel {
            // SAFETY: who chose them saw the units; every task has its own part of the result.
            Kernel::Tiles => unsafe { amx::product::strip_of_product((m, n), a, b, columns, depth, to) },
            Kernel::Vectors => strip_of_product((m, n), a, b, columns, depth, to),
        }
    });
    for part in others.chunks_exact((m * n).max(1)) {
        add_assign(&mut out, part);
    }
    out
}

/// The transpose of `x [rows, columns]`.
fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = cpu::uninit(rows * columns);
    let each = columns.div_ceil(ENOUGH_TASKS).max(1);
    out.par_chunks_mut(each * rows).enumerate().one_by_one().for_each(|(task, out)| {
        transpose((rows, out.len() / rows), &x[task * each..], columns, out, rows);
    });
    out
}

/// Some columns of `a [k, m]`, transposed, times `b [k, n]`, over a part of the inner dimension, into `out [columns, n]`.
fn strip_of_product(
    (m, n): (usize, usize),
    a: &[f32],
    b: &[f32],
    columns: Range<usize>,
    depth: Range<usize>,
    out: *mut f32,
) {
    let width = columns.len();
    let in_place = width == m;
    let (from, to): (Vec<usize>, Vec<usize>) = (0..width).map(|row| (row, row * n)).unzip();
    scratch(CHUNK_ROWS * (width + PANEL), |packed: &mut [f32]| {
        let (strip, panel) = packed.split_at_mut(CHUNK_ROWS * width);
        let chunks = depth.len().div_ceil(CHUNK_ROWS);
        for chunk in 0..chunks {
            let start = depth.start + chunk * depth.len() / chunks;
            let len = depth.start + (chunk + 1) * depth.len() / chunks - start;
            let rows = &a[start * m..(start + len) * m];
            let strip = if in_place {
                rows
            } else {
                for (row, to) in rows.chunks_exact(m).zip(strip.chunks_exact_mut(width)) {
                    to.copy_from_slice(&row[columns.clone()]);
                }
                &*strip
            };
            let added = if chunk == 0 { Added::Nothing } else { Added::Result };
            let panels = n.div_ceil(PANEL);
            // Of the next chunk, the wider operand's rows; a narrow strip of a wide one is not one run of memory.
            let (source, step) = if n > m { (b, n) } else { (a, m) };
            let next = source.get((start + len) * step..).unwrap_or_default();
            let steps = panels * width.div_ceil(ROWS);
            let each = Depth { segments: 1, stride: 0, len, step: width };
            for p in 0..panels {
                let columns = p * PANEL..n.min((p + 1) * PANEL);
                let rows = &b[start * n..(start + len) * n];
                micro::pack_rows(rows, n, columns.clone(), panel);
                let ahead = if in_place || n > m {
                    Ahead {
                        from: next.get(len * step * p / panels..).unwrap_or_default(),
                        step: step.div_ceil(steps),
                    }
                } else {
                    Ahead::NOTHING
                };
                // SAFETY: vector units are there (callers check `micro::takes`); `from` and the depth stay inside the packed
                // strip; the caller gives each task its own `out`, of `width` rows.
                unsafe {
                    let c = out.add(columns.start);
                    micro::multiply(
                        strip,
                        &from,
                        each,
                        panel,
                        Epilogue::NONE,
                        added,
                        ahead,
                        c,
                        &to,
                        columns.len(),
                    );
                }
            }
        }
    });
}
