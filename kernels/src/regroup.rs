//! Block de-aggregation between levels of a transposed NesT, in one pass over memory.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::Var;
use crate::blocks::{deblockify, pixel_shuffle2};
use crate::cpu::{self, Element, by_dtype};
use crate::map::CHUNK;
use crate::portable;
use crate::simd::multiversion;
use crate::threads::Tasks;

/// `[B, T, N, 4C] -> [B, 4T, N, C]`: [`deblockify`](crate::deblockify), [`pixel_shuffle2`](crate::pixel_shuffle2) and
/// [`blockify`](crate::blockify) at once. Each block of `block_size`^2 tokens becomes four.
/// Can be differentiated any number of times.
///
/// # Errors
/// When T is not a square number, N is not `block_size`^2 or the channels are not a multiple of 4.
pub fn deaggregate(x: &Var, block_size: usize) -> Result<Var> {
    let grid = Grid::of(x, block_size)?;
    let value = match portable::takes(x.value()) {
        true => portable::layout::deaggregate(x.value(), grid.side, block_size)?,
        false => by_dtype!("deaggregate", x, T => {
            let dims = [x.dims()[0], 4 * x.dims()[1], x.dims()[2], grid.channels];
            grid.each_band::<T>(x.value(), &dims, |x, out| spread(grid, x, out))
        })?,
    };
    Ok(Var::record("deaggregate", value, &[x], move |grad, _| Ok(vec![Some(aggregate(grad, grid)?)])))
}

/// `[B, T, N, 4C] -> [B, H, W, C]`: [`deblockify`] and [`pixel_shuffle2`] at once, for what works on the plane before tokens are
/// in blocks again. Can be differentiated any number of times.
///
/// # Errors
/// As [`deaggregate`].
pub fn deaggregate_to_plane(x: &Var, block_size: usize) -> Result<Var> {
    if !portable::takes(x.value()) {
        return pixel_shuffle2(&deblockify(x, block_size)?);
    }
    let grid = Grid::of(x, block_size)?;
    let value = portable::layout::deaggregate_to_plane(x.value(), grid.side, block_size)?;
    Ok(Var::record("deaggregate_to_plane", value, &[x], move |grad, _| {
        Ok(vec![Some(aggregate_from_plane(grad, grid)?)])
    }))
}

/// The inverse of [`deaggregate_to_plane`] on the portable path.
fn aggregate_from_plane(x: &Var, grid: Grid) -> Result<Var> {
    let value = portable::layout::aggregate_from_plane(x.value(), grid.side, grid.block_size)?;
    Ok(Var::record("aggregate_from_plane", value, &[x], move |grad, _| {
        Ok(vec![Some(deaggregate_to_plane(grad, grid.block_size)?)])
    }))
}

/// The inverse of [`deaggregate`], which is also its backward pass.
fn aggregate(x: &Var, grid: Grid) -> Result<Var> {
    let &[batch, blocks, tokens, channels] = x.dims() else {
        bail!("aggregate: expected [B, 4T, N, C], got {:?}", x.dims())
    };
    let value = match portable::takes(x.value()) {
        true => portable::layout::aggregate(x.value(), grid.side, grid.block_size)?,
        false => by_dtype!("aggregate", x, T => {
            let dims = [batch, blocks / 4, tokens, 4 * channels];
            grid.each_band::<T>(x.value(), &dims, |x, out| collect(grid, x, out))
        })?,
    };
    Ok(Var::record("aggregate", value, &[x], move |grad, _| {
        Ok(vec![Some(deaggregate(grad, grid.block_size)?)])
    }))
}

/// `side` by `side` blocks of `block_size` by `block_size` tokens before, twice as many blocks a side after, with
/// `channels` channels then.
#[derive(Clone, Copy)]
struct Grid {
    side: usize,
    block_size: usize,
    channels: usize,
}

impl Grid {
    /// Of tokens `[B, T, N, 4C]` before.
    fn of(x: &Var, block_size: usize) -> Result<Self> {
        let &[_, blocks, tokens, channels] = x.dims() else {
            bail!("deaggregate: expected [B, T, N, 4C], got {:?}", x.dims())
        };
        let side = blocks.isqrt();
        if side * side != blocks || tokens != block_size * block_size || channels % 4 != 0 {
            bail!(
                "deaggregate: expected a square number of blocks of {block_size}x{block_size} tokens and a multiple \
                 of 4 channels, got {:?}",
                x.dims()
            );
        }
        Ok(Self { side, block_size, channels: channels / 4 })
    }

    /// Elements of one row of blocks before, which are the elements of two rows of blocks after.
    fn band(&self) -> usize {
        self.side * self.block_size * self.block_size * 4 * self.channels
    }

