//! A training step of a classifier at 32 px: forward, cross entropy, backward, AdamW. Drop-path is off.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use nestgen::models::{Classifier, ClassifierConfig, nest, vit};
use nestgen_kernels::{Adam, AdamConfig, Gradients, Var, backward, cross_entropy, softmax};

use crate::case::{Case, Tensors, export, import, input, named_gradients, normal, stream};
use crate::gan::FORWARD_BACKWARD;

const RESOLUTION: usize = 32;
const CLASSES: usize = 10;
/// Learning rate and epsilon of AdamW as in training, and as in the comparison (see `adversarial.rs`).
const TRAINING: (f64, f64) = (1e-4, 1e-8);
const COMPARISON: (f64, f64) = (1e-2, 1.0);

/// A classifier, its optimizer and a batch.
pub(crate) struct ClassifierStep {
    model: Classifier,
    adam: Adam,
    images: Var,
    targets: Tensor,
}

/// The shape of the case's model.
pub(crate) fn config(name: &str) -> ClassifierConfig {
    match name {
        "nest_t" => ClassifierConfig::Nest(nest::Config::tiny(RESOLUTION, CLASSES)),
        _ => ClassifierConfig::Vit(vit::Config::tiny(RESOLUTION, CLASSES)),
    }
}

fn model(name: &str) -> Result<Classifier> {
    Ok(Classifier::new(&config(name), &stream(name), DType::F32, &Device::Cpu)?)
}

/// The position embeddings are not decayed, as in NesT's recipe.
fn adam(model: &Classifier, (lr, eps): (f64, f64)) -> Result<Adam> {
    let config = AdamConfig { lr, beta1: 0.9, beta2: 0.999, eps, weight_decay: 0.05 };
    Ok(Adam::new(model.params().params(), config)?.without_decay(|name| name.ends_with("pos_embed")))
}

impl ClassifierStep {
    pub(crate) fn make(name: &str, batch: usize) -> Result<Tensors> {
        let mut out = export("m.", model(name)?.params())?;
        out.insert("images".into(), normal("images", &[batch, RESOLUTION, RESOLUTION, 3])?);
        // Smooth targets, as MixUp makes them.
        let targets = softmax(&Var::constant(normal("targets", &[batch, CLASSES])?))?;
        out.insert("targets".into(), targets.into_value());
        Ok(out)
    }

    pub(crate) fn new(name: &str, tensors: &Tensors) -> Result<Self> {
        let model = model(name)?;
        import("m.", model.params(), tensors)?;
        let adam = adam(&model, TRAINING)?;
        let targets = input(tensors, "targets")?.into_value();
        Ok(Self { model, adam, images: input(tensors, "images")?, targets })
    }

    fn step(&mut self, lr: f64) -> Result<(Var, Var, Gradients)> {
        let logits = self.model.forward(&self.images, None)?;
        let loss = cross_entropy(&logits, &self.targets)?;
        let (logits, value) = (logits.detach(), loss.detach());
        let grads = backward(loss)?;
        self.adam.step(&grads, lr)?;
        Ok((logits, value, grads))
    }
}

impl Case for ClassifierStep {
    fn run(&mut self) -> Result<()> {
        self.step(TRAINING.0).map(drop)
    }

    fn dump(&mut self) -> Result<Tensors> {
        self.adam = adam(&self.model, COMPARISON)?;
        let (logits, loss, grads) = self.step(COMPARISON.0)?;
        let mut out = named_gradients("grad.", self.model.params(), &grads)?;
        let after = self.model.params().torch_tensors()?;
        out.extend(after.into_iter().map(|(name, t)| (format!("after.{name}"), t)));
        out.insert("logits".into(), logits.into_value());
        out.insert("loss".into(), loss.into_value());
        Ok(out)
    }

    fn flops(&self) -> u64 {
        FORWARD_BACKWARD * self.images.dims()[0] as u64 * self.model.flops()
    }
}
