//! `a^T b` in f32 on AVX-512: sums of outer products of rows, the shape of every linear layer's weight gradient, whose
//! inner dimension (tokens of the whole batch) is much longer than the other two.
//!
//! A tile of the result goes through the inner dimension in chunks. Each chunk of both operands is packed once into
//! what the innermost loop reads in order (`a` in blocks of at most 12 columns, `b` in panels of 32), and stays in the level-2
//! cache while all pairs of blocks and panels are multiplied; sums are in registers for a whole chunk.

#![cfg(target_arch = "x86_64")]
// Register blocks are arrays indexed by constants: iterators there cost the compiler its view of the registers.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::ops::Range;

use rayon::prelude::*;

use crate::cpu;
use crate::gemm::{Shared, add_assign};
use crate::micro::{PANEL, ROWS};
use crate::scratch::scratch;

/// Rows of both operands that are packed together: a panel of `b` takes half of the level-1 cache.
const CHUNK: usize = 128;
/// Rows of a tile of the result: 16 blocks.
const TILE_ROWS: usize = 16 * ROWS;
/// Columns of a tile of the result: 8 panels.
const TILE_COLS: usize = 8 * PANEL;
/// Below this many tiles the inner dimension is split as well, so that every thread has work.
const ENOUGH_TILES: usize = 16;
/// Shortest part of the inner dimension worth its own task.
const MIN_DEPTH: usize = 512;

/// `a^T b` for `a [k, m]` and `b [k, n]`, both row-major; result `[m, n]`. Needs AVX-512 ([`crate::micro::takes`]).
///
/// Tiles, chunks and parts depend on the sizes alone, and parts are added in order: so does the result.
pub(crate) fn outer((m, n, k): (usize, usize, usize), a: &[f32], b: &[f32]) -> Vec<f32> {
    assert!(a.len() >= m * k && b.len() >= n * k, "outer: operand too short");
    if k == 0 {
        return vec![0.0; m * n];
    }
    let (row_tiles, col_tiles) = (m.div_ceil(TILE_ROWS), n.div_ceil(TILE_COLS));
    let tiles = row_tiles * col_tiles;
    let parts = ENOUGH_TILES.div_ceil(tiles.max(1)).min(k / MIN_DEPTH).max(1);
    let depth = k.div_ceil(parts);
    let mut out: Vec<f32> = cpu::uninit(m * n * parts);
    let shared = Shared::new(&mut out);
    (0..tiles * parts).into_par_iter().for_each(|task| {
        let (part, tile) = (task / tiles, task % tiles);
        let (r0, c0) = (tile / col_tiles * TILE_ROWS, tile % col_tiles * TILE_COLS);
        let rows = r0..m.min(r0 + TILE_ROWS);
        let columns = c0..n.min(c0 + TILE_COLS);
        let inner = part * depth..k.min((part + 1) * depth);
        // SAFETY: inside `out`; the elements of this tile and part are written by this task alone.
        unsafe { tile_of((a, m), (b, n), rows, columns, inner, shared.start().add(part * m * n)) };
    });
    let rest = out.split_off(m * n);
    for part in rest.chunks_exact((m * n).max(1)) {
        add_assign(&mut out, part);
    }
    out
}

/// One tile over one part of the inner dimension, into `c` (rows of `n`).
///
/// # Safety
/// AVX-512 F is there; `rows` by `columns` of `c` may be written.
unsafe fn tile_of(
    (a, m): (&[f32], usize),
    (b, n): (&[f32], usize),
    rows: Range<usize>,
    columns: Range<usize>,
    inner: Range<usize>,
    c: *mut f32,
) {
    let panels = columns.len().div_ceil(PANEL);
    let blocks = blocks(rows.len());
    if inner.is_empty() {
        for row in rows {
            // SAFETY: the caller's promise.
            unsafe { c.add(row * n + columns.start).write_bytes(0, columns.len()) };
        }
        return;
    }
    scratch(CHUNK * rows.len(), |packed_a: &mut [f32]| {
        scratch(CHUNK * panels * PANEL, |packed_b: &mut [f32]| {
            for k0 in inner.clone().step_by(CHUNK) {
                let depth = k0..inner.end.min(k0 + CHUNK);
                let len = depth.len();
                // SAFETY: the caller's promise.
                unsafe {
                    pack_blocks((a, m), rows.start, depth.clone(), &blocks, packed_a);
                    pack_panels((b, n), columns.clone(), depth, packed_b);
                }
                for p in 0..panels {
                    let panel = &packed_b[p * len * PANEL..][..len * PANEL];
                    let width = PANEL.min(columns.len() - p * PANEL);
                    for block in &blocks {
                        let a = &packed_a[block.start * len..][..block.len() * len];
                        // SAFETY: the block's rows and the panel's columns are inside this tile.
                        unsafe {
                            let c = c.add((rows.start + block.start) * n + columns.start + p * PANEL);
                            block_of(
                                block.len(),
                                (len, a.as_ptr(), panel.as_ptr(), c, n, width, k0 > inner.start),
                            );
                        }
                    }
                }
            }
        });
    });
}

/// Blocks of nearly equal height: 64 rows are 4 of 11 and 2 of 10, not 5 of 12 and one of 4.
fn blocks(rows: usize) -> Vec<Range<usize>> {
    let count = rows.div_ceil(ROWS);
    let mut start = 0;
    let each = |block| {
        let height = (rows - start).div_ceil(count - block);
        start += height;
        start - height..start
    };
    (0..count).map(each).collect()
}

