//! Comparing runs: arms, seeds, curves, tests, and the page that shows them.
//!
//! `run` reads run folders; `arms` groups runs (equal settings, different seeds); `protocol` refuses to mix scores that
//! cannot be compared; `comparison` measures convergence; `headline`, `table` and `report` write it down; `plan`,
//! `study_folder` and `task` are studies of several arms and seeds, their folders and their runs.

pub mod arms;
pub mod axis;
mod circumstances;
pub mod comparison;
pub mod data_efficiency;
pub mod headline;
pub mod history;
mod numbers;
pub mod panels;
pub mod plan;
pub mod protocol;
pub mod provenance;
pub mod report;
pub mod run;
pub mod settings;
pub mod statistics;
mod steadiness;
pub mod study_folder;
pub mod table;
pub mod task;
pub mod tuned;
