//! The integration tests: the real binary and the library from outside, one binary to link.

mod bad_input;
mod classify;
mod classify_beginnings;
mod classify_data;
mod classify_steps;
mod cli;
mod compare;
mod data;
mod doubts;
mod explain;
#[cfg(unix)]
mod faults;
mod fid;
mod kill;
mod layering;
mod messages;
mod model_gradients;
mod models;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(target_os = "linux")]
mod msrv;
mod outputs;
mod portable;
mod records;
mod sagan;
mod score;
mod score_space;
mod settings_doc;
mod steps;
mod study;
mod study_folder;
mod stumbles;
mod tensorboard;
mod train;
mod trouble;
mod unsafe_code;
mod verdict_numbers;
mod verdicts;