    /// For token `token` of block `column` of a row of blocks: where its pixels (0, 0), (0, 1), (1, 0), (1, 1) start in
    /// the two rows of blocks after.
    #[inline(always)]
    fn targets(&self, column: usize, token: usize) -> [usize; 4] {
        let (y, x) = (token / self.block_size, token % self.block_size);
        let at = |dy: usize, dx: usize| {
            let (y, x) = (2 * y + dy, 2 * (column * self.block_size + x) + dx);
            let block = y / self.block_size * 2 * self.side + x / self.block_size;
            let inside = y % self.block_size * self.block_size + x % self.block_size;
            (block * self.block_size * self.block_size + inside) * self.channels
        };
        [at(0, 0), at(0, 1), at(1, 0), at(1, 1)]
    }

    fn each_band<T: Element>(
        &self,
        x: &Tensor,
        dims: &[usize],
        f: impl Fn(&[T], &mut [T]) + Sync,
    ) -> Result<Tensor> {
        let x = x.contiguous()?;
        let out = cpu::with_slice::<T, _>(&x, |x| {
            let mut out = cpu::uninit(x.len());
            if x.is_empty() {
                return Ok(out);
            }
            let (band, task) = (self.band(), (CHUNK / self.band()).max(1) * self.band());
            out.par_chunks_mut(task).zip(x.par_chunks(task)).one_by_one().for_each(|(out, x)| {
                for (out, x) in out.chunks_exact_mut(band).zip(x.chunks_exact(band)) {
                    f(x, out);
                }
            });
            Ok(out)
        })?;
        Tensor::from_vec(out, dims, x.device())
    }
}

multiversion! {
    fn spread<T: Element>(grid: Grid, x: &[T], out: &mut [T]) {
        let (tokens, channels) = (grid.block_size * grid.block_size, grid.channels);
        for (i, x) in x.chunks_exact(4 * channels).enumerate() {
            for (part, start) in grid.targets(i / tokens, i % tokens).into_iter().enumerate() {
                let out = &mut out[start..start + channels];
                for (out, x) in out.iter_mut().zip(x.chunks_exact(4)) {
                    *out = x[part];
                }
            }
        }
    }
    fn collect<T: Element>(grid: Grid, x: &[T], out: &mut [T]) {
        let (tokens, channels) = (grid.block_size * grid.block_size, grid.channels);
        for (i, out) in out.chunks_exact_mut(4 * channels).enumerate() {
            let [a, b, c, d] = grid.targets(i / tokens, i % tokens).map(|start| &x[start..start + channels]);
            for (j, out) in out.chunks_exact_mut(4).enumerate() {
                out[0] = a[j];
                out[1] = b[j];
                out[2] = c[j];
                out[3] = d[j];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blockify;
    use crate::gradcheck::{check_gradients, check_second_order, pattern};

    #[test]
    fn is_the_composition_of_its_three_parts() -> Result<()> {
        for (dims, block_size) in [
            ([2, 4, 16, 12], 4),
            ([1, 1, 9, 4], 3),
            ([3, 9, 4, 64], 2),
            ([1, 16, 1, 8], 1),
            ([2, 4, 16, 192], 4),
        ] {
            let x = Var::constant(pattern(&dims, 1)?);
            let plane = pixel_shuffle2(&deblockify(&x, block_size)?)?;
            let found = deaggregate_to_plane(&x, block_size)?;
            assert_eq!((found.dims(), found.dtype()), (plane.dims(), plane.dtype()));
            let difference = (found.value() - plane.value())?.abs()?.max_all()?.to_scalar::<f64>()?;
            assert_eq!(difference, 0.0, "{dims:?}");
            let parts = blockify(&plane, block_size)?;
            let once = deaggregate(&x, block_size)?;
            assert_eq!(once.dims(), parts.dims());
            let difference = (once.value() - parts.value())?.abs()?.max_all()?.to_scalar::<f64>()?;
            assert_eq!(difference, 0.0, "{dims:?}");
            let back = aggregate(&once, Grid { side: dims[1].isqrt(), block_size, channels: dims[3] / 4 })?;
            assert_eq!((back.value() - x.value())?.abs()?.max_all()?.to_scalar::<f64>()?, 0.0, "{dims:?}");
        }
        Ok(())
    }

    #[test]
    fn gradients_agree_with_differences() -> Result<()> {
        let x = [pattern(&[1, 4, 4, 8], 1)?];
        check_gradients(|x| deaggregate(&x[0], 2), &x)?;
        check_gradients(|x| deaggregate_to_plane(&x[0], 2), &x)?;
        check_second_order(|x| deaggregate_to_plane(&x[0], 2), &x)?;
        check_second_order(|x| deaggregate(&x[0], 2), &x)
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() -> Result<()> {
        for dims in [vec![1, 2, 4, 8], vec![1, 4, 4, 6], vec![1, 4, 5, 8], vec![4, 4, 8]] {
            let x = Var::constant(pattern(&dims, 1)?);
            assert!(deaggregate(&x, 2).is_err() && deaggregate_to_plane(&x, 2).is_err(), "{dims:?}");
        }
        Ok(())
    }
}
