//! Self-attention over an image plane, as SAGAN has it (Zhang et al., arXiv 1805.08318).
//!
//! Every place asks every 2x2 cell: keys and values are max-pooled, scores are not scaled, and the result enters
//! through a gain that starts at zero. All four projections are 1x1 convolutions without bias. As in the
//! authors' code, keys have an eighth of the channels and values a half.

use candle_core::Result;
use nestgen_kernels::{self as k, Activation, Param, Var};

use super::{Builder, Init, Linear};

/// `x + gain * attention(x)` over `[B, H, W, C]`.
pub struct SelfAttention {
    theta: Linear,
    phi: Linear,
    value: Linear,
    out: Linear,
    gain: Param,
}

impl SelfAttention {
    /// `channels` is a multiple of 8.
    pub fn new(b: &Builder, channels: usize) -> Result<Self> {
        let project = |name: &str, inputs: usize, outputs: usize| {
            Linear::build(&b.pp(name), inputs, outputs, Init::Xavier, true, false)
        };
        Ok(Self {
            theta: project("theta", channels, channels / 8)?,
            phi: project("phi", channels, channels / 8)?,
            value: project("g", channels, channels / 2)?,
            out: project("o", channels / 2, channels)?,
            gain: b.get(&[1], Init::Zeros, "gain")?,
        })
    }

    /// `[B, H, W, C]` -> `[B, H, W, C]`; H and W must be even.
    pub fn forward(&self, x: &Var, train: bool) -> Result<Var> {
        let (batch, height, width, channels) = x.value().dims4()?;
        let (queries, keys) = (height * width, height * width / 4);
        let project = |layer: &Linear| layer.forward(x, Activation::None, train);
        let theta = k::reshape(&project(&self.theta)?, &[batch, queries, channels / 8])?;
        let phi = k::reshape(&k::max_pool2(&project(&self.phi)?)?, &[batch, keys, channels / 8])?;
        let value = k::reshape(&k::max_pool2(&project(&self.value)?)?, &[batch, keys, channels / 2])?;
        let weights = k::softmax(&k::matmul(&theta, &phi, false, true)?)?;
        let mixed = self.out.forward(&k::matmul(&weights, &value, false, false)?, Activation::None, train)?;
        let mixed = k::reshape(&mixed, &[batch, height, width, channels])?;
        k::add(x, &k::mul_scalar(&mixed, &self.gain.var())?)
    }

    /// Multiply-adds for `pixels` places.
    pub fn macs(&self, pixels: usize) -> u64 {
        let project = [&self.theta, &self.phi, &self.value, &self.out].map(|layer| layer.macs(pixels));
        let score_and_sum =
            [&self.phi, &self.value].map(|layer| (pixels * pixels / 4 * layer.outputs()) as u64);
        project.iter().chain(&score_and_sum).sum()
    }
}
