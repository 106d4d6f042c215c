//! Some samples of a batch: stochastic depth computes a branch for those that keep it, and for no others.

use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

use crate::Var;
use crate::cpu::{self, Element, by_dtype};
use crate::mixed::goes_with;
use crate::portable;
use crate::simd::multiversion;
use crate::threads::Tasks;

multiversion! {
    fn scale_slice<T: Element>(x: &[T], scale: T, out: &mut [T]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = *x * scale;
        }
    }
    fn add_scaled<T: Element>(x: &[T], y: &[T], scale: T, out: &mut [T]) {
        for (out, (x, y)) in out.iter_mut().zip(x.iter().zip(y)) {
            *out = y.fma(scale, *x);
        }
    }
}

/// Some samples of a batch of B, by their places in ascending order: K of them.
#[derive(Clone, Debug)]
pub struct Samples {
    pub(crate) places: Vec<u32>,
    /// For each sample of the batch where it is among these, or K if it is not: `[B]`.
    pub(crate) slots: Vec<u32>,
    /// Both, one behind the other, where the batch is: `[K + B]`.
    pub(crate) map: Tensor,
}

impl Samples {
    /// The samples at these places of a batch on this device.
    ///
    /// # Errors
    /// When there are none, their order is another, or one is outside of the batch.
    pub fn new(places: &[usize], batch: usize, device: &Device) -> Result<Self> {
        let ascending = places.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || places.last().is_none_or(|&last| last >= batch) || u32::try_from(batch).is_err() {
            bail!("samples: expected places in a batch of {batch} in ascending order, got {places:?}");
        }
        let mut slots = vec![places.len() as u32; batch];
        places.iter().enumerate().for_each(|(slot, &place)| slots[place] = slot as u32);
        let places: Vec<u32> = places.iter().map(|&place| place as u32).collect();
        let map = Tensor::new([&places[..], &slots[..]].concat(), device)?;
        Ok(Self { places, slots, map })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// Of how many.
    pub fn batch(&self) -> usize {
        self.slots.len()
    }
}

/// These samples of `x`: `[B, ..]` -> `[K, ..]`.
///
/// # Errors
/// When `x` is another batch.
pub fn take_samples(x: &Var, samples: &Samples) -> Result<Var> {
    if x.dims().first() != Some(&samples.batch()) {
        bail!("take_samples: expected a batch of {}, got {:?}", samples.batch(), x.dims());
    }
    if samples.count() == samples.batch() {
        return Ok(x.clone());
    }
    let (value, samples, dtype) = (take(x.value(), samples, 1.0, x.dtype())?, samples.clone(), x.dtype());
    Ok(Var::record_adding("take_samples", value, &[x], move |grad, _, other| {
        Ok(vec![Some(put(other, grad, &samples, 1.0, dtype)?)])
    }))
}

/// `x` with `scale` times a branch's value added to these samples: `x` is `[B, ..]`, `branch` `[K, ..]`.
///
/// # Errors
/// When the shapes do not fit, or `x` is narrower than the branch.
pub fn add_samples(x: &Var, branch: &Var, samples: &Samples, scale: f64) -> Result<Var> {
    let is_batch_of = |x: &Var, count| x.dims().first() == Some(&count);
    let fits = is_batch_of(x, samples.batch()) && is_batch_of(branch, samples.count());
    if !fits || x.dims()[1..] != branch.dims()[1..] || !goes_with(x.dtype(), branch) {
        let (count, batch) = (samples.count(), samples.batch());
        bail!("add_samples: expected x [{batch}, ..] and branch [{count}, ..], got {x:?} and {branch:?}");
    }
    let value = put(Some(x.value()), branch.value(), samples, scale, x.dtype())?;
    let (samples, dtype) = (samples.clone(), branch.dtype());
    Ok(Var::record_once("add_samples", value, &[x, branch], move |grad, wants| {
        let branch = wants[1].then(|| take(grad, &samples, scale, dtype)).transpose()?;
        Ok(vec![Some(grad.clone()), branch])
    }))
}

/// `scale` times these samples of `x`; of type `to` where there are kernels of our own for it.
fn take(x: &Tensor, samples: &Samples, scale: f64, to: DType) -> Result<Tensor> {
    if portable::takes(x) {
        return portable::samples::take(x, samples, scale, to);
    }
    let x = x.contiguous()?;
    let mut dims = x.dims().to_vec();
    dims[0] = samples.count();
    by_dtype!("take_samples", x, T => {
        let out = cpu::with_slice::<T, _>(&x, |x| Ok(take_slices(x, samples, T::lit(scale))))?;
        Tensor::from_vec(out, dims, x.device())
    })
}

fn take_slices<T: Element>(x: &[T], samples: &Samples, scale: T) -> Vec<T> {
    let each = x.len() / samples.batch();
    let mut out = cpu::uninit(samples.count() * each);
    if each > 0 {
        let places = samples.places.par_iter();
        out.par_chunks_mut(each).zip(places).one_by_one().for_each(|(out, &place)| {
            let x = &x[place as usize * each..][..each];
            if scale == T::one() {
                out.copy_from_slice(x);
            } else {
                scale_slice(x, scale, out);
            }
        });
    }
    out
}

/// `x`, or zeros, with `scale` times the rows of `branch` added to these samples; of type `to` as in [`take`].
fn put(x: Option<&Tensor>, branch: &Tensor, samples: &Samples, scale: f64, to: DType) -> Result<Tensor> {
    if portable::takes(branch) {
        return portable::samples::put(x, branch, samples, scale, to);
    }
    let mut dims = branch.dims().to_vec();
    dims[0] = samples.batch();
    let branch = branch.contiguous()?;
    by_dtype!("add_samples", branch, T => {
        let out = cpu::with_slice::<T, _>(&branch, |branch| match x {
            Some(x) => cpu::with_slice::<T, _>(&x.contiguous()?, |x| {
                Ok(put_slices(Some(x), branch, samples, T::lit(scale)))
            }),
            None => Ok(put_slices(None, branch, samples, T::lit(scale))),
        })?;
        Tensor::from_vec(out, dims, branch.device())
    })
}

fn put_slices<T: Element>(x: Option<&[T]>, branch: &[T], samples: &Samples, scale: T) -> Vec<T> {
    let each = branch.len() / samples.count();
    let mut out = cpu::uninit(samples.batch() * each);
    if each > 0 {
        let slots = samples.slots.par_iter().enumerate();
        out.par_chunks_mut(each).zip(slots).one_by_one().for_each(|(out, (place, &slot))| {
            let x = x.map(|x| &x[place * each..][..each]);
            let rows = branch.get(slot as usize * each..).and_then(|rows| rows.get(..each));
            match (x, rows) {
                (Some(x), Some(rows)) => add_scaled(x, rows, scale, out),
                (Some(x), None) => out.copy_from_slice(x),
                (None, Some(rows)) => scale_slice(rows, scale, out),
                (None, None) => out.fill(T::zero()),
            }
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradients, device, pattern};
    use crate::map::CHUNK;
    use crate::{add, layer_norm, square};

    /// A residual branch of samples 1 and 3 of four, as a transformer layer has it.
    fn branch(v: &[Var], samples: &Samples) -> Result<Var> {
        let taken = take_samples(&v[0], samples)?;
        add_samples(&v[0], &square(&layer_norm(&taken, &v[1], &v[2], 1e-3)?)?, samples, 1.25)
    }

    #[test]
    fn a_branch_of_some_samples_is_that_of_all_times_zeros_and_factors() -> Result<()> {
        for dims in [vec![4, 3, 8], vec![4, 7]] {
            let width = dims[dims.len() - 1];
            let v = [pattern(&dims, 1)?, pattern(&[width], 2)?, pattern(&[width], 3)?];
            let samples = Samples::new(&[1, 3], 4, &device())?;
            let vars = v.clone().map(Var::constant);
            let all = square(&layer_norm(&vars[0], &vars[1], &vars[2], 1e-3)?)?;
            let mut one_a_sample = vec![1; dims.len()];
            one_a_sample[0] = 4;
            let factors = Tensor::new(&[0.0, 1.25, 0.0, 1.25], &device())?.reshape(one_a_sample)?;
            let want = (&v[0] + all.value().broadcast_mul(&factors)?)?;
            let worst = (branch(&vars, &samples)?.value() - want)?.abs()?.max_all()?.to_scalar::<f64>()?;
            assert!(worst < 1e-14, "{worst:e}");
            check_gradients(|v| branch(v, &samples), &v)?;
            // Where nothing else uses `x`, and where its other uses come after.
            check_gradients(|v| square(&take_samples(&v[0], &samples)?), &v[..1])?;
            check_gradients(
                |v| add(&add_samples(&v[0], &take_samples(&v[0], &samples)?, &samples, 2.0)?, &square(&v[0])?),
                &v[..1],
            )?;
        }
        Ok(())
    }

    #[test]
    fn all_samples_are_the_batch_itself() -> Result<()> {
        let (x, samples) = (Var::leaf(pattern(&[3, 5], 1)?), Samples::new(&[0, 1, 2], 3, &device())?);
        assert_eq!(take_samples(&x, &samples)?.value().id(), x.value().id());
        check_gradients(|x| add_samples(&x[0], &square(&x[0])?, &samples, 0.5), &[pattern(&[3, 5], 1)?])
    }

    #[test]
    fn more_elements_than_a_chunk_are_taken_and_put_back() -> Result<()> {
        let each = CHUNK + 3;
        let x = Tensor::arange(0.0, (3 * each) as f64, &device())?.reshape((3, each))?;
        let (x, samples) = (Var::constant(x), Samples::new(&[0, 2], 3, &device())?);
        let taken = take_samples(&x, &samples)?;
        let sums = |x: &Var| x.value().sum(1)?.to_vec1::<f64>();
        let (all, two) = (sums(&x)?, sums(&taken)?);
        assert_eq!(two, [all[0], all[2]]);
        assert_eq!(sums(&add_samples(&x, &taken, &samples, -1.0)?)?, [0.0, all[1], 0.0]);
        Ok(())
    }

    #[test]
    fn places_and_shapes_that_do_not_fit_are_errors() -> Result<()> {
        for places in [&[][..], &[1, 1], &[2, 1], &[4]] {
            assert!(Samples::new(places, 4, &device()).is_err(), "{places:?}");
        }
        let samples = Samples::new(&[1, 3], 4, &device())?;
        let [x, few, narrow] = [[4, 5], [3, 5], [2, 4]].map(|dims| pattern(&dims, 1).map(Var::constant));
        let (x, few, narrow) = (x?, few?, narrow?);
        assert!(take_samples(&few, &samples).is_err());
        assert!(add_samples(&x, &few, &samples, 1.0).is_err());
        assert!(add_samples(&x, &narrow, &samples, 1.0).is_err());
        Ok(())
    }
}
