//! Adam with decoupled weight decay (Kingma and Ba 2015; Loshchilov and Hutter 2019), moving averages of weights and
//! gradient clipping.
//!
//! Differs from `torch.optim.AdamW`: one step count for all parameters, so a parameter that gets its first
//! gradient late is corrected by the optimizer's age and not by its own.

use std::collections::HashMap;

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu;
use crate::cuda::{fused, many};
use crate::map::{self, CHUNK};
use crate::simd::multiversion;
use crate::threads::Tasks;
use crate::{Gradients, Param, portable, rows};

/// Settings of [`Adam`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamConfig {
    /// Learning rate; [`Adam::step`] takes the current one, this is what schedules start from.
    pub lr: f64,
    /// Decay of the mean of gradients, in 0..1.
    pub beta1: f64,
    /// Decay of the mean of squared gradients, in 0..1.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Decoupled weight decay: each step multiplies a parameter by `1 - lr * weight_decay`. 0 is plain Adam.
    pub weight_decay: f64,
}

impl Default for AdamConfig {
    /// PyTorch's defaults for Adam.
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// One parameter and its running moments.
struct Slot {
    param: Param,
    moments: Moments,
    decays: bool,
}

/// The running means of gradients and of their squares.
enum Moments {
    /// Changed in place.
    Host { mean: Vec<f32>, square: Vec<f32> },
    /// On the parameter's device.
    Device { mean: Tensor, square: Tensor },
}

impl Moments {
    fn zeros(value: &Tensor) -> Result<Self> {
        if portable::takes(value) {
            let zeros = value.zeros_like()?;
            return Ok(Self::Device { mean: zeros.clone(), square: zeros });
        }
        let zeros = vec![0.0; value.elem_count()];
        Ok(Self::Host { mean: zeros.clone(), square: zeros })
    }

    /// Moments like these, with the numbers of `mean` and `square`.
    fn taken_from(&self, mean: &Tensor, square: &Tensor) -> Result<Self> {
        match self {
            Self::Host { .. } => {
                let numbers = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
                Ok(Self::Host { mean: numbers(mean)?, square: numbers(square)? })
            }
            Self::Device { mean: old, .. } => {
                let place = |x: &Tensor| x.to_dtype(old.dtype())?.to_device(old.device())?.copy();
                Ok(Self::Device { mean: place(mean)?, square: place(square)? })
            }
        }
    }

    /// Mean and mean square in the processor's memory, with the shape of `value`.
    fn tensors(&self, value: &Tensor) -> Result<[Tensor; 2]> {
        match self {
            Self::Host { mean, square } => {
                let tensor = |x: &Vec<f32>| Tensor::from_vec(x.clone(), value.shape(), &Device::Cpu);
                Ok([tensor(mean)?, tensor(square)?])
            }
            Self::Device { mean, square } => {
                Ok([mean.to_device(&Device::Cpu)?.copy()?, square.to_device(&Device::Cpu)?.copy()?])
            }
        }
    }
}

/// The optimizer of a fixed list of f32 parameters. Its state is named after them and can be saved.
pub struct Adam {
    config: AdamConfig,
    slots: Vec<Slot>,
    num_steps: u64,
}

/// The numbers of one step that do not depend on the parameter.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    /// `1 - beta1` and `1 - beta2`, subtracted in f64.
    pub(crate) fresh: f32,
    pub(crate) fresh_square: f32,
    /// `lr / (1 - beta1^t)`.
    pub(crate) rate: f32,
    /// `1 / sqrt(1 - beta2^t)`.
    pub(crate) root_correction: f32,
    pub(crate) eps: f32,
    /// `1 - lr * weight_decay`.
    pub(crate) keep: f32,
}

multiversion! {
    fn adam_slice(step: Step, p: &[f32], g: &[f32], mean: &mut [f32], square: &mut [f32], out: &mut [f32]) {
        let moments = mean.iter_mut().zip(square.iter_mut());
        for ((out, (mean, square)), (p, g)) in out.iter_mut().zip(moments).zip(p.iter().zip(g)) {
            *mean = (*g - *mean).mul_add(step.fresh, *mean);
            *square = (*g * *g - *square).mul_add(step.fresh_square, *square);
            let root = square.sqrt().mul_add(step.root_correction, step.eps);
            *out = p * step.keep - step.rate * (*mean / root);
        }
    }
    fn lerp_slice(from: &[f32], to: &[f32], weight: f32, out: &mut [f32]) {
        for ((out, from), to) in out.iter_mut().zip(from).zip(to) {
            *out = (*to - *from).mul_add(weight, *from);
        }
    }
    fn scale_slice(x: &[f32], factor: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = *x * factor;
        }
    }
    fn sum_squares(x: &[f32]) -> f32 {
        rows::dot(x, x)
    }
}

