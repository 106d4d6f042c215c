//! Plain f32 matrix products on the kernel of [`crate::micro`].

#![cfg(target_arch = "x86_64")]

use rayon::prelude::*;

use crate::cpu;
use crate::gemm::Shared;
use crate::micro::{self, Depth, Epilogue, Panels, ROWS};

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

/// `a op(b)` for `a [m, k]`. (A transposed `a`, as in weight gradients, is left to the `gemm` crate: reading its columns
/// with this kernel measured slower.)
pub(crate) fn matmul((m, n, k): (usize, usize, usize), a: &[f32], b: &[f32], trans_b: bool) -> Vec<f32> {
    let panels = if trans_b { Panels::from_transposed(b, n, k) } else { Panels::from_rows(b, k, n) };
    let mut out = cpu::uninit(m * n);
    rows(m, a, &panels, Epilogue::NONE, Shared::new(&mut out));
    out
}
