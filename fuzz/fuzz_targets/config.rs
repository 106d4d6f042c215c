//! A configuration of a training or of a classifier.
#![no_main]

use nestgen::config::{classify::ClassifyRunConfig, parse};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = parse("fuzzed.toml", text);
    let _ = ClassifyRunConfig::parse("fuzzed.toml", text);
});
