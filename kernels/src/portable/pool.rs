//! Resampling by 2, and maximum over windows.

use candle_core::{Device, Result, Tensor};

use super::conv2d::{Windows, pad_or_crop, spread};
use crate::Var;
use crate::cuda::images;
use crate::mixed::widened_value;

/// `factor` times the nearest-neighbour enlargement by 2.
pub(crate) fn enlarge2(x: &Tensor, factor: f64) -> Result<Tensor> {
    if images::takes_image(x) {
        return images::enlarge2(x, factor);
    }
    let (b, h, w, c) = x.dims4()?;
    let x = x.affine(factor, 0.0)?.reshape(vec![b, h, 1, w, 1, c])?;
    x.broadcast_as(vec![b, h, 2, w, 2, c])?.contiguous()?.reshape((b, 2 * h, 2 * w, c))
}

/// `factor` times the sum of every 2x2 square.
pub(crate) fn sum_squares2(x: &Tensor, factor: f64) -> Result<Tensor> {
    if images::takes_image(x) {
        return images::sum_squares2(x, factor);
    }
    let (b, h, w, c) = x.dims4()?;
    let x = x.contiguous()?.reshape(vec![b, h / 2, 2, w / 2, 2, c])?;
    let corner = |y: usize, left: usize| x.narrow(2, y, 1)?.narrow(4, left, 1);
    let top = (corner(0, 0)? + corner(0, 1)?)?;
    let bottom = (corner(1, 0)? + corner(1, 1)?)?;
    (top + bottom)?.affine(factor, 0.0)?.reshape((b, h / 2, w / 2, c))
}

/// The mean of 3x3 windows at stride 1 over the pixels that exist, or the transpose of that map.
pub(crate) fn means3(x: &Tensor, transposed: bool) -> Result<Tensor> {
    if images::takes_image(x) {
        return images::means3(x, transposed);
    }
    let (_, h, w, _) = x.dims4()?;
    let shares = shares3(h, w, x)?;
    let x = if transposed { x.broadcast_mul(&shares)? } else { x.clone() };
    let sums = sums3(&sums3(&x, 1)?, 2)?;
    if transposed { Ok(sums) } else { sums.broadcast_mul(&shares) }
}

/// Each element along a dimension with its two neighbours, nothing past the ends.
fn sums3(x: &Tensor, dim: usize) -> Result<Tensor> {
    let len = x.dim(dim)?;
    let padded = pad_or_crop(x, dim, 1, 1)?;
    (padded.narrow(dim, 0, len)? + padded.narrow(dim, 1, len)?)? + padded.narrow(dim, 2, len)?
}

/// `[1, h, w, 1]`: 1 over the number of pixels that the window around each has, of the type and device of `like`.
fn shares3(h: usize, w: usize, like: &Tensor) -> Result<Tensor> {
    let counts = |size: usize| -> Vec<f64> {
        (0..size).map(|i| ((i + 2).min(size) - i.saturating_sub(1)) as f64).collect()
    };
    let (rows, columns) = (counts(h), counts(w));
    let shares: Vec<f64> = rows.iter().flat_map(|y| columns.iter().map(move |x| 1.0 / (x * y))).collect();
    Tensor::from_vec(shares, (1, h, w, 1), &Device::Cpu)?.to_dtype(like.dtype())?.to_device(like.device())
}

/// The maximum of square windows on an image `[B, H, W, C]`.
#[derive(Clone, Copy)]
pub(crate) struct MaxPool(pub(crate) images::Windows);

impl MaxPool {
    fn windows(&self) -> Windows {
        let images::Windows { outputs, kernel, stride, before, .. } = self.0;
        Windows { kernel: (kernel, kernel), stride: (stride, stride), before, outputs }
    }

    /// The maximum of every window. Can be differentiated twice.
    pub(crate) fn apply(self, x: &Var) -> Result<Var> {
        let [best, winner] = match images::takes_image(x.value()) {
            true => self.0.max(x.value())?,
            false => self.max(x.value())?,
        };
        Ok(Var::record("max_pool", best, &[x], move |grad, _| Ok(vec![Some(self.scatter(grad, &winner)?)])))
    }

