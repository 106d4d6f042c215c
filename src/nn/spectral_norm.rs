//! Spectral normalisation (Miyato et al., arXiv 1802.05957), as PyTorch's `spectral_norm` computes it.
//!
//! The weight, seen as a matrix `[out, everything else]`, is divided by an estimate of its largest singular
//! value: one step of power iteration in each training forward pass, none in evaluation. The two vectors of
//! the iteration are saved with the model; gradients flow through the division and through the estimate
//! `u^T W v`, not through `u` and `v`.

use candle_core::Result;
use nestgen_kernels::precision::{Precision, with};
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
    /// Keeps the division defined for a weight of zeros.
    const EPS: f64 = 1e-12;

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
            norm.step()?;
        }
        Ok(norm)
    }

    fn matrix(&self) -> Result<Var> {
        k::reshape(&self.weight.var(), &[self.u.value().elem_count(), self.v.value().elem_count()])
    }

    /// One step of power iteration.
    fn step(&self) -> Result<()> {
        no_grad(|| {
            let matrix = self.matrix()?;
            let v = unit(&k::matmul(&matrix, &self.u.var(), true, false)?)?;
            let u = unit(&k::matmul(&matrix, &v, false, false)?)?;
            self.v.set(v.into_value())?;
            self.u.set(u.into_value())
        })
    }

    /// The normalised weight, in the weight's shape.
    pub fn var(&self, train: bool) -> Result<Var> {
        // The norm decides about the whole layer: not in fewer bits.
        let sigma = with(Precision::F32, || {
            if train {
                self.step()?;
            }
            let product = k::matmul(&self.matrix()?, &self.v.var(), false, false)?;
            k::matmul(&self.u.var(), &product, true, false)
        })?;
        k::mul_scalar(&self.weight.var(), &k::recip(&sigma)?)
    }
}

fn unit(x: &Var) -> Result<Var> {
    let length = k::sqrt(&k::sum_all(&k::square(x)?)?)?;
    k::mul_scalar(x, &k::recip(&k::add_scalar(&length, SpectralNorm::EPS)?)?)
}
