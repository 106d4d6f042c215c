//! Launches the own kernels on a GPU.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use candle_core::cuda_backend::DeviceId;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Result, Storage, Tensor, bail};
use half::bf16;

use super::plan::{Args, Plan};

/// The kernels, compiled by `build.rs`; the driver compiles them for its GPU.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

thread_local! {
    /// Kernels that were launched before: the driver looks them up by their names.
    static FUNCTIONS: RefCell<HashMap<(DeviceId, &'static str), CudaFunction>> = RefCell::default();
}

/// Brings the kernels to a GPU. Before threads launch some: candle has each of those load all of them that come at the same time.
pub(super) fn load(device: &CudaDevice) -> Result<()> {
    function(device, "convert").map(drop)
}

fn function(device: &CudaDevice, kernel: &'static str) -> Result<CudaFunction> {
    FUNCTIONS.with_borrow_mut(|functions| match functions.entry((device.id(), kernel)) {
        Entry::Occupied(known) => Ok(known.get().clone()),
        Entry::Vacant(place) => {
            let function = device.get_or_load_custom_func(kernel, "nestgen_kernels", PTX)?;
            Ok(place.insert(function.into_cuda_function()).clone())
        }
    })
}

// SAFETY: plain numbers, laid out as in C, of which the kernels take exactly one by value.
unsafe impl DeviceRepr for Args {}

/// The address of a contiguous f32, bf16 or u32 tensor on a GPU. It is good while the tensor lives: what is queued then is
/// done before its memory is used again, since memory is freed in the stream's order.
pub(super) fn address(x: &Tensor) -> Result<u64> {
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("an operand is on no GPU") };
    let Some((start, _)) = layout.contiguous_offsets() else { bail!("an operand is not contiguous") };
    let stream = storage.device.cuda_stream();
    let first = match x.dtype() {
        DType::BF16 => storage.as_cuda_slice::<bf16>()?.device_ptr(&stream).0,
        DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(&stream).0,
        _ => storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0,
    };
    Ok(first + (start * x.dtype().size_in_bytes()) as u64)
}

/// New memory for an output.
pub(super) enum Memory {
    Single(CudaSlice<f32>),
    Half(CudaSlice<bf16>),
}

impl Memory {
    pub(super) fn new(device: &CudaDevice, dtype: DType, count: usize) -> Result<Self> {
        // SAFETY: every kernel writes all elements of its outputs.
        unsafe {
            match dtype {
                DType::BF16 => device.alloc::<bf16>(count).map(Self::Half),
                _ => device.alloc::<f32>(count).map(Self::Single),
            }
        }
    }

    pub(super) fn address(&mut self, device: &CudaDevice) -> u64 {
        let stream = device.cuda_stream();
        match self {
            Self::Single(memory) => memory.device_ptr_mut(&stream).0,
            Self::Half(memory) => memory.device_ptr_mut(&stream).0,
        }
    }

    pub(super) fn tensor(self, device: &CudaDevice, dims: &[usize]) -> Tensor {
        let storage = match self {
            Self::Single(memory) => CudaStorage::wrap_cuda_slice(memory, device.clone()),
            Self::Half(memory) => CudaStorage::wrap_cuda_slice(memory, device.clone()),
        };
        Tensor::from_storage(Storage::Cuda(storage), dims, BackpropOp::none(), false)
    }
}

/// Runs a kernel on contiguous tensors of one GPU.
pub(super) fn launch(plan: &Plan, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
    let Some(first) = inputs.iter().flatten().next() else { bail!("{}: no operands", plan.kernel) };
    let device = first.device().as_cuda_device()?;
    let function = function(device, plan.kernel)?;
    let (mut addresses, mut rough) = (Vec::with_capacity(inputs.len()), 0);
    for (k, input) in inputs.iter().enumerate() {
        addresses.push(input.as_ref().map_or(Ok(0), address)?);
        rough |= u32::from(input.as_ref().is_some_and(|x| x.dtype() == DType::BF16)) << k;
    }
    let mut outputs = Vec::with_capacity(plan.outputs.len());
    for (k, dims) in plan.outputs.iter().enumerate() {
        outputs.push(Memory::new(device, plan.dtype(k), dims.iter().product())?);
    }
    let written: Vec<u64> = outputs.iter_mut().map(|output| output.address(device)).collect();
    let args = plan.args(&addresses, rough, &written);
    let config = LaunchConfig {
        grid_dim: (plan.grid.0, plan.grid.1, 1),
        block_dim: (plan.block, 1, 1),
        shared_mem_bytes: 0,
    };
    let stream = device.cuda_stream();
    let mut builder = stream.launch_builder(&function);
    builder.arg(&args);
    // SAFETY: the plan gives the kernel the sizes of these very operands; tests run the kernels' source with the same plans.
    unsafe { builder.launch(config) }.map_err(candle_core::Error::wrap)?;
    Ok(outputs.into_iter().zip(&plan.outputs).map(|(memory, dims)| memory.tensor(device, dims)).collect())
}
