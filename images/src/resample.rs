//! Centre crop and antialiased resize of 8-bit RGB, the same bits on every machine and thread count.
//!
//! The square in the middle (of side `min(width, height)`, rounding down to the left and top) is brought to `res` px:
//! - equal sides: copied;
//! - an integer reduction: each pixel is the rounded mean of its box ([`Filter::Box`]);
//! - anything else: Lanczos3 with its support widened by the reduction ([`Filter::Lanczos3`]), in two passes with
//!   weights in fixed point (22 bits) and an 8-bit picture between the passes, the way Pillow resizes 8-bit images.
//!
//! Everything is done in the stored (gamma) values, as the field's tools do.

#![expect(clippy::indexing_slicing, reason = "arithmetic on sizes that `RgbImage8` holds")]

use crate::decode::RgbImage8;

/// How pixels were brought to their resolution; recorded in packs and run folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The side already was the resolution.
    None,
    /// Mean over boxes, for integer reductions.
    Box,
    /// Lanczos with three lobes, antialiased.
    Lanczos3,
}

impl Filter {
    /// The filter used from `side` to `res` pixels.
    pub fn between(side: u32, res: u32) -> Filter {
        if side == res {
            Filter::None
        } else if side > res && side.is_multiple_of(res) {
            Filter::Box
        } else {
            Filter::Lanczos3
        }
    }
}

/// Name of the whole rule, for records: which filter an image gets depends on its size alone.
pub const RESAMPLING: &str = "center-crop, box for integer factors, else lanczos3";

/// Crops the centre square and resizes it to `res` x `res`: `res * res * 3` bytes, channels last. `res` must be positive.
pub fn to_square(image: &RgbImage8, res: u32) -> Vec<u8> {
    let side = image.width.min(image.height);
    let square = crop_center(image, side);
    match Filter::between(side, res) {
        Filter::None => square,
        Filter::Box => box_mean(&square, side as usize, (side / res) as usize),
        Filter::Lanczos3 => lanczos3(&square, side as usize, res as usize),
    }
}

fn crop_center(image: &RgbImage8, side: u32) -> Vec<u8> {
    let left = ((image.width - side) / 2) as usize;
    let top = ((image.height - side) / 2) as usize;
    let row_bytes = image.width as usize * 3;
    let rows = image.data.chunks_exact(row_bytes).skip(top).take(side as usize);
    rows.flat_map(|row| &row[left * 3..(left + side as usize) * 3]).copied().collect()
}

fn box_mean(pixels: &[u8], side: usize, factor: usize) -> Vec<u8> {
    let res = side / factor;
    let area = (factor * factor) as u64;
    let mut out = Vec::with_capacity(res * res * 3);
    let mut sums = vec![0_u64; res * 3];
    for band in pixels.chunks_exact(side * 3 * factor) {
        sums.fill(0);
        for row in band.chunks_exact(side * 3) {
            for (sum, cell) in sums.chunks_exact_mut(3).zip(row.chunks_exact(3 * factor)) {
                for pixel in cell.chunks_exact(3) {
                    sum[0] += u64::from(pixel[0]);
                    sum[1] += u64::from(pixel[1]);
                    sum[2] += u64::from(pixel[2]);
                }
            }
        }
        out.extend(sums.iter().map(|&sum| ((sum + area / 2) / area) as u8));
    }
    out
}

const FIXED_POINT_BITS: u32 = 22;

/// The input samples that make one output sample.
struct Tap {
    first: usize,
    weights: Vec<i32>,
}

fn lanczos3(pixels: &[u8], side: usize, res: usize) -> Vec<u8> {
    let taps = lanczos3_taps(side, res);
    let narrow = resize_rows(pixels, side, &taps);
    resize_columns(&narrow, res, &taps)
}

fn lanczos3_taps(side: usize, res: usize) -> Vec<Tap> {
    const LOBES: f64 = 3.0;
    let scale = side as f64 / res as f64;
    let stretch = scale.max(1.0);
    let support = LOBES * stretch;
    (0..res)
        .map(|out| {
            let center = (out as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let last = ((center + support + 0.5) as usize).min(side);
            let weight = |i: usize| lanczos((i as f64 + 0.5 - center) / stretch, LOBES);
            let total: f64 = (first..last).map(weight).sum();
            let fixed = |i| (weight(i) / total * f64::from(1 << FIXED_POINT_BITS)).round() as i32;
            Tap { first, weights: (first..last).map(fixed).collect() }
        })
        .collect()
}

fn lanczos(x: f64, lobes: f64) -> f64 {
    let sinc = |x: f64| {
        let x = x * std::f64::consts::PI;
        if x == 0.0 { 1.0 } else { x.sin() / x }
    };
    if x.abs() < lobes { sinc(x) * sinc(x / lobes) } else { 0.0 }
}

/// `[rows, side, 3]` to `[rows, res, 3]`.
fn resize_rows(pixels: &[u8], side: usize, taps: &[Tap]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pixels.len() / side.max(1) * taps.len());
    for row in pixels.chunks_exact(side * 3) {
        for tap in taps {
            let mut sums = [1_i64 << (FIXED_POINT_BITS - 1); 3];
            for (&weight, pixel) in tap.weights.iter().zip(row[tap.first * 3..].chunks_exact(3)) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i64::from(weight) * i64::from(value);
                }
            }
            out.extend(sums.map(to_u8));
        }
    }
    out
}

