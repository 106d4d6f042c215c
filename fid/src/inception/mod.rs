//! The FID feature network: Inception-v3 up to the pooled features, on the processor or on a device.

mod on_device;
mod on_processor;
mod spec;

use candle_core::Device;
use nestgen_kernels::inference::{ConvShape, Layer};
use nestgen_kernels::portable;

use crate::error::Result;
use crate::weights::StateDict;
use spec::Branch;

pub(crate) use on_device::{BATCH, OnDevice, Started};
pub(crate) use on_processor::CHUNK;

pub(crate) use spec::tensor_shapes;

/// Side of the network's input in pixels.
pub const SIDE: usize = 299;
/// Size of the last features.
pub const FEATURES: usize = 2048;
/// Outputs of the classifier.
pub const CLASSES: usize = 1008;

/// Batch norm's epsilon in this network (PyTorch's usual one is 1e-5).
const EPSILON: f64 = 0.001;

/// A place in the network whose pooled activations are used as features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(into = "usize", try_from = "usize")]
pub enum Tap {
    /// After the first maximum pool.
    D64,
    /// After the second maximum pool.
    D192,
    /// Before the last three blocks.
    D768,
    /// The last pooled features: FID's own.
    D2048,
}

impl Tap {
    /// All taps, shallow to deep.
    pub const ALL: [Tap; 4] = [Tap::D64, Tap::D192, Tap::D768, Tap::D2048];

    /// Number of features.
    pub fn dims(self) -> usize {
        match self {
            Tap::D64 => 64,
            Tap::D192 => 192,
            Tap::D768 => 768,
            Tap::D2048 => FEATURES,
        }
    }
}

impl From<Tap> for usize {
    fn from(tap: Tap) -> usize {
        tap.dims()
    }
}

impl TryFrom<usize> for Tap {
    type Error = String;
    fn try_from(dims: usize) -> std::result::Result<Self, String> {
        Tap::ALL
            .into_iter()
            .find(|tap| tap.dims() == dims)
            .ok_or(format!("{dims} is none of 64, 192, 768, 2048"))
    }
}

/// The network, ready to run.
#[derive(Debug)]
pub struct Inception {
    place: Place,
    classifier: Vec<f32>,
    classifier_bias: Vec<f32>,
}

/// Where the network runs.
#[derive(Debug)]
pub(crate) enum Place {
    /// On the processor, over `nestgen_kernels::inference`.
    Processor(Layers<Layer>),
    /// On a GPU, over the operations of `nestgen-kernels`.
    Device(OnDevice),
}

/// All convolutions before the pooled features.
#[derive(Debug)]
pub(crate) struct Layers<L> {
    stem: Vec<L>,
    blocks: Vec<Vec<Branch<L>>>,
}

impl Inception {
    /// Builds the network from the tensors of a weight file (see [`crate::weights`]), for the processor.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape, or holds a number that is not finite.
    pub fn new(tensors: &StateDict) -> Result<Self> {
        Self::on(tensors, &Device::Cpu)
    }

    /// Builds the network for a device. Features of another device than the processor agree with the processor's to
    /// rounding; on the processor they are the same bits in any batch.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape, or holds a number that is not finite; when the device has no room.
    pub fn on(tensors: &StateDict, device: &Device) -> Result<Self> {
        crate::weights::check(tensors)?;
        let place = if device.is_cpu() && !portable::forced() {
            Place::Processor(Layers::fold(tensors, |shape, w, b| Ok(Layer::new(shape, w, b)))?)
        } else {
            Place::Device(OnDevice::new(tensors, device)?)
        };
        let classifier = tensors["fc.weight"].floats().to_vec();
        Ok(Self { place, classifier, classifier_bias: tensors["fc.bias"].floats().to_vec() })
    }

    /// The classifier's weights `[1008, 2048]` and bias `[1008]`. The Inception score uses the weights alone.
    pub fn classifier(&self) -> (&[f32], &[f32]) {
        (&self.classifier, &self.classifier_bias)
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }
}

impl<L> Layers<L> {
    /// Each convolution and its batch norm as one layer, folded in f64: `make(shape, weights, bias)` with weights
    /// `[out, in, height, width]`.
    fn fold(tensors: &StateDict, make: impl Fn(ConvShape, &[f64], &[f64]) -> Result<L>) -> Result<Self> {
        let mut layer = |conv: spec::Conv| {
            let (weights, bias) = fold(&conv, tensors);
            make(conv.shape, &weights, &bias)
        };
        let stem = spec::stem().into_iter().map(&mut layer).collect::<Result<_>>()?;
        let mut blocks = Vec::new();
        for block in spec::blocks() {
            blocks.push(block.into_iter().map(|branch| branch.map(&mut layer)).collect::<Result<_>>()?);
        }
        Ok(Self { stem, blocks })
    }
}

fn fold(conv: &spec::Conv, tensors: &StateDict) -> (Vec<f64>, Vec<f64>) {
    let part = |part: &str| tensors[&format!("{}.{part}", conv.name)].floats();
    let (gamma, beta) = (part("bn.weight"), part("bn.bias"));
    let (mean, variance) = (part("bn.running_mean"), part("bn.running_var"));
    let per_channel = conv.shape.weights() / conv.shape.out_channels;
    let mut weights = Vec::with_capacity(conv.shape.weights());
    let mut bias = Vec::with_capacity(conv.shape.out_channels);
    for (channel, kernel) in part("conv.weight").chunks_exact(per_channel).enumerate() {
        let scale = f64::from(gamma[channel]) / (f64::from(variance[channel]) + EPSILON).sqrt();
        weights.extend(kernel.iter().map(|&w| f64::from(w) * scale));
        bias.push(f64::from(beta[channel]) - f64::from(mean[channel]) * scale);
    }
    (weights, bias)
}

/// The tap behind a convolution of the stem: after the pool that follows it.
fn tap_after_stem(index: usize) -> Option<Tap> {
    match index {
        2 => Some(Tap::D64),
        4 => Some(Tap::D192),
        _ => None,
    }
}

/// The tap behind a block.
fn tap_after_block(index: usize) -> Option<Tap> {
    match index {
        7 => Some(Tap::D768),
        10 => Some(Tap::D2048),
        _ => None,
    }
}
