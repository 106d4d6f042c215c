//! Where the cases run.

use std::sync::OnceLock;

use anyhow::{Context, Result};
use candle_core::Device;
use nestgen::device::{DeviceChoice, Precision, choose_precision};

static DEVICE: OnceLock<Device> = OnceLock::new();

/// Takes a device and a precision from the command line: by default the processor, in f32.
pub(crate) fn choose(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let device = arguments.next().unwrap_or_else(|| "cpu".into());
    let precision = arguments.next().unwrap_or_else(|| "f32".into());
    let device = device.parse::<DeviceChoice>().map_err(anyhow::Error::msg)?.open(0)?;
    choose_precision(precision.parse::<Precision>().map_err(anyhow::Error::msg)?, &device)?;
    DEVICE.get_or_init(|| device);
    Ok(())
}

/// The chosen device.
pub(crate) fn device() -> Device {
    DEVICE.get().cloned().unwrap_or(Device::Cpu)
}

/// Begins the GPU's [`peak_mib`] anew.
pub(crate) fn forget_peak() -> Result<()> {
    #[cfg(feature = "cuda")]
    nestgen_kernels::cuda::forget_peak(&device())?;
    Ok(())
}

/// The most memory that was in use at any time: the GPU's, or what was resident.
pub(crate) fn peak_mib() -> Result<f64> {
    #[cfg(feature = "cuda")]
    if let Some(bytes) = nestgen_kernels::cuda::peak_bytes(&device())? {
        return Ok(bytes as f64 / (1 << 20) as f64);
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
