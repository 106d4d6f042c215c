//! Initial values of parameters, drawn from a stream that the parameter's name selects.

use candle_core::{DType, Device, Result, Tensor};

use crate::rng::Rng;

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// Normal with this standard deviation.
    Normal(f64),
    /// Normal with this standard deviation before values beyond two of them are drawn again.
    TruncNormal(f64),
    /// [`Init::TruncNormal`] for the weight `[4 C, in]` before a pixel shuffle, with one row for the four pixels that become
    /// of a token: at first the shuffle is nearest-neighbour upsampling (Aitken et al., arXiv 1707.02937).
    BeforePixelShuffle(f64),
    /// Glorot and Bengio's uniform distribution: variance `2 / (fan_in + fan_out)`.
    Xavier,
}

impl Init {
    /// A tensor of `shape` (`[out, .., in]` for weights). The same numbers for every element type.
    pub fn tensor(self, shape: &[usize], dtype: DType, device: &Device, mut rng: Rng) -> Result<Tensor> {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = match self {
            Self::Zeros => return Tensor::zeros(shape, dtype, device),
            Self::Ones => return Tensor::ones(shape, dtype, device),
            Self::Normal(std) => (0..count).map(|_| rng.normal() * std as f32).collect(),
            Self::TruncNormal(std) => (0..count).map(|_| trunc_normal(&mut rng) * std as f32).collect(),
            Self::BeforePixelShuffle(std) => {
                let row_len = shape.last().copied().unwrap_or(1);
                let mut row = || {
                    let row: Vec<f32> = (0..row_len).map(|_| trunc_normal(&mut rng) * std as f32).collect();
                    row.repeat(4)
                };
                (0..count / (4 * row_len).max(1)).flat_map(|_| row()).collect()
            }
            Self::Xavier => {
                let limit = (6.0 / fan_sum(shape) as f64).sqrt();
                (0..count).map(|_| ((2.0 * rng.uniform() - 1.0) * limit) as f32).collect()
            }
        };
        Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
    }
}

fn trunc_normal(rng: &mut Rng) -> f32 {
    loop {
        let x = rng.normal();
        if x.abs() <= 2.0 {
            return x;
        }
    }
}

/// Inputs plus outputs that a weight `[out, kernel.., in]` connects.
fn fan_sum(shape: &[usize]) -> usize {
    match shape {
        [out, kernel @ .., input] => kernel.iter().product::<usize>() * (out + input),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xavier_counts_the_kernel() {
        assert_eq!(fan_sum(&[4, 3, 3, 5]), 9 * 9);
        assert_eq!(fan_sum(&[4, 5]), 9);
    }

    #[test]
    fn four_rows_before_a_pixel_shuffle_are_equal() -> Result<()> {
        let t = Init::BeforePixelShuffle(0.02).tensor(&[8, 5], DType::F32, &Device::Cpu, Rng::new(0))?;
        let rows = t.to_vec2::<f32>()?;
        assert!(rows[..4].iter().all(|row| *row == rows[0]) && rows[4..].iter().all(|row| *row == rows[4]));
        assert_ne!(rows[0], rows[4]);
        Ok(())
    }

    #[test]
    fn truncated_values_stay_inside() -> Result<()> {
        let t = Init::TruncNormal(0.02).tensor(&[50, 50], DType::F32, &Device::Cpu, Rng::new(0))?;
        let values = t.flatten_all()?.to_vec1::<f32>()?;
        assert!(values.iter().all(|x| x.abs() <= 0.04));
        assert!(values.iter().any(|x| x.abs() > 0.03));
        Ok(())
    }
}
