//! Convolution as shifted views, gathered into columns, and one matrix product: in all three directions, where no library
//! has something faster.
//!
//! Images are worked through in groups, so that the columns (kernel size times the image) stay within a fixed size.

use candle_core::{Result, Tensor};

use super::linear::{epilogue, product};
use super::reduce::sum_all;
use crate::conv2d::Geometry;
use crate::cuda::{Direction, convolution, fused};

/// Elements of the columns of one group of images: 1 GiB of f32, and far below where candle counts in 32 bits.
const COLUMNS: usize = 1 << 28;

/// The convolution with bias and activation.
pub(crate) fn forward(g: Geometry, x: &Tensor, w: &Tensor, b: Option<&Tensor>, slope: f32) -> Result<Tensor> {
    epilogue(convolve(g, x, w)?, b, slope)
}

fn convolve(g: Geometry, x: &Tensor, w: &Tensor) -> Result<Tensor> {
    if g.batch * g.oh * g.ow == 0 {
        return Tensor::zeros(&g.y_dims()[..], x.dtype(), x.device());
    }
    convolution(Direction::Output, &g, x, w, &|| convolve_by_columns(&g, x, w))
}

fn convolve_by_columns(g: &Geometry, x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let mut weights = w.contiguous()?.reshape((g.c_out, g.depth()))?;
    let mut parts = Vec::new();
    for (start, len) in groups(g) {
        let columns = columns(g, &x.narrow(0, start, len)?)?;
        weights = resized(weights, columns.dim(1)?)?;
        parts.push(product(&columns, &weights, (false, true), false)?);
    }
    Tensor::cat(&parts, 0)?.reshape(&g.y_dims()[..])
}

/// The gradient for the input.
pub(crate) fn input_gradient(g: Geometry, grad: &Tensor, w: &Tensor) -> Result<Tensor> {
    if g.batch * g.oh * g.ow == 0 {
        return Tensor::zeros(&g.x_dims()[..], grad.dtype(), grad.device());
    }
    convolution(Direction::Input, &g, grad, w, &|| input_gradient_by_columns(g, grad, w))
}

/// The convolution of the output's gradient, spread to stride 1, with the flipped kernel. What the full convolution needs
/// around the gradient is padding; what it does not need of the gradient is cut off.
fn input_gradient_by_columns(g: Geometry, grad: &Tensor, w: &Tensor) -> Result<Tensor> {
    let grad = spread(&spread(grad, 1, g.conv.stride.0)?, 2, g.conv.stride.1)?;
    // Zeros before the first pixel, and after the last so that the convolution ends at the image's end.
    let border = |size: usize, kernel: usize, padding: usize, spread: usize| {
        let before = kernel as isize - 1 - padding as isize;
        (before, (size + kernel - 1) as isize - before - spread as isize)
    };
    let (top, bottom) = border(g.h, g.kh, g.conv.padding.0, grad.dim(1)?);
    let (left, right) = border(g.w, g.kw, g.conv.padding.1, grad.dim(2)?);
    let grad = pad_or_crop(&pad_or_crop(&grad, 1, top.min(0), bottom.min(0))?, 2, left.min(0), right.min(0))?;
    if grad.elem_count() == 0 {
        return Tensor::zeros(&g.x_dims()[..], grad.dtype(), grad.device());
    }
    let flipped = Geometry {
        h: grad.dim(1)?,
        w: grad.dim(2)?,
        c_in: g.c_out,
        c_out: g.c_in,
        oh: g.h,
        ow: g.w,
        conv: crate::Conv2d { stride: (1, 1), padding: (top.max(0) as usize, left.max(0) as usize) },
        ..g
    };
    convolve_by_columns(&flipped, &grad, &flip(w)?)
}

/// The kernel of the transposed convolution: both axes reversed, outputs for inputs, `[c_in, kh, kw, c_out]`.
fn flip(w: &Tensor) -> Result<Tensor> {
    let (c_out, kh, kw, c_in) = w.dims4()?;
    if fused::takes(w) {
        return fused::flip(w);
    }
    let taps = w.contiguous()?.reshape((c_out, kh * kw, c_in))?;
    let reversed: Vec<Tensor> = (0..kh * kw).rev().map(|tap| taps.narrow(1, tap, 1)).collect::<Result<_>>()?;
    Tensor::cat(&reversed, 1)?.reshape((c_out, kh, kw, c_in))?.permute((3, 1, 2, 0))
}

/// The gradient for the weight.
pub(crate) fn weight_gradient(g: Geometry, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    if g.batch * g.oh * g.ow == 0 {
        return Tensor::zeros(&g.w_dims()[..], x.dtype(), x.device());
    }
    convolution(Direction::Weight, &g, x, grad, &|| weight_gradient_by_columns(&g, x, grad))
}

fn weight_gradient_by_columns(g: &Geometry, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (start, len) in groups(g) {
        let grad = grad.narrow(0, start, len)?.contiguous()?.reshape((len * g.oh * g.ow, g.c_out))?;
        let part = product(&grad, &columns(g, &x.narrow(0, start, len)?)?, (true, false), true)?;
        sum = Some(sum.map_or(Ok(part.clone()), |sum| sum + &part)?);
    }
    match sum {
        Some(sum) => resized(sum, g.depth())?.reshape(&g.w_dims()[..]),
        None => sum_all(x),
    }
}

/// A matrix with rows as long as those of other columns, which may have zeros behind them.
fn resized(x: Tensor, to: usize) -> Result<Tensor> {
    if x.dim(1)? == to { Ok(x) } else { fused::resize_rows(&x, to) }
}

