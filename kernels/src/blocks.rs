//! Changes of layout between images, blocks of tokens and channels: blocking as in NesT (arXiv 2105.12723) and
//! pixel shuffle (arXiv 1609.05158), channels last. All can be differentiated any number of times.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::Var;
use crate::cpu::{self, Element, by_dtype};
use crate::map::CHUNK;
use crate::portable;
use crate::simd::multiversion;
use crate::threads::Tasks;

/// `[B, H, W, C] -> [B, T, N, C]`: cuts the image into square blocks of `block_size` tokens a side. Blocks are in
/// raster order, and so are the N = `block_size`^2 tokens inside each.
///
/// # Errors
/// When H or W is not a multiple of `block_size`, or `block_size` is 0.
pub fn blockify(x: &Var, block_size: usize) -> Result<Var> {
    let &[batch, height, width, channels] = x.dims() else {
        bail!("blockify: expected [B, H, W, C], got {:?}", x.dims())
    };
    if block_size == 0 || height % block_size != 0 || width % block_size != 0 {
        bail!("blockify: {height}x{width} tokens cannot be cut into blocks of {block_size}x{block_size}");
    }
    let (rows, columns) = (height / block_size, width / block_size);
    let dims = [batch, rows * columns, block_size * block_size, channels];
    let bands = Bands { columns, block_size, channels };
    let value = match portable::takes(x.value()) {
        true => portable::layout::blockify(x.value(), columns, block_size, &dims)?,
        false => by_dtype!("blockify", x, T => bands.convert::<T>(x.value(), &dims, split_band))?,
    };
    let grid = (rows, columns);
    Ok(Var::record("blockify", value, &[x], move |grad, _| Ok(vec![Some(unblock(grad, block_size, grid)?)])))
}

/// `[B, T, N, C] -> [B, H, W, C]`: the inverse of [`blockify`] for a square grid of blocks.
///
/// # Errors
/// When T is not a square number or N is not `block_size`^2.
pub fn deblockify(x: &Var, block_size: usize) -> Result<Var> {
    let side = match x.dims() {
        &[_, blocks, _, _] => blocks.isqrt(),
        _ => 0,
    };
    unblock(x, block_size, (side, side))
}

/// [`deblockify`] for a grid of (rows, columns) blocks.
fn unblock(x: &Var, block_size: usize, grid: (usize, usize)) -> Result<Var> {
    let (rows, columns) = grid;
    let &[batch, blocks, tokens, channels] = x.dims() else {
        bail!("deblockify: expected [B, T, N, C], got {:?}", x.dims())
    };
    if blocks != rows * columns || tokens != block_size * block_size {
        bail!(
            "deblockify: expected a square number of blocks of {block_size}x{block_size} tokens, got T = {blocks}, \
             N = {tokens}"
        );
    }
    let dims = [batch, rows * block_size, columns * block_size, channels];
    let bands = Bands { columns, block_size, channels };
    let value = match portable::takes(x.value()) {
        true => portable::layout::deblockify(x.value(), columns, block_size, &dims)?,
        false => by_dtype!("deblockify", x, T => bands.convert::<T>(x.value(), &dims, join_band))?,
    };
    Ok(Var::record("deblockify", value, &[x], move |grad, _| Ok(vec![Some(blockify(grad, block_size)?)])))
}

/// `[B, H, W, 4C] -> [B, 2H, 2W, C]`: input channel `c * 4 + dy * 2 + dx` becomes channel `c` of pixel
/// `(2y + dy, 2x + dx)`, as `torch.nn.PixelShuffle(2)` orders them.
///
/// # Errors
/// When the number of channels is not a multiple of 4.
pub fn pixel_shuffle2(x: &Var) -> Result<Var> {
    let &[batch, height, width, channels] = x.dims() else {
        bail!("pixel_shuffle2: expected [B, H, W, 4C], got {:?}", x.dims())
    };
    if channels % 4 != 0 {
        bail!("pixel_shuffle2: expected a multiple of 4 channels, got {channels}");
    }
    let dims = [batch, 2 * height, 2 * width, channels / 4];
    let value = match portable::takes(x.value()) {
        true => portable::layout::pixel_shuffle2(x.value())?,
        false => by_dtype!("pixel_shuffle2", x, T => {
            each_band::<T>(x.value(), &dims, width * channels, |x, out| shuffle_row(x, channels / 4, out))
        })?,
    };
    Ok(Var::record("pixel_shuffle2", value, &[x], |grad, _| Ok(vec![Some(pixel_unshuffle2(grad)?)])))
}

