//! RandAugment (Cubuk et al., arXiv 1909.13719) with the 15 operations and strengths of timm's `rand` policy, on
//! bytes, as Pillow computes them.
//!
//! Differs from timm: rotations, shears and shifts are always bilinear (timm draws bilinear or bicubic), and what
//! comes in from outside is mid-grey.

use crate::rng::Rng;

/// Grey that is shifted in from outside.
const FILL: u8 = 128;

/// A square picture `[side, side, 3]` of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    bytes: Vec<u8>,
    side: usize,
}

impl Bitmap {
    /// `bytes` is `[side, side, 3]`.
    pub fn new(bytes: Vec<u8>, side: usize) -> Self {
        Self { bytes, side }
    }

    /// `[side, side, 3]`.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Swaps left and right.
    pub fn mirror(&mut self) {
        for row in self.bytes.chunks_exact_mut(self.side * 3) {
            for x in 0..self.side / 2 {
                (0..3).for_each(|c| row.swap(x * 3 + c, (self.side - 1 - x) * 3 + c));
            }
        }
    }

    /// Pixel (x, y) becomes what was at (x + dx, y + dy); black comes in from outside.
    #[must_use]
    pub fn shifted(&self, dx: i64, dy: i64) -> Self {
        let side = self.side as i64;
        let mut bytes = vec![0; self.bytes.len()];
        for (i, out) in bytes.chunks_exact_mut(3).enumerate() {
            let (x, y) = (i as i64 % side + dx, i as i64 / side + dy);
            if (0..side).contains(&x) && (0..side).contains(&y) {
                let from = ((y * side + x) * 3) as usize;
                out.copy_from_slice(&self.bytes[from..from + 3]);
            }
        }
        Self { bytes, side: self.side }
    }

    /// The centre of pixel (x, y) shows what is at `(a x + b y + c, d x + e y + f)`, bilinearly.
    #[must_use]
    pub fn affine(&self, [a, b, c, d, e, f]: [f64; 6]) -> Self {
        let side = self.side;
        let mut bytes = vec![FILL; self.bytes.len()];
        for (i, out) in bytes.chunks_exact_mut(3).enumerate() {
            let (x, y) = ((i % side) as f64 + 0.5, (i / side) as f64 + 0.5);
            let (u, v) = (a * x + b * y + c, d * x + e * y + f);
            if u < 0.0 || v < 0.0 || u >= side as f64 || v >= side as f64 {
                continue;
            }
            let (u, v) = (u - 0.5, v - 0.5);
            let (left, top) = (u.floor(), v.floor());
            let (dx, dy) = (u - left, v - top);
            let near = |at: f64| at.clamp(0.0, side as f64 - 1.0) as usize;
            let (x0, x1, y0, y1) = (near(left), near(left + 1.0), near(top), near(top + 1.0));
            for (channel, out) in out.iter_mut().enumerate() {
                let at = |x: usize, y: usize| f64::from(self.bytes[(y * side + x) * 3 + channel]);
                let upper = at(x0, y0) * (1.0 - dx) + at(x1, y0) * dx;
                let lower = at(x0, y1) * (1.0 - dx) + at(x1, y1) * dx;
                *out = to_byte(upper * (1.0 - dy) + lower * dy);
            }
        }
        Self { bytes, side }
    }

    fn map(mut self, f: impl Fn(u8) -> u8) -> Self {
        self.bytes.iter_mut().for_each(|byte| *byte = f(*byte));
        self
    }

    /// Luma as ITU-R BT.601 and Pillow round it.
    fn grey(&self) -> Vec<u8> {
        let luma = |p: &[u8]| {
            let sum = u32::from(p[0]) * 19595 + u32::from(p[1]) * 38470 + u32::from(p[2]) * 7471;
            ((sum + 0x8000) >> 16) as u8
        };
        self.bytes.chunks_exact(3).map(luma).collect()
    }

    /// `degenerate + factor * (image - degenerate)`, cut to bytes.
    fn enhanced(mut self, degenerate: impl Fn(usize) -> u8, factor: f64) -> Self {
        for (i, byte) in self.bytes.iter_mut().enumerate() {
            let base = f64::from(degenerate(i));
            *byte = (base + factor * (f64::from(*byte) - base)).clamp(0.0, 255.0) as u8;
        }
        self
    }

