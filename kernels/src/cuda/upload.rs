//! Batches on their way to a GPU: from pinned memory, which the GPU fetches by itself when it has done what was queued before.
//! From ordinary memory, the driver copies more than some KB only when the GPU has got there.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};

use candle_core::cuda_backend::DeviceId;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, PinnedHostSlice};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Error, Result, Storage, Tensor};

use crate::cpu::with_downloaded;

/// Elements that the driver copies at once, without waiting: 64 KB. They need no pinned memory.
const AT_ONCE: usize = 1 << 14;

/// Pinned memory, and when the GPU has fetched what was last written there. (The memory's own event is not recorded: what is
/// copied is a plain slice of it.)
struct Staging {
    memory: PinnedHostSlice<f32>,
    fetched: CudaEvent,
}

impl Drop for Staging {
    /// The memory is not given back while the GPU may still fetch from it.
    fn drop(&mut self) {
        let _ = self.fetched.synchronize();
    }
}

/// Pieces of pinned memory, used in turn: a batch, and large targets or latents beside it or the batch after it.
const AT_A_TIME: usize = 2;

thread_local! {
    /// The one that is due is the first.
    static STAGING: RefCell<HashMap<DeviceId, VecDeque<Staging>>> = RefCell::default();
}

/// `x` on `device`. A tensor of f32 in the processor's memory goes up without waiting for the GPU, but for the last upload but one
/// to have been fetched.
///
/// # Errors
/// When there is no memory for it.
pub fn upload(x: &Tensor, device: &Device) -> Result<Tensor> {
    match device {
        Device::Cuda(gpu) if x.device().is_cpu() && x.dtype() == DType::F32 && x.elem_count() > AT_ONCE => {
            with_downloaded::<f32, _>(x, |numbers| from_pinned(numbers, x.dims(), gpu))
        }
        _ => x.to_device(device),
    }
}

fn from_pinned(numbers: &[f32], dims: &[usize], gpu: &CudaDevice) -> Result<Tensor> {
    STAGING.with_borrow_mut(|all| {
        let stream = gpu.cuda_stream();
        let all = all.entry(gpu.id()).or_default();
        let due = if all.len() < AT_A_TIME { None } else { all.pop_front() };
        if let Some(due) = &due {
            // Before it is written to again, or freed.
            due.fetched.synchronize().map_err(Error::wrap)?;
        }
        let mut due = match due.filter(|due| due.memory.len() >= numbers.len()) {
            Some(due) => due,
            None => {
                // SAFETY: written below before it is read.
                let memory = unsafe { stream.context().alloc_pinned::<f32>(numbers.len()) };
                let fetched = stream.context().new_event(None).map_err(Error::wrap)?;
                Staging { memory: memory.map_err(Error::wrap)?, fetched }
            }
        };
        let Staging { memory, fetched } = &mut due;
        let staged = &mut memory.as_mut_slice().map_err(Error::wrap)?[..numbers.len()];
        staged.copy_from_slice(numbers);
        // SAFETY: the copy writes every element.
        let mut there = unsafe { gpu.alloc::<f32>(numbers.len()) }?;
        stream.memcpy_htod(&*staged, &mut there).map_err(Error::wrap)?;
        fetched.record(&stream).map_err(Error::wrap)?;
        all.push_back(due);
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(there, gpu.clone()));
        Ok(Tensor::from_storage(storage, dims, BackpropOp::none(), false))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{device, pattern};

    /// Larger and smaller ones by turns, and none is looked at before all are on their way.
    #[test]
    fn what_was_uploaded_is_what_is_there() -> Result<()> {
        let device = device();
        let batches: Vec<Tensor> = (1..40)
            .map(|i| {
                let numbers = pattern(&[1 + i * 7919 % 97, 1000], i as u64)?;
                numbers.to_dtype(DType::F32)?.to_device(&Device::Cpu)
            })
            .collect::<Result<_>>()?;
        let there: Vec<Tensor> = batches.iter().map(|x| upload(x, &device)).collect::<Result<_>>()?;
        for (there, x) in there.iter().zip(&batches) {
            assert_eq!(there.dims(), x.dims());
            assert_eq!(there.flatten_all()?.to_vec1::<f32>()?, x.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(())
    }
}
