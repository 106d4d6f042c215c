//! Encoded bytes to 8-bit RGB, under limits that are checked against the header before pixels are allocated.
//!
//! The rule for everything that is not 8-bit RGB:
//! - grey is copied to the three channels; palettes and 1, 2, 4-bit depths are expanded;
//! - alpha is composited over white, in the stored (gamma) values: `c*a + 255*(1-a)`, rounded;
//! - 16-bit samples are scaled to 0..255 and rounded, float RGB is clipped to 0..1 first;
//! - CMYK and YCCK JPEGs are converted as Adobe writes them (inverted inks, multiplied by black);
//! - an animation gives its first frame; EXIF rotation and colour profiles are ignored, as the common loaders do.
//!
//! A JPEG that ends before its end marker is an error: most decoders fill the missing part with grey and say nothing.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use crate::jpeg;

/// An 8-bit RGB image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage8 {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Pixels, row by row, channels last: `height * width * 3` bytes.
    pub data: Vec<u8>,
}

/// What an image's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Samples per pixel as stored, before conversion to RGB (palettes count as what they expand to).
    pub channels: u8,
    /// Bits per sample as stored.
    pub bits: u8,
}

/// Sizes beyond which a file is refused instead of read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest encoded image file, bytes.
    pub max_file_bytes: u64,
    /// Largest `width * height` that a header may claim.
    pub max_pixels: u64,
    /// Largest total of the files unpacked from one compressed archive, bytes.
    pub max_unpacked_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_file_bytes: 256 << 20, max_pixels: 1 << 27, max_unpacked_bytes: 256 << 30 }
    }
}

type Decoded<T> = std::result::Result<T, String>;

/// Reads size and channels without decoding pixels.
///
/// # Errors
/// The reason, as text: not an image, a damaged header, or more pixels than `limits` allow.
pub fn read_header(bytes: &[u8], limits: &Limits) -> Decoded<Header> {
    let decoder = open_decoder(bytes, limits)?;
    let (width, height) = decoder.dimensions();
    let stored = decoder.original_color_type();
    let channels = stored.channel_count();
    let bits = (stored.bits_per_pixel() / u16::from(channels.max(1))) as u8;
    Ok(Header { width, height, channels, bits })
}

/// Decodes to RGB by the rule in the module's header.
///
/// # Errors
/// The reason, as text: not an image, damaged, truncated, or over `limits`.
pub fn decode_rgb(bytes: &[u8], limits: &Limits) -> Decoded<RgbImage8> {
    let decoder = open_decoder(bytes, limits)?;
    if image::guess_format(bytes).ok() == Some(ImageFormat::Jpeg) {
        if !jpeg_reaches_end_marker(bytes) {
            return Err("truncated: the JPEG data stop before the end marker".to_owned());
        }
        if let Some(decoded) = jpeg::decode(bytes) {
            return decoded;
        }
    }
    let image = DynamicImage::from_decoder(decoder).map_err(describe)?;
    Ok(to_rgb_over_white(image))
}

fn open_decoder<'a>(bytes: &'a [u8], limits: &Limits) -> Decoded<impl ImageDecoder + 'a> {
    if bytes.is_empty() {
        return Err("the file is empty".to_owned());
    }
    let mut reader = ImageReader::new(Cursor::new(bytes));
    let format = image::guess_format(bytes)
        .map_err(|_| "its first bytes are not those of a PNG, JPEG, WebP, BMP, GIF or TIFF".to_owned())?;
    reader.set_format(format);
    // 8 bytes a pixel covers 16-bit RGBA; the rest is working memory of the codec.
    let mut codec_limits = image::Limits::default();
    codec_limits.max_alloc = Some(limits.max_pixels.saturating_mul(8).saturating_add(64 << 20));
    reader.limits(codec_limits);
    let decoder = reader.into_decoder().map_err(describe)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(format!("its header says {width}x{height} px"));
    }
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(format!(
            "its header says {width}x{height} px, above the limit of {} megapixels",
            limits.max_pixels / 1_000_000
        ));
    }
    Ok(decoder)
}

fn describe(error: image::ImageError) -> String {
    let text = error.to_string();
    if text.contains("unexpected end of file") || text.contains("UnexpectedEof") {
        return format!("truncated: {text}");
    }
    text
}

/// Walks the JPEG's segments; true if an end-of-image marker closes the last scan. Embedded thumbnails sit inside
/// segments and are skipped, bytes after the end are allowed.
fn jpeg_reaches_end_marker(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    const END_OF_IMAGE: u8 = 0xD9;
    let mut at = 2;
    let mut in_scan = false;
    while let Some(&byte) = bytes.get(at) {
        if byte != 0xFF {
            at += 1;
            continue;
        }
        let Some(&marker) = bytes.get(at + 1) else { return false };
        at += 1;
        match marker {
            0xFF => {}
            END_OF_IMAGE => return true,
            0x00 | 0x01 | 0xD0..=0xD8 => at += 1,
            _ => {
                let Some(&[high, low]) = bytes.get(at + 1..at + 3) else { return false };
                if in_scan && marker < 0xC0 {
                    at += 1;
                    continue;
                }
                at += 1 + usize::from(u16::from_be_bytes([high, low])).max(2);
                in_scan |= marker == START_OF_SCAN;
            }
        }
    }
    false
}

fn to_rgb_over_white(image: DynamicImage) -> RgbImage8 {
    let (width, height) = (image.width(), image.height());
    let data = if image.color().has_alpha() {
        let rgba = match image {
            DynamicImage::ImageRgba8(rgba) => rgba,
            other => other.into_rgba8(),
        };
        let mut data = Vec::with_capacity(rgba.as_raw().len() / 4 * 3);
        for &[red, green, blue, alpha] in rgba.as_raw().as_chunks::<4>().0 {
            let alpha = u32::from(alpha);
            for value in [red, green, blue] {
                data.push(((u32::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
            }
        }
        data
    } else {
        match image {
            DynamicImage::ImageRgb8(rgb) => rgb.into_raw(),
            other => other.into_rgb8().into_raw(),
        }
    };
    RgbImage8 { width, height, data }
}
