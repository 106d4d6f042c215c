//! Linear, convolution and normalisation layers: parameters around the operations of `nestgen-kernels`.

use candle_core::Result;
use nestgen_kernels::{self as k, Activation, Param, SumOverParts, Var};

use super::{Builder, Init, SpectralNorm};

/// A weight as it is, or divided by its spectral norm.
pub enum Weight {
    /// The parameter itself.
    Plain(Param),
    /// See [`SpectralNorm`].
    Spectral(SpectralNorm),
}

impl Weight {
    /// `shape` is `[out, .., in]`; the parameter is called `weight`.
    pub fn new(b: &Builder, shape: &[usize], init: Init, spectral_norm: bool) -> Result<Self> {
        Ok(if spectral_norm {
            Self::Spectral(SpectralNorm::new(b, shape, init)?)
        } else {
            Self::Plain(b.get(shape, init, "weight")?)
        })
    }

    /// The weight to compute with. In training, spectral norm takes a step towards the exact norm first.
    pub fn var(&self, train: bool) -> Result<Var> {
        match self {
            Self::Plain(weight) => Ok(weight.var()),
            Self::Spectral(weight) => weight.var(train),
        }
    }
}

/// `y = activation(x W^T + b)` over the last dimension.
pub struct Linear {
    weight: Weight,
    bias: Option<Param>,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// Weight `[outputs, inputs]` and a zero bias.
    pub fn new(b: &Builder, inputs: usize, outputs: usize, init: Init) -> Result<Self> {
        Self::build(b, inputs, outputs, init, false, true)
    }

    /// [`Linear::new`] with a choice of spectral norm and bias.
    pub fn build(
        b: &Builder,
        inputs: usize,
        outputs: usize,
        init: Init,
        spectral_norm: bool,
        bias: bool,
    ) -> Result<Self> {
        let weight = Weight::new(b, &[outputs, inputs], init, spectral_norm)?;
        let bias = bias.then(|| b.get(&[outputs], Init::Zeros, "bias")).transpose()?;
        Ok(Self { weight, bias, inputs, outputs })
    }

    /// `[.., inputs]` -> `[.., outputs]`.
    pub fn forward(&self, x: &Var, activation: Activation, train: bool) -> Result<Var> {
        let bias = self.bias.as_ref().map(Param::var);
        k::linear(x, &self.weight.var(train)?, bias.as_ref(), activation)
    }

    /// `residual + x W^T + b`: `[.., inputs]` -> `[.., outputs]`, as the residual.
    pub fn forward_onto(&self, x: &Var, residual: &Var, train: bool) -> Result<Var> {
        let bias = self.bias.as_ref().map(Param::var);
        k::linear_residual(x, &self.weight.var(train)?, bias.as_ref(), residual)
    }

    /// Weight and bias, to compute with.
    pub fn tensors(&self, train: bool) -> Result<(Var, Option<Var>)> {
        Ok((self.weight.var(train)?, self.bias.as_ref().map(Param::var)))
    }

    /// Channels of the result.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Multiply-adds for `rows` inputs.
    pub fn macs(&self, rows: usize) -> u64 {
        (rows * self.inputs * self.outputs) as u64
    }
}

/// A square convolution over `[B, H, W, C]`, stride 1 and "same" padding unless built otherwise.
pub struct Conv2d {
    weight: Weight,
    bias: Option<Param>,
    geometry: k::Conv2d,
    macs: usize,
}

impl Conv2d {
    /// Weight `[outputs, kernel, kernel, inputs]` and a zero bias; stride 1, size kept.
    pub fn new(b: &Builder, inputs: usize, outputs: usize, kernel: usize, init: Init) -> Result<Self> {
        Self::build(b, inputs, outputs, kernel, k::Conv2d::same(kernel), init, false, true)
    }

    /// [`Conv2d::new`] with a choice of stride and padding, spectral norm and bias.
    pub fn build(
        b: &Builder,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        geometry: k::Conv2d,
        init: Init,
        spectral_norm: bool,
        bias: bool,
    ) -> Result<Self> {
        let weight = Weight::new(b, &[outputs, kernel, kernel, inputs], init, spectral_norm)?;
        let bias = bias.then(|| b.get(&[outputs], Init::Zeros, "bias")).transpose()?;
        Ok(Self { weight, bias, geometry, macs: outputs * kernel * kernel * inputs })
    }

    /// `[B, H, W, inputs]` -> `[B, H', W', outputs]`.
    pub fn forward(&self, x: &Var, activation: Activation, train: bool) -> Result<Var> {
        let bias = self.bias.as_ref().map(Param::var);
        k::conv2d(x, &self.weight.var(train)?, bias.as_ref(), self.geometry, activation)
    }

    /// Multiply-adds for `pixels` outputs.
    pub fn macs(&self, pixels: usize) -> u64 {
        (pixels * self.macs) as u64
    }
}

/// Normalises the last dimension to mean 0 and variance 1, then scales and shifts it.
pub struct LayerNorm {
    weight: Param,
    bias: Param,
    eps: f64,
}

impl LayerNorm {
    /// NesT's epsilon, 1e-6.
    pub fn new(b: &Builder, channels: usize) -> Result<Self> {
        let (weight, bias) =
            (b.get(&[channels], Init::Ones, "weight")?, b.get(&[channels], Init::Zeros, "bias")?);
        Ok(Self { weight, bias, eps: 1e-6 })
    }

    /// `[.., C]` -> `[.., C]`.
    pub fn forward(&self, x: &Var) -> Result<Var> {
        k::layer_norm(x, &self.weight.var(), &self.bias.var(), self.eps)
    }
}

/// Normalises each channel over the batch and the image plane; running averages serve evaluation.
pub struct BatchNorm {
    weight: Param,
    bias: Param,
    running_mean: Param,
    running_var: Param,
    /// Where this process holds a part of each batch.
    parts: Option<SumOverParts>,
}

impl BatchNorm {
    const EPS: f64 = 1e-5;
    const MOMENTUM: f64 = 0.1;

    /// PyTorch's defaults: epsilon 1e-5, momentum 0.1.
    pub fn new(b: &Builder, channels: usize) -> Result<Self> {
        Ok(Self {
            weight: b.get(&[channels], Init::Ones, "weight")?,
            bias: b.get(&[channels], Init::Zeros, "bias")?,
            running_mean: b.statistic(&[channels], Init::Zeros, "running_mean")?,
            running_var: b.statistic(&[channels], Init::Ones, "running_var")?,
            parts: None,
        })
    }

    /// From here on the batches of training are parts of larger ones, whose statistics count.
    pub fn share_batches(&mut self, parts: SumOverParts) {
        self.parts = Some(parts);
    }

    /// `[.., C]` -> `[.., C]`. In training the batch's own statistics are used, and move the running ones.
    pub fn forward(&self, x: &Var, train: bool) -> Result<Var> {
        let (weight, bias) = (self.weight.var(), self.bias.var());
        if !train {
            let (mean, var) = (self.running_mean.value(), self.running_var.value());
            return k::batch_norm_eval(x, &weight, &bias, &mean, &var, Self::EPS);
        }
        let (y, found) = k::batch_norm(x, &weight, &bias, Self::EPS, self.parts.as_ref())?;
        let running = [&self.running_mean, &self.running_var].map(Param::value);
        let [mean, var] = found.move_averages(&running[0], &running[1], Self::MOMENTUM)?;
        self.running_mean.set(mean)?;
        self.running_var.set(var)?;
        Ok(y)
    }
}
