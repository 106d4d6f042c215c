//! A whole adversarial step at 64 px: as in training, without augmentation or penalties.

use anyhow::Result;
use nestgen::models::{Discriminator, Generator};
use nestgen_kernels::{
    Activation, Adam, AdamConfig, Gradients, Param, Var, activate, add, add_scalar, backward, ema_update,
    mean_all, no_grad, scale,
};

use crate::case::{Case, Tensors, export, import, input, named_gradients, normal, to_torch_layout};
use crate::gan::{FORWARD_BACKWARD, discriminator, generator, images};

/// A step of D on real and fake images, a step of G through the frozen D, two Adams, the moving average of G.
pub(crate) struct Adversarial {
    generator: Generator,
    discriminator: Discriminator,
    average: Vec<(Param, Param)>,
    adam_g: Adam,
    adam_d: Adam,
    real: Var,
    z: [Var; 2],
}

/// Adam as in training, and as in the comparison: with the usual epsilon the first step is `lr * sign(gradient)`,
/// which turns the rounding of a gradient near 0 into a whole step; with 1 it is nearly proportional.
const TRAINING: (f64, f64) = (2e-4, 1e-8);
const COMPARISON: (f64, f64) = (1e-2, 1.0);
/// Decay of the average of G.
const EMA_BETA: f64 = 0.99;

fn adam(params: &[Param], (lr, eps): (f64, f64)) -> Result<Adam> {
    Ok(Adam::new(params, AdamConfig { lr, beta1: 0.0, beta2: 0.99, eps, weight_decay: 0.0 })?)
}

fn relu(x: &Var) -> candle_core::Result<Var> {
    activate(x, Activation::Relu)
}

impl Adversarial {
    pub(crate) fn make(batch: usize) -> Result<Tensors> {
        let (g, d) = (generator()?, discriminator()?);
        let mut out = export("g.", g.params())?;
        out.extend(export("d.", d.params())?);
        out.insert("real".into(), images("images", batch)?);
        for name in ["z0", "z1"] {
            out.insert(name.into(), normal(name, &[batch, g.z_dim()])?);
        }
        Ok(out)
    }

    pub(crate) fn new(tensors: &Tensors) -> Result<Self> {
        let (generator, average, discriminator) = (generator()?, generator()?, discriminator()?);
        for model in [&generator, &average] {
            import("g.", model.params(), tensors)?;
        }
        import("d.", discriminator.params(), tensors)?;
        let adam_g = adam(generator.params().params(), TRAINING)?;
        let adam_d = adam(discriminator.params().params(), TRAINING)?;
        let pairs = average.params().params().iter().cloned().zip(generator.params().params().iter().cloned());
        let (average, real) = (pairs.collect(), input(tensors, "real")?);
        let z = [input(tensors, "z0")?, input(tensors, "z1")?];
        Ok(Self { generator, discriminator, average, adam_g, adam_d, real, z })
    }

    /// Hinge loss and gradients of D.
    fn discriminator_pass(&self) -> Result<(Var, Gradients)> {
        let fake = no_grad(|| self.generator.forward(&self.z[0], true))?;
        let real_logits = self.discriminator.forward(&self.real, true)?;
        let fake_logits = self.discriminator.forward(&fake, true)?;
        let real = mean_all(&relu(&add_scalar(&scale(&real_logits, -1.0)?, 1.0)?)?)?;
        let loss = add(&real, &mean_all(&relu(&add_scalar(&fake_logits, 1.0)?)?)?)?;
        let value = loss.detach();
        drop((real_logits, fake_logits, real));
        Ok((value, backward(loss)?))
    }

    /// Loss and gradients of G.
    fn generator_pass(&self) -> Result<(Var, Gradients)> {
        self.discriminator.params().set_trainable(false);
        let fake = self.generator.forward(&self.z[1], true)?;
        let logits = self.discriminator.forward(&fake, true)?;
        let loss = scale(&mean_all(&logits)?, -1.0)?;
        self.discriminator.params().set_trainable(true);
        let value = loss.detach();
        drop((fake, logits));
        Ok((value, backward(loss)?))
    }

    fn step(&mut self, lr: f64) -> Result<[(Var, Gradients); 2]> {
        let d = self.discriminator_pass()?;
        self.adam_d.step(&d.1, lr)?;
        let g = self.generator_pass()?;
        self.adam_g.step(&g.1, lr)?;
        ema_update(&self.average, EMA_BETA)?;
        Ok([d, g])
    }
}

impl Case for Adversarial {
    fn run(&mut self) -> Result<()> {
        self.step(TRAINING.0).map(drop)
    }

    fn dump(&mut self) -> Result<Tensors> {
        self.adam_g = adam(self.generator.params().params(), COMPARISON)?;
        self.adam_d = adam(self.discriminator.params().params(), COMPARISON)?;
        let [(loss_d, grads_d), (loss_g, grads_g)] = self.step(COMPARISON.0)?;
        let (g, d) = (self.generator.params(), self.discriminator.params());
        let mut out = named_gradients("grad.d.", d, &grads_d)?;
        out.extend(named_gradients("grad.g.", g, &grads_g)?);
        for (prefix, params) in [("after.g.", g), ("after.d.", d)] {
            out.extend(params.torch_tensors()?.into_iter().map(|(name, t)| (format!("{prefix}{name}"), t)));
        }
        for (average, _) in &self.average {
            out.insert(format!("average.{}", average.name()), to_torch_layout(&average.value())?);
        }
        out.insert("loss.d".into(), loss_d.into_value());
        out.insert("loss.g".into(), loss_g.into_value());
        Ok(out)
    }

    /// D's step: G forward, D twice forward and backward. G's: both forward and backward, without D's weights.
    fn flops(&self) -> u64 {
        let (g, d) = (self.generator.flops(), self.discriminator.flops());
        self.real.dims()[0] as u64 * (g + 2 * FORWARD_BACKWARD * d + FORWARD_BACKWARD * g + 2 * d)
    }
}