impl Adam {
    /// An optimizer with zero moments.
    ///
    /// # Errors
    /// When two parameters share a name (their saved states would collide) or one is not f32.
    pub fn new(params: &[Param], config: AdamConfig) -> Result<Self> {
        let mut names = std::collections::HashSet::new();
        let mut slots = Vec::with_capacity(params.len());
        for param in params {
            if !names.insert(param.name().to_owned()) {
                bail!("Adam: two parameters are called {}", param.name());
            }
            let value = param.value();
            if value.dtype() != candle_core::DType::F32 {
                bail!("Adam: expected f32 parameters, {} is {:?}", param.name(), value.dtype());
            }
            slots.push(Slot { param: param.clone(), moments: Moments::zeros(&value)?, decays: true });
        }
        Ok(Self { config, slots, num_steps: 0 })
    }

    /// Excludes the parameters whose names `exempt` accepts from weight decay.
    pub fn without_decay(mut self, exempt: impl Fn(&str) -> bool) -> Self {
        for slot in &mut self.slots {
            slot.decays = !exempt(slot.param.name());
        }
        self
    }

    /// Steps taken so far.
    pub fn num_steps(&self) -> u64 {
        self.num_steps
    }

    /// Updates every parameter that has a gradient, with learning rate `lr`: one pass over parameter, gradient and
    /// moments. The result does not depend on the number of threads.
    ///
    /// The new value is a new tensor: whoever still holds the old one (a saved graph, a copy for evaluation) keeps it
    /// unchanged.
    ///
    /// # Errors
    /// When a gradient does not fit its parameter.
    pub fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()> {
        self.num_steps += 1;
        let (config, age) = (self.config, self.num_steps as f64);
        let step = Step {
            fresh: (1.0 - config.beta1) as f32,
            fresh_square: (1.0 - config.beta2) as f32,
            rate: (lr / (1.0 - config.beta1.powf(age))) as f32,
            root_correction: (1.0 / (1.0 - config.beta2.powf(age)).sqrt()) as f32,
            eps: config.eps as f32,
            keep: (1.0 - lr * config.weight_decay) as f32,
        };
        // On a GPU all parameters go together.
        let mut together: Vec<(&mut Slot, many::Item)> = Vec::new();
        for slot in &mut self.slots {
            let Some(gradient) = gradients.param(&slot.param) else { continue };
            match slot.item(gradient)? {
                Some(item) => together.push((slot, item)),
                None => slot.step(if slot.decays { step } else { Step { keep: 1.0, ..step } }, gradient)?,
            }
        }
        let (slots, items): (Vec<_>, Vec<_>) = together.into_iter().unzip();
        if items.is_empty() {
            return Ok(());
        }
        for (slot, updated) in slots.into_iter().zip(many::adam(step, &items)?) {
            slot.set(updated)?;
        }
        Ok(())
    }

    /// The state to save: `<parameter>.exp_avg`, `<parameter>.exp_avg_sq` and `num_steps` (an i64).
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = vec![("num_steps".to_owned(), Tensor::new(self.num_steps as i64, &Device::Cpu)?)];
        for slot in &self.slots {
            let moments = slot.moments.tensors(&slot.param.value())?;
            for (suffix, tensor) in ["exp_avg", "exp_avg_sq"].into_iter().zip(moments) {
                state.push((format!("{}.{suffix}", slot.param.name()), tensor));
            }
        }
        Ok(state)
    }

    /// Takes over a state that [`Adam::state`] returned.
    ///
    /// # Errors
    /// When an entry is missing or has another shape; the optimizer is unchanged then.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let find = |name: &str| match state.get(name) {
            Some(tensor) => Ok(tensor),
            None => bail!("optimizer state: {name} is missing"),
        };
        let num_steps = find("num_steps")?.to_scalar::<i64>()?;
        let Ok(num_steps) = u64::try_from(num_steps) else {
            bail!("optimizer state: num_steps is {num_steps}")
        };
        let read = |param: &Param, suffix: &str| {
            let name = format!("{}.{suffix}", param.name());
            let (tensor, value) = (find(&name)?, param.value());
            if tensor.dims() != value.dims() {
                bail!("optimizer state: {name}: expected {:?}, got {:?}", value.dims(), tensor.dims());
            }
            Ok(tensor)
        };
        let mut moments = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let (mean, square) = (read(&slot.param, "exp_avg")?, read(&slot.param, "exp_avg_sq")?);
            moments.push(slot.moments.taken_from(mean, square)?);
        }
        for (slot, moments) in self.slots.iter_mut().zip(moments) {
            slot.moments = moments;
        }
        self.num_steps = num_steps;
        Ok(())
    }
}

impl Slot {
    /// The parameter and its gradient, contiguous, if they fit.
    fn operands(&self, gradient: &Tensor) -> Result<[Tensor; 2]> {
        let value = self.param.value();
        if gradient.dims() != value.dims() {
            bail!("Adam: {} is {:?}, its gradient {:?}", self.param.name(), value.dims(), gradient.dims());
        }
        Ok([value.contiguous()?, gradient.contiguous()?])
    }

    /// What a launch for all parameters needs of this one; `None` where there are no kernels for it.
    fn item(&self, gradient: &Tensor) -> Result<Option<many::Item>> {
        let Moments::Device { mean, square } = &self.moments else { return Ok(None) };
        let [value, gradient] = self.operands(gradient)?;
        if !fused::takes(&value) || !gradient.device().same_device(value.device()) {
            return Ok(None);
        }
        let operands = vec![value, gradient, mean.contiguous()?, square.contiguous()?];
        Ok(Some(many::Item { operands, decays: self.decays, rounds: self.param.is_rounded() }))
    }