    /// The maximum of every window, and the number of the tap that won.
    pub(crate) fn max(self, x: &Tensor) -> Result<[Tensor; 2]> {
        let x = &widened_value(x)?;
        let mut views = self.windows().views(x, f64::NEG_INFINITY)?.into_iter();
        let Some(first) = views.next() else { candle_core::bail!("max_pool: a window without pixels") };
        let mut best = first.contiguous()?;
        // Of a window of nothing but minus infinity the first pixel that exists.
        let mut winner = self.first_taps(x)?.broadcast_as(best.shape())?.contiguous()?;
        for (i, view) in views.enumerate() {
            let view = view.contiguous()?;
            // A NaN wins and stays; it is larger than nothing, so both conditions are never true at once.
            let wins = (view.gt(&best)? + view.ne(&view)?)?;
            let number = winner.zeros_like()?.affine(1.0, (i + 1) as f64)?;
            best = wins.where_cond(&view, &best)?;
            winner = wins.where_cond(&number, &winner)?;
        }
        Ok([best, winner])
    }

    /// The number of each window's first tap on the image `[1, oh, ow, 1]`, of the type and device of `like`.
    fn first_taps(self, like: &Tensor) -> Result<Tensor> {
        let images::Windows { outputs: (oh, ow), kernel, stride, before, .. } = self.0;
        let first = |window: usize, before: usize| before.saturating_sub(window * stride);
        let taps = (0..oh)
            .flat_map(|y| (0..ow).map(move |x| (first(y, before.0) * kernel + first(x, before.1)) as f64));
        let taps = Tensor::from_vec(taps.collect::<Vec<_>>(), (1, oh, ow, 1), &Device::Cpu)?;
        taps.to_dtype(like.dtype())?.to_device(like.device())
    }

    /// 1 where tap `i` of the window won, else 0.
    fn mask(winner: &Tensor, i: usize) -> Result<Tensor> {
        // Numbers of taps are whole: max(0, 1 - |winner - i|) is 1 at i and 0 at all others.
        winner.affine(1.0, -(i as f64))?.abs()?.affine(-1.0, 1.0)?.relu()
    }

    /// Sends each number to the pixel that won its window.
    fn scatter(self, grad: &Var, winner: &Tensor) -> Result<Var> {
        let value = match images::takes_image(grad.value()) {
            true => self.0.scatter(grad.value(), winner)?,
            false => self.scatter_value(grad.value(), winner)?,
        };
        let winner = winner.clone();
        Ok(Var::record("max_pool_scatter", value, &[grad], move |outer, _| {
            Ok(vec![Some(self.gather(outer, &winner)?)])
        }))
    }

    pub(crate) fn scatter_value(self, grad: &Tensor, winner: &Tensor) -> Result<Tensor> {
        let grad = &widened_value(grad)?;
        let mut sum: Option<Tensor> = None;
        let images::Windows { size, kernel, before, .. } = self.0;
        for i in 0..kernel * kernel {
            let part = (grad * Self::mask(winner, i)?)?;
            let part = self.place(&part, 1, (i / kernel, before.0), size.0)?;
            let part = self.place(&part, 2, (i % kernel, before.1), size.1)?;
            sum = Some(sum.map_or(Ok(part.clone()), |sum| sum + &part)?);
        }
        sum.ok_or_else(|| candle_core::Error::Msg("max_pool: a window without pixels".into()))
    }

    /// Along dimension `dim`: window `i` to pixel `i * stride + tap - before` of `size`.
    fn place(self, x: &Tensor, dim: usize, (tap, before): (usize, usize), size: usize) -> Result<Tensor> {
        let x = spread(x, dim, self.0.stride)?;
        let first = tap as isize - before as isize;
        let after = size as isize - first - x.dim(dim)? as isize;
        pad_or_crop(&x, dim, first, after)
    }

    /// The pixel that won each window.
    fn gather(self, x: &Var, winner: &Tensor) -> Result<Var> {
        let value = match images::takes_image(x.value()) {
            true => self.0.gather(x.value(), winner)?,
            false => self.gather_value(x.value(), winner)?,
        };
        let winner = winner.clone();
        Ok(Var::record("max_pool_gather", value, &[x], move |outer, _| {
            Ok(vec![Some(self.scatter(outer, &winner)?)])
        }))
    }

    pub(crate) fn gather_value(self, x: &Tensor, winner: &Tensor) -> Result<Tensor> {
        let x = &widened_value(x)?;
        let mut sum: Option<Tensor> = None;
        for (i, view) in self.windows().views(x, 0.0)?.iter().enumerate() {
            let part = (view * Self::mask(winner, i)?)?;
            sum = Some(sum.map_or(Ok(part.clone()), |sum| sum + &part)?);
        }
        sum.ok_or_else(|| candle_core::Error::Msg("max_pool: a window without pixels".into()))
    }
}
