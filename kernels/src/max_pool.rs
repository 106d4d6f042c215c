//! Maximum over windows of channels-last images. Can be differentiated twice.
//!
//! The forward pass keeps which pixel of its window won (one byte an output); the gradient goes there. On ties
//! the first in reading order wins, as in PyTorch.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::Var;
use crate::cpu::{self, Element, by_dtype};
use crate::cuda::images;
use crate::portable;
use crate::simd::multiversion;
use crate::threads::Tasks;

/// What a 3x3 window with stride 2 does at the border (it never sees anything but the image).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolPadding {
    /// TensorFlow's SAME: as many outputs as strides begin, the odd pixel of padding at the end.
    TfSame,
    /// One pixel of padding on each side, as PyTorch's `padding = 1`.
    Symmetric,
    /// No padding: only windows that lie inside the image.
    Valid,
}

/// The sizes of one pooling, checked.
#[derive(Clone, Copy)]
struct Windows {
    x_dims: [usize; 4],
    oh: usize,
    ow: usize,
    kernel: usize,
    stride: usize,
    /// Padding above and to the left.
    before: (usize, usize),
}

impl Windows {
    /// The part of window `i` inside `size` pixels: first pixel, number of pixels, window rows cut off before.
    fn clip(&self, i: usize, before: usize, size: usize) -> (usize, usize, usize) {
        let start = (i * self.stride) as isize - before as isize;
        let first = start.max(0) as usize;
        let end = (start + self.kernel as isize).min(size as isize) as usize;
        (first, end - first, (first as isize - start) as usize)
    }

    fn y_dims(&self) -> [usize; 4] {
        [self.x_dims[0], self.oh, self.ow, self.x_dims[3]]
    }
}

/// `[B, H, W, C] -> [B, H/2, W/2, C]` (an odd last row or column is left out).
///
/// # Errors
/// When `x` is not an image of at least 2x2 pixels.
pub fn max_pool2(x: &Var) -> Result<Var> {
    let &[b, h, w, c] = x.dims() else { bail!("max_pool2: expected [B, H, W, C], got {:?}", x.dims()) };
    if h < 2 || w < 2 || c == 0 {
        bail!("max_pool2: expected at least 2x2 pixels, got {:?}", x.dims());
    }
    max_pool(x, Windows { x_dims: [b, h, w, c], oh: h / 2, ow: w / 2, kernel: 2, stride: 2, before: (0, 0) })
}

/// 3x3 windows with stride 2: `[B, H, W, C] -> [B, ceil(H/2), ceil(W/2), C]` (`(H - 1) / 2` for `Valid`).
///
/// # Errors
/// When `x` is not an image, or has no window.
pub fn max_pool3s2(x: &Var, padding: PoolPadding) -> Result<Var> {
    let &[b, h, w, c] = x.dims() else { bail!("max_pool3s2: expected [B, H, W, C], got {:?}", x.dims()) };
    let smallest = if padding == PoolPadding::Valid { 3 } else { 1 };
    if h < smallest || w < smallest || c == 0 {
        bail!("max_pool3s2: expected at least {smallest}x{smallest} pixels, got {:?}", x.dims());
    }
    let axis = |size: usize| match padding {
        PoolPadding::TfSame => (size.div_ceil(2), usize::from(size % 2 == 1)),
        PoolPadding::Symmetric => (size.div_ceil(2), 1),
        PoolPadding::Valid => ((size - 1) / 2, 0),
    };
    let ((oh, top), (ow, left)) = (axis(h), axis(w));
    max_pool(x, Windows { x_dims: [b, h, w, c], oh, ow, kernel: 3, stride: 2, before: (top, left) })
}

/// 3x3 windows with stride 1 and one pixel of padding: `[B, H, W, C] -> [B, H, W, C]`.
///
/// # Errors
/// When `x` is not an image with pixels.
pub fn max_pool3(x: &Var) -> Result<Var> {
    let &[b, h, w, c] = x.dims() else { bail!("max_pool3: expected [B, H, W, C], got {:?}", x.dims()) };
    if h == 0 || w == 0 || c == 0 {
        bail!("max_pool3: expected an image with pixels, got {:?}", x.dims());
    }
    max_pool(x, Windows { x_dims: [b, h, w, c], oh: h, ow: w, kernel: 3, stride: 1, before: (1, 1) })
}

fn max_pool(x: &Var, windows: Windows) -> Result<Var> {
    if portable::takes(x.value()) {
        let Windows { x_dims, oh, ow, kernel, stride, before } = windows;
        let (size, outputs) = ((x_dims[1], x_dims[2]), (oh, ow));
        let windows = images::Windows { size, outputs, kernel, stride, before };
        return portable::pool::MaxPool(windows).apply(x);
    }
    let (value, winners) = by_dtype!("max_pool", x, T => forward::<T>(x.value(), windows))?;
    let winners = Arc::new(winners);
    Ok(Var::record("max_pool", value, &[x], move |grad, _| Ok(vec![Some(scatter(grad, windows, &winners)?)])))
}

