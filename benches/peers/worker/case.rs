//! What a case is, the list of them, and how their tensors travel.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use nestgen::nn::ParamSet;
use nestgen::rng::Rng;
use nestgen_kernels::{Gradients, Var};
use serde_json::{Value, json};

use crate::adversarial::Adversarial;
use crate::classifier::{self, ClassifierStep};
use crate::gan;
use crate::inception::InceptionPass;
use crate::place;

/// Tensors by name, in PyTorch's names and layouts (images stay `[B, H, W, 3]`).
pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// A piece of work, ready to be repeated.
pub(crate) trait Case {
    /// One pass.
    fn run(&mut self) -> Result<()>;
    /// One pass, and what came out of it.
    fn dump(&mut self) -> Result<Tensors>;
    /// Floating-point operations of a pass, a multiplication and an addition counted as two.
    fn flops(&self) -> u64;
}

/// Weights and inputs of a case of `batch` images, always the same.
pub(crate) fn make(name: &str, batch: usize) -> Result<Tensors> {
    match name {
        "generator" => gan::GeneratorPass::make(batch),
        "discriminator" => gan::DiscriminatorPass::make(batch),
        "adversarial" => Adversarial::make(batch),
        "nest_t" | "vit_t" => ClassifierStep::make(name, batch),
        "inception" => InceptionPass::make(batch),
        _ => bail!("unknown case `{name}`"),
    }
}

/// The shapes of a case's models, by the prefix of their tensors.
pub(crate) fn config(name: &str) -> Result<Value> {
    let preset = gan::preset()?;
    let (g, d) = (preset.model, preset.discriminator);
    Ok(match name {
        "generator" => json!({"g": g}),
        "discriminator" => json!({"d": d}),
        "adversarial" => json!({"g": g, "d": d}),
        "nest_t" | "vit_t" => json!({"m": classifier::config(name)}),
        "inception" => json!({}),
        _ => bail!("unknown case `{name}`"),
    })
}

/// A case that starts from the tensors of [`make`].
pub(crate) fn prepare(name: &str, tensors: Tensors) -> Result<Box<dyn Case>> {
    Ok(match name {
        "generator" => Box::new(gan::GeneratorPass::new(&tensors)?),
        "discriminator" => Box::new(gan::DiscriminatorPass::new(&tensors)?),
        "adversarial" => Box::new(Adversarial::new(&tensors)?),
        "nest_t" | "vit_t" => Box::new(ClassifierStep::new(name, &tensors)?),
        "inception" => Box::new(InceptionPass::new(&tensors)?),
        _ => bail!("unknown case `{name}`"),
    })
}

/// Reads a safetensors file.
pub(crate) fn load(path: &str) -> Result<Tensors> {
    Ok(candle_core::safetensors::load(path, &Device::Cpu)
        .with_context(|| path.to_string())?
        .into_iter()
        .collect())
}

/// Writes a safetensors file.
pub(crate) fn save(path: &str, tensors: Tensors) -> Result<()> {
    let here = |(name, tensor): (String, Tensor)| Ok((name, tensor.to_device(&Device::Cpu)?));
    let tensors: Tensors = tensors.into_iter().map(here).collect::<Result<_>>()?;
    candle_core::safetensors::save(&tensors.into_iter().collect(), path).with_context(|| path.to_string())
}

/// The stream of random numbers called `name`.
pub(crate) fn stream(name: &str) -> Rng {
    Rng::new(2105).split(name)
}

/// Standard normal numbers.
pub(crate) fn normal(name: &str, dims: &[usize]) -> Result<Tensor> {
    Ok(Tensor::from_vec(stream(name).normals(dims.iter().product()), dims, &Device::Cpu)?)
}

/// A model's tensors under `prefix`. Parameters are moved a little from their initial values, so that no bias is
/// 0 and no scale is 1: a mistake there would hide from the comparison.
pub(crate) fn export(prefix: &str, params: &ParamSet) -> Result<Tensors> {
    const SHIFT: f64 = 0.02;
    let trainable: Vec<&str> = params.params().iter().map(|p| p.name()).collect();
    let mut out = Tensors::new();
    for (name, tensor) in params.torch_tensors()? {
        let moved = if trainable.contains(&name.as_str()) {
            (&tensor + (normal(&format!("{prefix}{name}"), tensor.dims())? * SHIFT)?)?
        } else {
            tensor
        };
        out.insert(format!("{prefix}{name}"), moved);
    }
    Ok(out)
}

/// Loads what [`export`] wrote.
pub(crate) fn import(prefix: &str, params: &ParamSet, tensors: &Tensors) -> Result<()> {
    let part = |(name, t): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_string(), t.clone()));
    params.load_torch(&tensors.iter().filter_map(part).collect())?;
    Ok(params.move_to(&place::device())?)
}

/// An input by its name.
pub(crate) fn input(tensors: &Tensors, name: &str) -> Result<Var> {
    let tensor = tensors.get(name).with_context(|| format!("no tensor `{name}`"))?;
    Ok(Var::constant(tensor.to_device(&place::device())?))
}

/// Gradients of a model's parameters under `prefix`, in PyTorch's layouts.
pub(crate) fn named_gradients(prefix: &str, params: &ParamSet, grads: &Gradients) -> Result<Tensors> {
    let mut out = Tensors::new();
    for param in params.params() {
        let grad = grads.param(param).with_context(|| format!("no gradient for {}", param.name()))?;
        out.insert(format!("{prefix}{}", param.name()), to_torch_layout(grad)?);
    }
    Ok(out)
}

/// A convolution's weight or its gradient as `[out, in, kh, kw]`; other tensors as they are. A copy.
pub(crate) fn to_torch_layout(t: &Tensor) -> candle_core::Result<Tensor> {
    if t.rank() == 4 { t.permute((0, 3, 1, 2))?.contiguous() } else { t.copy() }
}
