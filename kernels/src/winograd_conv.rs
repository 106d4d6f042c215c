//! 3x3 convolutions with stride 1 by [`crate::winograd`], in f32 on AVX-512 and AVX2: the convolution, which also serves as the input
//! gradient. The weight gradient is in [`crate::winograd_grad`].
//!
//! Tiles of 4x4 outputs are numbered through the batch: row of tiles after row of tiles, image after image. A group of
//! tile rows is transformed into a buffer that fits the level-3 cache, `[point][channels / 16][tile][16]`; then every
//! task multiplies some tiles by a panel of transformed weights, for all 36 points, and transforms the products back
//! while they are in its cache.

#![cfg(target_arch = "x86_64")]

use rayon::prelude::*;

use crate::conv2d::Geometry;
use crate::cpu;
use crate::gemm::Shared;
use crate::lanes::{LANES, with_lanes};
use crate::micro::{self, Added, Ahead, Depth, Epilogue, PANEL, Panels};
use crate::scratch::scratch;
use crate::threads::Tasks;
use crate::winograd::{self, OUT, POINTS, PRODUCTS};

/// Elements of the transformed inputs of one group (6 MiB: they stay in a shared level-3 cache).
const GROUP_ELEMENTS: usize = 1536 * 1024;
/// Tiles whose products a task holds at a time (110 KiB of them).
const BLOCK_TILES: usize = 24;
/// Whether the convolution is one that this file computes. The batch has no say, or an image's bits would depend on it: for a few
/// small images, transforming the weights costs more than the saved products.
pub(crate) fn fits(g: &Geometry) -> bool {
    let channels = g.c_in.is_multiple_of(LANES) && g.c_out.is_multiple_of(LANES);
    (g.kh, g.kw) == (3, 3) && g.conv.stride == (1, 1) && channels && g.oh >= 3 && g.ow >= 3
}

/// A run of tile rows, and how their transforms lie in memory.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    /// First tile row, counted through the batch.
    first: usize,
    pub(crate) rows: usize,
    /// Tiles of a row.
    pub(crate) per_row: usize,
    /// Tile rows of an image.
    per_image: usize,
}

impl Group {
    pub(crate) fn tiles(&self) -> usize {
        self.rows * self.per_row
    }

    /// Elements from point to point for `channels`: an odd number of cache lines, so that the 36 points of a tile do not
    /// compete for the same cache sets.
    pub(crate) fn stride(&self, channels: usize) -> usize {
        ((self.tiles() * channels / LANES) | 1) * LANES
    }

    /// Image, row and column of the first output of tile `t`.
    pub(crate) fn place(&self, t: usize) -> (usize, usize, usize) {
        let row = self.first + t / self.per_row;
        (row / self.per_image, row % self.per_image * OUT, t % self.per_row * OUT)
    }

    /// Cuts all tile rows of a batch into equal groups of at most `GROUP_ELEMENTS` transformed elements.
    pub(crate) fn all(g: &Geometry, channels: usize) -> Vec<Group> {
        let (per_image, per_row) = (g.oh.div_ceil(OUT), g.ow.div_ceil(OUT));
        let total = g.batch * per_image;
        let most = (GROUP_ELEMENTS / (PRODUCTS * per_row * channels)).clamp(1, total.max(1));
        let rows = total.div_ceil(total.div_ceil(most).max(1)).max(1);
        let group = |first| Group { first, rows: rows.min(total - first), per_row, per_image };
        (0..total).step_by(rows).map(group).collect()
    }
}

/// Elements from point to point of a panel of transformed weights `[point][c_in][32]`: an odd number of cache lines.
fn weight_stride(c_in: usize) -> usize {
    c_in * PANEL + LANES
}

/// All panels of weights (packed for a direct convolution: rows are tap and input channel), transformed.
fn transform_all(w: &Panels, c_in: usize) -> Vec<f32> {
    let stride = weight_stride(c_in);
    let mut data: Vec<f32> = cpu::uninit(w.count() * PRODUCTS * stride);
    // Sixteen channels of a panel a task: small layers have few panels.
    let parts = c_in.div_ceil(LANES);
    let shared = Shared::new(&mut data);
    (0..w.count() * parts).into_par_iter().one_by_one().for_each(|task| {
        let (p, part) = (task / parts, task % parts);
        let channels = part * LANES..((part + 1) * LANES).min(c_in);
        // SAFETY: tasks write different channels of their panel.
        unsafe {
            transform_weights(w.panel(p), channels, c_in, shared.start().add(p * PRODUCTS * stride), stride)
        };
    });
    data
}

