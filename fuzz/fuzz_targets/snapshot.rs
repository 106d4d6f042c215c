//! A snapshot of a generator, and a trained classifier.
#![no_main]

use nestgen_fuzz::with_file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| with_file("a.safetensors", bytes, |path| {
    let _ = nestgen::sample::read_snapshot(path);
    let _ = nestgen::config::classify::read_trained(path);
}));