    /// Pillow's SMOOTH filter; the border stays.
    fn smoothed(&self) -> Vec<u8> {
        let (side, mut out) = (self.side, self.bytes.clone());
        for y in 1..side.saturating_sub(1) {
            for x in 1..side - 1 {
                for channel in 0..3 {
                    let at = |x: usize, y: usize| u32::from(self.bytes[(y * side + x) * 3 + channel]);
                    let around: u32 = (y - 1..=y + 1)
                        .flat_map(|v| (x - 1..=x + 1).map(move |u| (u, v)))
                        .map(|(u, v)| at(u, v))
                        .sum();
                    let weighted = f64::from(around + 4 * at(x, y)) / 13.0;
                    out[(y * side + x) * 3 + channel] = to_byte(weighted);
                }
            }
        }
        out
    }

    fn histogram(&self, channel: usize) -> [u32; 256] {
        let mut counts = [0; 256];
        self.bytes.iter().skip(channel).step_by(3).for_each(|&byte| counts[usize::from(byte)] += 1);
        counts
    }

    /// Replaces each channel's bytes by its table.
    fn through(mut self, table: impl Fn(&[u32; 256]) -> Option<[u8; 256]>) -> Self {
        for channel in 0..3 {
            if let Some(table) = table(&self.histogram(channel)) {
                self.bytes
                    .iter_mut()
                    .skip(channel)
                    .step_by(3)
                    .for_each(|byte| *byte = table[usize::from(*byte)]);
            }
        }
        self
    }
}

fn to_byte(value: f64) -> u8 {
    (value + 0.5).clamp(0.0, 255.0) as u8
}

/// Stretches what is there to 0..255.
fn stretch(counts: &[u32; 256]) -> Option<[u8; 256]> {
    let low = counts.iter().position(|&n| n > 0)?;
    let high = counts.iter().rposition(|&n| n > 0)?;
    if high <= low {
        return None;
    }
    let scale = 255.0 / (high - low) as f64;
    Some(std::array::from_fn(|i| (i as f64 * scale - low as f64 * scale).clamp(0.0, 255.0) as u8))
}

/// Makes all values about as frequent as each other.
fn equalise(counts: &[u32; 256]) -> Option<[u8; 256]> {
    let used: Vec<u32> = counts.iter().copied().filter(|&n| n > 0).collect();
    let (last, _) = used.split_last()?;
    let step = (used.iter().sum::<u32>() - last) / 255;
    if used.len() < 2 || step == 0 {
        return None;
    }
    let mut sum = step / 2;
    Some(std::array::from_fn(|i| {
        let value = (sum / step).min(255) as u8;
        sum += counts[i];
        value
    }))
}

/// An operation of RandAugment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Stretch each channel's range.
    AutoContrast,
    /// Equalise each channel's histogram.
    Equalize,
    /// Negative.
    Invert,
    /// About the centre, up to 30 degrees.
    Rotate,
    /// Keep the upper 0 to 4 bits.
    Posterize,
    /// Invert what is above a threshold.
    Solarize,
    /// Add to what is below 128.
    SolarizeAdd,
    /// Saturation.
    Color,
    /// Contrast around the mean grey.
    Contrast,
    /// Brightness.
    Brightness,
    /// Sharpness.
    Sharpness,
    /// Rows slide, up to 0.3.
    ShearX,
    /// Columns slide, up to 0.3.
    ShearY,
    /// Sideways, up to 0.45 of the side.
    TranslateX,
    /// Up or down, up to 0.45 of the side.
    TranslateY,
}

impl Operation {
    /// All of them, equally likely.
    pub const ALL: [Self; 15] = [
        Self::AutoContrast,
        Self::Equalize,
        Self::Invert,
        Self::Rotate,
        Self::Posterize,
        Self::Solarize,
        Self::SolarizeAdd,
        Self::Color,
        Self::Contrast,
        Self::Brightness,
        Self::Sharpness,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
    ];

