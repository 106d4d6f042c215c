//! Weights: both formats of `.pth`, and safetensors.
#![no_main]

use nestgen_fuzz::with_file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    with_file("a.weights", bytes, |path| drop(nestgen_fid::weights::load(path)));
});
