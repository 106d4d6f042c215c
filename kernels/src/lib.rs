//! Differentiable tensor operations for training image models on candle.
//!
//! Every operation takes and returns [`Var`]s: candle tensors that remember how they were made.
//! [`backward`] finds the gradients of a scalar with respect to every [`Param`] it depends on.
//!
//! Shape letters: B batch, T blocks, N tokens a block, C channels, H W image or token grid, `nh` heads,
//! `hd` head dimension.
//!
//! One file an operation: what it computes, its backward rule, its CPU kernel, its tests.

mod activation;
pub mod autograd;
pub mod cpu;
mod elementwise;
pub mod simd;

pub use activation::{Activation, activate};
pub use autograd::{Gradients, Param, Var, backward, grad, no_grad};
pub use elementwise::{add, mul};