/// `[B, 2H, 2W, C] -> [B, H, W, 4C]`: the inverse of [`pixel_shuffle2`].
///
/// # Errors
/// When the height or the width is odd.
pub fn pixel_unshuffle2(x: &Var) -> Result<Var> {
    let &[batch, height, width, channels] = x.dims() else {
        bail!("pixel_unshuffle2: expected [B, 2H, 2W, C], got {:?}", x.dims())
    };
    if height % 2 != 0 || width % 2 != 0 {
        bail!("pixel_unshuffle2: expected an even height and width, got {height}x{width}");
    }
    let dims = [batch, height / 2, width / 2, 4 * channels];
    let value = match portable::takes(x.value()) {
        true => portable::layout::pixel_unshuffle2(x.value())?,
        false => by_dtype!("pixel_unshuffle2", x, T => {
            each_band::<T>(x.value(), &dims, 2 * width * channels, |x, out| unshuffle_row(x, channels, out))
        })?,
    };
    Ok(Var::record("pixel_unshuffle2", value, &[x], |grad, _| Ok(vec![Some(pixel_shuffle2(grad)?)])))
}

/// A band of blocks: `block_size` rows of an image, or one row of blocks. Both have the same elements.
struct Bands {
    columns: usize,
    block_size: usize,
    channels: usize,
}

impl Bands {
    fn convert<T: Element>(
        &self,
        x: &Tensor,
        dims: &[usize],
        f: fn(&[T], usize, usize, usize, &mut [T]),
    ) -> Result<Tensor> {
        let run = self.block_size * self.channels;
        let (columns, block_size) = (self.columns, self.block_size);
        each_band::<T>(x, dims, columns * block_size * run, |x, out| f(x, columns, block_size, run, out))
    }
}

/// Copies `[block_size, columns, run] -> [columns, block_size, run]`.
fn split_band<T: Element>(x: &[T], columns: usize, block_size: usize, run: usize, out: &mut [T]) {
    for (i, x) in x.chunks_exact(run).enumerate() {
        let (y, column) = (i / columns, i % columns);
        out[(column * block_size + y) * run..][..run].copy_from_slice(x);
    }
}

/// Copies `[columns, block_size, run] -> [block_size, columns, run]`.
fn join_band<T: Element>(x: &[T], columns: usize, block_size: usize, run: usize, out: &mut [T]) {
    for (i, out) in out.chunks_exact_mut(run).enumerate() {
        let (y, column) = (i / columns, i % columns);
        out.copy_from_slice(&x[(column * block_size + y) * run..][..run]);
    }
}

/// Applies `f(input, output)` to bands of `band` elements, which do not depend on each other.
fn each_band<T: Element>(
    x: &Tensor,
    dims: &[usize],
    band: usize,
    f: impl Fn(&[T], &mut [T]) + Sync,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let out = cpu::with_slice::<T, _>(&x, |x| {
        let mut out = cpu::uninit(x.len());
        if x.is_empty() {
            return Ok(out);
        }
        let task = (CHUNK / band).max(1) * band;
        out.par_chunks_mut(task).zip(x.par_chunks(task)).one_by_one().for_each(|(out, x)| {
            for (out, x) in out.chunks_exact_mut(band).zip(x.chunks_exact(band)) {
                f(x, out);
            }
        });
        Ok(out)
    })?;
    Tensor::from_vec(out, dims, x.device())
}

