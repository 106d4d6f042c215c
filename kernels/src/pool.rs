//! Resampling and pooling of channels-last images, and sums over all positions. All can be differentiated
//! twice: the gradient of each is a linear map whose transpose is the operation itself.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{self, Element, by_dtype};
use crate::portable;
use crate::reduce::column_sums;
use crate::simd::multiversion;
use crate::threads::Tasks;
use crate::{Var, scale};

multiversion! {
    /// One output row of 2x2 sums: `top` and `bottom` are the two input rows.
    fn sum_row<T: Element>(top: &[T], bottom: &[T], c: usize, factor: T, out: &mut [T]) {
        for ((out, top), bottom) in out.chunks_exact_mut(c).zip(top.chunks_exact(2 * c)).zip(bottom.chunks_exact(2 * c)) {
            let ((a, b), (d, e)) = (top.split_at(c), bottom.split_at(c));
            for ((((out, a), b), d), e) in out.iter_mut().zip(a).zip(b).zip(d).zip(e) {
                *out = ((*a + *b) + (*d + *e)) * factor;
            }
        }
    }
    /// The two output rows of a row whose pixels become squares of 2x2.
    fn spread_row<T: Element>(x: &[T], c: usize, factor: T, out: &mut [T]) {
        let (top, bottom) = out.split_at_mut(2 * x.len());
        for (out, x) in top.chunks_exact_mut(2 * c).zip(x.chunks_exact(c)) {
            let (left, right) = out.split_at_mut(c);
            for ((left, right), x) in left.iter_mut().zip(right).zip(x) {
                *left = *x * factor;
                *right = *left;
            }
        }
        bottom.copy_from_slice(top);
    }
}

fn image_dims(name: &str, x: &Var) -> Result<[usize; 4]> {
    match *x.dims() {
        [b, h, w, c] if c > 0 => Ok([b, h, w, c]),
        _ => bail!("{name}: expected an image [B, H, W, C], got {:?}", x.dims()),
    }
}

/// `[B, H, W, C] -> [B, 2H, 2W, C]`: every pixel becomes a square of four.
///
/// # Errors
/// When `x` is not an image.
pub fn upsample_nearest2(x: &Var) -> Result<Var> {
    spread(x, 1.0)
}

/// `[B, H, W, C] -> [B, H/2, W/2, C]`: the mean of every 2x2 square.
///
/// # Errors
/// When `x` is not an image, or its height or width is odd.
pub fn avg_pool2(x: &Var) -> Result<Var> {
    sum_squares(x, 0.25)
}

/// `factor` times the nearest-neighbour enlargement.
fn spread(x: &Var, factor: f64) -> Result<Var> {
    let [b, h, w, c] = image_dims("upsample_nearest2", x)?;
    let value = match portable::takes(x.value()) {
        true => portable::pool::enlarge2(x.value(), factor)?,
        false => by_dtype!("upsample_nearest2", x, T => {
            on_image::<T>(x.value(), &[b, 2 * h, 2 * w, c], 4 * w * c, |row, x, out| {
                spread_row(&x[row * w * c..(row + 1) * w * c], c, T::lit(factor), out);
            })
        })?,
    };
    Ok(Var::record("upsample_nearest2", value, &[x], move |grad, _| Ok(vec![Some(sum_squares(grad, factor)?)])))
}

/// `factor` times the sum of every 2x2 square.
fn sum_squares(x: &Var, factor: f64) -> Result<Var> {
    let [b, h, w, c] = image_dims("avg_pool2", x)?;
    if h % 2 != 0 || w % 2 != 0 {
        bail!("avg_pool2: expected an even height and width, got {:?}", x.dims());
    }
    let value = match portable::takes(x.value()) {
        true => portable::pool::sum_squares2(x.value(), factor)?,
        false => by_dtype!("avg_pool2", x, T => {
            on_image::<T>(x.value(), &[b, h / 2, w / 2, c], w / 2 * c, |row, x, out| {
                let (top, bottom) = x[2 * row * w * c..2 * (row + 1) * w * c].split_at(w * c);
                sum_row(top, bottom, c, T::lit(factor), out);
            })
        })?,
    };
    Ok(Var::record("avg_pool2", value, &[x], move |grad, _| Ok(vec![Some(spread(grad, factor)?)])))
}

/// Calls `f(row, input, output_row)` for every row of `row_len` elements of the output.
pub(crate) fn on_image<T: Element>(
    x: &Tensor,
    dims: &[usize],
    row_len: usize,
    f: impl Fn(usize, &[T], &mut [T]) + Sync,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let out = cpu::with_slice::<T, _>(&x, |x| {
        let mut out = cpu::uninit(dims.iter().product());
        if row_len > 0 {
            out.par_chunks_mut(row_len).enumerate().for_each(|(row, out)| f(row, x, out));
        }
        Ok(out)
    })?;
    Tensor::from_vec(out, dims, x.device())
}