/// Calls `f` with the transformed weights of panel `p`.
fn with_panel(w: &Panels, p: usize, c_in: usize, f: impl FnOnce(&[f32])) {
    let stride = weight_stride(c_in);
    scratch(PRODUCTS * stride, |data: &mut [f32]| {
        // SAFETY: the buffer is this panel's: `stride` covers c_in rows of 32.
        unsafe { transform_weights(w.panel(p), 0..c_in, c_in, data.as_mut_ptr(), stride) };
        f(data);
    });
}

with_lanes! {
    /// Transforms the weights of some input channels of a panel.
    ///
    /// # Safety
    /// `to` has room for 36 points of rows of 32, `stride` apart, for all `c_in` channels, and nobody else writes those of
    /// these channels.
    unsafe fn transform_weights<V>(
        panel: &[f32], channels: std::ops::Range<usize>, c_in: usize, to: *mut f32, stride: usize,
    ) {
        for ci in channels {
            for column in (0..PANEL).step_by(V::WIDTH) {
                let mut taps = [[V::splat(0.0); 3]; 3];
                for tap in 0..9 {
                    let from = &panel[(tap * c_in + ci) * PANEL + column..][..V::WIDTH];
                    // SAFETY: `from` holds as many elements.
                    taps[tap / 3][tap % 3] = unsafe { V::load(from.as_ptr()) };
                }
                let points = winograd::weight_2d(&taps);
                for (point, value) in points.as_flattened().iter().enumerate() {
                    // SAFETY: the caller vouches for the buffer.
                    unsafe { value.store(to.add(point * stride + ci * PANEL + column)) };
                }
            }
        }
    }

    /// Transforms the inputs under row `row` of a group's tiles.
    ///
    /// # Safety
    /// `to` has room for the group's transforms, and nobody else writes this row of tiles.
    pub(crate) unsafe fn transform_inputs<V>(g: &Geometry, x: &[f32], group: &Group, row: usize, to: *mut f32) {
        let (stride, tiles) = (group.stride(g.c_in), group.tiles());
        for t in row * group.per_row..(row + 1) * group.per_row {
            let (image, y, x0) = group.place(t);
            let (top, left) = (y as isize - g.conv.padding.0 as isize, x0 as isize - g.conv.padding.1 as isize);
            let (mut rows, mut cols) = ([false; POINTS], [false; POINTS]);
            for i in 0..POINTS {
                rows[i] = (0..g.h as isize).contains(&(top + i as isize));
                cols[i] = (0..g.w as isize).contains(&(left + i as isize));
            }
            let origin = (image * g.h) as isize + top;
            for channel in (0..g.c_in).step_by(V::WIDTH) {
                let mut d = [[V::splat(0.0); POINTS]; POINTS];
                for u in 0..POINTS {
                    for v in 0..POINTS {
                        if rows[u] && cols[v] {
                            let pixel = (origin + u as isize) as usize * g.w + (left + v as isize) as usize;
                            let from = &x[pixel * g.c_in + channel..][..V::WIDTH];
                            // SAFETY: `from` holds as many elements.
                            d[u][v] = unsafe { V::load(from.as_ptr()) };
                        }
                    }
                }
                let points = winograd::input_2d(&d);
                let at = (channel / LANES * tiles + t) * LANES + channel % LANES;
                for (point, value) in points.as_flattened().iter().enumerate() {
                    // SAFETY: the caller vouches for the buffer.
                    unsafe { value.store(to.add(point * stride + at)) };
                }
            }
        }
    }

    /// Transforms the products `[point][tile][32]` of a block of tiles back, adds the bias, applies the activation and stores
    /// the outputs that exist.
    ///
    /// # Safety
    /// Nobody else writes these outputs.
    unsafe fn finish_block<V>(
        g: &Geometry, products: &[f32], group: &Group, tiles: std::ops::Range<usize>, columns: std::ops::Range<usize>,
        epilogue: Epilogue<'_>, out: *mut f32,
    ) {
        let stride = tiles.len() * PANEL;
        let slope = V::splat(epilogue.slope);
        for (i, t) in tiles.enumerate() {
            let (image, y0, x0) = group.place(t);
            for column in (0..columns.len()).step_by(V::WIDTH) {
                let mut m = [[V::splat(0.0); POINTS]; POINTS];
                for point in 0..PRODUCTS {
                    let from = &products[point * stride + i * PANEL + column..][..V::WIDTH];
                    // SAFETY: `from` holds as many elements.
                    m[point / POINTS][point % POINTS] = unsafe { V::load(from.as_ptr()) };
                }
                let channel = columns.start + column;
                let bias = match epilogue.bias {
                    // SAFETY: the slice holds as many elements.
                    Some(bias) => unsafe { V::load(bias[channel..channel + V::WIDTH].as_ptr()) },
                    None => V::splat(0.0),
                };
                let values = winograd::output_2d(&m);
                for (dy, row) in values.iter().enumerate().take(g.oh - y0) {
                    for (dx, value) in row.iter().enumerate().take(g.ow - x0) {
                        let mut value = value.add(bias);
                        if epilogue.slope != 1.0 {
                            value = value.leak(slope);
                        }
                        let pixel = (image * g.oh + y0 + dy) * g.ow + x0 + dx;
                        // SAFETY: a pixel of the output, and so many of its channels.
                        unsafe { value.store(out.add(pixel * g.c_out + channel)) };
                    }
                }
            }
        }
    }
}

