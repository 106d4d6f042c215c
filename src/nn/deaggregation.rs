//! Block de-aggregation: between two levels of the transposed NesT the token map doubles its side.
//!
//! It works on the image plane, so information may cross the borders of blocks here, and only here (with
//! [`Deaggregation::PixelShuffle`] it never does). The paper compares the three variants.

use candle_core::Result;
use nestgen_kernels::{self as k, Activation, Var};
use serde::{Deserialize, Serialize};

use super::{Builder, Conv2d, Init, LayerNorm, Linear, transformer::INIT};

/// NesT's deviation. Four independent rows would start as noise from pixel to pixel, at the full contrast of the layer norm
/// after it (samples/rgb-levels).
const EXPAND_INIT: Init = Init::BeforePixelShuffle(0.02);

/// How the token map doubles its side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deaggregation {
    /// Channels become pixels; a linear layer first where the widths ask for it.
    #[default]
    PixelShuffle,
    /// The same, then a 3x3 convolution.
    PixelShuffleConv,
    /// Nearest-neighbour upsampling, then a 3x3 convolution.
    NearestConv,
}

/// `[B, T, N, C]` -> `[B, 4T, N, C']`, ending in a layer norm.
pub struct BlockDeaggregation {
    kind: Deaggregation,
    block_size: usize,
    expand: Option<Linear>,
    conv: Option<Conv2d>,
    norm: LayerNorm,
}

impl BlockDeaggregation {
    /// From `inputs` to `outputs` channels; blocks are `block_size` tokens on a side.
    pub fn new(
        b: &Builder,
        kind: Deaggregation,
        block_size: usize,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self> {
        let shuffles = kind != Deaggregation::NearestConv;
        let expand = (shuffles && inputs != 4 * outputs)
            .then(|| Linear::new(&b.pp("expand"), inputs, 4 * outputs, EXPAND_INIT))
            .transpose()?;
        let conv_inputs = if shuffles { outputs } else { inputs };
        let conv = (kind != Deaggregation::PixelShuffle)
            .then(|| Conv2d::new(&b.pp("conv"), conv_inputs, outputs, 3, INIT))
            .transpose()?;
        Ok(Self { kind, block_size, expand, conv, norm: LayerNorm::new(&b.pp("norm"), outputs)? })
    }

    /// `[B, T, N, C]` -> `[B, 4T, N, C']`.
    pub fn forward(&self, x: &Var) -> Result<Var> {
        let x = match &self.expand {
            Some(expand) => expand.forward(x, Activation::None, false)?,
            None => x.clone(),
        };
        if self.kind == Deaggregation::PixelShuffle {
            return self.norm.forward(&k::deaggregate(&x, self.block_size)?);
        }
        let plane = match self.kind {
            Deaggregation::NearestConv => k::upsample_nearest2(&k::deblockify(&x, self.block_size)?)?,
            _ => k::deaggregate_to_plane(&x, self.block_size)?,
        };
        let plane = match &self.conv {
            Some(conv) => conv.forward(&plane, Activation::None, false)?,
            None => plane,
        };
        k::blockify(&self.norm.forward(&plane)?, self.block_size)
    }

    /// Multiply-adds for `tokens` input tokens.
    pub fn macs(&self, tokens: usize) -> u64 {
        let expand = self.expand.as_ref().map_or(0, |expand| expand.macs(tokens));
        expand + self.conv.as_ref().map_or(0, |conv| conv.macs(4 * tokens))
    }
}
