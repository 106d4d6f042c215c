//! Means over the GPUs of several processes, by NCCL (its communicators, groups and all-reduce).
//!
//! They travel on a stream of their own while the device's stream goes on computing. The streams wait for each other where
//! it matters: what travels starts after what was queued before it, and its memory is read and given back after it.

use std::ffi::{CStr, c_char};
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use candle_core::cuda_backend::cudarc::nccl::result::{self, NcclError};
use candle_core::cuda_backend::cudarc::nccl::sys;
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Device, Error, Result, Storage, Tensor, bail};

/// What the members of a communicator know it by.
pub type Id = [u8; 128];

/// The id of a communicator that is to be: one process makes it, and tells the others.
///
/// # Errors
/// When NCCL finds no way for messages.
pub fn new_id() -> Result<Id> {
    let id = result::get_uniqueid().map_err(failed("make an id"))?;
    Ok(id.internal.map(|byte| byte as u8))
}

/// What tells a GPU from all others, of other machines too.
///
/// # Errors
/// When `device` is no GPU.
pub fn gpu_id(device: &Device) -> Result<[u8; 16]> {
    let id = device.as_cuda_device()?.cuda_stream().context().uuid().map_err(Error::wrap)?;
    Ok(id.bytes.map(|byte| byte as u8))
}

/// NCCL's words for an error, and those of the last one it met.
fn failed(action: &'static str) -> impl FnOnce(NcclError) -> Error {
    move |error| {
        // SAFETY: both give a text that ends with a zero and stays; the second one looks at no communicator.
        let (kind, last) = unsafe {
            let last = sys::ncclGetLastError(std::ptr::null_mut());
            (CStr::from_ptr(sys::ncclGetErrorString(error.0)), CStr::from_ptr(last))
        };
        let (kind, last) = (kind.to_string_lossy(), last.to_string_lossy());
        Error::Msg(format!("NCCL cannot {action}: {kind} {last}").trim_end().to_owned())
    }
}

/// This process's GPU among those of several, one each.
pub struct Communicator {
    raw: sys::ncclComm_t,
    device: CudaDevice,
    travel: Arc<CudaStream>,
}

impl Communicator {
    /// Connects the GPUs of all ranks: each calls this, with the id that one of them made. Waits for all.
    ///
    /// # Errors
    /// When `device` is no GPU, or NCCL cannot connect them; it refuses a GPU that is another rank's too.
    pub fn join(id: &Id, ranks: usize, rank: usize, device: &Device) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        let stream = device.cuda_stream();
        let travel = stream.fork().map_err(Error::wrap)?;
        let (ranks, rank) =
            (i32::try_from(ranks).map_err(Error::wrap)?, i32::try_from(rank).map_err(Error::wrap)?);
        let id = sys::ncclUniqueId { internal: id.map(|byte| byte as c_char) };
        let mut raw = std::ptr::null_mut();
        stream.context().bind_to_thread().map_err(Error::wrap)?;
        // SAFETY: NCCL takes the GPU that this thread was bound to, and writes the communicator's address.
        unsafe { result::comm_init_rank(&raw mut raw, ranks, id, rank) }.map_err(failed("connect the GPUs"))?;
        Ok(Self { raw, device, travel })
    }

    /// Begins to average tensors.
    pub fn averaging(&self) -> Averaging<'_> {
        Averaging { by: self, own: Vec::new(), means: Vec::new(), last: None }
    }

    /// Queues the means of tensors, which NCCL takes together.
    fn queue(&self, own: &[Tensor], means: &mut [CudaSlice<f32>]) -> Result<()> {
        result::group_start().map_err(failed("start a group"))?;
        let queued = own.iter().zip(means).try_for_each(|(own, mean)| self.queue_one(own, mean));
        // A group that was started is ended, come what may.
        result::group_end().map_err(failed("average"))?;
        queued
    }

    fn queue_one(&self, own: &Tensor, mean: &mut CudaSlice<f32>) -> Result<()> {
        let (storage, layout) = own.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { bail!("NCCL: a tensor is on no GPU") };
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("NCCL: a tensor is not contiguous") };
        let from = storage.as_cuda_slice::<f32>()?.slice(start..end);
        let (count, stream) = (from.len(), &self.travel);
        let (from, to) = (from.device_ptr(stream).0, mean.device_ptr_mut(stream).0);
        let (kind, mean) = (sys::ncclDataType_t::ncclFloat32, sys::ncclRedOp_t::ncclAvg);
        // SAFETY: both are `count` numbers of this communicator's GPU; `Averaging` keeps their memory until the device's
        // stream, in whose order it is given back, has waited for this one.
        let queued = unsafe {
            let (from, to) = (from as *const _, to as *mut _);
            result::all_reduce(from, to, count, kind, mean, self.raw, stream.cu_stream().cast())
        };
        queued.map(drop).map_err(failed("average"))
    }

    /// Whether a connection was lost since the last call.
    fn check(&self) -> Result<()> {
        let mut state = sys::ncclResult_t::ncclSuccess;
        // SAFETY: the communicator lives, and NCCL writes its state.
        let asked = unsafe { sys::ncclCommGetAsyncError(self.raw, &raw mut state) };
        asked.result().and_then(|_| state.result()).map(drop).map_err(failed("average"))
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // SAFETY: made by NCCL, and nobody has it any more. What it says is of no use: the process is about to end.
        let _ = unsafe { result::comm_destroy(self.raw) };
    }
}

