//! The optimizer's arithmetic on all parameters in one launch: their pieces are rows of a table of addresses. Results are
//! tensors of their own, not parts of a large one: a part is downloaded with all that it is a part of.

use candle_core::{Device, Result, Tensor};

use super::fused::run;
use super::plan::Plan;
use crate::optim::Step;

/// Elements of a piece: one block of threads works on it.
const PIECE: usize = 1 << 14;
/// The highest bit of a row's last number: the parameter decays.
const DECAYS: u64 = 1 << 63;
/// Numbers of a row: addresses of operands and results, and the elements.
const OPERANDS: usize = 4;
const RESULTS: usize = 3;
const ROW: usize = OPERANDS + RESULTS + 1;

/// Operands of one parameter, contiguous and f32.
pub(crate) struct Item {
    pub(crate) operands: Vec<Tensor>,
    pub(crate) decays: bool,
}

/// Memory for a result, before it is a tensor.
enum Memory {
    #[cfg(feature = "cuda")]
    Device(super::launch::Memory),
    #[cfg(test)]
    Host(Vec<f32>),
}

impl Memory {
    fn new(like: &Tensor) -> Result<Self> {
        // What a kernel leaves unwritten is found as NaN.
        #[cfg(test)]
        if like.device().is_cpu() {
            return Ok(Self::Host(vec![f32::NAN; like.elem_count()]));
        }
        #[cfg(feature = "cuda")]
        return super::launch::Memory::new(like.device().as_cuda_device()?, like.dtype(), like.elem_count())
            .map(Self::Device);
        #[cfg(not(feature = "cuda"))]
        candle_core::bail!("this build has no kernels for {:?}", like.device())
    }

    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    fn address(&mut self, like: &Tensor) -> Result<u64> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Device(memory) => Ok(memory.address(like.device().as_cuda_device()?)),
            #[cfg(test)]
            Self::Host(memory) => Ok(memory.as_mut_ptr() as u64),
            #[cfg(not(any(test, feature = "cuda")))]
            _ => candle_core::bail!("no memory on {:?}", like.device()),
        }
    }

    #[cfg_attr(not(any(test, feature = "cuda")), allow(unused_variables))]
    fn tensor(self, like: &Tensor) -> Result<Tensor> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Device(memory) => Ok(memory.tensor(like.device().as_cuda_device()?, like.dims())),
            #[cfg(test)]
            Self::Host(memory) => Tensor::from_vec(memory, like.shape(), like.device()),
        }
    }
}

/// Runs `kernel` on all pieces: each item's `count` results.
fn each(kernel: &'static str, items: &[Item], count: usize, numbers: &[f32]) -> Result<Vec<Vec<Tensor>>> {
    let Some(first) = items.first() else { return Ok(Vec::new()) };
    let (mut rows, mut memory) = (Vec::new(), Vec::with_capacity(items.len()));
    for item in items {
        let like = &item.operands[0];
        let operands: Vec<u64> = item.operands.iter().map(address).collect::<Result<_>>()?;
        let mut made: Vec<Memory> = (0..count).map(|_| Memory::new(like)).collect::<Result<_>>()?;
        let results: Vec<u64> = made.iter_mut().map(|memory| memory.address(like)).collect::<Result<_>>()?;
        memory.push(made);
        let (elements, decays) = (like.elem_count(), if item.decays { DECAYS } else { 0 });
        for start in (0..elements).step_by(PIECE) {
            let at = |address: Option<&u64>| {
                address.map_or(0, |address| address + (start * size_of::<f32>()) as u64)
            };
            rows.extend((0..OPERANDS).map(|i| at(operands.get(i))));
            rows.extend((0..RESULTS).map(|i| at(results.get(i))));
            rows.push(PIECE.min(elements - start) as u64 | decays);
        }
    }
    let pieces = rows.len() / ROW;
    // As 32-bit halves: candle has no tensors of u64.
    let halves: Vec<u32> = rows.iter().flat_map(|row| [*row as u32, (*row >> 32) as u32]).collect();
    let table =
        Tensor::from_vec(halves, 2 * ROW * pieces, &Device::Cpu)?.to_device(first.operands[0].device())?;
    run(&Plan::pieces(kernel, pieces).with_numbers(numbers), &[Some(&table)])?;
    let tensors = |(item, memory): (&Item, Vec<Memory>)| -> Result<Vec<Tensor>> {
        memory.into_iter().map(|memory| memory.tensor(&item.operands[0])).collect()
    };
    items.iter().zip(memory).map(tensors).collect()
}

/// A step of Adam for items of parameter, gradient, mean and mean square: the new parameter, mean and mean square of each.
pub(crate) fn adam(step: Step, items: &[Item]) -> Result<Vec<Vec<Tensor>>> {
    let Step { fresh, fresh_square, rate, root_correction, eps, keep } = step;
    each("adam", items, 3, &[fresh, fresh_square, rate, root_correction, eps, keep])
}

/// `from + weight * (to - from)` for items of from and to.
pub(crate) fn lerp(items: &[Item], weight: f32) -> Result<Vec<Vec<Tensor>>> {
    each("lerp_towards", items, 1, &[weight])
}

/// The address of a contiguous tensor.
fn address(x: &Tensor) -> Result<u64> {
    #[cfg(test)]
    if x.device().is_cpu() {
        return crate::cpu::with_downloaded::<f32, _>(x, |x| Ok(x.as_ptr() as u64));
    }
    #[cfg(feature = "cuda")]
    return super::launch::address(x);
    #[cfg(not(feature = "cuda"))]
    candle_core::bail!("this build has no kernels for {:?}", x.device())
}
