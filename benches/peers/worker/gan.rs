//! The generator and the discriminator at 64 px, each forward and backward.

use anyhow::Result;
use candle_core::{DType, Device};
use nestgen::config::{self, RunConfig};
use nestgen::models::{Discriminator, Generator};
use nestgen::nn::Builder;
use nestgen_kernels::{Gradients, Var, backward, mul, sum_all};

use crate::case::{Case, Tensors, export, import, input, named_gradients, normal, stream};

const RESOLUTION: usize = 64;
/// A pass forward, and the two products of each layer's backward pass.
pub(crate) const FORWARD_BACKWARD: u64 = 3;

/// The networks of preset `fast64`, with the spectral norm that they had when these rows were first measured.
pub(crate) fn preset() -> Result<RunConfig> {
    let spectral_norm = config::Override::parse("discriminator.spectral_norm=true")?;
    Ok(config::load(config::Source::Preset("fast64"), &[spectral_norm])?)
}

pub(crate) fn generator() -> Result<Generator> {
    Ok(Generator::new(&preset()?.model, &stream("generator"), DType::F32, &Device::Cpu)?)
}

pub(crate) fn discriminator() -> Result<Discriminator> {
    let b = Builder::new(&stream("discriminator"), DType::F32, &Device::Cpu);
    Ok(Discriminator::new(&preset()?.discriminator, &b)?)
}

pub(crate) fn images(name: &str, batch: usize) -> Result<candle_core::Tensor> {
    normal(name, &[batch, RESOLUTION, RESOLUTION, 3])
}

/// z -> images, and gradients of all weights for a given gradient of the images.
pub(crate) struct GeneratorPass {
    model: Generator,
    z: Var,
    weights: Var,
}

impl GeneratorPass {
    pub(crate) fn make(batch: usize) -> Result<Tensors> {
        let model = generator()?;
        let mut out = export("g.", model.params())?;
        out.insert("z".into(), normal("z", &[batch, model.z_dim()])?);
        out.insert("weights".into(), images("weights", batch)?);
        Ok(out)
    }

    pub(crate) fn new(tensors: &Tensors) -> Result<Self> {
        let model = generator()?;
        import("g.", model.params(), tensors)?;
        Ok(Self { model, z: input(tensors, "z")?, weights: input(tensors, "weights")? })
    }

    fn pass(&self) -> Result<(Var, Gradients)> {
        let y = self.model.forward(&self.z, true)?;
        let (value, loss) = (y.detach(), sum_all(&mul(&y, &self.weights)?)?);
        // What the reverse pass has gone through is freed where nobody holds its end.
        drop(y);
        Ok((value, backward(loss)?))
    }
}

impl Case for GeneratorPass {
    fn run(&mut self) -> Result<()> {
        self.pass().map(drop)
    }

    fn dump(&mut self) -> Result<Tensors> {
        let (y, grads) = self.pass()?;
        let mut out = named_gradients("g.", self.model.params(), &grads)?;
        out.insert("y".into(), y.into_value());
        Ok(out)
    }

    fn flops(&self) -> u64 {
        FORWARD_BACKWARD * self.z.dims()[0] as u64 * self.model.flops()
    }
}

/// Images -> logits, and gradients of all weights for a given gradient of the logits.
pub(crate) struct DiscriminatorPass {
    model: Discriminator,
    images: Var,
    weights: Var,
}

impl DiscriminatorPass {
    pub(crate) fn make(batch: usize) -> Result<Tensors> {
        let mut out = export("d.", discriminator()?.params())?;
        out.insert("images".into(), images("images", batch)?);
        out.insert("weights".into(), normal("weights", &[batch])?);
        Ok(out)
    }

    pub(crate) fn new(tensors: &Tensors) -> Result<Self> {
        let model = discriminator()?;
        import("d.", model.params(), tensors)?;
        Ok(Self { model, images: input(tensors, "images")?, weights: input(tensors, "weights")? })
    }

    fn pass(&self) -> Result<(Var, Gradients)> {
        let y = self.model.forward(&self.images, true)?;
        let (value, loss) = (y.detach(), sum_all(&mul(&y, &self.weights)?)?);
        // What the reverse pass has gone through is freed where nobody holds its end.
        drop(y);
        Ok((value, backward(loss)?))
    }
}

impl Case for DiscriminatorPass {
    fn run(&mut self) -> Result<()> {
        self.pass().map(drop)
    }

    fn dump(&mut self) -> Result<Tensors> {
        let (y, grads) = self.pass()?;
        let mut out = named_gradients("d.", self.model.params(), &grads)?;
        out.insert("y".into(), y.into_value());
        Ok(out)
    }

    fn flops(&self) -> u64 {
        FORWARD_BACKWARD * self.images.dims()[0] as u64 * self.model.flops()
    }
}