    /// Applies it with a strength of 0 to 10; `sign` (1 or -1) is the direction of those that have one.
    #[must_use]
    pub fn apply(self, image: Bitmap, magnitude: f64, sign: f64) -> Bitmap {
        let level = magnitude / 10.0;
        let side = image.side as f64;
        match self {
            Self::AutoContrast => image.through(stretch),
            Self::Equalize => image.through(equalise),
            Self::Invert => image.map(|byte| 255 - byte),
            Self::Rotate => rotated(&image, sign * 30.0 * level),
            Self::Posterize => {
                let bits = (level * 4.0) as u32;
                let mask = if bits >= 8 { 255 } else { !(255u32 >> bits) as u8 };
                image.map(|byte| byte & mask)
            }
            Self::Solarize => {
                let threshold = (level * 256.0) as u32;
                image.map(|byte| if u32::from(byte) < threshold { byte } else { 255 - byte })
            }
            Self::SolarizeAdd => {
                let add = (level * 110.0).min(128.0) as u8;
                image.map(|byte| if byte < 128 { byte.saturating_add(add) } else { byte })
            }
            Self::Color => {
                let grey = image.grey();
                image.enhanced(|i| grey[i / 3], enhancement(level))
            }
            Self::Contrast => {
                let grey = image.grey();
                let mean = grey.iter().map(|&g| f64::from(g)).sum::<f64>() / grey.len().max(1) as f64;
                image.enhanced(|_| to_byte(mean), enhancement(level))
            }
            Self::Brightness => image.enhanced(|_| 0, enhancement(level)),
            Self::Sharpness => {
                let smooth = image.smoothed();
                image.enhanced(|i| smooth[i], enhancement(level))
            }
            Self::ShearX => image.affine([1.0, sign * 0.3 * level, 0.0, 0.0, 1.0, 0.0]),
            Self::ShearY => image.affine([1.0, 0.0, 0.0, sign * 0.3 * level, 1.0, 0.0]),
            Self::TranslateX => image.affine([1.0, 0.0, sign * 0.45 * level * side, 0.0, 1.0, 0.0]),
            Self::TranslateY => image.affine([1.0, 0.0, 0.0, 0.0, 1.0, sign * 0.45 * level * side]),
        }
    }
}

/// 1 leaves the image as it is.
fn enhancement(level: f64) -> f64 {
    level * 1.8 + 0.1
}

/// Counter-clockwise about the centre.
fn rotated(image: &Bitmap, degrees: f64) -> Bitmap {
    let (sin, cos) = (-degrees.to_radians()).sin_cos();
    let center = image.side as f64 / 2.0;
    let (c, f) = (center - cos * center - sin * center, center + sin * center - cos * center);
    image.affine([cos, sin, c, -sin, cos, f])
}

/// One operation, drawn with its direction.
pub(super) fn random_operation(image: Bitmap, magnitude: f64, rng: &mut Rng) -> Bitmap {
    let operation = Operation::ALL[rng.below(Operation::ALL.len() as u64) as usize];
    let sign = if rng.next_u64() & 1 == 1 { -1.0 } else { 1.0 };
    operation.apply(image, magnitude, sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pillow's results on one picture: `tests/fixtures/make_rand_augment.py`.
    #[test]
    fn operations_agree_with_pillow() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rand_augment.safetensors");
        let file = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
        let bytes = |name: &str| file[name].flatten_all().unwrap().to_vec1::<u8>().unwrap();
        let image = Bitmap::new(bytes("image"), 24);
        for operation in Operation::ALL {
            for (magnitude, sign) in [(9.0, 1.0), (4.0, -1.0)] {
                let expected = bytes(&format!("{operation:?}{magnitude}"));
                let got = operation.apply(image.clone(), magnitude, sign);
                let off = got.bytes().iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).collect::<Vec<_>>();
                // Pillow interpolates and filters in fixed point: a level more or less.
                let worst = off.iter().max().copied().unwrap();
                assert!(worst <= 1, "{operation:?} {magnitude}: off by {worst}");
                assert!(got != image, "{operation:?} {magnitude} does nothing");
            }
        }
    }
}