/// Sends each number to the pixel that won its window.
fn scatter(grad: &Var, windows: Windows, winners: &Arc<Vec<u8>>) -> Result<Var> {
    let value = by_dtype!("max_pool", grad, T => scatter_value::<T>(grad.value(), windows, winners))?;
    let winners = winners.clone();
    Ok(Var::record("max_pool_scatter", value, &[grad], move |outer, _| {
        Ok(vec![Some(gather(outer, windows, &winners)?)])
    }))
}

/// The pixel that won each window.
fn gather(x: &Var, windows: Windows, winners: &Arc<Vec<u8>>) -> Result<Var> {
    let value = by_dtype!("max_pool", x, T => gather_value::<T>(x.value(), windows, winners))?;
    let winners = winners.clone();
    Ok(Var::record("max_pool_gather", value, &[x], move |outer, _| {
        Ok(vec![Some(scatter(outer, windows, &winners)?)])
    }))
}

multiversion! {
    /// Keeps the larger of `best` and `x`, and where it came from. A NaN wins and stays.
    fn take_larger<T: Element>(x: &[T], index: u8, best: &mut [T], winner: &mut [u8]) {
        for ((best, winner), x) in best.iter_mut().zip(winner).zip(x) {
            #[allow(clippy::eq_op)]
            let wins = *x > *best || *x != *x;
            *best = if wins { *x } else { *best };
            *winner = if wins { index } else { *winner };
        }
    }
}

fn forward<T: Element>(x: &Tensor, p: Windows) -> Result<(Tensor, Vec<u8>)> {
    let [_, h, w, c] = p.x_dims;
    let row = (p.ow * c).max(1);
    let mut winners = vec![0u8; p.y_dims().iter().product()];
    let out = cpu::with_slice::<T, _>(&x.contiguous()?, |x| {
        let mut out = vec![T::lit(f64::NEG_INFINITY); winners.len()];
        out.par_chunks_mut(row).zip(winners.par_chunks_mut(row)).enumerate().for_each(|(i, (out, winners))| {
            let (image, i) = (i / p.oh, i % p.oh);
            let (y0, rows, cut_y) = p.clip(i, p.before.0, h);
            for (j, (out, winners)) in out.chunks_exact_mut(c).zip(winners.chunks_exact_mut(c)).enumerate() {
                let (x0, cols, cut_x) = p.clip(j, p.before.1, w);
                // A window of nothing but -inf, which is larger than nothing, has its first pixel for a winner.
                winners.fill((cut_y * p.kernel + cut_x) as u8);
                for (dy, dx) in (0..rows).flat_map(|dy| (0..cols).map(move |dx| (dy, dx))) {
                    let at = ((image * h + y0 + dy) * w + x0 + dx) * c;
                    take_larger(&x[at..at + c], ((cut_y + dy) * p.kernel + cut_x + dx) as u8, out, winners);
                }
            }
        });
        Ok(out)
    })?;
    Ok((Tensor::from_vec(out, &p.y_dims(), x.device())?, winners))
}

/// The offset in an image of the pixel that `winner` means for output `(i, j)`.
fn position(p: &Windows, i: usize, j: usize, winner: u8) -> usize {
    let (ky, kx) = (winner as usize / p.kernel, winner as usize % p.kernel);
    let (y, x) = (i * p.stride + ky - p.before.0, j * p.stride + kx - p.before.1);
    (y * p.x_dims[2] + x) * p.x_dims[3]
}

fn scatter_value<T: Element>(grad: &Tensor, p: Windows, winners: &[u8]) -> Result<Tensor> {
    let [batch, h, w, c] = p.x_dims;
    let (image, outputs) = (h * w * c, p.oh * p.ow * c);
    let mut dx = vec![T::zero(); batch * image];
    cpu::with_slice::<T, _>(&grad.contiguous()?, |grad| {
        let tasks = dx.par_chunks_mut(image.max(1)).zip(grad.par_chunks(outputs.max(1)));
        tasks.zip(winners.par_chunks(outputs.max(1))).one_by_one().for_each(|((dx, grad), winners)| {
            let pixels = grad.chunks_exact(c).zip(winners.chunks_exact(c)).enumerate();
            for (pixel, (grad, winners)) in pixels {
                for (channel, (grad, winner)) in grad.iter().zip(winners).enumerate() {
                    dx[position(&p, pixel / p.ow, pixel % p.ow, *winner) + channel] += *grad;
                }
            }
        });
        Ok(())
    })?;
    Tensor::from_vec(dx, &p.x_dims, grad.device())
}

