//! 3x3 and 5x5 convolutions at stride 1: 36 products for 4x4 outputs of a 3x3 kernel (of 144) or 2x2 outputs of a
//! 5x5 kernel (of 100).

use super::{
    Map, Workspace,
    gemm::{self, Epilogue, MAX_ROWS, MAX_VECTORS, Taps},
    layer::{ConvShape, Target, Weights},
};
use crate::lanes::{LANES, Lanes, with_lanes};
use crate::winograd::{self, POINTS, PRODUCTS};

/// Tiles that share a pass over the weights: enough to pay for it, few enough that their transforms stay in the cache.
/// A multiple of every tile height of the matrix product.
const BLOCK: usize = 48;

/// Transformed, packed weights.
#[derive(Debug)]
pub(super) struct Winograd2d {
    shape: ConvShape,
    /// Outputs of a tile along each axis.
    step: usize,
    /// `[panel][product][in channel][lane]`.
    packed: Vec<f32>,
    zeros: Vec<f32>,
}

/// The tiles of one block: where they lie.
struct Block<'a> {
    input: &'a Map,
    target: &'a Target<'a>,
    shape: ConvShape,
    step: usize,
    /// First tile and number of tiles.
    first: usize,
    tiles: usize,
    zeros: *const f32,
}

impl Block<'_> {
    /// Image, top and left output pixel of a tile.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let across = self.target.width.div_ceil(self.step);
        let down = self.target.height.div_ceil(self.step);
        let tile = self.first + tile;
        (tile / (across * down), tile / across % down * self.step, tile % across * self.step)
    }

    /// Where the input pixels of a tile begin; outside of the map it is zeros.
    fn samples(&self, tile: usize) -> [[*const f32; POINTS]; POINTS] {
        let (image, y, x) = self.place(tile);
        let data = self.input.image(image);
        let (height, width) = (self.input.height as isize, self.input.width as isize);
        let (top, left) =
            (y as isize - self.shape.padding.0 as isize, x as isize - self.shape.padding.1 as isize);
        let depth = self.shape.in_channels;
        let mut from = [[self.zeros; POINTS]; POINTS];
        for (row, from) in (top..).zip(from.iter_mut()) {
            for (column, from) in (left..).zip(from.iter_mut()) {
                if (0..height).contains(&row) && (0..width).contains(&column) {
                    *from = data[(row * width + column) as usize * depth..][..depth].as_ptr();
                }
            }
        }
        from
    }
}

impl Winograd2d {
    pub(super) fn new(weights: &Weights) -> Self {
        let shape = weights.shape;
        let (side, channels) = (shape.kernel.0, shape.out_channels);
        // [product][in][out]
        let plane = shape.in_channels * channels;
        let mut points = vec![0f32; PRODUCTS * plane];
        for out in 0..channels {
            for input in 0..shape.in_channels {
                let mut rows = [[0.0; POINTS]; 5];
                for (y, row) in rows.iter_mut().enumerate().take(side) {
                    let taps: Vec<f64> = (0..side).map(|x| weights.at(out, input, y, x)).collect();
                    *row = winograd::kernel(&taps);
                }
                for x in 0..POINTS {
                    let column: Vec<f64> = rows[..side].iter().map(|row| row[x]).collect();
                    for (y, value) in winograd::kernel(&column).into_iter().enumerate() {
                        points[(y * POINTS + x) * plane + input * channels + out] = value as f32;
                    }
                }
            }
        }
        let mut packed = Vec::with_capacity(points.len());
        gemm::pack(&points, PRODUCTS * shape.in_channels, channels, &mut packed);
        Self { shape, step: POINTS + 1 - side, packed, zeros: vec![0.0; shape.in_channels] }
    }

    pub(super) fn forward(&self, input: &Map, target: &Target, work: &mut Workspace) {
        let depth = self.shape.in_channels;
        let total = input.images * target.height.div_ceil(self.step) * target.width.div_ceil(self.step);
        // One line more than needed: equal distances of a multiple of 4 KiB would share cache sets.
        let plane = BLOCK * depth + LANES;
        let mut transformed = work.buffer(PRODUCTS * plane);
        let mut products = work.buffer(PRODUCTS * BLOCK * MAX_VECTORS * LANES);
        for first in (0..total).step_by(BLOCK) {
            let tiles = BLOCK.min(total - first);
            let zeros = self.zeros.as_ptr();
            let block = Block { input, target, shape: self.shape, step: self.step, first, tiles, zeros };
            transform_input(&block, plane, &mut transformed);
            let (mut channel, mut packed) = (0, self.packed.as_slice());
            for width in gemm::panel_widths(self.shape.out_channels) {
                let lanes = width * LANES;
                let (panels, rest) = packed.split_at(PRODUCTS * depth * lanes);
                packed = rest;
                for product in 0..PRODUCTS {
                    let rows = &transformed[product * plane..][..tiles * depth];
                    let out = &mut products[product * tiles * lanes..][..tiles * lanes];
                    multiply(
                        rows,
                        depth,
                        &panels[product * depth * lanes..][..depth * lanes],
                        width,
                        out,
                        zeros,
                    );
                }
                transform_output(&block, &products, lanes, channel);
                channel += lanes;
            }
        }
        work.free.push(transformed);
        work.free.push(products);
    }
}

