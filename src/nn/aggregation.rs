//! Block aggregation: between two levels of NesT the token map halves its side (arXiv 2105.12723, section 3.1).
//!
//! It works on the image plane: only here does information cross the borders of blocks. The variants other
//! than [`Aggregation::ConvPool`] are the ablations that show how much each of its two parts carries.

use candle_core::Result;
use nestgen_kernels::{self as k, Activation, PoolPadding, Var};
use serde::{Deserialize, Serialize};

use super::{Builder, Conv2d, LayerNorm, transformer::INIT};

/// How the token map halves its side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// The paper's: 3x3 convolution, layer norm, 3x3 max pool of stride 2.
    #[default]
    ConvPool,
    /// 3x3 convolution of stride 2, layer norm.
    Conv,
    /// Linear, layer norm, 3x3 max pool of stride 2.
    Pool,
    /// Linear, layer norm, mean of 2x2: blocks merge without looking across their borders.
    None,
}

/// Where the 3x3 pool of stride 2 puts its padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// None before, one after: TensorFlow's and JAX's "SAME", timm's `_jx` models.
    #[default]
    Same,
    /// One on every side: PyTorch's `padding=1`.
    Symmetric,
}

/// `[B, H, W, C]` -> `[B, H/2, W/2, C']`.
pub struct BlockAggregation {
    kind: Aggregation,
    padding: Padding,
    conv: Conv2d,
    norm: LayerNorm,
}

impl BlockAggregation {
    /// From `inputs` to `outputs` channels.
    pub fn new(
        b: &Builder,
        kind: Aggregation,
        padding: Padding,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self> {
        let (kernel, stride) = match kind {
            Aggregation::ConvPool => (3, 1),
            Aggregation::Conv => (3, 2),
            Aggregation::Pool | Aggregation::None => (1, 1),
        };
        let geometry = k::Conv2d { stride: (stride, stride), ..k::Conv2d::same(kernel) };
        let conv = Conv2d::build(&b.pp("conv"), inputs, outputs, kernel, geometry, INIT, false, true)?;
        Ok(Self { kind, padding, conv, norm: LayerNorm::new(&b.pp("norm"), outputs)? })
    }

    /// `[B, H, W, C]` -> `[B, H/2, W/2, C']`; H and W must be even.
    pub fn forward(&self, x: &Var) -> Result<Var> {
        let x = self.norm.forward(&self.conv.forward(x, Activation::None, false)?)?;
        let padding = match self.padding {
            Padding::Same => PoolPadding::TfSame,
            Padding::Symmetric => PoolPadding::Symmetric,
        };
        match self.kind {
            Aggregation::ConvPool | Aggregation::Pool => k::max_pool3s2(&x, padding),
            Aggregation::Conv => Ok(x),
            Aggregation::None => k::avg_pool2(&x),
        }
    }

    /// Multiply-adds for `pixels` inputs.
    pub fn macs(&self, pixels: usize) -> u64 {
        self.conv.macs(if self.kind == Aggregation::Conv { pixels / 4 } else { pixels })
    }
}
