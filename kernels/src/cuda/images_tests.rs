//! The kernels for images and batch norm, on the processor, beside the compositions.

use candle_core::{Result, Tensor, bail};

use super::emulation::{can_run, close, single};
use super::images::{self, Channels, regroup};
use super::{fused, images::Windows};
use crate::portable::layout;
use crate::portable::pool::{self, MaxPool};
use crate::{Var, portable};

#[test]
pub(super) fn resampling_agrees_with_the_compositions() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    for dims in [[2, 3, 5, 7], [1, 1, 1, 1], [3, 4, 2, 33], [2, 3, 5, 16]] {
        let x = single(&dims, 1)?;
        close("enlarge2", &images::enlarge2(&x, 0.25)?, &pool::enlarge2(&x, 0.25)?)?;
        let even = single(&[dims[0], 2 * dims[1], 2 * dims[2], dims[3]], 2)?;
        close("sum_squares2", &images::sum_squares2(&even, 0.25)?, &pool::sum_squares2(&even, 0.25)?)?;
        for transposed in [false, true] {
            close("means3", &images::means3(&x, transposed)?, &pool::means3(&x, transposed)?)?;
        }
    }
    Ok(())
}

/// Windows as all pools of this crate lay them: (height, width), outputs, kernel, stride, before.
fn pools() -> Vec<Windows> {
    let windows = |size, outputs, kernel, stride, before| Windows { size, outputs, kernel, stride, before };
    vec![
        windows((5, 4), (2, 2), 2, 2, (0, 0)),
        windows((5, 4), (3, 2), 3, 2, (1, 0)),
        windows((5, 6), (3, 3), 3, 2, (1, 1)),
        windows((7, 6), (3, 2), 3, 2, (0, 0)),
        windows((4, 5), (4, 5), 3, 1, (1, 1)),
        windows((1, 1), (1, 1), 3, 1, (1, 1)),
    ]
}

#[test]
pub(super) fn maxima_and_their_gradients_agree_with_the_compositions() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    for (windows, channels) in pools().into_iter().flat_map(|windows| [(windows, 3), (windows, 16)]) {
        let (composed, size) = (MaxPool(windows), windows.size);
        let dims = [2, size.0, size.1, channels];
        // Few different numbers: ties, which the first in reading order wins; windows of nothing but minus infinity at the edges.
        let x = ((single(&dims, 1)? * 2.0)?.round()? / 2.0)?;
        let low = single(&dims, 3)?.gt(0.1)?;
        let none = Tensor::full(f32::NEG_INFINITY, &dims[..], x.device())?;
        let x = low.where_cond(&x, &none)?;
        let finite = |x: &Tensor| x.maximum(-9.0);
        let [best, winner] = windows.max(&x)?;
        let [composed_best, composed_winner] = composed.max(&x)?;
        close("max_pool", &finite(&best)?, &finite(&composed_best)?)?;
        close("max_pool's winners", &winner, &composed_winner)?;
        let (x, grad) = (finite(&x)?, single(best.dims(), 2)?);
        close("max_scatter", &windows.scatter(&grad, &winner)?, &composed.scatter_value(&grad, &winner)?)?;
        close("max_gather", &windows.gather(&x, &winner)?, &composed.gather_value(&x, &winner)?)?;
    }
    let nan = Tensor::new(&[[[[1f32], [f32::NAN]], [[2.0], [3.0]]]], &candle_core::Device::Cpu)?;
    let windows = Windows { size: (2, 2), outputs: (1, 1), kernel: 2, stride: 2, before: (0, 0) };
    assert!(windows.max(&nan)?[0].flatten_all()?.to_vec1::<f32>()?[0].is_nan());
    Ok(())
}