fn gather_value<T: Element>(x: &Tensor, p: Windows, winners: &[u8]) -> Result<Tensor> {
    let [_, h, w, c] = p.x_dims;
    let (image, outputs) = (h * w * c, p.oh * p.ow * c);
    let out = cpu::with_slice::<T, _>(&x.contiguous()?, |x| {
        let pick = |(k, winner): (usize, &u8)| {
            let (sample, pixel, channel) = (k / outputs, k % outputs / c, k % c);
            x[sample * image + position(&p, pixel / p.ow, pixel % p.ow, *winner) + channel]
        };
        Ok(winners.par_iter().enumerate().map(pick).collect::<Vec<T>>())
    })?;
    Tensor::from_vec(out, &p.y_dims(), x.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradients, check_second_order, pattern};
    use PoolPadding::{Symmetric, TfSame, Valid};

    #[test]
    fn gradients_match_differences() -> Result<()> {
        for dims in [[2, 5, 4, 3], [1, 3, 3, 1], [1, 6, 7, 2]] {
            check_gradients(|v| max_pool2(&v[0]), &[pattern(&dims, 1)?])?;
            check_second_order(|v| max_pool2(&v[0]), &[pattern(&dims, 1)?])?;
            for padding in [TfSame, Symmetric, Valid] {
                check_gradients(|v| max_pool3s2(&v[0], padding), &[pattern(&dims, 1)?])?;
                check_second_order(|v| max_pool3s2(&v[0], padding), &[pattern(&dims, 1)?])?;
            }
            check_gradients(|v| max_pool3(&v[0]), &[pattern(&dims, 1)?])?;
            check_second_order(|v| max_pool3(&v[0]), &[pattern(&dims, 1)?])?;
        }
        check_gradients(|v| max_pool3s2(&v[0], TfSame), &[pattern(&[2, 1, 1, 2], 1)?])
    }

    /// The winner of a window that lies partly outside is inside, whatever is there.
    #[test]
    fn windows_of_nothing_but_infinity_have_a_winner() -> Result<()> {
        for channels in [1, 8] {
            let none = Tensor::full(f32::NEG_INFINITY, (1, 3, 3, channels), &crate::gradcheck::device())?;
            let x = Var::leaf(none);
            for y in [max_pool3(&x)?, max_pool3s2(&x, Symmetric)?] {
                let count = y.value().elem_count() as f32;
                let gradients = crate::backward(crate::sum_all(&y)?)?;
                let gradient = gradients.leaf(&x).map(|gradient| gradient.sum_all()?.to_scalar::<f32>());
                assert_eq!(gradient.transpose()?, Some(count));
            }
        }
        Ok(())
    }

    /// 0 1 .. in a row of 4 (even) and 5 (odd) pixels: windows as TensorFlow and PyTorch place them.
    #[test]
    fn padding_is_where_the_frameworks_put_it() -> Result<()> {
        let row = |n: usize, padding| -> Result<Vec<f32>> {
            let x: Vec<f32> = (0..n * n).map(|i| (i % n) as f32).collect();
            let x = Tensor::from_vec(x, (1, n, n, 1), &crate::gradcheck::device())?;
            let y = max_pool3s2(&Var::constant(x), padding)?.into_value();
            y.get(0)?.get(0)?.flatten_all()?.to_vec1()
        };
        assert_eq!(row(4, TfSame)?, [2.0, 3.0]);
        assert_eq!(row(4, Symmetric)?, [1.0, 3.0]);
        assert_eq!(row(4, Valid)?, [2.0]);
        assert_eq!(row(5, TfSame)?, [1.0, 3.0, 4.0]);
        assert_eq!(row(5, Symmetric)?, [1.0, 3.0, 4.0]);
        assert_eq!(row(5, Valid)?, [2.0, 4.0]);
        Ok(())
    }

    #[test]
    fn ties_go_to_the_first_and_nan_is_not_hidden() -> Result<()> {
        let x = Var::leaf(Tensor::zeros((1, 2, 2, 1), candle_core::DType::F32, &crate::gradcheck::device())?);
        let gradients = crate::backward(crate::sum_all(&max_pool2(&x)?)?)?;
        let dx = gradients.leaf(&x).map(|g| g.flatten_all()?.to_vec1::<f32>()).transpose()?;
        assert_eq!(dx, Some(vec![1.0, 0.0, 0.0, 0.0]));
        let nan = Tensor::new(&[[[[1f32], [f32::NAN]], [[2.0], [3.0]]]], &crate::gradcheck::device())?;
        let y = max_pool2(&Var::constant(nan))?.into_value().flatten_all()?.to_vec1::<f32>()?;
        assert!(y[0].is_nan());
        Ok(())
    }

    #[test]
    fn shape_errors_are_errors() -> Result<()> {
        let var = |dims: &[usize]| pattern(dims, 1).map(Var::constant);
        assert!(max_pool2(&var(&[1, 1, 4, 2])?).is_err() && max_pool2(&var(&[4, 4, 2])?).is_err());
        assert!(max_pool3s2(&var(&[1, 2, 4, 2])?, Valid).is_err());
        assert!(max_pool3s2(&var(&[1, 0, 4, 2])?, TfSame).is_err());
        assert!(max_pool3(&var(&[1, 0, 4, 2])?).is_err() && max_pool3(&var(&[4, 4, 2])?).is_err());
        Ok(())
    }
}
