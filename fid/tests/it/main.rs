//! Tests of the whole crate: figures of the reference tools, weight files, hostile input.
#![allow(missing_docs)]

mod bad_input;
mod figures;
mod images;
mod oracle;
mod pytorch_files;
mod sources;
mod weight_files;
