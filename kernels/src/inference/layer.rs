//! A convolution with its batch norm folded in, and the choice of algorithm.

use super::{Map, Workspace, direct::Direct, winograd1d::Winograd1d, winograd2d::Winograd2d};
use crate::lanes::LANES;

/// The geometry of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output, a multiple of 16.
    pub out_channels: usize,
    /// Kernel height and width.
    pub kernel: (usize, usize),
    /// Pixels from one place of the kernel to the next.
    pub stride: usize,
    /// Zeros above and below, left and right.
    pub padding: (usize, usize),
}

impl ConvShape {
    /// Height and width of the output for an input of this height and width, which is not smaller than the kernel.
    pub fn output(&self, height: usize, width: usize) -> (usize, usize) {
        let side = |size: usize, kernel: usize, padding: usize| (size + 2 * padding - kernel) / self.stride + 1;
        (side(height, self.kernel.0, self.padding.0), side(width, self.kernel.1, self.padding.1))
    }

    /// Number of weights.
    pub fn weights(&self) -> usize {
        self.in_channels * self.out_channels * self.kernel.0 * self.kernel.1
    }
}

/// Weights in f64 before they are packed: `[out][in][height][width]`.
pub(super) struct Weights<'a> {
    pub(super) shape: ConvShape,
    pub(super) data: &'a [f64],
}

impl<'a> Weights<'a> {
    /// Weights whose number fits their shape, beside a bias that does: what the kernels rely on.
    fn checked(shape: ConvShape, data: &'a [f64], bias: &[f64]) -> Self {
        assert!(shape.out_channels.is_multiple_of(LANES), "{} output channels", shape.out_channels);
        assert!(shape.stride > 0 && data.len() == shape.weights(), "{} weights for {shape:?}", data.len());
        assert_eq!(bias.len(), shape.out_channels, "bias");
        Self { shape, data }
    }

    /// The weight of one output channel, input channel and tap.
    pub(super) fn at(&self, out: usize, input: usize, y: usize, x: usize) -> f64 {
        let (height, width) = self.shape.kernel;
        self.data[((out * self.shape.in_channels + input) * height + y) * width + x]
    }
}

#[derive(Debug)]
enum Algorithm {
    Direct(Direct),
    Square(Winograd2d),
    Axis(Winograd1d),
}

/// A convolution ready to run: packed weights, bias, algorithm.
#[derive(Debug)]
pub struct Layer {
    shape: ConvShape,
    bias: Vec<f32>,
    algorithm: Algorithm,
}

impl Layer {
    /// Packs a convolution. `weights` are `[out, in, height, width]` with the batch norm's scale already in them,
    /// `bias` is what batch norm adds; both are rounded to f32 once, after all transforms.
    ///
    /// # Panics
    /// When the number of output channels is no multiple of 16, or weights and bias are not of this shape.
    pub fn new(shape: ConvShape, weights: &[f64], bias: &[f64]) -> Self {
        let weights = Weights::checked(shape, weights, bias);
        let same = shape.padding == (shape.kernel.0 / 2, shape.kernel.1 / 2);
        let algorithm = match (shape.kernel, shape.stride, shape.in_channels % LANES) {
            ((3, 3) | (5, 5), 1, 0) => Algorithm::Square(Winograd2d::new(&weights)),
            ((1, 7) | (7, 1) | (1, 3) | (3, 1), 1, 0) if same => Algorithm::Axis(Winograd1d::new(&weights)),
            _ => Algorithm::Direct(Direct::new(&weights)),
        };
        Self { shape, bias: bias.iter().map(|&b| b as f32).collect(), algorithm }
    }

    /// The same convolution by the direct algorithm: the reference that the others are tested against.
    #[cfg(test)]
    pub(super) fn new_direct(shape: ConvShape, weights: &[f64], bias: &[f64]) -> Self {
        let algorithm = Algorithm::Direct(Direct::new(&Weights::checked(shape, weights, bias)));
        Self { shape, bias: bias.iter().map(|&b| b as f32).collect(), algorithm }
    }

    /// The layer's geometry.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Convolves `input` into channels `offset..offset + out_channels` of `output`, adds the bias and, if `relu`,
    /// replaces negative results by zero.
    ///
    /// # Panics
    /// When the maps or the offset do not fit the layer.
    pub fn forward(&self, input: &Map, output: &mut Map, offset: usize, relu: bool, work: &mut Workspace) {
        // The kernels below read and write through pointers, so check once here.
        let ((kernel_height, kernel_width), padding) = (self.shape.kernel, self.shape.padding);
        assert!(kernel_height <= input.height + 2 * padding.0 && kernel_width <= input.width + 2 * padding.1);
        let (height, width) = self.shape.output(input.height, input.width);
        assert_eq!(input.channels, self.shape.in_channels, "input channels");
        assert_eq!((output.images, output.height, output.width), (input.images, height, width), "output shape");
        assert!(offset + self.shape.out_channels <= output.channels, "output channels");
        assert!(input.is_whole() && output.is_whole(), "size of the data");
        if input.images == 0 {
            return;
        }
        let target = Target {
            data: output.data[offset..].as_mut_ptr(),
            height,
            width,
            pixel_stride: output.channels,
            bias: &self.bias,
            relu,
        };
        match &self.algorithm {
            Algorithm::Direct(direct) => direct.forward(input, &target, work),
            Algorithm::Square(square) => square.forward(input, &target, work),
            Algorithm::Axis(axis) => axis.forward(input, &target, work),
        }
    }
}

/// Where a convolution's results go: some channels of a larger map.
pub(super) struct Target<'a> {
    /// The first of the layer's channels of the first pixel.
    pub(super) data: *mut f32,
    pub(super) height: usize,
    pub(super) width: usize,
    /// Elements from one pixel to the next.
    pub(super) pixel_stride: usize,
    pub(super) bias: &'a [f32],
    pub(super) relu: bool,
}
