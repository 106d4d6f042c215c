//! Loops over whole tensors, split into fixed chunks that threads share.
//!
//! The chunks depend on the shape alone, so results do not depend on the number of threads.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::cpu::{self, Element};
use crate::threads::Tasks;

/// Elements of one chunk: small enough that its operands stay in the level-2 cache, large enough that
/// handing it to a thread costs nothing by comparison.
pub(crate) const CHUNK: usize = 16 * 1024;

/// Applies `f(input, output)` chunk by chunk.
pub(crate) fn map1<T: Element>(x: &[T], f: impl Fn(&[T], &mut [T]) + Sync) -> Vec<T> {
    let mut out = cpu::uninit(x.len());
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).one_by_one().for_each(|(out, x)| f(x, out));
    out
}

/// Applies `f(a, b, output)` chunk by chunk.
pub(crate) fn map2<T: Element>(a: &[T], b: &[T], f: impl Fn(&[T], &[T], &mut [T]) + Sync) -> Vec<T> {
    let mut out = cpu::uninit(a.len());
    out.par_chunks_mut(CHUNK)
        .zip(a.par_chunks(CHUNK))
        .zip(b.par_chunks(CHUNK))
        .one_by_one()
        .for_each(|((out, a), b)| f(a, b, out));
    out
}

/// [`map1`] from tensor to tensor of the same shape.
pub(crate) fn unary<T: Element>(x: &Tensor, f: impl Fn(&[T], &mut [T]) + Sync) -> Result<Tensor> {
    let x = x.contiguous()?;
    let out = cpu::with_slice::<T, _>(&x, |x| Ok(map1(x, f)))?;
    Tensor::from_vec(out, x.shape(), x.device())
}

/// [`map2`] from two tensors to one, all of one shape (checked by the caller).
pub(crate) fn binary<T: Element>(
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(&[T], &[T], &mut [T]) + Sync,
) -> Result<Tensor> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let out = cpu::with_slice::<T, _>(&a, |a| cpu::with_slice::<T, _>(&b, |b| Ok(map2(a, b, f))))?;
    Tensor::from_vec(out, a.shape(), a.device())
}
