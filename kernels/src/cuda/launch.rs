//! Launches the own kernels on a GPU.

use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, Result, Storage, Tensor, bail};

use super::plan::{Args, Plan};

/// The kernels, compiled by `build.rs`; the driver compiles them for its GPU when the first is launched.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

// SAFETY: plain numbers, laid out as in C, of which the kernels take exactly one by value.
unsafe impl DeviceRepr for Args {}

/// Runs a kernel on contiguous f32 tensors of one GPU.
pub(super) fn launch(plan: &Plan, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
    let Some(first) = inputs.iter().flatten().next() else { bail!("{}: no operands", plan.kernel) };
    let device = first.device().as_cuda_device()?;
    let stream = device.cuda_stream();
    let function = device.get_or_load_custom_func(plan.kernel, "nestgen_kernels", PTX)?;

    let storages: Vec<_> = inputs.iter().map(|x| x.as_ref().map(Tensor::storage_and_layout)).collect();
    let mut addresses = Vec::with_capacity(storages.len());
    for storage in &storages {
        let Some((storage, layout)) = storage else {
            addresses.push(0);
            continue;
        };
        let Storage::Cuda(storage) = &**storage else { bail!("{}: an operand is on no GPU", plan.kernel) };
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("{}: an operand is not contiguous", plan.kernel)
        };
        // The address stays: the storage is locked until the launch is queued, and freed in the stream's order after it.
        let (address, _) = storage.as_cuda_slice::<f32>()?.device_ptr(&stream);
        debug_assert!(start <= end);
        addresses.push(address + (start * size_of::<f32>()) as u64);
    }
    let mut outputs: Vec<CudaSlice<f32>> = Vec::with_capacity(plan.outputs.len());
    for dims in &plan.outputs {
        // SAFETY: every kernel writes all elements of its outputs.
        outputs.push(unsafe { device.alloc::<f32>(dims.iter().product()) }?);
    }
    let written: Vec<u64> = outputs.iter_mut().map(|output| output.device_ptr_mut(&stream).0).collect();
    let args = plan.args(&addresses, &written);
    let config = LaunchConfig {
        grid_dim: (plan.grid.0, plan.grid.1, 1),
        block_dim: (plan.block, 1, 1),
        shared_mem_bytes: 0,
    };
    let mut builder = function.builder();
    builder.arg(&args);
    // SAFETY: the plan gives the kernel the sizes of these very operands; tests run the kernels' source with the same plans.
    unsafe { builder.launch(config) }.map_err(candle_core::Error::wrap)?;
    drop(storages);
    let tensor = |(slice, dims): (CudaSlice<f32>, &Vec<usize>)| {
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, device.clone()));
        Tensor::from_storage(storage, dims.as_slice(), BackpropOp::none(), false)
    };
    Ok(outputs.into_iter().zip(&plan.outputs).map(tensor).collect())
}
