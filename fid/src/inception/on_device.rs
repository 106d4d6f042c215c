//! The network over the operations of `nestgen-kernels`: whole batches on a GPU, or on the portable path.

use candle_core::{Device, Tensor};
use nestgen_kernels::cuda::upload;
use nestgen_kernels::precision::{Precision, with};
use nestgen_kernels::{self as k, Activation, Conv2d, PoolPadding, Var, no_grad};

use super::spec::Branch;
use super::{ConvShape, Layers, SIDE, Tap, tap_after_block, tap_after_stem};
use crate::error::{Error, Result};
use crate::weights::StateDict;

/// Images that go through the network together.
pub(crate) const BATCH: usize = 32;

/// The network in a device's memory.
#[derive(Debug)]
pub(crate) struct OnDevice {
    layers: Layers<Conv>,
    device: Device,
}

/// Features that are on their way.
pub(crate) struct Started {
    /// Of each tap, `[images or more, dims]`.
    taps: Vec<Tensor>,
    images: usize,
}

impl Started {
    /// Waits for the rows `[images, dims]` of each tap.
    pub(crate) fn finish(self) -> Result<Vec<Vec<f32>>> {
        let read = |tap: &Tensor| tap.narrow(0, 0, self.images)?.flatten_all()?.to_vec1::<f32>();
        self.taps.iter().map(read).collect::<candle_core::Result<_>>().map_err(Error::device)
    }
}

/// A convolution ready to run.
#[derive(Debug)]
struct Conv {
    /// `[out, height, width, in]`
    weights: Tensor,
    bias: Tensor,
    how: Conv2d,
}

impl Conv {
    /// `weights` are `[out, in, height, width]`.
    fn new(shape: ConvShape, weights: &[f64], bias: &[f64], device: &Device) -> candle_core::Result<Self> {
        let (height, width) = shape.kernel;
        let weights: Vec<f32> = weights.iter().map(|&w| w as f32).collect();
        let bias: Vec<f32> = bias.iter().map(|&b| b as f32).collect();
        let weights =
            Tensor::from_vec(weights, (shape.out_channels, shape.in_channels, height, width), &Device::Cpu)?;
        Ok(Self {
            weights: weights.permute((0, 2, 3, 1))?.contiguous()?.to_device(device)?,
            bias: Tensor::from_vec(bias, shape.out_channels, device)?,
            how: Conv2d { stride: (shape.stride, shape.stride), padding: shape.padding },
        })
    }

    fn run(&self, x: &Var, activation: Activation) -> candle_core::Result<Var> {
        let (weights, bias) = (Var::constant(self.weights.clone()), Var::constant(self.bias.clone()));
        k::conv2d(x, &weights, Some(&bias), self.how, activation)
    }
}

impl OnDevice {
    /// Folds batch norms and uploads.
    pub(super) fn new(tensors: &StateDict, device: &Device) -> Result<Self> {
        let make = |shape: ConvShape, weights: &[f64], bias: &[f64]| {
            Conv::new(shape, weights, bias, device).map_err(Error::device)
        };
        Ok(Self { layers: Layers::fold(tensors, make)?, device: device.clone() })
    }

    /// Queues the features of images `[images, 299, 299, 3]`, as preprocessed, for each of `taps` (which are sorted). On a GPU
    /// fewer than [`BATCH`] images have others of zeros behind them: each number of images would be tried out for itself, and
    /// might be made in another way.
    pub(crate) fn start(&self, images: usize, taps: &[Tap], mut pixels: Vec<f32>) -> Result<Started> {
        let count = if self.device.is_cpu() { images } else { images.max(BATCH) };
        pixels.resize(count * SIDE * SIDE * 3, 0.0);
        let queued = || -> candle_core::Result<Vec<Tensor>> {
            let pixels = Tensor::from_vec(pixels, (count, SIDE, SIDE, 3), &Device::Cpu)?;
            self.pooled(Var::constant(upload(&pixels, &self.device)?), taps)
        };
        // Whatever a run trains in: scores are compared with others.
        let taps = with(Precision::F32, || no_grad(queued)).map_err(Error::device)?;
        Ok(Started { taps, images })
    }

    fn pooled(&self, mut x: Var, taps: &[Tap]) -> candle_core::Result<Vec<Tensor>> {
        let mut found = Vec::with_capacity(taps.len());
        let mut is_last = |tap: Tap, x: &Var| -> candle_core::Result<bool> {
            if taps.contains(&tap) {
                found.push(k::mean_middle(x)?.into_value());
            }
            Ok(taps.last().is_none_or(|&last| last == tap))
        };
        let mut done = false;
        for (index, layer) in self.layers.stem.iter().enumerate() {
            x = layer.run(&x, Activation::Relu)?;
            if let Some(tap) = tap_after_stem(index) {
                x = k::max_pool3s2(&x, PoolPadding::Valid)?;
                done = is_last(tap, &x)?;
            }
            if done {
                return Ok(found);
            }
        }
        for (index, block) in self.layers.blocks.iter().enumerate() {
            let parts =
                block.iter().map(|branch| run_branch(branch, &x)).collect::<candle_core::Result<Vec<_>>>()?;
            let parts: Vec<&Var> = parts.iter().flatten().collect();
            x = k::cat(&parts, 3)?;
            if let Some(tap) = tap_after_block(index)
                && is_last(tap, &x)?
            {
                break;
            }
        }
        Ok(found)
    }
}

/// What a branch adds to its block's channels, in order.
fn run_branch(branch: &Branch<Conv>, x: &Var) -> candle_core::Result<Vec<Var>> {
    let chain = |layers: &[Conv]| layers.iter().try_fold(x.clone(), |x, layer| layer.run(&x, Activation::Relu));
    Ok(match branch {
        Branch::Chain(layers) => vec![chain(layers)?],
        Branch::Split(layers, sides) => {
            let x = chain(layers)?;
            sides.iter().map(|side| side.run(&x, Activation::Relu)).collect::<candle_core::Result<_>>()?
        }
        // As on the processor: both are linear, and the convolution leaves fewer channels to pool.
        Branch::AveragePool(layer) => {
            let means = k::avg_pool3(&layer.run(x, Activation::None)?)?;
            vec![k::activate(&means, Activation::Relu)?]
        }
        Branch::MaxPool(layer) => vec![layer.run(&k::max_pool3(x)?, Activation::Relu)?],
        Branch::Downsample => vec![k::max_pool3s2(x, PoolPadding::Valid)?],
    })
}