/// The convolution of `x` with packed weights, and its epilogue.
pub(crate) fn forward(g: Geometry, x: &[f32], w: &Panels, epilogue: Epilogue<'_>) -> Vec<f32> {
    let mut out = cpu::uninit(g.batch * g.oh * g.ow * g.c_out);
    let shared = Shared::new(&mut out);
    let groups = Group::all(&g, g.c_in);
    let size = groups.iter().map(|group| PRODUCTS * group.stride(g.c_in)).max().unwrap_or(0);
    // With one group each panel of weights is used by one task only, which transforms it in its own cache.
    let weights = if groups.len() > 1 { transform_all(w, g.c_in) } else { Vec::new() };
    let panel_len = PRODUCTS * weight_stride(g.c_in);
    scratch(size, |inputs: &mut [f32]| {
        for group in &groups {
            let to = Shared::new(inputs);
            // SAFETY: every row writes its own tiles.
            (0..group.rows)
                .into_par_iter()
                .one_by_one()
                .for_each(|row| unsafe { transform_inputs(&g, x, group, row, to.start()) });
            let blocks = group.tiles().div_ceil(BLOCK_TILES);
            let one_block = |panel: usize, block: usize, weights: &[f32]| {
                let tiles = block * group.tiles() / blocks..(block + 1) * group.tiles() / blocks;
                scratch(PRODUCTS * tiles.len() * PANEL, |products: &mut [f32]| {
                    multiply_block(group, g.c_in, inputs, weights, tiles.clone(), products);
                    // SAFETY: as above; every task has its own tiles and columns.
                    unsafe {
                        finish_block(&g, products, group, tiles, w.columns(panel), epilogue, shared.start())
                    };
                });
            };
            if groups.len() > 1 {
                (0..w.count() * blocks).into_par_iter().one_by_one().for_each(|task| {
                    let panel = task / blocks;
                    one_block(panel, task % blocks, &weights[panel * panel_len..(panel + 1) * panel_len]);
                });
            } else {
                (0..w.count()).into_par_iter().one_by_one().for_each(|panel| {
                    with_panel(w, panel, g.c_in, |weights| {
                        (0..blocks).for_each(|block| one_block(panel, block, weights))
                    });
                });
            }
        }
    });
    out
}

fn multiply_block(
    group: &Group,
    c_in: usize,
    inputs: &[f32],
    weights: &[f32],
    tiles: std::ops::Range<usize>,
    products: &mut [f32],
) {
    let depth = Depth { segments: c_in / LANES, stride: group.tiles() * LANES, len: LANES, step: 1 };
    let from: Vec<usize> = tiles.clone().map(|t| t * LANES).collect();
    let to: Vec<usize> = (0..tiles.len()).map(|i| i * PANEL).collect();
    for (point, products) in products.chunks_exact_mut(tiles.len() * PANEL).enumerate() {
        let inputs = &inputs[point * group.stride(c_in)..];
        let weights = &weights[point * weight_stride(c_in)..];
        // SAFETY: callers check `micro::takes`; `from` and the depth stay inside one point's transforms, `to` inside `products`.
        unsafe {
            micro::multiply(
                inputs,
                &from,
                depth,
                weights,
                Epilogue::NONE,
                Added::Nothing,
                Ahead::NOTHING,
                products.as_mut_ptr(),
                &to,
                PANEL,
            )
        };
    }
}
