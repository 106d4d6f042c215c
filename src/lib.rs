//! Train unconditional image generators, and find out honestly which one learns faster.
//!
//! The main job, from the command line to the arithmetic:
//!
//! ```text
//! cli::train            flags
//!   -> config           preset file -> --set -> flags -> validated RunConfig
//!   -> data             folder, archive or pack -> shuffled batches [B, H, W, 3] in -1..1
//!   -> models           z [B, z_dim] -> transposed NesT -> images -> discriminator -> logits [B]
//!   -> train            losses, penalties, Adam, EMA, ticks, snapshots, exact resume
//!        -> nn          layers -> nestgen_kernels (operations and their gradients) -> candle (tensors, devices)
//!   -> nestgen_fid      scores with standard errors
//! ```
//!
//! Shape letters: B batch, T blocks, N tokens a block, C channels, H W image or token grid, `nh` heads,
//! `hd` head dimension. Everything is channels-last. Which module may import from which: `tests/it/layering.rs`, with reasons in
//! `docs/architecture.md`.

#![forbid(unsafe_code)]

pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod explain;
pub mod models;
pub mod nn;
pub mod ranks;
pub mod rng;
pub mod sample;
pub mod score_space;
pub mod study;
pub mod train;
