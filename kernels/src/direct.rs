//! Convolution in f32 straight from the image: each task copies the input rows that its outputs need into a zero-padded
//! tile, and the kernel of [`crate::micro`] reads the pixels of the tile in place. No gathered copy.

#![cfg(target_arch = "x86_64")]

use rayon::prelude::*;

use crate::conv2d::Geometry;
use crate::cpu;
use crate::gemm::Shared;
use crate::micro::{self, Added, Ahead, Depth, Epilogue, Panels};
use crate::scratch::scratch;
use crate::threads::Tasks;
use crate::{im2col, product};

/// Elements of a padded tile: a quarter of a level-2 cache of 1 MiB, next to a panel of weights.
const TILE_ELEMENTS: usize = 64 * 1024;
/// Tasks that a call should make at least, if it can, so that threads finish together.
const ENOUGH_TASKS: usize = 16;
/// Output pixels that a task should have: fewer and the panels of weights are read too often.
const MIN_PIXELS: usize = 96;

/// Packs `w [C_out, kh, kw, C_in]` for a convolution.
pub(crate) fn pack(g: &Geometry, w: &[f32]) -> Panels {
    Panels::from_transposed(w, g.c_out, g.depth())
}

/// Packs `w` of the convolution `g` for the convolution [`crate::im2col::flip`], its input gradient.
pub(crate) fn pack_flipped(g: &Geometry, w: &[f32]) -> Panels {
    let taps = g.kh * g.kw;
    Panels::pack(taps * g.c_out, g.c_in, |columns, panel| {
        let mut rows = panel.chunks_exact_mut(micro::PANEL);
        for tap in (0..taps).rev() {
            for (co, to) in (0..g.c_out).zip(&mut rows) {
                let start = (co * taps + tap) * g.c_in;
                micro::pack_rows(&w[start..start + g.c_in], g.c_in, columns.clone(), to);
            }
        }
    })
}

/// The outputs of one task: some rows of one image, or all rows of a few images.
struct Split {
    images: usize,
    rows: usize,
}

impl Split {
    fn of(g: &Geometry) -> Self {
        let row = g.conv.stride.0 * padded_width(g) * g.c_in;
        let rows = (TILE_ELEMENTS / row.max(1)).clamp(1, g.oh);
        let wanted = (g.batch * g.oh * g.ow / ENOUGH_TASKS).max(MIN_PIXELS);
        let rows = rows.min(wanted.div_ceil(g.ow)).max(1);
        // Spread the rows of an image evenly.
        let rows = g.oh.div_ceil(g.oh.div_ceil(rows));
        let images = if rows < g.oh { 1 } else { (wanted / (g.oh * g.ow)).clamp(1, g.batch.max(1)) };
        Self { images, rows }
    }
}

fn padded_width(g: &Geometry) -> usize {
    (g.ow - 1) * g.conv.stride.1 + g.kw
}

/// Copies the input under output rows `rows` of an image, zeros around it, and returns the rows copied.
fn fill_tile(g: &Geometry, image: &[f32], rows: std::ops::Range<usize>, tile: &mut [f32]) {
    let (width, row) = (padded_width(g) * g.c_in, g.w * g.c_in);
    let left = (g.conv.padding.1 * g.c_in).min(width);
    let first = (rows.start * g.conv.stride.0) as isize - g.conv.padding.0 as isize;
    for (i, to) in tile.chunks_exact_mut(width).enumerate() {
        let y = first + i as isize;
        if y < 0 || y >= g.h as isize {
            to.fill(0.0);
            continue;
        }
        let copied = row.min(width - left);
        to[..left].fill(0.0);
        to[left..left + copied].copy_from_slice(&image[y as usize * row..][..copied]);
        to[left + copied..].fill(0.0);
    }
}

/// The convolution of `x` with packed weights, and its epilogue.
pub(crate) fn forward(g: Geometry, x: &[f32], w: &Panels, epilogue: Epilogue<'_>) -> Vec<f32> {
    let mut out = cpu::uninit(g.batch * g.oh * g.ow * g.c_out);
    let shared = Shared::new(&mut out);
    if im2col::is_pointwise(&g) {
        product::by_shares(g.batch * g.oh * g.ow, 1, |_, pixels| {
            product::rows_of_vectors(x, pixels, w, epilogue, Added::Nothing, shared);
        });
        return out;
    }
    let split = Split::of(&g);
    let (groups, parts) = (g.batch.div_ceil(split.images), g.oh.div_ceil(split.rows));
    (0..groups * parts).into_par_iter().one_by_one().for_each(|task| {
        let (group, part) = (task / parts, task % parts);
        let images = group * split.images..((group + 1) * split.images).min(g.batch);
        let rows = part * split.rows..((part + 1) * split.rows).min(g.oh);
        convolve_part(&g, x, images, rows, w, epilogue, shared);
    });
    out
}

fn convolve_part(
    g: &Geometry,
    x: &[f32],
    images: std::ops::Range<usize>,
    rows: std::ops::Range<usize>,
    w: &Panels,
    epilogue: Epilogue<'_>,
    out: Shared<f32>,
) {
    let width = padded_width(g) * g.c_in;
    let tile_rows = (rows.len() - 1) * g.conv.stride.0 + g.kh;
    let (tile_len, image_len) = (tile_rows * width, g.h * g.w * g.c_in);
    let depth = Depth { segments: g.kh, stride: width, len: g.kw * g.c_in, step: 1 };
    scratch(images.len() * tile_len, |tiles: &mut [f32]| {
        for (image, tile) in images.clone().zip(tiles.chunks_exact_mut(tile_len)) {
            fill_tile(g, &x[image * image_len..(image + 1) * image_len], rows.clone(), tile);
        }
        let pixels = images.len() * rows.len() * g.ow;
        let mut offsets = Vec::with_capacity(2 * pixels);
        let each = |f: &mut dyn FnMut(usize, usize, usize)| {
            for n in 0..images.len() {
                for i in 0..rows.len() {
                    (0..g.ow).for_each(|j| f(n, i, j));
                }
            }
        };
        each(&mut |n, i, j| {
            offsets.push(n * tile_len + i * g.conv.stride.0 * width + j * g.conv.stride.1 * g.c_in)
        });
        each(&mut |n, i, j| offsets.push((((images.start + n) * g.oh + rows.start + i) * g.ow + j) * g.c_out));
        let (from, to) = offsets.split_at(pixels);
        for p in 0..w.count() {
            let columns = w.columns(p);
            let epilogue = epilogue.columns(columns.clone());
            // SAFETY: vector units are there (callers check `micro::takes`); each pixel's columns are written by this
            // task alone, and `to` + columns stays inside `out`.
            unsafe {
                let c = out.start().add(columns.start);
                let added = Added::Nothing;
                micro::multiply(
                    tiles,
                    from,
                    depth,
                    w.panel(p),
                    epilogue,
                    added,
                    Ahead::NOTHING,
                    c,
                    to,
                    columns.len(),
                );
            }
        }
    });
}
