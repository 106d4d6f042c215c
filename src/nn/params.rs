//! The named tensors of a model, in the order in which the model made them.
//!
//! A [`Builder`] walks the model's tree of names while it is constructed; what it made becomes the model's
//! [`ParamSet`]. Names and shapes are the contract of a checkpoint: loading lists everything that is
//! missing, left over or of another shape, and changes nothing unless all of it fits.

// Reads what may be hostile: nothing in it may end the program.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

use candle_core::{DType, Device, Result, Tensor, bail};
use nestgen_kernels::cuda::upload;
use nestgen_kernels::{Param, Var};

use super::Init;
use crate::rng::Rng;

/// The named tensors of one model. Cloning shares them.
#[derive(Clone, Default)]
pub struct ParamSet {
    params: Vec<Param>,
    statistics: Vec<Param>,
    buffers: Vec<Param>,
}

impl ParamSet {
    /// The trainable parameters, in order of construction.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// What batch norms remember of their inputs: it belongs to the weights it was measured with, and an average of weights
    /// has the same average of it.
    pub fn statistics(&self) -> &[Param] {
        &self.statistics
    }

    /// Other state that training changes but no gradient does: spectral norm's vectors.
    pub fn buffers(&self) -> &[Param] {
        &self.buffers
    }

    /// How many trainable numbers there are.
    pub fn count(&self) -> usize {
        self.params.iter().map(|p| p.value().elem_count()).sum()
    }

    /// Whether gradients are computed for the parameters from here on.
    pub fn set_trainable(&self, trainable: bool) {
        self.params.iter().for_each(|p| p.set_trainable(trainable));
    }

    /// Where its tensors are; a set without any is in the processor's memory.
    pub fn device(&self) -> Device {
        self.all().next().map_or(Device::Cpu, |param| param.value().device().clone())
    }

    /// Moves every parameter and buffer to a device. Before an optimizer is made: its moments are where its
    /// parameters were then.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn move_to(&self, device: &Device) -> Result<()> {
        self.all().try_for_each(|param| param.set(param.value().to_device(device)?))
    }

    /// An input of the model, on its device: latents and images are made in the processor's memory.
    ///
    /// # Errors
    /// When the input is elsewhere and has a history, which would be lost, or cannot be copied.
    pub fn bring(&self, input: &Var) -> Result<Var> {
        let device = self.device();
        if input.device().same_device(&device) {
            return Ok(input.clone());
        }
        if input.is_tracked() {
            bail!(
                "a differentiated input is on {:?}, the model on {:?}",
                input.device().location(),
                device.location()
            );
        }
        Ok(Var::constant(upload(input.value(), &device)?))
    }

    /// Parameters, statistics and buffers.
    pub fn all(&self) -> impl Iterator<Item = &Param> {
        self.params.iter().chain(&self.statistics).chain(&self.buffers)
    }

    /// Every parameter and buffer by name, as they are now: an optimizer step puts new tensors in their place, which does not show
    /// in these.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        self.all().map(|p| (p.name().to_string(), p.value())).collect()
    }

    /// Copies of [`ParamSet::tensors`] with convolution weights in PyTorch's `[out, in, kh, kw]` layout.
    ///
    /// # Errors
    /// When a copy fails.
    pub fn torch_tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let permute = |t: Tensor| if t.rank() == 4 { t.permute((0, 3, 1, 2))?.contiguous() } else { t.copy() };
        self.all().map(|p| Ok((p.name().to_string(), permute(p.value())?))).collect()
    }

    /// Copies values from `tensors`, which must hold exactly this model's names and shapes.
    ///
    /// # Errors
    /// [`LoadError::Mismatch`] with every difference; the model is unchanged then.
    pub fn load(&self, tensors: &BTreeMap<String, Tensor>) -> std::result::Result<(), LoadError> {
        let mut mismatch = Mismatch::default();
        let mut known = HashSet::new();
        for param in self.all() {
            known.insert(param.name());
            let expected = param.value();
            match tensors.get(param.name()) {
                None => mismatch.missing.push(param.name().to_string()),
                Some(t) if t.dims() != expected.dims() => mismatch.wrong_shape.push(format!(
                    "{} (expected {:?}, got {:?})",
                    param.name(),
                    expected.dims(),
                    t.dims()
                )),
                Some(_) => {}
            }
        }
        mismatch.extra = tensors.keys().filter(|name| !known.contains(name.as_str())).cloned().collect();
        if !mismatch.is_empty() {
            return Err(LoadError::Mismatch(mismatch));
        }
        for param in self.all() {
            let (new, old) = (&tensors[param.name()], param.value());
            param.set(new.to_dtype(old.dtype())?.to_device(old.device())?.contiguous()?.copy()?)?;
        }
        Ok(())
    }

    /// [`ParamSet::load`] for tensors in PyTorch's layout (see [`ParamSet::torch_tensors`]).
    ///
    /// # Errors
    /// As [`ParamSet::load`].
    pub fn load_torch(&self, tensors: &BTreeMap<String, Tensor>) -> std::result::Result<(), LoadError> {
        let permute = |t: &Tensor| if t.rank() == 4 { t.permute((0, 2, 3, 1)) } else { Ok(t.clone()) };
        let tensors: Result<_> = tensors.iter().map(|(name, t)| Ok((name.clone(), permute(t)?))).collect();
        self.load(&tensors?)
    }

    /// Copies every parameter and buffer of a model of the same architecture.
    ///
    /// # Errors
    /// As [`ParamSet::load`].
    pub fn copy_from(&self, source: &Self) -> std::result::Result<(), LoadError> {
        self.load(&source.tensors().into_iter().collect())
    }
}

