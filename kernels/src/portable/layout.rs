//! Changes of layout: a reshape, a permutation and one copy.

use candle_core::{Result, Tensor};

use crate::cuda::images::{Channels, regroup, takes_image};

/// `[B, rows, size, columns, size, C] <-> [B, rows, columns, size, size, C]`.
const SWAP_BLOCKS: [usize; 6] = [0, 1, 3, 2, 4, 5];

fn rearrange(x: &Tensor, split: &[usize], order: &[usize], dims: &[usize]) -> Result<Tensor> {
    x.contiguous()?.reshape(split)?.permute(order)?.contiguous()?.reshape(dims)
}

/// `[B, H, W, C] -> dims = [B, T, N, C]`, for `columns` blocks of `size` tokens a row.
pub(crate) fn blockify(x: &Tensor, columns: usize, size: usize, dims: &[usize]) -> Result<Tensor> {
    if takes_image(x) {
        let (_, h, w, c) = x.dims4()?;
        return regroup(x, (h, w), Channels::Stay, [h, w, c], (size, size), dims);
    }
    let split = [dims[0], dims[1] / columns.max(1), size, columns, size, dims[3]];
    rearrange(x, &split, &SWAP_BLOCKS, dims)
}

/// `[B, T, N, C] -> dims = [B, H, W, C]`.
pub(crate) fn deblockify(x: &Tensor, columns: usize, size: usize, dims: &[usize]) -> Result<Tensor> {
    if takes_image(x) {
        let image = (dims[1], dims[2]);
        return regroup(x, (size, size), Channels::Stay, [image.0, image.1, dims[3]], image, dims);
    }
    let split = [dims[0], dims[1] / size, columns, size, size, dims[3]];
    rearrange(x, &split, &SWAP_BLOCKS, dims)
}

/// `[B, H, W, 4C] -> [B, 2H, 2W, C]`.
pub(crate) fn pixel_shuffle2(x: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    if takes_image(x) {
        let (to, dims) = ((2 * h, 2 * w), [b, 2 * h, 2 * w, c / 4]);
        return regroup(x, (h, w), Channels::ToPixels, [to.0, to.1, c / 4], to, &dims);
    }
    rearrange(x, &[b, h, w, c / 4, 2, 2], &[0, 1, 4, 2, 5, 3], &[b, 2 * h, 2 * w, c / 4])
}

/// `[B, 2H, 2W, C] -> [B, H, W, 4C]`.
pub(crate) fn pixel_unshuffle2(x: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    if takes_image(x) {
        let (to, dims) = ((h / 2, w / 2), [b, h / 2, w / 2, 4 * c]);
        return regroup(x, (h, w), Channels::FromPixels, [to.0, to.1, 4 * c], to, &dims);
    }
    rearrange(x, &[b, h / 2, 2, w / 2, 2, c], &[0, 1, 3, 5, 2, 4], &[b, h / 2, w / 2, 4 * c])
}

/// `[B, T, N, 4C] -> [B, 4T, N, C]`: `side` blocks a side of `size` tokens a side.
pub(crate) fn deaggregate(x: &Tensor, side: usize, size: usize) -> Result<Tensor> {
    let (b, t, n, c) = x.dims4()?;
    if takes_image(x) {
        let (block, now) = ((size, size), 2 * side * size);
        return regroup(x, block, Channels::ToPixels, [now, now, c / 4], block, &[b, 4 * t, n, c / 4]);
    }
    let image = deblockify(x, side, size, &[b, side * size, side * size, c])?;
    blockify(&pixel_shuffle2(&image)?, 2 * side, size, &[b, 4 * t, n, c / 4])
}

/// `[B, T, N, 4C] -> [B, H, W, C]`: [`deaggregate`] without the last step.
pub(crate) fn deaggregate_to_plane(x: &Tensor, side: usize, size: usize) -> Result<Tensor> {
    let (b, _, _, c) = x.dims4()?;
    let (before, now) = (side * size, 2 * side * size);
    if takes_image(x) {
        let dims = [b, now, now, c / 4];
        return regroup(x, (size, size), Channels::ToPixels, [now, now, c / 4], (now, now), &dims);
    }
    pixel_shuffle2(&deblockify(x, side, size, &[b, before, before, c])?)
}

/// The inverse of [`deaggregate_to_plane`]; `side` is the number of blocks a side after.
pub(crate) fn aggregate_from_plane(x: &Tensor, side: usize, size: usize) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let dims = [b, side * side, size * size, 4 * c];
    if takes_image(x) {
        return regroup(x, (h, w), Channels::FromPixels, [h / 2, w / 2, 4 * c], (size, size), &dims);
    }
    blockify(&pixel_unshuffle2(x)?, side, size, &dims)
}

/// The inverse of [`deaggregate`]; `side` is the number of blocks a side after.
pub(crate) fn aggregate(x: &Tensor, side: usize, size: usize) -> Result<Tensor> {
    let (b, t, n, c) = x.dims4()?;
    if takes_image(x) {
        let (block, now) = ((size, size), side * size);
        return regroup(x, block, Channels::FromPixels, [now, now, 4 * c], block, &[b, t / 4, n, 4 * c]);
    }
    let image = deblockify(x, 2 * side, size, &[b, 2 * side * size, 2 * side * size, c])?;
    blockify(&pixel_unshuffle2(&image)?, side, size, &[b, t / 4, n, 4 * c])
}
