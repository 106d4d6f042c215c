//! Means of tensors over the ranks, through the processor's memory and MPI, while more of them are being computed.

use candle_core::{Device, Shape, Tensor};
use nestgen_kernels::cpu::with_downloaded;

use super::Give;
use super::mpi::Link;
use crate::error::Result;

/// Numbers that travel together: 1 MiB, long against a network's latency, short against all gradients: most of
/// the pass back is still to come when the first bucket is full.
const BUCKET: usize = 1 << 18;

/// See [`super::Ranks::while_averaging`].
pub(super) fn while_averaging<R>(
    link: &Link,
    most: usize,
    work: impl FnOnce(&mut Give) -> Result<R>,
) -> Result<(R, Vec<Tensor>)> {
    let mut given: Vec<(Shape, Device)> = Vec::with_capacity(most);
    let (result, mut sums) = link.while_summing(most, |travel| {
        let mut numbers = Vec::new();
        let result = work(&mut |tensor| {
            with_downloaded::<f32, _>(tensor, |own| {
                numbers.extend_from_slice(own);
                Ok(())
            })?;
            given.push((tensor.shape().clone(), tensor.device().clone()));
            // Those under way travel on, whether there are more or not.
            travel(if numbers.len() >= BUCKET { std::mem::take(&mut numbers) } else { Vec::new() });
            Ok(())
        })?;
        travel(numbers);
        Ok(result)
    });
    let share = 1.0 / link.size() as f32;
    sums.iter_mut().flatten().for_each(|value| *value *= share);
    // No tensor is in two buckets.
    let (mut buckets, mut rest) = (sums.iter(), [].as_slice());
    let means = given.into_iter().map(|(shape, device)| {
        if rest.is_empty() {
            rest = buckets.next().map_or(&[], Vec::as_slice);
        }
        let (own, others) = rest.split_at(shape.elem_count());
        rest = others;
        Ok(Tensor::from_slice(own, shape, &device)?)
    });
    Ok((result, means.collect::<Result<_>>()?))
}
