//! Statistics in an `.npz`.
#![no_main]

use nestgen_fuzz::with_file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| with_file("a.npz", bytes, |path| drop(nestgen_fid::npz::read(
    path
))));
