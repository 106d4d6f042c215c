//! JPEG to RGB with libjpeg-turbo's bits (accurate integer DCT, triangle upsampling of chroma), which Pillow, torchvision
//! and OpenCV give too: a score of JPEG files must not depend on the program that decoded them.
//!
//! Only the kinds of file that cameras and data sets hold go this way; CMYK and other rarities are left to the
//! general decoder, which differs by up to 4 levels where chroma is subsampled.

use libjpeg_turbo_rs::{Decoder, PixelFormat};

use crate::decode::RgbImage8;

/// Scans of a progressive file beyond which it is refused; encoders write about ten. Each costs a pass over the image.
const MAX_SCANS: u32 = 100;

/// Decodes a JPEG of one or three 8-bit components; `None` for other kinds. The header's size is checked before.
///
/// # Errors
/// The reason, as text: damaged or truncated.
pub(crate) fn decode(bytes: &[u8]) -> Option<Result<RgbImage8, String>> {
    frame_is_common(bytes)?.then(|| {
        let mut decoder = Decoder::new(bytes).map_err(describe)?;
        decoder.set_output_format(PixelFormat::Rgb);
        decoder.set_scan_limit(MAX_SCANS);
        let image = decoder.decode_image().map_err(describe)?;
        Ok(RgbImage8 { width: image.width as u32, height: image.height as u32, data: image.data })
    })
}

fn describe(error: libjpeg_turbo_rs::JpegError) -> String {
    let text = error.to_string();
    if text.contains("unexpected end") { format!("truncated: {text}") } else { text }
}

/// Whether the frame header says: Huffman-coded, 8 bits, one component, or three of which only the first may be
/// sampled more densely. `None` without a whole header.
fn frame_is_common(bytes: &[u8]) -> Option<bool> {
    let mut at = 2;
    loop {
        while *bytes.get(at)? != 0xFF {
            at += 1;
        }
        while *bytes.get(at)? == 0xFF {
            at += 1;
        }
        let marker = *bytes.get(at)?;
        let segment = bytes.get(at + 1..)?;
        match marker {
            0x01 | 0xD0..=0xD8 => at += 1,
            // Baseline, extended sequential and progressive, all Huffman-coded.
            0xC0..=0xC2 => {
                let &[_, _, bits, _, _, _, _, components, ref rest @ ..] = segment else { return None };
                let each = rest.as_chunks::<3>().0.iter().take(components.into());
                let sampling: Vec<u8> = each.map(|&[_, sampling, _]| sampling).collect();
                return Some(
                    bits == 8 && matches!(sampling[..], [_] | [0x11 | 0x12 | 0x21 | 0x22, 0x11, 0x11]),
                );
            }
            // Lossless, hierarchical and arithmetic-coded frames; scans before a frame.
            0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF | 0xD9 | 0xDA => return Some(false),
            _ => {
                let &[high, low, ..] = segment else { return None };
                at += 1 + usize::from(u16::from_be_bytes([high, low])).max(2);
            }
        }
    }
}
