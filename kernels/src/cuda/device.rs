//! Finding, opening and naming GPUs.
//!
//! One stream computes everything, so nothing need be tracked between streams (what NCCL moves beside it waits by itself);
//! freed memory stays in the driver's pool, so that a step allocates without asking the system.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::cublas::sys as cublas;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, result, sys};
use candle_core::{CudaDevice, Device, DeviceLocation, Result};

/// Of each GPU, by its number, the most bytes that were held before what [`uncounted`] ran last.
static HELD_BEFORE: Mutex<BTreeMap<usize, u64>> = Mutex::new(BTreeMap::new());

/// How many GPUs there are; 0 where the driver is missing or refuses.
pub fn count() -> usize {
    CudaContext::device_count().map_or(0, |count| usize::try_from(count).unwrap_or(0))
}

/// GPU number `ordinal`, ready for use.
///
/// # Errors
/// When there is none, or it cannot be set up.
pub fn open(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    if let Device::Cuda(cuda) = &device {
        // SAFETY: tracking orders work between streams; this device's tensors are only ever used on the one stream that
        // was made with it, and on that of `nccl`, which orders its own.
        unsafe { cuda.disable_event_tracking() };
        super::launch::load(cuda)?;
        add_up_in_f32(cuda)?;
    }
    keep_pool(ordinal).map_err(candle_core::Error::wrap)?;
    Ok(device)
}

/// How many multiprocessors a GPU has, if it tells.
pub(super) fn multiprocessors(device: &CudaDevice) -> Option<usize> {
    let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    let count = device.cuda_stream().context().attribute(attribute).ok()?;
    usize::try_from(count).ok().filter(|&count| count > 0)
}

/// Has cuBLAS add up in f32 where a product's result is bf16: by default it may add up parts of one in the result's type.
fn add_up_in_f32(device: &CudaDevice) -> Result<()> {
    let mode = cublas::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    // SAFETY: the handle is the open device's.
    let status = unsafe { cublas::cublasSetMathMode(*device.cublas_handle().handle(), mode) };
    status.result().map_err(candle_core::Error::wrap)
}

/// Keeps freed memory in the driver's pool instead of giving it back whenever the processor waits for the GPU.
fn keep_pool(ordinal: usize) -> std::result::Result<(), result::DriverError> {
    let device = result::device::get(i32::try_from(ordinal).unwrap_or(i32::MAX))?;
    let mut threshold = u64::MAX;
    // SAFETY: the device exists (it was opened), and the attribute takes a pointer to a u64, read before the call returns.
    unsafe {
        let pool = result::device::get_default_mem_pool(device)?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast())
    }
}

/// The most bytes of a GPU that tensors have held at any time since the last [`forget_peak`]; `None` for the processor.
///
/// # Errors
/// When the driver does not say.
pub fn peak_bytes(device: &Device) -> Result<Option<u64>> {
    let Some(now) = high_water(device)? else { return Ok(None) };
    Ok(Some(held_before(device, |before| *before).max(now)))
}

/// Begins [`peak_bytes`] anew.
///
/// # Errors
/// When the driver refuses.
pub fn forget_peak(device: &Device) -> Result<()> {
    held_before(device, |before| *before = 0);
    reset_high_water(device)
}

/// Runs `f`, which has waited for the GPU when it ends: what is held only in it does not count in [`peak_bytes`].
pub(super) fn uncounted<R>(device: &Device, f: impl FnOnce() -> R) -> Result<R> {
    let before = peak_bytes(device)?.unwrap_or(0);
    let made = f();
    held_before(device, |most| *most = before);
    reset_high_water(device)?;
    Ok(made)
}

fn held_before<R>(device: &Device, f: impl FnOnce(&mut u64) -> R) -> R {
    let gpu = match device.location() {
        DeviceLocation::Cuda { gpu_id } => gpu_id,
        _ => usize::MAX,
    };
    let mut all = HELD_BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    f(all.entry(gpu).or_default())
}

fn high_water(device: &Device) -> Result<Option<u64>> {
    let mut bytes = 0u64;
    let found = with_high_water(device, |pool, attribute| {
        // SAFETY: the pool is the open device's, and the attribute fills a u64.
        unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()) }
    })?;
    Ok(found.then_some(bytes))
}

fn reset_high_water(device: &Device) -> Result<()> {
    let mut zero = 0u64;
    with_high_water(device, |pool, attribute| {
        // SAFETY: as above; 0 resets it.
        unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut zero).cast()) }
    })?;
    Ok(())
}

/// Calls `f` with a GPU's pool and the attribute of its highest use; whether `device` is a GPU.
fn with_high_water(
    device: &Device,
    f: impl FnOnce(sys::CUmemoryPool, sys::CUmemPool_attribute) -> std::result::Result<(), result::DriverError>,
) -> Result<bool> {
    let DeviceLocation::Cuda { gpu_id } = device.location() else { return Ok(false) };
    let pool = || {
        let device = result::device::get(i32::try_from(gpu_id).unwrap_or(i32::MAX))?;
        // SAFETY: the device is open.
        unsafe { result::device::get_default_mem_pool(device) }
    };
    pool()
        .and_then(|pool| f(pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH))
        .map_err(candle_core::Error::wrap)?;
    Ok(true)
}

/// A GPU in words: `cuda:0, NVIDIA H100`; `None` for the processor.
pub fn describe(device: &Device) -> Option<String> {
    let (Device::Cuda(cuda), DeviceLocation::Cuda { gpu_id }) = (device, device.location()) else {
        return None;
    };
    let name = cuda.cuda_stream().context().name().unwrap_or_else(|_| "unknown".into());
    Some(format!("cuda:{gpu_id}, {name}"))
}
