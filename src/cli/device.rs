//! `--device`: where to compute.

use candle_core::Device;
use clap::Args;
use nestgen::device::{DeviceChoice, Precision, choose_precision};
use nestgen::ranks::Ranks;

use super::ui;

/// The flag that chooses a device.
#[derive(Args)]
pub(super) struct PlaceArgs {
    /// Where to compute: auto (a GPU if this program can use one, else the processor), cpu, cuda or cuda:N. Several processes
    /// of one job get a GPU each unless N names one
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

impl PlaceArgs {
    /// This rank's device, ready for use; says which GPU it is.
    pub(super) fn open(&self, ranks: &Ranks) -> nestgen::error::Result<Device> {
        let device = self.device.open(ranks.place())?;
        if !device.is_cpu() {
            ui::note(&nestgen::device::describe(&device));
        }
        Ok(device)
    }
}

/// The flags that choose a device and how exactly it multiplies.
#[derive(Args)]
pub(super) struct DeviceArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// What matrix products round their factors to: f32 (nothing), tf32 or bf16 (faster, less exact, on a GPU alone); bf16
    /// rounds what lies between products too. Weights, sums and the optimizer stay f32
    #[arg(long, value_name = "f32|tf32|bf16", default_value = "f32")]
    precision: Precision,
}

impl DeviceArgs {
    /// This rank's device, ready for use; says which GPU it is.
    pub(super) fn open(&self, ranks: &Ranks) -> nestgen::error::Result<Device> {
        let device = self.place.open(ranks)?;
        choose_precision(self.precision, &device)?;
        Ok(device)
    }
}
