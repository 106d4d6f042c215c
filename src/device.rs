//! Where to compute: the processor, or a GPU in a program that was built for one (`docs/cuda.md`).

use std::str::FromStr;

use candle_core::Device;
use nestgen_kernels::{portable, precision};

use crate::error::{Error, Result};

pub use nestgen_kernels::precision::Precision;

/// What `--device` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if the program can use one and there is one, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// The GPU of this number; without one, the process's own among those of its machine.
    Cuda(Option<usize>),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(None)),
            other => match other.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(number)) => Ok(Self::Cuda(Some(number))),
                _ => Err("expected auto, cpu, cuda or cuda:N".into()),
            },
        }
    }
}

impl DeviceChoice {
    /// The device, ready for use, of a process that is number `place` of its machine, from 0: where no GPU is named, processes
    /// get one each, and share them when there are more processes.
    ///
    /// # Errors
    /// When a GPU is asked for and this program was built without CUDA, or there is none of that number.
    pub fn open(self, place: usize) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto => auto(place),
            Self::Cuda(None) => cuda(own_gpu(place)),
            Self::Cuda(Some(number)) => cuda(number),
        }
    }
}

#[cfg(feature = "cuda")]
fn own_gpu(place: usize) -> usize {
    place % nestgen_kernels::cuda::count().max(1)
}

#[cfg(feature = "cuda")]
fn auto(place: usize) -> Result<Device> {
    if nestgen_kernels::cuda::count() > 0 { cuda(own_gpu(place)) } else { Ok(Device::Cpu) }
}

#[cfg(feature = "cuda")]
fn cuda(number: usize) -> Result<Device> {
    let count = nestgen_kernels::cuda::count();
    if number < count {
        return Ok(nestgen_kernels::cuda::open(number)?);
    }
    let there_are = match count {
        0 => "no GPU can be used here".to_owned(),
        1 => "there is one GPU, cuda:0".to_owned(),
        _ => format!("there are {count} GPUs, cuda:0 to cuda:{}", count - 1),
    };
    Err(Error::Usage {
        message: format!("--device cuda:{number}: {there_are}"),
        hint: Some("look at `nvidia-smi`, or choose --device auto".into()),
    })
}

#[cfg(not(feature = "cuda"))]
fn own_gpu(_: usize) -> usize {
    0
}

#[cfg(not(feature = "cuda"))]
fn auto(_: usize) -> Result<Device> {
    Ok(Device::Cpu)
}

#[cfg(not(feature = "cuda"))]
fn cuda(number: usize) -> Result<Device> {
    Err(Error::Usage {
        message: format!("--device cuda:{number}: this program was built without CUDA"),
        hint: Some("build it with scripts/build-cuda.sh (docs/cuda.md), or choose --device cpu".into()),
    })
}

/// Sets how exactly the process multiplies on its device.
///
/// # Errors
/// When the device knows no such products.
pub fn choose_precision(precision: Precision, device: &Device) -> Result<()> {
    // The portable path rounds as a GPU does, for tests.
    let can = match precision {
        Precision::F32 => true,
        Precision::Bf16 => !device.is_cpu() || portable::forced(),
        Precision::Tf32 => !device.is_cpu(),
    };
    if !can {
        return Err(Error::Usage {
            message: format!("--precision {}: the processor multiplies in f32", precision.name()),
            hint: Some("choose a GPU with --device cuda, or leave --precision out".into()),
        });
    }
    precision::choose(precision);
    Ok(())
}

/// The most memory of a GPU that tensors of this process have held, GiB; `None` on the processor, and where the driver does not say.
#[cfg(feature = "cuda")]
pub fn peak_gpu_gib(device: &Device) -> Option<f64> {
    let bytes = nestgen_kernels::cuda::peak_bytes(device).ok().flatten()?;
    Some(bytes as f64 / f64::from(1u32 << 30))
}

/// `None`: this program uses no GPU.
#[cfg(not(feature = "cuda"))]
pub fn peak_gpu_gib(_: &Device) -> Option<f64> {
    None
}

/// A device in words, for the record of a run: `cpu, 2 threads`, `cuda:0, NVIDIA H100`, `cuda:0, NVIDIA H100, bf16`.
pub fn describe(device: &Device) -> String {
    match precision::current() {
        Precision::F32 => name(device),
        other => format!("{}, {}", name(device), other.name()),
    }
}

fn name(device: &Device) -> String {
    #[cfg(feature = "cuda")]
    if let Some(text) = nestgen_kernels::cuda::describe(device) {
        return text;
    }
    let _ = device;
    format!("cpu, {} threads", rayon::current_num_threads())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read() {
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Cuda(None)),
            ("cuda:3", DeviceChoice::Cuda(Some(3))),
        ] {
            assert_eq!(text.parse(), Ok(choice));
        }
        for text in ["gpu", "cuda:", "cuda:-1", "cuda0", "CPU", ""] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_program_without_cuda_says_so() {
        assert!(DeviceChoice::Auto.open(1).unwrap().is_cpu());
        let error = DeviceChoice::Cuda(Some(1)).open(0).unwrap_err();
        assert!(
            error.to_string().contains("built without CUDA") && error.hint().unwrap().contains("build-cuda")
        );
    }
}