/// `[B, .., C] -> [B, C]`: sums over everything between the batch and the channels; of nothing they are 0.
///
/// # Errors
/// When `x` has fewer than two dimensions.
pub fn sum_middle(x: &Var) -> Result<Var> {
    let (&[batch, ..], Some(&c)) = (x.dims(), x.dims().get(1..).and_then(<[usize]>::last)) else {
        bail!("sum_middle: expected [B, .., C], got {:?}", x.dims())
    };
    let value = match portable::takes(x.value()) {
        true => portable::reduce::sum_middle(x.value(), batch, c)?,
        false => by_dtype!("sum_middle", x, T => sum_middle_value::<T>(x.value(), batch, c))?,
    };
    let dims = x.dims().to_vec();
    Ok(Var::record("sum_middle", value, &[x], move |grad, _| Ok(vec![Some(repeat_middle(grad, &dims)?)])))
}

/// `[B, .., C] -> [B, C]`: the mean over everything between the batch and the channels; of nothing it is 0.
///
/// # Errors
/// When `x` has fewer than two dimensions.
pub fn mean_middle(x: &Var) -> Result<Var> {
    let sum = sum_middle(x)?;
    let positions = x.value().elem_count() / sum.value().elem_count().max(1);
    scale(&sum, 1.0 / positions.max(1) as f64)
}

fn sum_middle_value<T: Element>(x: &Tensor, batch: usize, c: usize) -> Result<Tensor> {
    let sums = cpu::with_slice::<T, _>(&x.contiguous()?, |x| {
        if x.is_empty() {
            return Ok(vec![T::zero(); batch * c]);
        }
        let each = x.len() / batch;
        Ok(x.par_chunks(each).one_by_one().flat_map_iter(|x| column_sums(x, c)).collect::<Vec<T>>())
    })?;
    Tensor::from_vec(sums, (batch, c), x.device())
}

/// `[B, C] -> dims = [B, .., C]`: repeats each sample's vector at every position.
fn repeat_middle(x: &Var, dims: &[usize]) -> Result<Var> {
    let value = match portable::takes(x.value()) {
        true => portable::reduce::repeat_middle(x.value(), dims)?,
        false => by_dtype!("repeat_middle", x, T => {
            let (batch, c) = x.value().dims2()?;
            let each = dims.iter().product::<usize>() / batch.max(1);
            on_image::<T>(x.value(), dims, each, |sample, x, out| {
                for out in out.chunks_exact_mut(c) {
                    out.copy_from_slice(&x[sample * c..(sample + 1) * c]);
                }
            })
        })?,
    };
    Ok(Var::record("repeat_middle", value, &[x], |grad, _| Ok(vec![Some(sum_middle(grad)?)])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradients, check_second_order, pattern};

    #[test]
    fn gradients_match_differences() -> Result<()> {
        for dims in [[2, 2, 4, 3], [1, 6, 2, 1]] {
            for f in [upsample_nearest2, avg_pool2, sum_middle, mean_middle] {
                check_gradients(|v| f(&v[0]), &[pattern(&dims, 1)?])?;
                check_second_order(|v| f(&v[0]), &[pattern(&dims, 1)?])?;
            }
        }
        check_gradients(|v| upsample_nearest2(&v[0]), &[pattern(&[1, 1, 3, 5], 1)?])?;
        check_gradients(|v| sum_middle(&v[0]), &[pattern(&[3, 4], 1)?])
    }

    #[test]
    fn sums_of_nothing_are_zeros() -> Result<()> {
        for dims in [[2, 0, 3], [0, 5, 3], [2, 5, 0]] {
            for f in [sum_middle, mean_middle] {
                let x = Var::leaf(pattern(&dims, 1)?);
                let y = f(&x)?;
                assert_eq!(y.value().to_vec2::<f64>()?, vec![vec![0.0; dims[2]]; dims[0]], "{dims:?}");
                let found = crate::backward(crate::sum_all(&y)?)?;
                assert_eq!(found.leaf(&x).map(Tensor::dims), Some(dims.as_slice()));
            }
        }
        Ok(())
    }

    #[test]
    fn values_are_what_the_names_say() -> Result<()> {
        let x = Var::constant(Tensor::new(
            &[[[[1f32, 10.0], [2.0, 20.0]], [[3.0, 30.0], [6.0, 60.0]]]],
            &crate::gradcheck::device(),
        )?);
        assert_eq!(avg_pool2(&x)?.value().flatten_all()?.to_vec1::<f32>()?, [3.0, 30.0]);
        assert_eq!(sum_middle(&x)?.value().to_vec2::<f32>()?, [[12.0, 120.0]]);
        let up = upsample_nearest2(&x)?;
        let first: Vec<f32> = up.value().get(0)?.narrow(2, 0, 1)?.flatten_all()?.to_vec1()?;
        assert_eq!(first, [1., 1., 2., 2., 1., 1., 2., 2., 3., 3., 6., 6., 3., 3., 6., 6.]);
        Ok(())
    }

    #[test]
    fn shape_errors_are_errors() -> Result<()> {
        let var = |dims: &[usize]| pattern(dims, 1).map(Var::constant);
        assert!(avg_pool2(&var(&[1, 3, 4, 2])?).is_err() && avg_pool2(&var(&[1, 4, 3, 2])?).is_err());
        assert!(upsample_nearest2(&var(&[4, 4, 2])?).is_err());
        assert!(sum_middle(&var(&[4])?).is_err() && sum_middle(&var(&[])?).is_err());
        Ok(())
    }
}