    /// Takes over the new parameter, mean and mean square, and the parameter rounded if it is there.
    fn set(&mut self, updated: Vec<Tensor>) -> Result<()> {
        let mut updated = updated.into_iter();
        let (Some(value), Some(mean), Some(square)) = (updated.next(), updated.next(), updated.next()) else {
            bail!("Adam: expected three results for {}", self.param.name())
        };
        self.moments = Moments::Device { mean, square };
        self.param.set(value)?;
        updated.for_each(|rounded| self.param.keep_rounded(rounded));
        Ok(())
    }

    fn step(&mut self, step: Step, gradient: &Tensor) -> Result<()> {
        let [value, gradient] = self.operands(gradient)?;
        let (mean, square) = match &mut self.moments {
            Moments::Host { mean, square } => (mean, square),
            Moments::Device { mean, square } => {
                let updated = portable::optim::adam(step, [&value, &gradient, mean, square])?;
                return self.set(updated.to_vec());
            }
        };
        let updated = cpu::with_slice::<f32, _>(&value, |p| {
            cpu::with_slice::<f32, _>(&gradient, |g| {
                let mut out = cpu::uninit(p.len());
                if p.len() <= CHUNK {
                    adam_slice(step, p, g, mean, square, &mut out);
                    return Ok(out);
                }
                out.par_chunks_mut(CHUNK)
                    .zip(mean.par_chunks_mut(CHUNK).zip(square.par_chunks_mut(CHUNK)))
                    .zip(p.par_chunks(CHUNK).zip(g.par_chunks(CHUNK)))
                    .one_by_one()
                    .for_each(|((out, (mean, square)), (p, g))| adam_slice(step, p, g, mean, square, out));
                Ok(out)
            })
        })?;
        self.param.set(Tensor::from_vec(updated, value.shape(), value.device())?)
    }
}

/// Moves each average towards its source: `average = beta * average + (1 - beta) * source`, for pairs of (average,
/// source).
///
/// # Errors
/// When the two parameters of a pair differ in shape or are not f32.
pub fn ema_update(pairs: &[(Param, Param)], beta: f64) -> Result<()> {
    let weight = (1.0 - beta) as f32;
    let mut together = Vec::new();
    for (average, source) in pairs {
        let (old, new) = (average.value(), source.value());
        if old.dims() != new.dims() {
            bail!("ema_update: {} is {:?}, its source {:?}", average.name(), old.dims(), new.dims());
        }
        if fused::takes(&old) && new.device().same_device(old.device()) {
            let operands = vec![old.contiguous()?, new.contiguous()?];
            together.push((average, many::Item { operands, decays: false, rounds: false }));
            continue;
        }
        let value = match portable::takes(&old) {
            true => portable::optim::lerp(&old, &new, weight)?,
            false => map::binary::<f32>(&old, &new, |old, new, out| lerp_slice(old, new, weight, out))?,
        };
        average.set(value)?;
    }
    // On a GPU all of them go together.
    let (averages, items): (Vec<_>, Vec<_>) = together.into_iter().unzip();
    if items.is_empty() {
        return Ok(());
    }
    let updated = many::lerp(&items, weight)?.into_iter().flatten();
    averages.into_iter().zip(updated).try_for_each(|(average, value)| average.set(value))
}

/// Scales all gradients so that their joint Euclidean norm is at most `max_norm`; returns the norm before.
///
/// A norm that is not finite is returned and leaves the gradients alone: the caller decides what to do with the
/// step.
///
/// # Errors
/// When a gradient is not f32.
pub fn clip_grad_norm(gradients: &mut Gradients, params: &[Param], max_norm: f64) -> Result<f64> {
    let all: Vec<&Tensor> = params.iter().filter_map(|param| gradients.param(param)).collect();
    let norm = match all.first() {
        Some(first) if portable::takes(first) => portable::optim::sum_squares(&all)?.sqrt(),
        _ => sum_of_squares(&all)?.sqrt(),
    };
    if norm.is_finite() && norm > max_norm {
        let factor = (max_norm / norm) as f32;
        for param in params {
            let Some(gradient) = gradients.param(param) else { continue };
            let scaled = match portable::takes(gradient) {
                true => gradient.affine(factor.into(), 0.0)?,
                false => map::unary::<f32>(gradient, |g, out| scale_slice(g, factor, out))?,
            };
            gradients.set_param(param, scaled);
        }
    }
    Ok(norm)
}

fn sum_of_squares(tensors: &[&Tensor]) -> Result<f64> {
    let mut total = 0.0;
    for tensor in tensors {
        total += cpu::with_slice::<f32, _>(&tensor.contiguous()?, |g| {
            let parts: Vec<f32> = g.par_chunks(CHUNK).one_by_one().map(sum_squares).collect();
            Ok(parts.iter().map(|part| f64::from(*part)).sum::<f64>())
        })?;
    }
    Ok(total)
}