/// Means under way. All ranks start as many, of the same sizes, in the same order.
pub struct Averaging<'a> {
    by: &'a Communicator,
    own: Vec<Tensor>,
    means: Vec<CudaSlice<f32>>,
    last: Option<CudaEvent>,
}

impl Averaging<'_> {
    /// Starts to average f32 tensors of this rank's GPU, and does not wait for them.
    ///
    /// # Errors
    /// When one is of another type or place, memory runs out, or NCCL fails.
    pub fn start(&mut self, tensors: &[Tensor]) -> Result<()> {
        let device = &self.by.device;
        let first = self.own.len();
        for tensor in tensors {
            if !tensor.device().as_cuda_device().is_ok_and(|own| own.id() == device.id()) {
                bail!("NCCL: a tensor is on {:?}", tensor.device().location())
            }
            let own = tensor.contiguous()?;
            // SAFETY: NCCL writes all of it before anyone is given it.
            self.means.push(unsafe { device.alloc::<f32>(own.elem_count()) }?);
            self.own.push(own);
        }
        self.by.travel.join(&device.cuda_stream()).map_err(Error::wrap)?;
        self.by.queue(&self.own[first..], &mut self.means[first..])?;
        self.last = Some(self.by.travel.record_event(None).map_err(Error::wrap)?);
        Ok(())
    }

    /// Waits until this rank's GPU has computed what was queued on it; what travels does not count.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn wait_for_own_work(&self) -> Result<()> {
        self.by.device.cuda_stream().synchronize().map_err(Error::wrap)
    }

    /// Whether all that was started has arrived.
    ///
    /// # Errors
    /// When the GPU or a connection fails.
    pub fn is_over(&self) -> Result<bool> {
        let over = self.last.as_ref().map_or(Ok(true), CudaEvent::try_is_complete).map_err(Error::wrap)?;
        if !over {
            self.by.check()?;
        }
        Ok(over)
    }

    /// The means, in the order of starting. What is queued from here on waits for them.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn finish(mut self) -> Result<Vec<Tensor>> {
        let device = &self.by.device;
        device.cuda_stream().join(&self.by.travel).map_err(Error::wrap)?;
        let means = std::mem::take(&mut self.means).into_iter().zip(&self.own).map(|(mean, own)| {
            let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(mean, device.clone()));
            Tensor::from_storage(storage, own.dims(), BackpropOp::none(), false)
        });
        Ok(means.collect())
    }
}

impl Drop for Averaging<'_> {
    fn drop(&mut self) {
        // Memory is given back in the order of the device's stream. Where it cannot wait, the GPU is lost, memory and all.
        let _ = self.by.device.cuda_stream().join(&self.by.travel);
    }
}
