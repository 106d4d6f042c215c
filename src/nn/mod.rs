//! Layers over the operations of `nestgen-kernels`, and the named parameters they are made of.
//!
//! A layer owns its parameters, is constructed with a [`Builder`] that knows its place in the model, and has a
//! `forward` that reads as its formula. Everything is channels last.

mod aggregation;
mod deaggregation;
mod drop_path;
mod init;
mod layers;
mod params;
mod self_attention;
mod spectral_norm;
mod transformer;

pub use aggregation::{Aggregation, BlockAggregation, Padding};
pub use deaggregation::{BlockDeaggregation, Deaggregation};
pub use drop_path::DropPath;
pub use init::Init;
pub use layers::{BatchNorm, Conv2d, LayerNorm, Linear, Weight};
pub use params::{Builder, LoadError, Mismatch, ParamSet};
pub use self_attention::SelfAttention;
pub use spectral_norm::SpectralNorm;
pub use transformer::{AttentionKind, Gelu, INIT, LayerShape, TransformerLayer};
