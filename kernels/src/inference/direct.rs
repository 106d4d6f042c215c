//! Any convolution, as a matrix product over pointers to input pixels.

use super::{
    Map, Workspace,
    gemm::{self, Epilogue, MAX_ROWS, MAX_VECTORS, Taps},
    layer::{ConvShape, Target, Weights},
};
use crate::lanes::LANES;

/// Output pixels that share a pass over the weights. A multiple of every tile height.
const BLOCK: usize = 96;

/// Packed weights of a convolution.
#[derive(Debug)]
pub(super) struct Direct {
    shape: ConvShape,
    /// `[panel][tap][in channel][lane]`.
    packed: Vec<f32>,
    /// What padded pixels point at.
    zeros: Vec<f32>,
}

impl Direct {
    pub(super) fn new(weights: &Weights) -> Self {
        let shape = weights.shape;
        let (height, width) = shape.kernel;
        // [kernel y][kernel x][in][out]
        let mut rows = Vec::with_capacity(shape.weights());
        for y in 0..height {
            for x in 0..width {
                for input in 0..shape.in_channels {
                    rows.extend((0..shape.out_channels).map(|out| weights.at(out, input, y, x) as f32));
                }
            }
        }
        let mut packed = Vec::with_capacity(rows.len());
        gemm::pack(&rows, height * width * shape.in_channels, shape.out_channels, &mut packed);
        Self { shape, packed, zeros: vec![0.0; width * shape.in_channels] }
    }

    pub(super) fn forward(&self, input: &Map, target: &Target, work: &mut Workspace) {
        // Without padding at the sides, a kernel row is one run of neighbouring elements: fewer, longer taps.
        let joined = self.shape.padding.1 == 0;
        let (height, width) = self.shape.kernel;
        let count = if joined { height } else { height * width };
        let depth = self.shape.in_channels * if joined { width } else { 1 };
        let taps = Taps { count, stride: BLOCK, depth };
        let total = input.images * target.height * target.width;
        let mut pointers = std::mem::take(&mut work.pointers);
        pointers.clear();
        pointers.resize(count * BLOCK, std::ptr::null());
        for first in (0..total).step_by(BLOCK) {
            let filled = BLOCK.min(total - first);
            for row in 0..BLOCK {
                // Rows past the end compute on zeros; their results are dropped.
                let pixel = (row < filled).then_some(first + row);
                self.point(input, target, pixel, &mut pointers[row..]);
            }
            self.multiply(taps, &pointers, target, first, filled);
        }
        work.pointers = pointers;
    }

    /// Writes the pointers of one output pixel, `BLOCK` apart.
    fn point(&self, input: &Map, target: &Target, pixel: Option<usize>, pointers: &mut [*const f32]) {
        let joined = self.shape.padding.1 == 0;
        let taps_x = if joined { 1 } else { self.shape.kernel.1 };
        let Some(pixel) = pixel else {
            pointers.iter_mut().step_by(BLOCK).for_each(|p| *p = self.zeros.as_ptr());
            return;
        };
        let (image, place) = (pixel / (target.height * target.width), pixel % (target.height * target.width));
        let top = (place / target.width * self.shape.stride) as isize - self.shape.padding.0 as isize;
        let left = (place % target.width * self.shape.stride) as isize - self.shape.padding.1 as isize;
        let data = input.image(image);
        for y in 0..self.shape.kernel.0 {
            for x in 0..taps_x {
                let (row, column) = (top + y as isize, left + x as isize);
                let inside =
                    (0..input.height as isize).contains(&row) && (0..input.width as isize).contains(&column);
                pointers[(y * taps_x + x) * BLOCK] = if inside {
                    data[(row as usize * input.width + column as usize) * input.channels..].as_ptr()
                } else {
                    self.zeros.as_ptr()
                };
            }
        }
    }

    /// All panels of one block of pixels.
    fn multiply(&self, taps: Taps, pointers: &[*const f32], target: &Target, first: usize, filled: usize) {
        let mut dropped = [0f32; MAX_VECTORS * LANES];
        let mut channel = 0;
        let mut packed = self.packed.as_slice();
        for width in gemm::panel_widths(self.shape.out_channels) {
            let (panel, rest) = packed.split_at(taps.count * taps.depth * width * LANES);
            packed = rest;
            let (tile, rows) = (gemm::tile(width), gemm::tile_rows(width));
            let epilogue = Epilogue { bias: target.bias[channel..].as_ptr(), relu: target.relu };
            for start in (0..filled).step_by(rows) {
                let mut out = [dropped.as_mut_ptr(); MAX_ROWS];
                for (row, out) in out.iter_mut().enumerate().take(rows.min(filled - start)) {
                    // SAFETY: a pixel of the output map; `Layer::forward` checked that its channels are inside.
                    *out = unsafe { target.data.add((first + start + row) * target.pixel_stride + channel) };
                }
                // SAFETY: every pointer of the block has `depth` elements: a pixel inside the map (a run of kernel
                // width pixels when joined, inside because there is no padding), or the zeros; BLOCK is a multiple
                // of `rows`. The panel and the bias have the packed sizes.
                unsafe { tile(taps, pointers[start..].as_ptr(), panel.as_ptr(), out.as_ptr(), epilogue) };
            }
            channel += width * LANES;
        }
    }
}
