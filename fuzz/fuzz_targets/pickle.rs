//! The pickle inside a zipped `.pth`.
#![no_main]

use nestgen_fuzz::{with_file, zip};

libfuzzer_sys::fuzz_target!(|pickle: &[u8]| {
    let files = [("archive/data.pkl", pickle), ("archive/data/0", &[0; 48]), ("archive/data/1", &[1; 48])];
    with_file("a.pth", &zip(&files), |path| drop(nestgen_fid::weights::load(path)));
});
