//! JPEG to RGB with libjpeg-turbo's bits (accurate integer DCT, triangle upsampling of chroma), which Pillow, torchvision
//! and OpenCV give too: a score of JPEG files must not depend on the program that decoded them.
//!
//! Only the kinds of file that cameras and data sets hold go this way; CMYK and other rarities are left to the
//! general decoder, which differs by up to 4 levels where chroma is subsampled.

use std::borrow::Cow;

use libjpeg_turbo_rs::{Decoder, PixelFormat};

use crate::decode::RgbImage8;

/// Scans of a progressive file beyond which it is refused; encoders write about ten. Each costs a pass over the image.
const MAX_SCANS: u32 = 100;

/// Decodes a JPEG of one or three 8-bit components; `None` for other kinds. The header's size is checked before.
///
/// # Errors
/// The reason, as text: damaged or truncated.
pub(crate) fn decode(bytes: &[u8]) -> Option<Result<RgbImage8, String>> {
    let frame = Frame::of(bytes)?;
    frame.is_common.then(|| {
        let stated = frame.with_its_colours_stated(bytes);
        let mut decoder = Decoder::new(&stated).map_err(describe)?;
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

/// What the markers until the frame header say.
struct Frame {
    /// Huffman-coded, 8 bits, one component, or three of which only the first may be sampled more densely.
    is_common: bool,
    /// Where its marker is.
    at: usize,
    /// Whether three components are red, green and blue, by libjpeg's rule (`default_decompress_parms` in jdapimin.c): never in a JFIF
    /// file; else as Adobe's marker says; else by the components' names.
    is_rgb: bool,
    /// The transform in Adobe's marker, of which 0 is none.
    adobe_transform: Option<u8>,
}

impl Frame {
    /// `None` without a whole header.
    fn of(bytes: &[u8]) -> Option<Self> {
        let (mut at, mut is_jfif, mut adobe_transform) = (2, false, None);
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
                0x01 | 0xD0..=0xD8 => {
                    at += 1;
                    continue;
                }
                // Baseline, extended sequential and progressive, all Huffman-coded.
                0xC0..=0xC2 => {
                    let &[_, _, bits, _, _, _, _, components, ref rest @ ..] = segment else { return None };
                    let each = rest.as_chunks::<3>().0.iter().take(components.into());
                    let (names, sampling): (Vec<u8>, Vec<u8>) =
                        each.map(|&[name, sampling, _]| (name, sampling)).unzip();
                    let named_rgb = adobe_transform.is_none() && names == *b"RGB";
                    return Some(Self {
                        is_common: bits == 8
                            && matches!(sampling[..], [_] | [0x11 | 0x12 | 0x21 | 0x22, 0x11, 0x11]),
                        at: at - 1,
                        is_rgb: !is_jfif && (named_rgb || adobe_transform == Some(0)),
                        adobe_transform,
                    });
                }
                // Lossless, hierarchical and arithmetic-coded frames; scans before a frame.
                0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF | 0xD9 | 0xDA => {
                    return Some(Self { is_common: false, at, is_rgb: false, adobe_transform });
                }
                _ => {}
            }
            let &[high, low, ref content @ ..] = segment else { return None };
            let length = usize::from(u16::from_be_bytes([high, low])).max(2);
            let content = content.get(..length - 2)?;
            match marker {
                0xE0 => is_jfif |= content.len() >= 14 && content.starts_with(b"JFIF\0"),
                0xEE if content.len() >= 12 && content.starts_with(b"Adobe") => {
                    adobe_transform = content.get(11).copied();
                }
                _ => {}
            }
            at += 1 + length;
        }
    }

    /// The file with the marker that makes the decoder read its colours by libjpeg's rule: it asks Adobe's alone.
    fn with_its_colours_stated<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.is_rgb == (self.adobe_transform == Some(0)) {
            return Cow::Borrowed(bytes);
        }
        let (before, frame) = bytes.split_at(self.at);
        let marker = [b"\xFF\xEE\x00\x0EAdobe\x00\x64\x00\x00\x00\x00".as_slice(), &[u8::from(!self.is_rgb)]];
        Cow::Owned([&[before], &marker[..], &[frame]].concat().concat())
    }
}
