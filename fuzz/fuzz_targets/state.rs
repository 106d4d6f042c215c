//! The manifest of a training state, beside files that are whole.
#![no_main]

use nestgen::train::state;

libfuzzer_sys::fuzz_target!(|manifest: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["position.toml", "config.toml", "generator.safetensors"] {
        std::fs::write(folder.path().join(name), "").expect("a temporary file");
    }
    std::fs::write(folder.path().join("manifest.toml"), manifest).expect("a temporary file");
    let _ = state::load(folder.path());
    let _ = state::list(folder.path());
});
