//! Configuration: a preset or file, then `--set`, then flags; checked; complete.

// Reads what may be hostile: nothing in it may end the program.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod baseline;
pub mod classify;
mod idle;
mod launch;
mod load;
mod overrides;
mod presets;
mod rescore;
mod run;
mod words;

pub use baseline::as_sagan;
pub use launch::{Launch, Start, build_generator, build_networks, launch};
pub use load::{Source, load, parse, preset_names};
pub use overrides::{Override, nearest};
pub use presets::{PRESETS, Preset, preset};
pub use rescore::{Reading, Rescored, Rescorer, generator_of};
pub use run::{DataConfig, EvalConfig, RunConfig, refuse_run_folder};