/// `out[tile][lane] = sum over channels of rows[tile][c] * panel[c][lane]`.
fn multiply(rows: &[f32], depth: usize, panel: &[f32], width: usize, out: &mut [f32], zeros: *const f32) {
    let (lanes, tiles) = (width * LANES, rows.len() / depth);
    let (tile, height) = (gemm::tile(width), gemm::tile_rows(width));
    let mut dropped = [0f32; MAX_VECTORS * LANES];
    let taps = Taps { count: 1, stride: MAX_ROWS, depth };
    let epilogue = Epilogue { bias: std::ptr::null(), relu: false };
    for start in (0..tiles).step_by(height) {
        let mut from = [zeros; MAX_ROWS];
        let mut to = [dropped.as_mut_ptr(); MAX_ROWS];
        for row in 0..height.min(tiles - start) {
            from[row] = rows[(start + row) * depth..][..depth].as_ptr();
            to[row] = out[(start + row) * lanes..][..lanes].as_mut_ptr();
        }
        // SAFETY: each input pointer has `depth` elements, each output pointer `lanes`; the panel has depth * lanes.
        unsafe { tile(taps, from.as_ptr(), panel.as_ptr(), to.as_ptr(), epilogue) };
    }
}

with_lanes! {
    /// Input tiles to their 36 points: `transformed[product][tile][channel]`, products `plane` apart.
    fn transform_input<V>(block: &Block, plane: usize, transformed: &mut [f32]) {
        let depth = block.shape.in_channels;
        assert!(transformed.len() >= PRODUCTS * plane && plane >= block.tiles * depth, "transform buffer");
        for tile in 0..block.tiles {
            let from = block.samples(tile);
            for c in (0..depth).step_by(V::WIDTH) {
                let mut columns = [[V::splat(0.0); POINTS]; POINTS];
                for x in 0..POINTS {
                    let mut samples = [V::splat(0.0); POINTS];
                    for y in 0..POINTS {
                        // SAFETY: each pointer has `depth` elements, a multiple of LANES (`Layer::new`).
                        samples[y] = unsafe { V::load(from[y][x].add(c)) };
                    }
                    columns[x] = winograd::input(samples);
                }
                for y in 0..POINTS {
                    let mut row = [V::splat(0.0); POINTS];
                    for x in 0..POINTS {
                        row[x] = columns[x][y];
                    }
                    row = winograd::input(row);
                    for x in 0..POINTS {
                        let at = (y * POINTS + x) * plane + tile * depth + c;
                        // SAFETY: below PRODUCTS * plane (asserted above).
                        unsafe { row[x].store(transformed.as_mut_ptr().add(at)) };
                    }
                }
            }
        }
    }

    /// Products `[product][tile][lane]` to output pixels, bias added, ReLU applied.
    fn transform_output<V>(block: &Block, products: &[f32], lanes: usize, channel: usize) {
        match block.step {
            4 => place_output::<V, 4>(block, products, lanes, channel),
            _ => place_output::<V, 2>(block, products, lanes, channel),
        }
    }
}

#[inline(always)]
fn place_output<V: Lanes, const STEP: usize>(block: &Block, products: &[f32], lanes: usize, channel: usize) {
    assert!(products.len() >= PRODUCTS * block.tiles * lanes, "product buffer");
    let target = block.target;
    let bias = &target.bias[channel..][..lanes];
    let floor = V::splat(if target.relu { 0.0 } else { f32::NEG_INFINITY });
    for tile in 0..block.tiles {
        let (image, top, left) = block.place(tile);
        let (rows, columns) = (target.height - top, target.width - left);
        let pixel = (image * target.height + top) * target.width + left;
        for c in (0..lanes).step_by(V::WIDTH) {
            let mut sums = [[V::splat(0.0); STEP]; POINTS];
            for x in 0..POINTS {
                let mut column = [V::splat(0.0); POINTS];
                for y in 0..POINTS {
                    let at = ((y * POINTS + x) * block.tiles + tile) * lanes + c;
                    // SAFETY: below PRODUCTS * tiles * lanes (asserted above).
                    column[y] = unsafe { V::load(products.as_ptr().add(at)) };
                }
                sums[x] = winograd::output(column);
            }
            // SAFETY: the bias has `lanes` elements from `channel`, and c + V::WIDTH <= lanes.
            let bias = unsafe { V::load(bias.as_ptr().add(c)) };
            for y in 0..STEP {
                let mut row = [V::splat(0.0); POINTS];
                for x in 0..POINTS {
                    row[x] = sums[x][y];
                }
                let row: [V; STEP] = winograd::output(row);
                for x in 0..STEP {
                    if y < rows && x < columns {
                        let at = (pixel + y * target.width + x) * target.pixel_stride + channel + c;
                        // SAFETY: a pixel of the output map; `Layer::forward` checked that its channels are inside.
                        unsafe { row[x].add(bias).at_least(floor).store(target.data.add(at)) };
                    }
                }
            }
        }
    }
}
