//! The optimizer's arithmetic on all parameters in one launch: a table has the addresses of each, and blocks find their pieces
//! in it. Results are tensors of their own, not parts of a large one: a part is downloaded with all that it is a part of.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::fused::run;
use super::plan::Plan;
use crate::optim::Step;

/// Elements of a piece: one block of threads works on it.
const PIECE: usize = 1 << 14;
/// The highest bit of a row's count: the parameter decays.
const DECAYS: u64 = 1 << 63;
/// Addresses in a row: operands, f32 results, and the one that is bf16. The elements and the first piece follow.
const OPERANDS: usize = 4;
const RESULTS: usize = 3;

/// Operands of one parameter, contiguous and f32.
pub(crate) struct Item {
    pub(crate) operands: Vec<Tensor>,
    pub(crate) decays: bool,
    /// Whether the first result is wanted in bf16 too.
    pub(crate) rounds: bool,
}

/// Memory for a result, before it is a tensor.
enum Memory {
    #[cfg(feature = "cuda")]
    Device(super::launch::Memory),
    #[cfg(test)]
    Host(Vec<u32>, DType),
}

impl Memory {
    #[cfg_attr(not(any(test, feature = "cuda")), allow(unused_variables))]
    fn new(like: &Tensor, dtype: DType) -> Result<Self> {
        // What a kernel leaves unwritten is found as NaN.
        #[cfg(test)]
        if like.device().is_cpu() {
            return Ok(Self::Host(vec![u32::MAX; like.elem_count()], dtype));
        }
        #[cfg(feature = "cuda")]
        return super::launch::Memory::new(like.device().as_cuda_device()?, dtype, like.elem_count())
            .map(Self::Device);
        #[cfg(not(feature = "cuda"))]
        bail!("this build has no kernels for {:?}", like.device())
    }

    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    fn address(&mut self, like: &Tensor) -> Result<u64> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Device(memory) => Ok(memory.address(like.device().as_cuda_device()?)),
            #[cfg(test)]
            Self::Host(memory, _) => Ok(memory.as_mut_ptr() as u64),
            #[cfg(not(any(test, feature = "cuda")))]
            _ => bail!("no memory on {:?}", like.device()),
        }
    }

    #[cfg_attr(not(any(test, feature = "cuda")), allow(unused_variables))]
    fn tensor(self, like: &Tensor) -> Result<Tensor> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Device(memory) => Ok(memory.tensor(like.device().as_cuda_device()?, like.dims())),
            #[cfg(test)]
            Self::Host(memory, dtype) => {
                let bytes: Vec<u8> = memory.into_iter().flat_map(u32::to_ne_bytes).collect();
                let written = &bytes[..like.elem_count() * dtype.size_in_bytes()];
                Tensor::from_raw_buffer(written, dtype, like.dims(), like.device())
            }
        }
    }
}

/// Runs `kernel` on all parameters: each item's `count` results, and behind them its first one rounded if it is wanted.
fn each(kernel: &'static str, items: &[Item], count: usize, numbers: &[f32]) -> Result<Vec<Vec<Tensor>>> {
    let Some(first) = items.first() else { return Ok(Vec::new()) };
    let (mut rows, mut memory, mut pieces) = (Vec::new(), Vec::with_capacity(items.len()), 0);
    for item in items {
        let like = &item.operands[0];
        if let Some(odd) = item.operands.iter().find(|x| x.dtype() != DType::F32 || x.dims() != like.dims()) {
            bail!("{kernel}: expected operands {:?} in f32, got {odd:?}", like.dims());
        }
        let operands: Vec<u64> = item.operands.iter().map(address).collect::<Result<_>>()?;
        let types = (0..count).map(|_| DType::F32).chain(item.rounds.then_some(DType::BF16));
        let mut made: Vec<Memory> = types.map(|dtype| Memory::new(like, dtype)).collect::<Result<_>>()?;
        let results: Vec<u64> = made.iter_mut().map(|memory| memory.address(like)).collect::<Result<_>>()?;
        memory.push(made);
        let (results, rough) = results.split_at(count);
        let padded = |addresses: &[u64], to: usize| {
            addresses.iter().copied().chain(std::iter::repeat(0)).take(to).collect::<Vec<u64>>()
        };
        rows.extend(padded(&operands, OPERANDS));
        rows.extend(padded(results, RESULTS));
        rows.extend(padded(rough, 1));
        rows.extend([like.elem_count() as u64 | if item.decays { DECAYS } else { 0 }, pieces as u64]);
        pieces += like.elem_count().div_ceil(PIECE);
    }
    // As 32-bit halves: candle has no tensors of u64. 80 bytes a parameter: up to 64 KB go up without waiting for the GPU.
    let halves: Vec<u32> = rows.iter().flat_map(|row| [*row as u32, (*row >> 32) as u32]).collect();
    let table =
        Tensor::from_vec(halves, 2 * rows.len(), &Device::Cpu)?.to_device(first.operands[0].device())?;
    let plan = Plan::pieces(kernel, pieces).with_sizes(&[items.len(), PIECE]).with_numbers(numbers);
    run(&plan, &[Some(&table)])?;
    let tensors = |(item, memory): (&Item, Vec<Memory>)| -> Result<Vec<Tensor>> {
        memory.into_iter().map(|memory| memory.tensor(&item.operands[0])).collect()
    };
    items.iter().zip(memory).map(tensors).collect()
}

/// A step of Adam for items of parameter, gradient, mean and mean square: the new parameter, mean and mean square of each, and
/// the parameter rounded if that is wanted.
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
    bail!("this build has no kernels for {:?}", x.device())
}
