//! The transformer layer of NesT and ViT: attention inside each block of tokens, then a two-layer MLP, both
//! behind a layer norm and beside a residual connection (arXiv 2105.12723, section 3).
//!
//! Tokens are `[B, T, N, C]`: T blocks that do not see each other, N tokens a block. Every block uses the same
//! weights.

use candle_core::Result;
use nestgen_kernels::{self as k, Activation, Var};
use serde::{Deserialize, Serialize};

use super::{Builder, DropPath, Init, LayerNorm, Linear};

/// Standard deviation of NesT's truncated normal initial weights.
pub const INIT: Init = Init::TruncNormal(0.02);
/// Width of the MLP's hidden layer over the width of the tokens.
const MLP_RATIO: usize = 4;

/// How heads share keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionKind {
    /// Keys and values for every head.
    #[default]
    MultiHead,
    /// One head of keys and values for all heads of queries (Shazeer, arXiv 1911.02150).
    MultiQuery,
}

/// Which form of GELU, `x * Phi(x)` with Phi the normal distribution, the MLP uses.
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

/// What a transformer layer looks like.
#[derive(Clone, Copy, Debug)]
pub struct LayerShape {
    /// Channels of a token, C.
    pub dim: usize,
    /// Heads; must divide `dim`.
    pub heads: usize,
    /// How heads share keys and values.
    pub attention: AttentionKind,
    /// The MLP's activation.
    pub gelu: Gelu,
}

enum Attention {
    MultiHead { qkv: Linear },
    MultiQuery { q: Linear, kv: Linear },
}

/// One layer; tokens keep their shape.
pub struct TransformerLayer {
    shape: LayerShape,
    norm1: LayerNorm,
    attention: Attention,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    /// Probability that a sample skips a branch in training.
    drop: f64,
}

impl TransformerLayer {
    /// Makes the layer's parameters, with timm's names.
    pub fn new(b: &Builder, shape: LayerShape, drop: f64) -> Result<Self> {
        let LayerShape { dim, heads, .. } = shape;
        let (attn, mlp) = (b.pp("attn"), b.pp("mlp"));
        let norm1 = LayerNorm::new(&b.pp("norm1"), dim)?;
        let attention = match shape.attention {
            AttentionKind::MultiHead => {
                Attention::MultiHead { qkv: Linear::new(&attn.pp("qkv"), dim, 3 * dim, INIT)? }
            }
            AttentionKind::MultiQuery => Attention::MultiQuery {
                q: Linear::new(&attn.pp("q"), dim, dim, INIT)?,
                kv: Linear::new(&attn.pp("kv"), dim, 2 * (dim / heads), INIT)?,
            },
        };
        Ok(Self {
            shape,
            norm1,
            attention,
            proj: Linear::new(&attn.pp("proj"), dim, dim, INIT)?,
            norm2: LayerNorm::new(&b.pp("norm2"), dim)?,
            fc1: Linear::new(&mlp.pp("fc1"), dim, MLP_RATIO * dim, INIT)?,
            fc2: Linear::new(&mlp.pp("fc2"), MLP_RATIO * dim, dim, INIT)?,
            drop,
        })
    }

    /// `[B, T, N, C]` -> `[B, T, N, C]`. `drop` has the drop-path decisions of training, `None` in
    /// evaluation and for models without drop-path.
    pub fn forward(&self, x: &Var, mut drop: Option<&mut DropPath>) -> Result<Var> {
        let x = self.beside(x, drop.as_deref_mut(), |x, residual| {
            let mixed = self.attend(&self.norm1.forward(x)?)?;
            match residual {
                Some(residual) => self.proj.forward_onto(&mixed, residual, false),
                None => self.proj.forward(&mixed, Activation::None, false),
            }
        })?;
        self.beside(&x, drop, |x, residual| {
            let normed = self.norm2.forward(x)?;
            let ((w1, b1), (w2, b2)) = (self.fc1.tensors(false)?, self.fc2.tensors(false)?);
            k::feed_forward(&normed, (&w1, b1.as_ref()), self.shape.gelu.into(), (&w2, b2.as_ref()), residual)
        })
    }

    /// `x` and a branch beside it, which samples may skip; `branch` gets those that do not, and what it is to be added to.
    fn beside(
        &self,
        x: &Var,
        drop: Option<&mut DropPath>,
        branch: impl Fn(&Var, Option<&Var>) -> Result<Var>,
    ) -> Result<Var> {
        match drop {
            Some(drop) if self.drop > 0.0 => drop.beside(x, self.drop, |kept| branch(kept, None)),
            _ => branch(x, Some(x)),
        }
    }

    /// Attention before its projection.
    fn attend(&self, x: &Var) -> Result<Var> {
        let heads = self.shape.heads;
        match &self.attention {
            Attention::MultiHead { qkv } => k::attention(&qkv.forward(x, Activation::None, false)?, heads),
            Attention::MultiQuery { q, kv } => {
                let (q, kv) = (q.forward(x, Activation::None, false)?, kv.forward(x, Activation::None, false)?);
                k::multi_query_attention(&q, &kv, heads)
            }
        }
    }

    /// Multiply-adds for `blocks` blocks of `tokens` tokens.
    pub fn macs(&self, blocks: usize, tokens: usize) -> u64 {
        let rows = blocks * tokens;
        let project = match &self.attention {
            Attention::MultiHead { qkv } => qkv.macs(rows),
            Attention::MultiQuery { q, kv } => q.macs(rows) + kv.macs(rows),
        };
        let weigh_and_sum = 2 * (rows * tokens * self.shape.dim) as u64;
        project + weigh_and_sum + self.proj.macs(rows) + self.fc1.macs(rows) + self.fc2.macs(rows)
    }
}
