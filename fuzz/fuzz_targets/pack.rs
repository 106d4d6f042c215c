//! An HDF5 pack.
#![no_main]

use nestgen_fuzz::{read_set, with_file};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| with_file("a.h5", bytes, read_set));
