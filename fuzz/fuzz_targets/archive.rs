//! A zip, tar or tar.gz of images; its first bytes say which.
#![no_main]

use nestgen_fuzz::{read_set, with_file};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let name = match bytes {
        [b'P', b'K', ..] => "a.zip",
        [0x1f, 0x8b, ..] => "a.tar.gz",
        _ => "a.tar",
    };
    with_file(name, bytes, read_set);
});
