#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nestgen_fuzz::readers::arrays(bytes));
