//! One encoded image: PNG, JPEG, WebP, BMP, GIF, TIFF.
#![no_main]

use nestgen_images::{Limits, decode};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = decode::read_header(bytes, &Limits::default());
    if let Ok(image) = decode::decode_rgb(bytes, &Limits::default()) {
        assert_eq!(image.data.len(), image.width as usize * image.height as usize * 3);
    }
});
