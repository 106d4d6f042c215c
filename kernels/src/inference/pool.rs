//! The pools of Inception-v3.

use super::Map;

crate::multiversion! {
    /// The largest of each 3x3 window, without padding (`stride` 2) or with one pixel of it (`stride` 1), into channels
    /// `offset..` of `output`.
    pub fn max_pool3(input: &Map, output: &mut Map, offset: usize, stride: usize) {
        let padding = usize::from(stride == 1);
        let (channels, total) = (input.channels, output.channels);
        for image in 0..input.images {
            let data = input.image(image);
            for y in 0..output.height {
                for x in 0..output.width {
                    let pixel = ((image * output.height + y) * output.width + x) * total + offset;
                    let out = &mut output.data[pixel..][..channels];
                    out.fill(f32::NEG_INFINITY);
                    for row in (y * stride).saturating_sub(padding)..(y * stride + 3 - padding).min(input.height) {
                        for column in (x * stride).saturating_sub(padding)..(x * stride + 3 - padding).min(input.width) {
                            let values = &data[(row * input.width + column) * channels..][..channels];
                            for (out, &value) in out.iter_mut().zip(values) {
                                // A NaN is not hidden, wherever it stands in its window.
                                *out = if *out > value || out.is_nan() { *out } else { value };
                            }
                        }
                    }
                }
            }
        }
    }

    /// The mean of each 3x3 window (stride 1) over the pixels that exist, then ReLU, into channels `offset..` of
    /// `output`. Padding is not counted: the FID network's own rule.
    pub fn average_pool3_relu(input: &Map, output: &mut Map, offset: usize) {
        let (channels, total) = (input.channels, output.channels);
        for image in 0..input.images {
            let data = input.image(image);
            for y in 0..output.height {
                for x in 0..output.width {
                    let pixel = ((image * output.height + y) * output.width + x) * total + offset;
                    let out = &mut output.data[pixel..][..channels];
                    out.fill(0.0);
                    let rows = y.saturating_sub(1)..(y + 2).min(input.height);
                    let columns = x.saturating_sub(1)..(x + 2).min(input.width);
                    let scale = 1.0 / (rows.len() * columns.len()) as f32;
                    for row in rows {
                        for column in columns.clone() {
                            let values = &data[(row * input.width + column) * channels..][..channels];
                            for (out, &value) in out.iter_mut().zip(values) {
                                *out += value;
                            }
                        }
                    }
                    for out in out.iter_mut() {
                        let mean = *out * scale;
                        *out = if mean < 0.0 { 0.0 } else { mean };
                    }
                }
            }
        }
    }
}

/// The mean over all pixels of one image, summed in f64: `[channels]`.
pub fn global_average(input: &Map, image: usize) -> Vec<f32> {
    let mut sums = vec![0f64; input.channels];
    for pixel in input.image(image).chunks_exact(input.channels) {
        for (sum, &value) in sums.iter_mut().zip(pixel) {
            *sum += f64::from(value);
        }
    }
    let pixels = (input.height * input.width) as f64;
    sums.iter().map(|sum| (sum / pixels) as f32).collect()
}
