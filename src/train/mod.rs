//! Training: one readable loop a task, and the pieces it is made of.

pub mod adversarial;
pub mod augment;
pub mod changes;
pub mod classify;
pub mod ema;
pub mod evaluate;
pub mod event;
pub mod fakes;
pub mod files;
pub mod folder;
pub mod grid;
pub mod guard;
pub mod held_out;
pub mod losses;
pub mod parallel;
pub mod penalties;
mod readings;
pub mod reals;
pub mod schedule;
pub mod score;
pub mod settings;
pub mod state;
pub mod stats;
pub mod tensorboard;
pub mod tensors;
mod tick;
mod trouble;