/// (first image, images) of each group.
fn groups(g: &Geometry) -> impl Iterator<Item = (usize, usize)> + use<> {
    let (batch, each) = (g.batch, (COLUMNS / (g.oh * g.ow * g.depth()).max(1)).max(1));
    (0..batch).step_by(each).map(move |start| (start, each.min(batch - start)))
}

/// `[images, h, w, c_in] -> [images * oh * ow, kh * kw * c_in]`: what each output sees; own kernels put zeros behind it.
pub(crate) fn columns(g: &Geometry, x: &Tensor) -> Result<Tensor> {
    let rows = x.dim(0)? * g.oh * g.ow;
    // One tap sees the image itself, where there are as many outputs as pixels.
    let plain = g.conv == crate::Conv2d { stride: (1, 1), padding: (0, 0) } && (g.h, g.w) == (g.oh, g.ow);
    if (g.kh, g.kw) == (1, 1) && plain {
        return x.contiguous()?.reshape((rows, g.c_in));
    }
    if fused::takes(x) {
        return fused::columns(g, x);
    }
    let windows =
        Windows { kernel: (g.kh, g.kw), stride: g.conv.stride, before: g.conv.padding, outputs: (g.oh, g.ow) };
    let views = windows.views(x, 0.0)?;
    let views: Vec<Tensor> =
        views.iter().map(|view| view.contiguous()?.reshape((rows, g.c_in))).collect::<Result<_>>()?;
    Tensor::cat(&views, 1)
}

/// How windows lie on an image.
#[derive(Clone, Copy)]
pub(super) struct Windows {
    pub(super) kernel: (usize, usize),
    pub(super) stride: (usize, usize),
    /// Padding above and to the left.
    pub(super) before: (usize, usize),
    /// Windows along each axis.
    pub(super) outputs: (usize, usize),
}

impl Windows {
    /// For each tap of the kernel, in reading order, the pixels that the windows see there: `[B, oh, ow, C]`.
    pub(super) fn views(&self, x: &Tensor, border: f64) -> Result<Vec<Tensor>> {
        let (batch, h, w, c) = x.dims4()?;
        let ((kh, kw), (sh, sw), (oh, ow)) = (self.kernel, self.stride, self.outputs);
        // The padded image, a whole number of strides a side: the first output and stride-th pixels are views of it.
        let (rows, columns) = (((kh - 1) / sh + oh) * sh, ((kw - 1) / sw + ow) * sw);
        let after = |padded: usize, before: usize, size: usize| padded as isize - (before + size) as isize;
        let bottom = after(rows, self.before.0, h);
        let right = after(columns, self.before.1, w);
        let x = pad_with(x, 1, self.before.0 as isize, bottom, border)?;
        let x = pad_with(&x, 2, self.before.1 as isize, right, border)?.contiguous()?;
        let phases = x.reshape(vec![batch, rows / sh, sh, columns / sw, sw, c])?;
        let mut views = Vec::with_capacity(kh * kw);
        for ky in 0..kh {
            let band = phases.narrow(2, ky % sh, 1)?.narrow(1, ky / sh, oh)?;
            for kx in 0..kw {
                let view = band.narrow(4, kx % sw, 1)?.narrow(3, kx / sw, ow)?;
                views.push(view.squeeze(4)?.squeeze(2)?);
            }
        }
        Ok(views)
    }
}

/// Puts `stride - 1` zeros between neighbours along dimension `dim`.
pub(super) fn spread(x: &Tensor, dim: usize, stride: usize) -> Result<Tensor> {
    if stride == 1 {
        return Ok(x.clone());
    }
    let mut dims = x.dims().to_vec();
    let len = dims[dim];
    dims.insert(dim + 1, stride - 1);
    let zeros = Tensor::zeros(dims.as_slice(), x.dtype(), x.device())?;
    let spread = Tensor::cat(&[&x.contiguous()?.unsqueeze(dim + 1)?, &zeros], dim + 1)?.contiguous()?;
    dims.remove(dim + 1);
    dims[dim] = len * stride;
    spread.reshape(dims.as_slice())?.narrow(dim, 0, len * stride - (stride - 1))
}

/// Adds zeros before and after along a dimension; takes elements away where a number is negative.
pub(super) fn pad_or_crop(x: &Tensor, dim: usize, before: isize, after: isize) -> Result<Tensor> {
    pad_with(x, dim, before, after, 0.0)
}

fn pad_with(x: &Tensor, dim: usize, before: isize, after: isize, value: f64) -> Result<Tensor> {
    if (before, after) == (0, 0) {
        return Ok(x.clone());
    }
    let cut_before = ((-before).max(0) as usize).min(x.dim(dim)?);
    let kept = (x.dim(dim)? - cut_before).saturating_sub((-after).max(0) as usize);
    let x = x.narrow(dim, cut_before, kept)?.contiguous()?;
    let block = |len: isize| -> Result<Option<Tensor>> {
        let mut dims = x.dims().to_vec();
        dims[dim] = len.max(0) as usize;
        if dims[dim] == 0 {
            return Ok(None);
        }
        let zeros = Tensor::zeros(dims, x.dtype(), x.device())?;
        Ok(Some(if value == 0.0 { zeros } else { zeros.affine(1.0, value)? }))
    };
    let parts: Vec<Tensor> = [block(before)?, Some(x.clone()), block(after)?].into_iter().flatten().collect();
    Tensor::cat(&parts, dim)
}
