//! 3x3 and 5x5 convolutions at stride 1: 36 products for 4x4 outputs of a 3x3 kernel (of 144) or 2x2 outputs of a
//! 5x5 kernel (of 100).

use super::{
    Map, Workspace,
    gemm::{self, Epilogue, LANES, MAX_ROWS, MAX_VECTORS, Taps},
    layer::{ConvShape, Target, Weights},
    transforms::{self, POINTS},
};

const PRODUCTS: usize = POINTS * POINTS;

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
                    *row = transforms::kernel(&taps);
                }
                for x in 0..POINTS {
                    let column: Vec<f64> = rows[..side].iter().map(|row| row[x]).collect();
                    for (y, value) in transforms::kernel(&column).into_iter().enumerate() {
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
        // Enough tiles to pay for a pass over the weights, few enough that their transforms stay in the cache.
        let block = if depth <= LANES * 2 { 96 } else { 48 };
        // One line more than needed: equal distances of a multiple of 4 KiB would share cache sets.
        let plane = block * depth + LANES;
        let mut transformed = work.buffer(PRODUCTS * plane);
        let mut products = work.buffer(PRODUCTS * block * MAX_VECTORS * LANES);
        for first in (0..total).step_by(block) {
            let tiles = block.min(total - first);
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

crate::multiversion! {
    /// Input tiles to their 36 points: `transformed[product][tile][channel]`, products `plane` apart.
    fn transform_input(block: &Block, plane: usize, transformed: &mut [f32]) {
        let depth = block.shape.in_channels;
        assert!(transformed.len() >= PRODUCTS * plane && plane >= block.tiles * depth, "transform buffer");
        let (height, width) = (block.input.height as isize, block.input.width as isize);
        for tile in 0..block.tiles {
            let (image, y, x) = block.place(tile);
            let data = block.input.image(image);
            let (top, left) = (y as isize - block.shape.padding.0 as isize, x as isize - block.shape.padding.1 as isize);
            let mut from = [[block.zeros; POINTS]; POINTS];
            for (row, from) in (top..).zip(from.iter_mut()) {
                for (column, from) in (left..).zip(from.iter_mut()) {
                    if (0..height).contains(&row) && (0..width).contains(&column) {
                        *from = data[(row * width + column) as usize * depth..][..depth].as_ptr();
                    }
                }
            }
            for c in (0..depth).step_by(LANES) {
                let mut columns = [[[0f32; LANES]; POINTS]; POINTS];
                for x in 0..POINTS {
                    let mut samples = [[0f32; LANES]; POINTS];
                    for y in 0..POINTS {
                        // SAFETY: each pointer has `depth` elements, a multiple of LANES (`Layer::new`).
                        samples[y] = unsafe { transforms::load(from[y][x].add(c)) };
                    }
                    columns[x] = transforms::input(samples);
                }
                for y in 0..POINTS {
                    let mut row = [[0f32; LANES]; POINTS];
                    for x in 0..POINTS {
                        row[x] = columns[x][y];
                    }
                    for (x, value) in transforms::input(row).into_iter().enumerate() {
                        let at = (y * POINTS + x) * plane + tile * depth + c;
                        // SAFETY: below PRODUCTS * plane (asserted above).
                        unsafe { transforms::store(transformed.as_mut_ptr().add(at), value) };
                    }
                }
            }
        }
    }

    /// Products `[product][tile][lane]` to output pixels, bias added, ReLU applied.
    fn transform_output(block: &Block, products: &[f32], lanes: usize, channel: usize) {
        match block.step {
            4 => place_output::<4>(block, products, lanes, channel),
            _ => place_output::<2>(block, products, lanes, channel),
        }
    }
}

#[inline(always)]
fn place_output<const STEP: usize>(block: &Block, products: &[f32], lanes: usize, channel: usize) {
    assert!(products.len() >= PRODUCTS * block.tiles * lanes, "product buffer");
    let target = block.target;
    let bias = &target.bias[channel..][..lanes];
    let floor = if target.relu { 0.0 } else { f32::NEG_INFINITY };
    for tile in 0..block.tiles {
        let (image, top, left) = block.place(tile);
        for c in (0..lanes).step_by(LANES) {
            let mut columns = [[[0f32; LANES]; STEP]; POINTS];
            for x in 0..POINTS {
                let mut values = [[0f32; LANES]; POINTS];
                for y in 0..POINTS {
                    let at = ((y * POINTS + x) * block.tiles + tile) * lanes + c;
                    // SAFETY: below PRODUCTS * tiles * lanes (asserted above).
                    values[y] = unsafe { transforms::load(products.as_ptr().add(at)) };
                }
                columns[x] = transforms::output::<STEP>(values);
            }
            // SAFETY: the bias has `lanes` elements from `channel`, and c + LANES <= lanes.
            let lane_bias = unsafe { transforms::load(bias.as_ptr().add(c)) };
            for y in 0..STEP.min(target.height - top) {
                let mut row = [[0f32; LANES]; POINTS];
                for x in 0..POINTS {
                    row[x] = columns[x][y];
                }
                let row = transforms::output::<STEP>(row);
                for x in 0..STEP.min(target.width - left) {
                    let value = row[x];
                    let value = transforms::finish(&value, &lane_bias, floor);
                    let pixel = (image * target.height + top + y) * target.width + left + x;
                    // SAFETY: a pixel of the output map; `Layer::forward` checked that its channels are inside.
                    unsafe {
                        transforms::store(target.data.add(pixel * target.pixel_stride + channel + c), value)
                    };
                }
            }
        }
    }
}