/// The first `count` of 16 lanes.
fn lanes(count: usize) -> __mmask16 {
    ((1u32 << count.min(16)) - 1) as __mmask16
}

/// Rows `depth` of `a`, block after block: `[depth, height]` each. (By vectors: blocks are so narrow that a call for each
/// copy took longer than the copying, 9 % of a classifier's step.)
///
/// # Safety
/// AVX-512 F is there.
#[target_feature(enable = "avx512f")]
unsafe fn pack_blocks(
    (a, m): (&[f32], usize),
    first: usize,
    depth: Range<usize>,
    blocks: &[Range<usize>],
    packed: &mut [f32],
) {
    for block in blocks {
        let (height, mask) = (block.len(), lanes(block.len()));
        let to = packed[block.start * depth.len()..][..height * depth.len()].chunks_exact_mut(height);
        for (to, k) in to.zip(depth.clone()) {
            let from = &a[k * m + first + block.start..][..height];
            // SAFETY: both slices have `height` elements, and the mask keeps to them.
            unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), mask, _mm512_maskz_loadu_ps(mask, from.as_ptr())) };
        }
    }
}

/// Rows `depth` of `b`, panel after panel of 32 columns, the last one padded with zeros.
///
/// # Safety
/// AVX-512 F is there.
#[target_feature(enable = "avx512f")]
unsafe fn pack_panels((b, n): (&[f32], usize), columns: Range<usize>, depth: Range<usize>, packed: &mut [f32]) {
    for (p, c0) in columns.clone().step_by(PANEL).enumerate() {
        let width = PANEL.min(columns.end - c0);
        let masks = [lanes(width), lanes(width.saturating_sub(16))];
        let to = packed[p * depth.len() * PANEL..][..depth.len() * PANEL].chunks_exact_mut(PANEL);
        for (to, k) in to.zip(depth.clone()) {
            let from = &b[k * n + c0..][..width];
            for v in 0..2 {
                // SAFETY: `to` has 32 elements; of `from`, the mask keeps to `width`, and `wrapping_add` may point past it.
                unsafe {
                    let x = _mm512_maskz_loadu_ps(masks[v], from.as_ptr().wrapping_add(16 * v));
                    _mm512_storeu_ps(to.as_mut_ptr().add(16 * v), x);
                }
            }
        }
    }
}

/// Depth, packed block, panel, first element of the result, its row stride, columns to write, whether to add.
type Args = (usize, *const f32, *const f32, *mut f32, usize, usize, bool);

/// Picks the height of the register block.
///
/// # Safety
/// As [`block`].
unsafe fn block_of(height: usize, args: Args) {
    // SAFETY: passed on from the caller.
    unsafe {
        match height {
            1 => block::<1>(args),
            2 => block::<2>(args),
            3 => block::<3>(args),
            4 => block::<4>(args),
            5 => block::<5>(args),
            6 => block::<6>(args),
            7 => block::<7>(args),
            8 => block::<8>(args),
            9 => block::<9>(args),
            10 => block::<10>(args),
            11 => block::<11>(args),
            _ => block::<12>(args),
        }
    }
}

/// `R` rows and 32 columns of the result over one chunk.
///
/// # Safety
/// AVX-512 F is there; the packed block holds `depth * R` and the panel `depth * 32` elements; `width` columns of
/// `R` rows may be written.
#[target_feature(enable = "avx512f")]
unsafe fn block<const R: usize>((depth, a, b, c, c_row, width, add): Args) {
    let masks = [lanes(width), lanes(width.saturating_sub(16))];
    // SAFETY: inside the packed operands, and masks keep to `width` columns, by the caller's promise.
    unsafe {
        let mut sum = [[_mm512_setzero_ps(); 2]; R];
        let (mut a, mut b) = (a, b);
        for _ in 0..depth {
            let (left, right) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
            for i in 0..R {
                let x = _mm512_set1_ps(*a.add(i));
                sum[i][0] = _mm512_fmadd_ps(x, left, sum[i][0]);
                sum[i][1] = _mm512_fmadd_ps(x, right, sum[i][1]);
            }
            a = a.add(R);
            b = b.add(PANEL);
        }
        for i in 0..R {
            for v in 0..2 {
                let to = c.add(i * c_row + 16 * v);
                let old = if add { _mm512_maskz_loadu_ps(masks[v], to) } else { _mm512_setzero_ps() };
                _mm512_mask_storeu_ps(to, masks[v], _mm512_add_ps(sum[i][v], old));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers: products and sums of them are exact in f32.
    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed) % 17) as f32 - 8.0).collect()
    }

    #[test]
    fn sums_of_outer_products_are_exact_at_the_edges_of_blocks_panels_chunks_and_parts() {
        if crate::simd::level() != crate::simd::Level::Avx512 {
            return;
        }
        for (m, n, k) in
            [(1, 1, 1), (12, 32, 128), (13, 33, 129), (64, 48, 1030), (193, 257, 300), (25, 7, 9000), (3, 5, 0)]
        {
            let (a, b) = (numbers(m * k, 3), numbers(n * k, 5));
            let got = outer((m, n, k), &a, &b);
            for i in 0..m {
                for j in 0..n {
                    let expected: f32 = (0..k).map(|p| a[p * m + i] * b[p * n + j]).sum();
                    assert_eq!(got[i * n + j], expected, "{m} {n} {k} at {i},{j}");
                }
            }
        }
    }
}
