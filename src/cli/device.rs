//! `--device`: where to compute.

use candle_core::Device;
use clap::Args;
use nestgen::device::DeviceChoice;

use super::ui;

/// The flags that choose a device.
#[derive(Args)]
pub(super) struct DeviceArgs {
    /// Where to compute: auto (a GPU if this program can use one), cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Let matrix products on the GPU round their f32 inputs to 10 bits (TF32): faster, less exact
    #[cfg(feature = "cuda")]
    #[arg(long)]
    tf32: bool,
}

impl DeviceArgs {
    /// The device, ready for use; says which GPU it is.
    pub(super) fn open(&self) -> nestgen::error::Result<Device> {
        let device = self.device.open()?;
        if !device.is_cpu() {
            ui::note(&nestgen::device::describe(&device));
        }
        #[cfg(feature = "cuda")]
        nestgen_kernels::cuda::allow_tf32(self.tf32);
        Ok(device)
    }
}
