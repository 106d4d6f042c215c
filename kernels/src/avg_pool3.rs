//! The mean of 3x3 windows at stride 1, over the pixels that exist. Can be differentiated twice: the gradient is a linear
//! map whose transpose is the operation itself.

use candle_core::{Result, Tensor, bail};

use crate::Var;
use crate::cpu::{Element, by_dtype};
use crate::pool::on_image;
use crate::portable;
use crate::simd::multiversion;

/// `[B, H, W, C] -> [B, H, W, C]`: the mean of every pixel and its up to eight neighbours. Pixels outside of the image are
/// not counted (PyTorch's `count_include_pad=False`).
///
/// # Errors
/// When `x` is not an image.
pub fn avg_pool3(x: &Var) -> Result<Var> {
    match *x.dims() {
        [_, _, _, c] if c > 0 => means(x, false),
        _ => bail!("avg_pool3: expected an image [B, H, W, C], got {:?}", x.dims()),
    }
}

/// The means, or the transpose of that map: sums over windows of what is divided first.
fn means(x: &Var, transposed: bool) -> Result<Var> {
    let value = match portable::takes(x.value()) {
        true => portable::pool::means3(x.value(), transposed)?,
        false => by_dtype!("avg_pool3", x, T => on_slice::<T>(x.value(), transposed))?,
    };
    let name = if transposed { "avg_pool3_gradient" } else { "avg_pool3" };
    Ok(Var::record(name, value, &[x], move |grad, _| Ok(vec![Some(means(grad, !transposed)?)])))
}

multiversion! {
    fn add_scaled<T: Element>(out: &mut [T], x: &[T], factor: T) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x.fma(factor, *out);
        }
    }
}

/// The pixels of `0..size` that are at most one from `at`.
fn near(at: usize, size: usize) -> std::ops::Range<usize> {
    at.saturating_sub(1)..(at + 2).min(size)
}

fn on_slice<T: Element>(x: &Tensor, transposed: bool) -> Result<Tensor> {
    let (_, h, w, c) = x.dims4()?;
    let share = |y: usize, x: usize| T::lit(1.0 / (near(y, h).len() * near(x, w).len()) as f64);
    on_image::<T>(x, x.dims(), w * c, |row, input, out| {
        let (first, y) = (row / h * h, row % h);
        for (x, out) in out.chunks_exact_mut(c).enumerate() {
            out.fill(T::zero());
            for (from_y, from_x) in near(y, h).flat_map(|y| near(x, w).map(move |x| (y, x))) {
                let at = ((first + from_y) * w + from_x) * c;
                let factor = if transposed { share(from_y, from_x) } else { share(y, x) };
                add_scaled(out, &input[at..at + c], factor);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradients, check_second_order, pattern};

    #[test]
    fn gradients_match_differences() -> Result<()> {
        for dims in [[2, 5, 4, 3], [1, 1, 3, 2], [1, 2, 1, 1], [2, 1, 1, 2]] {
            check_gradients(|v| avg_pool3(&v[0]), &[pattern(&dims, 1)?])?;
            check_second_order(|v| avg_pool3(&v[0]), &[pattern(&dims, 1)?])?;
        }
        Ok(())
    }

    #[test]
    fn pixels_outside_are_not_counted() -> Result<()> {
        let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let x = Tensor::from_vec(x, (1, 3, 4, 1), &crate::gradcheck::device())?;
        let y = avg_pool3(&Var::constant(x))?.into_value().flatten_all()?.to_vec1::<f32>()?;
        let wanted = [2.5, 3.0, 4.0, 4.5, 4.5, 5.0, 6.0, 6.5, 6.5, 7.0, 8.0, 8.5];
        assert!(y.iter().zip(wanted).all(|(y, wanted)| (y - wanted).abs() < 1e-5), "{y:?}");
        Ok(())
    }

    #[test]
    fn shape_errors_are_errors() -> Result<()> {
        let var = |dims: &[usize]| pattern(dims, 1).map(Var::constant);
        assert!(avg_pool3(&var(&[4, 4, 2])?).is_err() && avg_pool3(&var(&[1, 4, 4, 0])?).is_err());
        Ok(())
    }
}
