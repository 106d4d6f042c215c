//! GPUs: finding and opening them, and own kernels where compositions of candle's operations take several passes.
//!
//! `cuda/kernels.cu` and the files it includes hold the kernels, [`plan`] how each is launched, [`fused`] and [`images`]
//! what each computes. What is fused is
//! chosen inside the portable path, so every kernel has a composition beside it that computes the same. Tests run the
//! kernels' own source on the processor.

pub(crate) mod attention;
#[cfg(feature = "cudnn")]
mod cudnn;
#[cfg(feature = "cuda")]
mod device;
#[cfg(test)]
pub(crate) mod emulation;
pub(crate) mod fused;
#[cfg(feature = "cuda")]
pub(crate) mod gemm;
pub(crate) mod images;
#[cfg(test)]
mod images_tests;
#[cfg(feature = "cuda")]
mod launch;
pub(crate) mod many;
#[cfg(feature = "nccl")]
pub mod nccl;
#[cfg(test)]
mod operations_tests;
mod plan;
#[cfg(feature = "cuda")]
mod upload;

use candle_core::{Result, Tensor};

use crate::conv2d::Geometry;

/// Which of a convolution's three products is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(not(feature = "cudnn"), allow(dead_code))]
pub(crate) enum Direction {
    /// The output, from `x` and `w`.
    Output,
    /// The input's gradient, from the output's and `w`.
    Input,
    /// The weight's gradient, from `x` and the output's.
    Weight,
}

/// A convolution's product: by cuDNN where it is built in, wanted (not `NESTGEN_CUDNN=0`) and faster, else by `columns`.
#[cfg(feature = "cudnn")]
pub(crate) fn convolution(
    direction: Direction,
    g: &Geometry,
    a: &Tensor,
    b: &Tensor,
    columns: &dyn Fn() -> Result<Tensor>,
) -> Result<Tensor> {
    static WANTED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    if !WANTED.get_or_init(|| std::env::var_os("NESTGEN_CUDNN").is_none_or(|value| value != "0")) {
        return columns();
    }
    cudnn::convolution(direction, g, a, b, columns)
}

/// A convolution's product by `columns`: cuDNN is not built in.
#[cfg(not(feature = "cudnn"))]
pub(crate) fn convolution(
    _: Direction,
    _: &Geometry,
    _: &Tensor,
    _: &Tensor,
    columns: &dyn Fn() -> Result<Tensor>,
) -> Result<Tensor> {
    columns()
}

#[cfg(feature = "cuda")]
pub use device::{count, describe, forget_peak, open, peak_bytes};
#[cfg(feature = "cuda")]
pub use upload::upload;

/// `x` on `device`: there is no GPU in a build without CUDA.
///
/// # Errors
/// When the device has no room.
#[cfg(not(feature = "cuda"))]
pub fn upload(x: &Tensor, device: &candle_core::Device) -> Result<Tensor> {
    x.to_device(device)
}
