//! Plain f32 matrix products on the kernel of [`crate::micro`].

#![cfg(target_arch = "x86_64")]

use rayon::prelude::*;

use crate::cpu;
use crate::gemm::Shared;
use crate::micro::{self, Depth, Epilogue, PANEL, Panels, ROWS};
use crate::scratch::scratch;

/// Rows of one task: 8 blocks, so that a panel of weights is read from far away once for many rows.
const TASK_ROWS: usize = 8 * ROWS;

/// `x [rows, depth]` times packed weights, into `out [rows, n]`.
pub(crate) fn rows(rows: usize, x: &[f32], w: &Panels, epilogue: Epilogue<'_>, out: Shared<f32>) {
    let each = TASK_ROWS.min(rows.div_ceil(2)).max(1);
    (0..rows.div_ceil(each)).into_par_iter().for_each(|task| {
        let mine = task * each..((task + 1) * each).min(rows);
        let from: Vec<usize> = mine.clone().map(|r| r * w.depth).collect();
        let to: Vec<usize> = mine.map(|r| r * w.n).collect();
        for p in 0..w.count() {
            let columns = w.columns(p);
            let epilogue = epilogue.columns(columns.clone());
            // SAFETY: AVX-512 is there (callers check `micro::takes`); each row is written by one task alone, and
            // `to` + columns stays inside `out`.
            unsafe {
                let c = out.start().add(columns.start);
                micro::multiply(x, &from, Depth::flat(w.depth), w.panel(p), epilogue, c, &to, columns.len());
            }
        }
    });
}

/// Rows that [`transposed`] multiplies at a time: a panel of them (64 KiB) stays in the level-2 cache.
const STRIP_ROWS: usize = 512;
/// Columns of `a` that a task of [`transposed`] owns.
const TASK_COLUMNS: usize = 2 * ROWS;

/// `a^T b`: `a [rows, m]`, `b [rows, n]`, result `[m, n]`, the weight gradient of a linear layer.
///
/// A task owns a block of the result and sums over all rows in order: nothing to merge, nothing that depends on threads.
pub(crate) fn transposed(rows: usize, a: &[f32], m: usize, b: &[f32], n: usize) -> Vec<f32> {
    let mut out = vec![0.0; m * n];
    let shared = Shared::new(&mut out);
    let (blocks, panels) = (m.div_ceil(TASK_COLUMNS), n.div_ceil(PANEL));
    (0..blocks * panels).into_par_iter().for_each(|task| {
        let (block, panel) = (task % blocks, task / blocks);
        let mine = block * m / blocks..(block + 1) * m / blocks;
        let columns = panel * PANEL..n.min((panel + 1) * PANEL);
        let to: Vec<usize> = mine.clone().map(|i| i * n).collect();
        scratch(STRIP_ROWS * PANEL, |strip: &mut [f32]| {
            if columns.len() < PANEL {
                strip.fill(0.0);
            }
            for r0 in (0..rows).step_by(STRIP_ROWS) {
                let len = STRIP_ROWS.min(rows - r0);
                for (to, row) in strip.chunks_exact_mut(PANEL).zip(b[r0 * n..].chunks_exact(n)).take(len) {
                    to[..columns.len()].copy_from_slice(&row[columns.clone()]);
                }
                let from: Vec<usize> = mine.clone().map(|i| r0 * m + i).collect();
                let depth = Depth { segments: 1, stride: 0, len, step: m };
                // SAFETY: AVX-512 is there (callers check `micro::takes`); this task alone writes its rows and columns.
                unsafe {
                    let c = shared.start().add(columns.start);
                    micro::multiply(a, &from, depth, strip, Epilogue::ADD, c, &to, columns.len());
                }
            }
        });
    });
    out
}

/// `op(a) op(b)` for operands of any orientation, where a fast path exists: all but both transposed.
pub(crate) fn matmul(
    (m, n, k): (usize, usize, usize),
    a: &[f32],
    b: &[f32],
    trans_a: bool,
    trans_b: bool,
) -> Option<Vec<f32>> {
    if k == 0 || (trans_a && trans_b) {
        return None;
    }
    if trans_a {
        return Some(transposed(k, a, m, b, n));
    }
    let panels = if trans_b { Panels::from_transposed(b, n, k) } else { Panels::from_rows(b, k, n) };
    let mut out = cpu::uninit(m * n);
    rows(m, a, &panels, Epilogue::NONE, Shared::new(&mut out));
    Some(out)
}
