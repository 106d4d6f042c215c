//! From 8-bit RGB of any size to the network's square input, 299x299 for Inception, by the rule of one of three
//! reference tools.
//!
//! The rules differ in filter, in where pixel centres lie, and in the scale of the result; each is a different
//! metric. All sums are in f64 and nothing is rounded to 8 bits on the way.

use std::collections::{HashMap, VecDeque};

use nestgen_images::RgbImage8;

use crate::inception::SIDE;

/// How images become network inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// pytorch-fid: bilinear, half-pixel centres, no antialiasing; scaled to -1..1 by 2x/255 - 1.
    #[default]
    Pytorch,
    /// TTUR, torch-fidelity, NVlabs: TensorFlow 1's bilinear (source = target * in / out, no half pixel); scaled by
    /// (x - 128) / 128.
    Tf1,
    /// clean-fid: Pillow's antialiased bicubic on floats, clipped to 0..255; scaled by (x - 128) / 128.
    Clean,
}

impl Resize {
    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Resize::Pytorch => "pytorch",
            Resize::Tf1 => "tf1",
            Resize::Clean => "clean",
        }
    }
}

impl std::fmt::Display for Resize {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Resize {
    type Err = crate::Error;
    fn from_str(text: &str) -> crate::Result<Self> {
        let known = [Resize::Pytorch, Resize::Tf1, Resize::Clean];
        known.into_iter().find(|resize| resize.name() == text).ok_or_else(|| crate::Error::Setting {
            setting: "resize",
            value: text.to_owned(),
            reason: "one of pytorch, tf1, clean".into(),
        })
    }
}

/// The source samples of one target sample.
#[derive(Debug)]
struct Window {
    first: usize,
    weights: Vec<f64>,
}

/// The filter windows of one axis from `size` samples to `side`.
fn windows(size: usize, side: usize, resize: Resize) -> Vec<Window> {
    let scale = size as f64 / side as f64;
    let bilinear = |source: f64| {
        let first = (source as usize).min(size - 1);
        let fraction = source - first as f64;
        if first + 1 < size {
            Window { first, weights: vec![1.0 - fraction, fraction] }
        } else {
            Window { first, weights: vec![1.0] }
        }
    };
    (0..side)
        .map(|target| match resize {
            Resize::Pytorch => bilinear(((target as f64 + 0.5) * scale - 0.5).max(0.0)),
            Resize::Tf1 => bilinear(target as f64 * scale),
            Resize::Clean => bicubic((target as f64 + 0.5) * scale, scale.max(1.0), size),
        })
        .collect()
}

/// Pillow's bicubic window (a = -0.5) around `centre`, widened by `stretch` when shrinking.
fn bicubic(centre: f64, stretch: f64, size: usize) -> Window {
    let support = 2.0 * stretch;
    let first = (centre - support + 0.5).max(0.0) as usize;
    let end = ((centre + support + 0.5) as usize).min(size);
    let kernel = |x: f64| {
        const A: f64 = -0.5;
        let x = x.abs();
        if x < 1.0 {
            ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
        } else if x < 2.0 {
            (((x - 5.0) * x + 8.0) * x - 4.0) * A
        } else {
            0.0
        }
    };
    let weights: Vec<f64> = (first..end).map(|i| kernel((i as f64 - centre + 0.5) / stretch)).collect();
    let sum: f64 = weights.iter().sum();
    Window { first, weights: weights.into_iter().map(|w| w / sum).collect() }
}

/// Turns images into network inputs; keeps the filter windows of the sizes it has seen.
#[derive(Debug)]
pub struct Preprocessor {
    resize: Resize,
    side: usize,
    windows: HashMap<usize, Vec<Window>>,
}

/// Sizes whose windows are kept; a folder of all different sizes must not fill the memory.
const KEPT_SIZES: usize = 64;

impl Preprocessor {
    /// For the Inception network, by one rule.
    pub fn new(resize: Resize) -> Self {
        Self::with_side(resize, SIDE)
    }

    /// For a network of another input size, `side` x `side` pixels.
    pub fn with_side(resize: Resize, side: usize) -> Self {
        Self { resize, side, windows: HashMap::new() }
    }

    /// Fills `pixels` `[299, 299, 3]` with the network input for `image`: f32 in -1..1 (`pytorch`) or
    /// -1..0.9922 (`tf1`, `clean`).
    pub fn run(&mut self, image: &RgbImage8, pixels: &mut [f32]) {
        let resize = self.resize;
        self.resample(image, pixels, |_, level| match resize {
            Resize::Pytorch => (level / 127.5 - 1.0) as f32,
            Resize::Tf1 => ((level - 128.0) / 128.0) as f32,
            Resize::Clean => ((level.clamp(0.0, 255.0) - 128.0) / 128.0) as f32,
        });
    }

