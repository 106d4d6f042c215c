//! An array inside an `.npz`.
#![no_main]

use nestgen_fuzz::{with_file, zip};

libfuzzer_sys::fuzz_target!(|array: &[u8]| {
    let files = [("mu.npy", array), ("sigma.npy", array)];
    with_file("a.npz", &zip(&files), |path| drop(nestgen_fid::npz::read(path)));
});
