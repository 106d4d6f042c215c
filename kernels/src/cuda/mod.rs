//! GPUs: finding and opening them, and own kernels where compositions of candle's operations take several passes.
//!
//! `cuda/kernels.cu` holds the kernels, [`plan`] how each is launched, [`fused`] what each computes. What is fused is
//! chosen inside the portable path, so every kernel has a composition beside it that computes the same. Tests run the
//! kernels' own source on the processor.

#[cfg(feature = "cuda")]
mod device;
#[cfg(test)]
mod emulation;
pub(crate) mod fused;
#[cfg(feature = "cuda")]
mod launch;
mod plan;

#[cfg(feature = "cuda")]
pub use device::{allow_tf32, count, describe, open};
