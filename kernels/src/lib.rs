//! Differentiable tensor operations for training image models on candle.
//!
//! Every operation takes and returns [`Var`]s: candle tensors that remember how they were made.
//! [`backward`] finds the gradients of a scalar with respect to every [`Param`] it depends on.
//!
//! Shape letters: B batch, T blocks, N tokens a block, C channels, H W image or token grid, `nh` heads,
//! `hd` head dimension.
//!
//! One file an operation: what it computes, its backward rule, its CPU kernel, its tests.

pub mod autograd;
pub mod cpu;
pub mod simd;

pub use autograd::{Gradients, Param, Var, backward, grad, no_grad};

/// Sum of two values of one shape.
pub fn add(a: &Var, b: &Var) -> candle_core::Result<Var> {
    let value = (a.value() + b.value())?;
    Ok(Var::record("add", value, &[a, b], |grad, _| Ok(vec![Some(grad.clone()), Some(grad.clone())])))
}
