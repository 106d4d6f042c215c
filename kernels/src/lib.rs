//! Differentiable tensor operations for training image models on candle.
//!
//! Every operation takes and returns [`Var`]s: candle tensors that remember how they were made.
//! [`backward`] finds the gradients of a scalar with respect to every [`Param`] it depends on.
//!
//! Shape letters: B batch, T blocks, N tokens a block, C channels, H W image or token grid, `nh` heads,
//! `hd` head dimension.
//!
//! One file an operation: what it computes, its backward rule, its CPU kernel, its tests.

// Code that tests inside and outside share knows this crate by one name.
#[cfg(test)]
extern crate self as nestgen_kernels;

mod activation;
pub mod alloc;
mod amx;
mod attention;
mod augment;
pub mod autograd;
mod avg_pool3;
mod batch_norm;
mod blocks;
mod conv2d;
mod conv2d_f32;
pub mod cpu;
pub mod cuda;
mod direct;
mod elementwise;
mod feed_forward;
mod fused;
mod gemm;
pub mod gradcheck;
mod im2col;
pub mod inference;
mod lanes;
mod layer_norm;
mod linear;
mod linear_value;
mod map;
mod matmul;
mod max_pool;
mod micro;
mod mixed;
pub mod optim;
mod pool;
pub mod portable;
pub mod precision;
mod product;
mod reduce;
mod regroup;
mod rows;
mod samples;
mod scratch;
mod shape;
pub mod simd;
mod small_gemm;
mod softmax;
mod spectral;
pub mod threads;
pub mod vmath;
mod winograd;
mod winograd_conv;
mod winograd_grad;

pub use activation::{Activation, activate};
pub use attention::{attention, multi_query_attention};
pub use augment::{ImageChange, change_images};
pub use autograd::{Gradients, Param, Var, backward, backward_telling, grad, no_grad};
pub use avg_pool3::avg_pool3;
pub use batch_norm::{BatchStatistics, SumOverParts, batch_norm, batch_norm_eval};
pub use blocks::{blockify, deblockify, pixel_shuffle2, pixel_unshuffle2};
pub use conv2d::{Conv2d, conv2d};
pub use elementwise::{
    add, add_broadcast, add_scalar, mean_all, mul, mul_scalar, recip, scale, sigmoid, softplus, sqrt, square,
    sub,
};
pub use feed_forward::{Layer, feed_forward};
pub use layer_norm::layer_norm;
pub use linear::{linear, linear_residual};
pub use matmul::matmul;
pub use max_pool::{PoolPadding, max_pool2, max_pool3, max_pool3s2};
pub use mixed::widened;
pub use optim::{Adam, AdamConfig, clip_grad_norm, ema_update};
pub use pool::{avg_pool2, mean_middle, sum_middle, upsample_nearest2};
pub use reduce::{sum_all, sum_per_sample};
pub use regroup::{deaggregate, deaggregate_to_plane};
pub use samples::{Samples, add_samples, take_samples};
pub use shape::{cat, narrow, permute, reshape};
pub use softmax::{cross_entropy, log_softmax, softmax};
pub use spectral::{Normalised, spectral_norm};
