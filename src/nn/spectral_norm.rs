//! Spectral normalisation (Miyato et al., arXiv 1802.05957), as PyTorch's `spectral_norm` computes it.
//!
//! The weight, seen as a matrix `[out, everything else]`, is divided by an estimate of its largest singular
//! value: one step of power iteration in each training forward pass, none in evaluation. The two vectors of
//! the iteration are saved with the model; gradients flow through the division and through the estimate
//! `u^T W v`, not through `u` and `v`.

use candle_core::Result;
use nestgen_kernels::{self as k, Param, Var, no_grad};

use super::{Builder, Init};

/// A weight divided by its largest singular value.
pub struct SpectralNorm {
    weight: Param,
    /// Left singular vector `[out, 1]`, unit length.
    u: Param,
    /// Right singular vector `[in, 1]`, unit length.
    v: Param,
}

impl SpectralNorm {
    /// Steps taken before the first use, so that the first estimate is not far below the norm (PyTorch: 15).
    const WARM_UP: usize = 15;

    /// Makes `weight` (`shape` is `[out, .., in]`) and the buffers `weight_u`, `weight_v`.
    pub fn new(b: &Builder, shape: &[usize], init: Init) -> Result<Self> {
        let out = shape.first().copied().unwrap_or(1);
        let weight = b.get(shape, init, "weight")?;
        let columns = weight.value().elem_count() / out.max(1);
        let u = b.buffer(&[out, 1], Init::Normal(1.0), "weight_u")?;
        let v = b.buffer(&[columns, 1], Init::Normal(1.0), "weight_v")?;
        let norm = Self { weight, u, v };
        let steps = if b.is_blank() { 0 } else { Self::WARM_UP };
        for _ in 0..steps {
            no_grad(|| norm.var(true))?;
        }
        Ok(norm)
    }

    /// The normalised weight, in the weight's shape.
    pub fn var(&self, train: bool) -> Result<Var> {
        let found = k::spectral_norm(&self.weight.var(), &self.u.value(), &self.v.value(), train)?;
        if train {
            self.u.set(found.u)?;
            self.v.set(found.v)?;
        }
        Ok(found.weight)
    }
}
