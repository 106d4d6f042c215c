//! 1x7, 7x1, 1x3 and 3x1 convolutions at stride 1, "same" padding: Winograd along the kernel's axis.
//!
//! Three taps: six products for 4 outputs (of 12). Seven taps are two kernels of three and four taps, three samples
//! apart: each makes 3 outputs from six products, both add up before the output transform, and since a tile is three
//! samples long, the second kernel's input is the next tile's: 12 products for 3 outputs (of 21).

use super::{
    Map, Workspace,
    gemm::{self, Epilogue, MAX_ROWS, MAX_VECTORS, Taps},
    layer::{ConvShape, Target, Weights},
};
use crate::lanes::{LANES, Lanes, with_lanes};
use crate::winograd::{self, POINTS};

/// Tiles (about) that share a pass over the weights.
const BLOCK: usize = 96;

/// Transformed, packed weights.
#[derive(Debug)]
pub(super) struct Winograd1d {
    shape: ConvShape,
    /// Outputs of a tile.
    step: usize,
    /// Kernels that add up: 2 for seven taps.
    parts: usize,
    /// `[panel][product][part][in channel][lane]`.
    packed: Vec<f32>,
    zeros: Vec<f32>,
}

/// Lines of pixels along the kernel's axis.
#[derive(Clone, Copy)]
struct Lines {
    /// Pixels of a line.
    length: usize,
    /// Lines of an image.
    per_image: usize,
    /// Pixels from one line to the next, and from one pixel of a line to the next.
    line_stride: usize,
    step_stride: usize,
}

impl Winograd1d {
    pub(super) fn new(weights: &Weights) -> Self {
        let shape = weights.shape;
        let taps = shape.kernel.0.max(shape.kernel.1);
        let along = |out, input, tap| match shape.kernel.0 {
            1 => weights.at(out, input, 0, tap),
            _ => weights.at(out, input, tap, 0),
        };
        let (step, parts) = if taps == 7 { (3, 2) } else { (4, 1) };
        let (depth, channels) = (shape.in_channels, shape.out_channels);
        // [product][part][in][out]
        let mut points = vec![0f32; POINTS * parts * depth * channels];
        for out in 0..channels {
            for input in 0..depth {
                for part in 0..parts {
                    let kernel: Vec<f64> = match (parts, part) {
                        (1, _) => (0..3).map(|tap| along(out, input, tap)).collect(),
                        // Three taps and a zero: both kernels have four, hence the same transforms.
                        (_, 0) => (0..3).map(|tap| along(out, input, tap)).chain([0.0]).collect(),
                        _ => (3..7).map(|tap| along(out, input, tap)).collect(),
                    };
                    for (product, value) in winograd::kernel(&kernel).into_iter().enumerate() {
                        points[((product * parts + part) * depth + input) * channels + out] = value as f32;
                    }
                }
            }
        }
        let mut packed = Vec::with_capacity(points.len());
        gemm::pack(&points, POINTS * parts * depth, channels, &mut packed);
        Self { shape, step, parts, packed, zeros: vec![0.0; depth] }
    }

    pub(super) fn forward(&self, input: &Map, target: &Target, work: &mut Workspace) {
        let (height, width) = (input.height, input.width);
        let lines = if self.shape.kernel.0 == 1 {
            Lines { length: width, per_image: height, line_stride: width, step_stride: 1 }
        } else {
            Lines { length: height, per_image: width, line_stride: 1, step_stride: width }
        };
        let tiles = lines.length.div_ceil(self.step);
        // The second part of the last tile reads one tile further.
        let inputs = tiles + self.parts - 1;
        let per_block = (BLOCK / tiles).max(1);
        let total = lines.per_image * input.images;
        let plane = per_block * inputs * self.shape.in_channels + LANES;
        let mut transformed = work.buffer(POINTS * plane);
        let mut products = work.buffer(POINTS * per_block * tiles * MAX_VECTORS * LANES);
        for first in (0..total).step_by(per_block) {
            let block = Block {
                layer: self,
                input,
                target,
                lines,
                first,
                count: per_block.min(total - first),
                tiles,
                inputs,
            };
            transform_input(&block, plane, &mut transformed);
            block.multiply(plane, &transformed, &mut products);
        }
        work.free.push(transformed);
        work.free.push(products);
    }
}

/// A few lines on their way through the three steps.
struct Block<'a> {
    layer: &'a Winograd1d,
    input: &'a Map,
    target: &'a Target<'a>,
    lines: Lines,
    /// First line (over all images) and number of lines.
    first: usize,
    count: usize,
    /// Output tiles and input tiles of a line.
    tiles: usize,
    inputs: usize,
}

