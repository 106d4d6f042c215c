#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nestgen_fuzz::readers::feature_cache(bytes));
libfuzzer_sys::fuzz_mutator!(|bytes: &mut [u8], size: usize, max: usize, seed: u32| {
    nestgen_fuzz::mutate(bytes, size, max, seed, nestgen_fuzz::repair::hdf5)
});