/// Differences between a model and a set of named tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Names of the model that the tensors lack.
    pub missing: Vec<String>,
    /// Names of tensors that the model lacks.
    pub extra: Vec<String>,
    /// Names with both shapes.
    pub wrong_shape: Vec<String>,
}

impl Mismatch {
    fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.wrong_shape.is_empty()
    }
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        /// More names than this say nothing more.
        const SHOWN: usize = 6;
        let mut separator = "";
        for (what, names) in
            [("missing", &self.missing), ("unexpected", &self.extra), ("wrong shape", &self.wrong_shape)]
        {
            if names.is_empty() {
                continue;
            }
            let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
            write!(f, "{separator}{what}: {shown}")?;
            if names.len() > SHOWN {
                write!(f, " and {} more", names.len() - SHOWN)?;
            }
            separator = "; ";
        }
        Ok(())
    }
}

/// Why named tensors could not become a model's parameters.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The names or shapes differ.
    #[error("the tensors do not fit this model: {0}")]
    Mismatch(Mismatch),
    /// A copy failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl LoadError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Mismatch(_) => Some("the file was saved by a model with another configuration"),
            Self::Tensor(_) => None,
        }
    }
}

impl From<LoadError> for crate::error::Error {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Mismatch(_) => {
                Self::Usage { message: error.to_string(), hint: error.hint().map(str::to_owned) }
            }
            LoadError::Tensor(error) => Self::Tensor(error),
        }
    }
}

/// Makes the parameters of a model: knows where in the tree of names it stands and which numbers belong there.
#[derive(Clone)]
pub struct Builder {
    set: Rc<RefCell<ParamSet>>,
    prefix: String,
    rng: Option<Rng>,
    dtype: DType,
    device: Device,
    /// How many numbers may still be made.
    left: Rc<Cell<usize>>,
}

impl Builder {
    /// A builder at the root. Each tensor draws from its own stream of `rng`, named as the tensor.
    pub fn new(rng: &Rng, dtype: DType, device: &Device) -> Self {
        Self { rng: Some(rng.clone()), ..Self::blank(dtype, device) }
    }

    /// A builder that makes zeros without touching their memory: for models that are loaded next, or only
    /// counted.
    pub fn blank(dtype: DType, device: &Device) -> Self {
        let left = Rc::new(Cell::new(usize::MAX));
        Self { set: Rc::default(), prefix: String::new(), rng: None, dtype, device: device.clone(), left }
    }

    /// Numbers that any model may have, 64 MiB of them.
    const SMALL: usize = 1 << 24;