impl Block<'_> {
    /// The first pixel of a line, over all images.
    fn origin(&self, line: usize) -> usize {
        let line = self.first + line;
        let (image, line) = (line / self.lines.per_image, line % self.lines.per_image);
        image * self.lines.per_image * self.lines.length + line * self.lines.line_stride
    }

    /// All panels: products, then outputs.
    fn multiply(&self, plane: usize, transformed: &[f32], products: &mut [f32]) {
        let (depth, parts) = (self.layer.shape.in_channels, self.layer.parts);
        let taps = Taps { count: parts, stride: MAX_ROWS, depth };
        let total = self.count * self.tiles;
        let mut dropped = [0f32; MAX_VECTORS * LANES];
        let epilogue = Epilogue { bias: std::ptr::null(), relu: false };
        let (mut channel, mut packed) = (0, self.layer.packed.as_slice());
        for width in gemm::panel_widths(self.layer.shape.out_channels) {
            let (lanes, rows) = (width * LANES, gemm::tile_rows(width));
            let size = parts * depth * lanes;
            let tile = gemm::tile(width);
            for product in 0..POINTS {
                let panel = &packed[product * size..][..size];
                for start in (0..total).step_by(rows) {
                    let mut from = [self.layer.zeros.as_ptr(); 2 * MAX_ROWS];
                    let mut to = [dropped.as_mut_ptr(); MAX_ROWS];
                    for row in 0..rows.min(total - start) {
                        let (line, tile) = ((start + row) / self.tiles, (start + row) % self.tiles);
                        for part in 0..parts {
                            let at = product * plane + (line * self.inputs + tile + part) * depth;
                            from[part * MAX_ROWS + row] = transformed[at..][..depth].as_ptr();
                        }
                        to[row] = products[(product * total + start + row) * lanes..][..lanes].as_mut_ptr();
                    }
                    // SAFETY: each input pointer has `depth` elements, each output pointer `lanes`, the panel
                    // parts * depth * lanes.
                    unsafe { tile(taps, from.as_ptr(), panel.as_ptr(), to.as_ptr(), epilogue) };
                }
            }
            packed = &packed[POINTS * size..];
            transform_output(self, products, lanes, channel);
            channel += lanes;
        }
    }
}

with_lanes! {
    /// Input tiles to their six points: `transformed[product][line][tile][channel]`, products `plane` apart.
    fn transform_input<V>(block: &Block, plane: usize, transformed: &mut [f32]) {
        let depth = block.layer.shape.in_channels;
        let padding = block.layer.shape.padding.0.max(block.layer.shape.padding.1);
        assert!(transformed.len() >= POINTS * plane && plane >= block.count * block.inputs * depth, "transform buffer");
        for line in 0..block.count {
            let origin = block.origin(line);
            for tile in 0..block.inputs {
                let mut from = [block.layer.zeros.as_ptr(); POINTS];
                for (sample, from) in from.iter_mut().enumerate() {
                    let place = (tile * block.layer.step + sample).wrapping_sub(padding);
                    if place < block.lines.length {
                        let pixel = origin + place * block.lines.step_stride;
                        *from = block.input.data[pixel * depth..][..depth].as_ptr();
                    }
                }
                for c in (0..depth).step_by(V::WIDTH) {
                    let mut samples = [V::splat(0.0); POINTS];
                    for sample in 0..POINTS {
                        // SAFETY: each pointer has `depth` elements, a multiple of LANES (`Layer::new`).
                        samples[sample] = unsafe { V::load(from[sample].add(c)) };
                    }
                    for (product, value) in winograd::input(samples).into_iter().enumerate() {
                        let at = product * plane + (line * block.inputs + tile) * depth + c;
                        // SAFETY: below POINTS * plane (asserted above).
                        unsafe { value.store(transformed.as_mut_ptr().add(at)) };
                    }
                }
            }
        }
    }

    /// Products `[product][line][tile][lane]` to output pixels, bias added, ReLU applied.
    fn transform_output<V>(block: &Block, products: &[f32], lanes: usize, channel: usize) {
        match block.layer.step {
            4 => place_output::<V, 4>(block, products, lanes, channel),
            _ => place_output::<V, 3>(block, products, lanes, channel),
        }
    }
}

#[inline(always)]
fn place_output<V: Lanes, const STEP: usize>(block: &Block, products: &[f32], lanes: usize, channel: usize) {
    let total = block.count * block.tiles;
    assert!(products.len() >= POINTS * total * lanes, "product buffer");
    let target = block.target;
    let bias = &target.bias[channel..][..lanes];
    let floor = V::splat(if target.relu { 0.0 } else { f32::NEG_INFINITY });
    for line in 0..block.count {
        let origin = block.origin(line);
        for tile in 0..block.tiles {
            for c in (0..lanes).step_by(V::WIDTH) {
                let mut values = [V::splat(0.0); POINTS];
                for product in 0..POINTS {
                    let at = (product * total + line * block.tiles + tile) * lanes + c;
                    // SAFETY: below POINTS * total * lanes (asserted above).
                    values[product] = unsafe { V::load(products.as_ptr().add(at)) };
                }
                let outputs = winograd::output::<V, STEP>(values);
                // SAFETY: the bias has `lanes` elements from `channel`, and c + V::WIDTH <= lanes.
                let bias = unsafe { V::load(bias.as_ptr().add(c)) };
                let first = tile * STEP;
                for (step, value) in outputs.into_iter().enumerate().take(block.lines.length - first) {
                    let at =
                        (origin + (first + step) * block.lines.step_stride) * target.pixel_stride + channel + c;
                    // SAFETY: a pixel of the output map (same size as the input: "same" padding, checked in
                    // `Layer::forward`); its channels are inside.
                    unsafe { value.add(bias).at_least(floor).store(target.data.add(at)) };
                }
            }
        }
    }
}