    /// Fills `pixels` `[side, side, 3]` with `finish(channel, level)` of the resized image; levels are about 0..255,
    /// which the bicubic filter of `clean` may leave a little.
    pub fn resample(&mut self, image: &RgbImage8, pixels: &mut [f32], finish: impl Fn(usize, f64) -> f32) {
        let (width, height, side) = (image.width as usize, image.height as usize, self.side);
        if self.windows.len() > KEPT_SIZES {
            self.windows.clear();
        }
        for size in [width, height] {
            self.windows.entry(size).or_insert_with(|| windows(size, side, self.resize));
        }
        let (across, down) = (&self.windows[&width], &self.windows[&height]);
        // Source rows, already resized across, from the first that is still needed.
        let mut rows: VecDeque<Vec<f32>> = VecDeque::new();
        let mut first_row = 0;
        let mut sums = vec![0f64; side * 3];
        for (window, out) in down.iter().zip(pixels.chunks_exact_mut(side * 3)) {
            while first_row < window.first {
                if rows.pop_front().is_none() {
                    first_row = window.first;
                    break;
                }
                first_row += 1;
            }
            while rows.len() < window.weights.len() {
                let row = first_row + rows.len();
                rows.push_back(resize_row(&image.data[row * width * 3..][..width * 3], across));
            }
            sums.fill(0.0);
            for (row, &weight) in rows.iter().zip(&window.weights) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += weight * f64::from(value);
                }
            }
            for (out, sums) in out.chunks_exact_mut(3).zip(sums.chunks_exact(3)) {
                for (channel, (out, &sum)) in out.iter_mut().zip(sums).enumerate() {
                    *out = finish(channel, sum);
                }
            }
        }
    }
}

/// One row of pixels `[width, 3]` to `[side, 3]`, values 0..255.
fn resize_row(row: &[u8], across: &[Window]) -> Vec<f32> {
    let mut out = Vec::with_capacity(across.len() * 3);
    for window in across {
        let mut sums = [0f64; 3];
        for (pixel, &weight) in row[window.first * 3..].chunks_exact(3).zip(&window.weights) {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += weight * f64::from(value);
            }
        }
        out.extend(sums.map(|sum| sum as f32));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(resize: Resize, width: u32, height: u32, data: Vec<u8>) -> Vec<f32> {
        let mut pixels = vec![0.0; SIDE * SIDE * 3];
        Preprocessor::new(resize).run(&RgbImage8 { width, height, data }, &mut pixels);
        pixels
    }

    #[test]
    fn a_flat_image_stays_flat_in_every_mode_and_size() {
        for (resize, expected) in [(Resize::Pytorch, 1.0), (Resize::Tf1, 0.9921875), (Resize::Clean, 0.9921875)]
        {
            for (width, height) in [(1, 1), (64, 3), (299, 299), (700, 311), (2, 1300)] {
                let pixels = run(resize, width, height, vec![255; (width * height * 3) as usize]);
                assert!(pixels.iter().all(|&x| (x - expected).abs() < 1e-6), "{resize} {width}x{height}");
            }
        }
    }

    #[test]
    fn the_modes_place_pixel_centres_as_their_tools_do() {
        // A step from 0 to 255 between two pixels.
        let step = vec![0, 0, 0, 255, 255, 255];
        let value = |resize, x: usize| run(resize, 2, 1, step.clone())[x * 3];
        // Half-pixel centres: the middle of the row is the middle of the step.
        assert!(value(Resize::Pytorch, 149).abs() < 1e-6);
        assert_eq!(value(Resize::Pytorch, 0), -1.0);
        // TensorFlow 1: the second pixel is reached at half of the row and held to its end.
        assert!((value(Resize::Tf1, 149) - ((255.0 * 298.0 / 299.0 - 128.0) / 128.0)).abs() < 1e-6);
        assert_eq!(value(Resize::Tf1, 298), 0.9921875);
    }

    #[test]
    fn the_clean_rule_averages_what_it_makes_smaller() {
        // Every second column white, three of them for each one that is left.
        let row: Vec<u8> = (0..897).flat_map(|x| [255 * (x % 2) as u8; 3]).collect();
        let worst = |resize| run(resize, 897, 1, row.clone()).iter().fold(0f32, |worst, x| worst.max(x.abs()));
        assert!(worst(Resize::Clean) < 0.12, "{}", worst(Resize::Clean));
        assert!(worst(Resize::Pytorch) > 0.9, "{}", worst(Resize::Pytorch));
    }

    #[test]
    fn the_networks_own_size_is_left_alone() {
        let data: Vec<u8> = (0..SIDE * SIDE * 3).map(|i| (i * 31 % 256) as u8).collect();
        for resize in [Resize::Pytorch, Resize::Tf1, Resize::Clean] {
            let pixels = run(resize, SIDE as u32, SIDE as u32, data.clone());
            for (x, &byte) in pixels.iter().zip(&data) {
                let expected = match resize {
                    Resize::Pytorch => f32::from(byte) / 127.5 - 1.0,
                    _ => (f32::from(byte) - 128.0) / 128.0,
                };
                assert!((x - expected).abs() < 1e-6);
            }
        }
    }
}