#[test]
pub(super) fn regrouping_moves_every_number_where_the_compositions_move_it() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let same = |what: &str, found: Tensor, want: Tensor| -> Result<()> {
        assert_eq!(found.dims(), want.dims(), "{what}");
        assert_eq!(found.flatten_all()?.to_vec1::<f32>()?, want.flatten_all()?.to_vec1::<f32>()?, "{what}");
        Ok(())
    };
    // Two rows of three blocks of 2x2 tokens.
    let (image, blocks) = (single(&[2, 4, 6, 8], 1)?, [2, 6, 4, 8]);
    let found = regroup(&image, (4, 6), Channels::Stay, [4, 6, 8], (2, 2), &blocks)?;
    same("blockify", found.clone(), layout::blockify(&image, 3, 2, &blocks)?)?;
    let back = regroup(&found, (2, 2), Channels::Stay, [4, 6, 8], (4, 6), image.dims())?;
    same("deblockify", back, image.clone())?;
    // Two channels of pixels, and as many as are moved at once.
    for c in [2, 16] {
        let x = single(&[2, 3, 5, 4 * c], 2)?;
        let shuffled = regroup(&x, (3, 5), Channels::ToPixels, [6, 10, c], (6, 10), &[2, 6, 10, c])?;
        same("pixel_shuffle2", shuffled.clone(), layout::pixel_shuffle2(&x)?)?;
        let back = regroup(&shuffled, (6, 10), Channels::FromPixels, [3, 5, 4 * c], (3, 5), x.dims())?;
        same("pixel_unshuffle2", back, x)?;
        for (side, size) in [(1, 1), (1, 3), (2, 2), (3, 4)] {
            let x = single(&[2, side * side, size * size, 4 * c], 3)?;
            let (block, now, blocks) = ((size, size), 2 * side * size, [2, 4 * side * side, size * size, c]);
            let found = regroup(&x, block, Channels::ToPixels, [now, now, c], block, &blocks)?;
            same("deaggregate", found.clone(), layout::deaggregate(&x, side, size)?)?;
            let plane = layout::pixel_shuffle2(&layout::deblockify(
                &x,
                side,
                size,
                &[2, side * size, side * size, 4 * c],
            )?)?;
            let dims = [2, now, now, c];
            let found_plane = regroup(&x, block, Channels::ToPixels, [now, now, c], (now, now), &dims)?;
            same("deaggregate_to_plane", found_plane, plane.clone())?;
            let small = [now / 2, now / 2, 4 * c];
            let back = regroup(&plane, (now, now), Channels::FromPixels, small, block, x.dims())?;
            same("aggregate_from_plane", back, x.clone())?;
            let back = regroup(&found, block, Channels::FromPixels, small, block, x.dims())?;
            same("aggregate", back, x)?;
        }
    }
    Ok(())
}

#[test]
pub(super) fn batch_norm_agrees_with_the_composition() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    for (rows, channels) in [(1, 1), (6, 3), (130, 5), (256, 33)] {
        let (x, g) = ((single(&[rows, channels], 1)? + 3.0)?, single(&[rows, channels], 2)?);
        let (w, b) = (single(&[channels], 3)?, single(&[channels], 4)?);
        let leaves = [Var::leaf(x.clone()), Var::leaf(w.clone()), Var::leaf(b.clone())];
        let (y, whole) = portable::norm::batch_norm(&leaves[0], &leaves[1], &leaves[2], 1e-5, None)?;
        let (mean, var) = (whole.mean, whole.var);
        let eval = portable::norm::normalise(&leaves[0], &leaves[1], &leaves[2], &mean, &var, 1e-5, None)?;

        // As if rounding had lost an eighth of the mean.
        let share = 1.0 / rows as f64;
        let near = (&mean + 0.125)?;
        let sums = near.affine(rows as f64, 0.0)?;
        let found = fused::centred_sums(&x, &sums, share)?;
        let centred = x.broadcast_sub(&near)?;
        close("centred_sums", &found.get(0)?, &centred.sum(0)?)?;
        close("centred_sums' squares", &found.get(1)?, &centred.sqr()?.sum(0)?)?;
        let [found_mean, found_var, found_rstd, found_scale] =
            fused::batch_statistics(&sums, &found, &w, share, 1e-5)?;
        close("batch_statistics' mean", &found_mean, &mean)?;
        // What is left of a difference of numbers as large as the square of an eighth.
        close("batch_statistics' variance", &(found_var + 0.1)?, &(&var + 0.1)?)?;
        if rows > 1 {
            close("batch_statistics' scale", &found_scale, &(&w * &found_rstd)?)?;
        }

        let rstd = var.affine(1.0, 1e-5)?.sqrt()?.recip()?;
        if rows > 1 {
            close("batch_statistics' 1 / standard deviation", &found_rstd, &rstd)?;
        }
        let scale = (&w * &rstd)?;
        let statistics = fused::Statistics { mean: &mean, rstd: &rstd, scale: &scale };
        close("normalise", &statistics.normalise(&x, &b)?, y.value())?;
        let sums = statistics.sums(&g, &x)?;
        for (y, share) in [(y, 1.0 / rows as f64), (eval, 0.0)] {
            let gradients = crate::backward(crate::sum_all(&crate::mul(&y, &Var::constant(g.clone()))?)?)?;
            let [Some(dx), Some(dw), Some(db)] = leaves.each_ref().map(|leaf| gradients.leaf(leaf)) else {
                bail!("batch_norm: no gradient")
            };
            close("norm_sums", &sums[0], db)?;
            close("norm_sums' products", &sums[1], dw)?;
            let found = statistics.backward(&g, &x, &sums, share)?;
            // One row has no gradient but rounding.
            if rows > 1 || share == 0.0 {
                close("normalise_backward", &found, dx)?;
            }
        }
    }
    Ok(())
}
