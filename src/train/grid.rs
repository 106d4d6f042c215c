//! Pictures of many images at once, and how much those images differ.

use std::path::Path;

use candle_core::{Result, Tensor};
use nestgen_kernels::cpu::with_downloaded;

use super::files::write_atomic;
use crate::error::Error;

/// An RGB picture: `pixels` holds `height * width * 3` bytes, rows from the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Columns of pixels.
    pub width: u32,
    /// Rows of pixels.
    pub height: u32,
    /// Red, green, blue of each pixel.
    pub pixels: Vec<u8>,
}

/// The byte of a value in -1..1; what lies outside is clamped.
pub fn to_byte(value: f32) -> u8 {
    ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8
}

impl Picture {
    /// Lays `images [N, H, W, 3]` in -1..1 out in rows of `columns`; cells left over stay white.
    pub fn grid(images: &Tensor, columns: usize) -> Result<Self> {
        let (count, height, width, _) = images.dims4()?;
        let columns = columns.clamp(1, count.max(1));
        let rows = count.div_ceil(columns);
        let row_len = columns * width * 3;
        let mut pixels = vec![255u8; rows * height * row_len];
        with_downloaded::<f32, _>(images, |data| {
            for (i, line) in data.chunks_exact(width * 3).enumerate() {
                let (image, y) = (i / height, i % height);
                let start = (image / columns * height + y) * row_len + image % columns * width * 3;
                let cells = pixels.iter_mut().skip(start);
                cells.zip(line).for_each(|(pixel, &value)| *pixel = to_byte(value));
            }
            Ok(())
        })?;
        Ok(Self { width: (columns * width) as u32, height: (rows * height) as u32, pixels })
    }

    /// The picture as a PNG file.
    ///
    /// # Errors
    /// When the encoder refuses it (a side of zero).
    pub fn png(&self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        let color = image::ExtendedColorType::Rgb8;
        image::ImageEncoder::write_image(encoder, &self.pixels, self.width, self.height, color)
            .map_err(std::io::Error::other)?;
        Ok(bytes)
    }

    /// Writes the picture as a PNG file, wholly or not at all, and gives its bytes back.
    ///
    /// # Errors
    /// As [`Picture::png`], and when the file cannot be written.
    pub fn write(&self, path: &Path) -> crate::error::Result<Vec<u8>> {
        let png = self.png().map_err(Error::io("write", path))?;
        write_atomic(path, |file| file.write_all(&png))?;
        Ok(png)
    }
}

/// How much images `[N, H, W, 3]` differ: the standard deviation over the images, averaged over all values.
/// 0 when they are all the same.
pub fn diversity(images: &Tensor) -> Result<f64> {
    let count = images.dim(0)?;
    let len = images.elem_count() / count.max(1);
    with_downloaded::<f32, _>(images, |data| {
        let (mut sum, mut square_sum) = (vec![0f64; len], vec![0f64; len]);
        for image in data.chunks_exact(len.max(1)) {
            for ((sum, square_sum), &x) in sum.iter_mut().zip(&mut square_sum).zip(image) {
                *sum += f64::from(x);
                *square_sum += f64::from(x) * f64::from(x);
            }
        }
        let count = count as f64;
        let deviation = |(s, q): (&f64, &f64)| (q / count - (s / count) * (s / count)).max(0.0).sqrt();
        Ok(sum.iter().zip(&square_sum).map(deviation).sum::<f64>() / len.max(1) as f64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn cells_are_where_they_belong() -> Result<()> {
        // Three images of 1 x 2 pixels with values -1, 0, 1, two a row.
        let values = [-1f32, 0.0, 1.0].iter().flat_map(|&v| [v; 6]).collect::<Vec<_>>();
        let picture = Picture::grid(&Tensor::from_vec(values, (3, 1, 2, 3), &Device::Cpu)?, 2)?;
        assert_eq!((picture.width, picture.height), (4, 2));
        let reds: Vec<u8> = picture.pixels.iter().step_by(3).copied().collect();
        assert_eq!(reds, [0, 0, 128, 128, 255, 255, 255, 255]);
        let decoded = image::load_from_memory(&picture.png()?).map_err(candle_core::Error::wrap)?;
        assert_eq!(decoded.to_rgb8().into_raw(), picture.pixels);
        Ok(())
    }

    #[test]
    fn diversity_is_the_standard_deviation_over_images() -> Result<()> {
        let images = Tensor::new(&[-1f32, 1.0], &Device::Cpu)?.reshape((2, 1, 1, 1))?;
        assert!((diversity(&images)? - 1.0).abs() < 1e-12);
        assert_eq!(diversity(&images.zeros_like()?)?, 0.0);
        Ok(())
    }

    #[test]
    fn values_round_to_the_nearest_byte() {
        assert_eq!([-1.5, -1.0, 0.0, 0.999, 1.0, 9.0].map(to_byte), [0, 0, 128, 255, 255, 255]);
    }
}