/// `[rows, res, 3]` to `[res, res, 3]`.
fn resize_columns(pixels: &[u8], res: usize, taps: &[Tap]) -> Vec<u8> {
    let row_bytes = res * 3;
    let mut out = Vec::with_capacity(taps.len() * row_bytes);
    let mut sums = vec![0_i64; row_bytes];
    for tap in taps {
        sums.fill(1 << (FIXED_POINT_BITS - 1));
        for (&weight, row) in tap.weights.iter().zip(pixels[tap.first * row_bytes..].chunks_exact(row_bytes)) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i64::from(weight) * i64::from(value);
            }
        }
        out.extend(sums.iter().copied().map(to_u8));
    }
    out
}

fn to_u8(sum: i64) -> u8 {
    (sum >> FIXED_POINT_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(width: u32, height: u32) -> RgbImage8 {
        let pixel = |i: u32| [(i * 7 % 256) as u8, (i * 13 % 251) as u8, (i % 256) as u8];
        RgbImage8 { width, height, data: (0..width * height).flat_map(pixel).collect() }
    }

    #[test]
    fn equal_sizes_are_copied_and_the_crop_is_central() {
        let image = gradient(5, 3);
        let square = to_square(&image, 3);
        assert_eq!(&square[..9], &image.data[3..12]);
        assert_eq!(square.len(), 27);
        // Of a tall one the middle rows.
        let image = gradient(3, 5);
        assert_eq!(to_square(&image, 3), &image.data[9..36]);
        // An odd one out is left on the right, or below.
        let (wide, tall) = (gradient(6, 3), gradient(3, 6));
        assert_eq!(to_square(&wide, 3)[..9], wide.data[3..12]);
        assert_eq!(to_square(&tall, 3), &tall.data[9..36]);
    }

    #[test]
    fn integer_factors_take_the_rounded_mean_of_each_box() {
        let data = vec![0, 0, 0, 10, 1, 255, 20, 2, 255, 31, 3, 255];
        assert_eq!(to_square(&RgbImage8 { width: 2, height: 2, data }, 1), [15, 2, 191]);
        // Boxes side by side and below one another: quarters of 4x4 with means of their own.
        let pixel = |i: u8| [3 + 2 * (i % 4 / 2) + 8 * (i / 8), 100, 200 - i % 4 / 2 - 3 * (i / 8)];
        let data = (0..16).flat_map(pixel).collect();
        let halved = to_square(&RgbImage8 { width: 4, height: 4, data }, 2);
        assert_eq!(halved, [3, 100, 200, 5, 100, 199, 11, 100, 197, 13, 100, 196]);
    }

    #[test]
    fn flat_colours_stay_exact_under_lanczos() {
        for (side, res) in [(7, 5), (5, 7), (100, 32), (1, 8), (33, 64)] {
            let data = [201_u8, 0, 255].repeat(side * side);
            let image = RgbImage8 { width: side as u32, height: side as u32, data };
            assert_eq!(to_square(&image, res as u32), [201_u8, 0, 255].repeat(res * res), "{side} -> {res}");
        }
    }

    /// Values from `Image.fromarray(a).resize((5, 5), Image.LANCZOS)` of Pillow 13 on the 8x8 gradient above; made by
    /// `tests/fixtures/pillow_lanczos.py`.
    #[test]
    fn lanczos_agrees_with_pillow() {
        const PILLOW: &[u8] = include_bytes!("../tests/fixtures/pillow_lanczos_8_to_5.bin");
        assert_eq!(to_square(&gradient(8, 8), 5), PILLOW);
        const PILLOW_UP: &[u8] = include_bytes!("../tests/fixtures/pillow_lanczos_8_to_11.bin");
        assert_eq!(to_square(&gradient(8, 8), 11), PILLOW_UP);
    }
}