    /// [`Builder::blank`] for a model that is loaded from `tensors` next: one that needs far more numbers than there
    /// are is refused before it takes their memory. A damaged configuration can ask for any size; one that is merely
    /// of another model is told apart by [`ParamSet::load`], which names the differences.
    pub fn blank_for<'a>(tensors: impl IntoIterator<Item = &'a Tensor>, dtype: DType, device: &Device) -> Self {
        let blank = Self::blank(dtype, device);
        let held = tensors.into_iter().map(Tensor::elem_count).fold(0, usize::saturating_add);
        blank.left.set(held.saturating_mul(2).saturating_add(Self::SMALL));
        blank
    }

    /// Whether this builder makes zeros, to be loaded later, in place of initial values.
    pub fn is_blank(&self) -> bool {
        self.rng.is_none()
    }

    /// The builder for the part called `name` (`levels.0`).
    #[must_use]
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        Self { prefix: self.path(&name.to_string()), ..self.clone() }
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }

    fn make(&self, shape: &[usize], init: Init, name: &str) -> Result<Param> {
        let path = self.path(name);
        if self.set.borrow().all().any(|p| p.name() == path) {
            bail!("two parameters are called {path}");
        }
        let needed = shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim));
        match needed.and_then(|needed| self.left.get().checked_sub(needed)) {
            Some(left) => self.left.set(left),
            None => bail!("parameter {path} {shape:?} is far more than the file holds"),
        }
        let value = match &self.rng {
            Some(rng) => init.tensor(shape, self.dtype, &self.device, rng.split(&path))?,
            None => Tensor::zeros(shape, self.dtype, &self.device)?,
        };
        Ok(Param::new(path, value))
    }

    /// A new trainable parameter.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn get(&self, shape: &[usize], init: Init, name: &str) -> Result<Param> {
        let param = self.make(shape, init, name)?;
        self.set.borrow_mut().params.push(param.clone());
        Ok(param)
    }

    /// A new tensor that is saved with the model and never trained by gradient.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn buffer(&self, shape: &[usize], init: Init, name: &str) -> Result<Param> {
        let buffer = self.make(shape, init, name)?;
        buffer.set_trainable(false);
        self.set.borrow_mut().buffers.push(buffer.clone());
        Ok(buffer)
    }

    /// A new tensor of [`ParamSet::statistics`].
    ///
    /// # Errors
    /// When the name is taken.
    pub fn statistic(&self, shape: &[usize], init: Init, name: &str) -> Result<Param> {
        let statistic = self.make(shape, init, name)?;
        statistic.set_trainable(false);
        self.set.borrow_mut().statistics.push(statistic.clone());
        Ok(statistic)
    }

    /// What has been made so far.
    pub fn params(&self) -> ParamSet {
        self.set.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> Result<ParamSet> {
        let b = Builder::new(&Rng::new(0), DType::F32, &Device::Cpu);
        b.pp("fc").get(&[2, 3], Init::Normal(1.0), "weight")?;
        b.pp("conv").get(&[2, 3, 3, 1], Init::Normal(1.0), "weight")?;
        b.pp("bn").buffer(&[2], Init::Zeros, "running_mean")?;
        assert!(b.pp("fc").get(&[1], Init::Zeros, "weight").is_err());
        Ok(b.params())
    }

    #[test]
    fn loading_is_strict_and_lists_every_difference() -> Result<()> {
        let set = set()?;
        assert_eq!(set.count(), 6 + 18);
        let before = set.params()[0].value().to_vec2::<f32>()?;
        let mut tensors: BTreeMap<_, _> = set.tensors().into_iter().collect();
        tensors.remove("bn.running_mean");
        tensors.insert("fc.weight".into(), Tensor::zeros((3, 2), DType::F32, &Device::Cpu)?);
        tensors.insert("fc.bias".into(), Tensor::zeros(2, DType::F32, &Device::Cpu)?);
        let error = set.load(&tensors).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the tensors do not fit this model: missing: bn.running_mean; unexpected: fc.bias; \
             wrong shape: fc.weight (expected [2, 3], got [3, 2])"
        );
        assert!(error.hint().is_some());
        assert_eq!(set.params()[0].value().to_vec2::<f32>()?, before);
        Ok(())
    }

    #[test]
    fn a_model_larger_than_its_file_is_refused_unmade() {
        let tensors = [Tensor::zeros(100, DType::F32, &Device::Cpu).unwrap()];
        let b = Builder::blank_for(&tensors, DType::F32, &Device::Cpu);
        b.get(&[10, 20], Init::Zeros, "a").unwrap();
        for shape in [&[Builder::SMALL + 1][..], &[1 << 40, 1 << 40]] {
            let error = b.pp("part").get(shape, Init::Zeros, "b").err().unwrap().to_string();
            assert!(error.contains("part.b"), "{error}");
        }
        b.buffer(&[Builder::SMALL], Init::Zeros, "c").unwrap();
    }

    #[test]
    fn torch_layout_comes_back() -> Result<()> {
        let (a, b) = (set()?, set()?);
        let torch = a.torch_tensors()?.into_iter().collect::<BTreeMap<_, _>>();
        assert_eq!(torch["conv.weight"].dims(), [2, 1, 3, 3]);
        let zero = a.tensors().into_iter().map(|(n, t)| Ok((n, t.zeros_like()?))).collect::<Result<_>>()?;
        b.load(&zero).unwrap();
        b.load_torch(&torch).unwrap();
        for (x, y) in a.params().iter().zip(b.params()) {
            let flat = |p: &Param| p.value().flatten_all()?.to_vec1::<f32>();
            assert_eq!(flat(x)?, flat(y)?);
        }
        Ok(())
    }
}