multiversion! {
    /// One row of pixels `[W, 4C]` to two rows `[2, 2W, C]`.
    fn shuffle_row<T: Element>(x: &[T], channels: usize, out: &mut [T]) {
        let (top, bottom) = out.split_at_mut(x.len() / 2);
        let pixels = top.chunks_exact_mut(2 * channels).zip(bottom.chunks_exact_mut(2 * channels));
        for ((top, bottom), x) in pixels.zip(x.chunks_exact(4 * channels)) {
            let (top0, top1) = top.split_at_mut(channels);
            let (bottom0, bottom1) = bottom.split_at_mut(channels);
            for (c, x) in x.chunks_exact(4).enumerate() {
                top0[c] = x[0];
                top1[c] = x[1];
                bottom0[c] = x[2];
                bottom1[c] = x[3];
            }
        }
    }
    /// Two rows of pixels `[2, 2W, C]` to one row `[W, 4C]`.
    fn unshuffle_row<T: Element>(x: &[T], channels: usize, out: &mut [T]) {
        let (top, bottom) = x.split_at(x.len() / 2);
        let pixels = top.chunks_exact(2 * channels).zip(bottom.chunks_exact(2 * channels));
        for (out, (top, bottom)) in out.chunks_exact_mut(4 * channels).zip(pixels) {
            let (top0, top1) = top.split_at(channels);
            let (bottom0, bottom1) = bottom.split_at(channels);
            for (c, out) in out.chunks_exact_mut(4).enumerate() {
                out[0] = top0[c];
                out[1] = top1[c];
                out[2] = bottom0[c];
                out[3] = bottom1[c];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradients, check_second_order, pattern};
    use crate::{permute, reshape};

    fn assert_same(found: &Var, want: &Var) -> Result<()> {
        assert_eq!(found.dims(), want.dims());
        let difference = (found.value() - want.value())?.abs()?.max_all()?.to_scalar::<f64>()?;
        assert_eq!(difference, 0.0);
        Ok(())
    }

    #[test]
    fn blocks_are_in_raster_order() -> Result<()> {
        for (b, rows, columns, size, c) in
            [(2, 3, 2, 2, 5), (1, 1, 1, 3, 1), (3, 2, 2, 4, 8), (2, 4, 4, 4, 192)]
        {
            let x = Var::constant(pattern(&[b, rows * size, columns * size, c], 1)?);
            let split = permute(&reshape(&x, &[b, rows, size, columns, size, c])?, &[0, 1, 3, 2, 4, 5])?;
            let want = reshape(&split, &[b, rows * columns, size * size, c])?;
            assert_same(&blockify(&x, size)?, &want)?;
            if rows == columns {
                assert_same(&deblockify(&want, size)?, &x)?;
            }
        }
        Ok(())
    }

    #[test]
    fn pixel_shuffle_has_pytorchs_channel_order() -> Result<()> {
        // Also of several chunks of rows.
        for (h, w, c) in [(3, 5, 3), (8, 16, 48)] {
            let x = Var::constant(pattern(&[2, h, w, 4 * c], 1)?);
            let split = permute(&reshape(&x, &[2, h, w, c, 2, 2])?, &[0, 1, 4, 2, 5, 3])?;
            let want = reshape(&split, &[2, 2 * h, 2 * w, c])?;
            assert_same(&pixel_shuffle2(&x)?, &want)?;
            assert_same(&pixel_unshuffle2(&want)?, &x)?;
        }
        Ok(())
    }

    #[test]
    fn gradients_agree_with_differences() -> Result<()> {
        let x = [pattern(&[1, 4, 6, 4], 1)?];
        check_gradients(|x| blockify(&x[0], 2), &x)?;
        check_second_order(|x| pixel_unshuffle2(&x[0]), &x)?;
        check_second_order(|x| pixel_shuffle2(&x[0]), &x)?;
        check_second_order(|x| deblockify(&x[0], 2), &[pattern(&[2, 4, 4, 3], 1)?])
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() -> Result<()> {
        let x = Var::constant(pattern(&[1, 4, 5, 6], 1)?);
        assert!(blockify(&x, 2).is_err());
        assert!(blockify(&x, 0).is_err());
        assert!(deblockify(&x, 2).is_err());
        assert!(pixel_shuffle2(&x).is_err());
        assert!(pixel_unshuffle2(&x).is_err());
        Ok(())
    }
}
