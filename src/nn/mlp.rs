//! The feed-forward half of a transformer layer: layer norm, linear, GELU, linear, beside a residual connection.

use candle_core::Result;
use nestgen_kernels::{self as k, Activation, Var};
use serde::{Deserialize, Serialize};

use super::{Builder, INIT, LayerNorm, Linear};

/// Width of the hidden layer over the width of the tokens.
const RATIO: usize = 4;

/// Which form of GELU, `x * Phi(x)` with Phi the normal distribution, lies between the linear layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gelu {
    /// The tanh approximation: flax's default, so what the paper's code computes.
    #[default]
    Tanh,
    /// The exact form: PyTorch's default, so what timm computes.
    Erf,
}

impl From<Gelu> for Activation {
    fn from(gelu: Gelu) -> Self {
        match gelu {
            Gelu::Tanh => Self::GeluTanh,
            Gelu::Erf => Self::GeluErf,
        }
    }
}

/// Works on every token alone; tokens keep their shape.
pub struct Mlp {
    norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    gelu: Gelu,
}

impl Mlp {
    /// For tokens of `dim` channels; `norm` and `linear` are the places of its norm and of `fc1` and `fc2`.
    pub fn new(norm: &Builder, linear: &Builder, dim: usize, gelu: Gelu) -> Result<Self> {
        Ok(Self {
            norm: LayerNorm::new(norm, dim)?,
            fc1: Linear::new(&linear.pp("fc1"), dim, RATIO * dim, INIT)?,
            fc2: Linear::new(&linear.pp("fc2"), RATIO * dim, dim, INIT)?,
            gelu,
        })
    }

    /// What it makes of `x [.., C]`, added to `residual` if there is one.
    pub fn forward(&self, x: &Var, residual: Option<&Var>) -> Result<Var> {
        let normed = self.norm.forward(x)?;
        let ((w1, b1), (w2, b2)) = (self.fc1.tensors(false)?, self.fc2.tensors(false)?);
        k::feed_forward(&normed, (&w1, b1.as_ref()), self.gelu.into(), (&w2, b2.as_ref()), residual)
    }

    /// Multiply-adds for `tokens` tokens.
    pub fn macs(&self, tokens: usize) -> u64 {
        self.fc1.macs(tokens) + self.fc2.macs(tokens)
    }
}
