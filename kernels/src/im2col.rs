//! Convolution as matrix products: a tile of output pixels gathers the inputs under the kernel into the rows
//! of a matrix (im2col), which is multiplied by the weights while it is in the cache.
//!
//! A tile lies inside one image and its size depends on the geometry of an image alone, so an image's result
//! does not depend on the batch around it.

use rayon::prelude::*;

use crate::conv2d::Geometry;
use crate::cpu::{self, Element};
use crate::gemm::{Mat, Shared, add_assign, gemm};
use crate::scratch::scratch;
use crate::threads::Tasks;

/// Elements of a gathered tile: about a third of a level-2 cache of 1 MiB in f32.
const TILE_ELEMENTS: usize = 96 * 1024;

/// Output rows that one tile covers.
fn tile_rows(g: &Geometry) -> usize {
    (TILE_ELEMENTS / (g.depth() * g.ow).max(1)).clamp(1, g.oh)
}

/// The range of kernel columns that fall inside the image for output column `j`, and the first input column.
fn inside(start: isize, kernel: usize, size: usize) -> (usize, usize) {
    let first = (-start).clamp(0, kernel as isize) as usize;
    let last = (size as isize - start).clamp(0, kernel as isize) as usize;
    (first, last.max(first))
}

/// Gathers output rows `rows` of the image `x`: one row of `depth` elements a pixel.
fn gather<T: Element>(g: &Geometry, x: &[T], rows: std::ops::Range<usize>, col: &mut [T]) {
    let mut pixels = col.chunks_exact_mut(g.depth());
    for i in rows {
        for j in 0..g.ow {
            let Some(pixel) = pixels.next() else { return };
            let (y0, x0) =
                (top(i, g.conv.stride.0, g.conv.padding.0), top(j, g.conv.stride.1, g.conv.padding.1));
            let (first, last) = inside(x0, g.kw, g.w);
            for (ky, part) in pixel.chunks_exact_mut(g.kw * g.c_in).enumerate() {
                let y = y0 + ky as isize;
                if y < 0 || y >= g.h as isize || first == last {
                    part.fill(T::zero());
                    continue;
                }
                let start = (y as usize * g.w + (x0 + first as isize) as usize) * g.c_in;
                part[..first * g.c_in].fill(T::zero());
                part[first * g.c_in..last * g.c_in].copy_from_slice(&x[start..start + (last - first) * g.c_in]);
                part[last * g.c_in..].fill(T::zero());
            }
        }
    }
}

/// The transpose of [`gather`]: adds each element to the input it came from.
fn scatter<T: Element>(g: &Geometry, col: &[T], rows: std::ops::Range<usize>, x: &mut [T]) {
    let mut pixels = col.chunks_exact(g.depth());
    for i in rows {
        for j in 0..g.ow {
            let Some(pixel) = pixels.next() else { return };
            let (y0, x0) =
                (top(i, g.conv.stride.0, g.conv.padding.0), top(j, g.conv.stride.1, g.conv.padding.1));
            let (first, last) = inside(x0, g.kw, g.w);
            for (ky, part) in pixel.chunks_exact(g.kw * g.c_in).enumerate() {
                let y = y0 + ky as isize;
                if y < 0 || y >= g.h as isize || first == last {
                    continue;
                }
                let start = (y as usize * g.w + (x0 + first as isize) as usize) * g.c_in;
                for (x, part) in x[start..].iter_mut().zip(&part[first * g.c_in..last * g.c_in]) {
                    *x += *part;
                }
            }
        }
    }
}

/// The input row (or column) under the first kernel row for output row `i`; negative in the padding.
fn top(i: usize, stride: usize, padding: usize) -> isize {
    (i * stride) as isize - padding as isize
}

/// A kernel of one pixel, at every pixel: the gathered matrix is the image itself.
pub(crate) fn is_pointwise(g: &Geometry) -> bool {
    g.kh == 1 && g.kw == 1 && g.conv.stride == (1, 1) && g.conv.padding == (0, 0)
}

/// Images per task for small maps would change results with the batch, so a tile never spans two images.
fn tiles(g: &Geometry) -> (usize, usize) {
    let rows = tile_rows(g);
    (rows, g.oh.div_ceil(rows))
}

/// The convolution with its epilogue.
pub(crate) fn forward<T: Element>(g: Geometry, x: &[T], w: &[T], bias: Option<&[T]>, slope: f32) -> Vec<T> {
    let mut out = cpu::uninit(g.batch * g.oh * g.ow * g.c_out);
    let (rows, per_image) = tiles(&g);
    let shared = Shared::new(&mut out);
    (0..g.batch * per_image).into_par_iter().one_by_one().for_each(|task| {
        let (image, tile) = (task / per_image, task % per_image);
        let range = tile * rows..((tile + 1) * rows).min(g.oh);
        let pixels = range.len() * g.ow;
        let start = (image * g.oh + range.start) * g.ow;
        // SAFETY: each task has its own output rows.
        let out = unsafe { shared.range(start * g.c_out, pixels * g.c_out) };
        with_tile(&g, x, image, range, |col| {
            gemm(
                (pixels, g.c_out, g.depth()),
                Mat::rows(col, g.depth()),
                Mat::rows(w, g.depth()).t(),
                out,
                g.c_out,
                false,
            );
        });
        crate::fused::epilogue(out, bias, slope, g.c_out);
    });
    out
}

/// Calls `f` with the gathered tile of an image.
fn with_tile<T: Element>(
    g: &Geometry,
    x: &[T],
    image: usize,
    rows: std::ops::Range<usize>,
    f: impl FnOnce(&[T]),
) {
    let size = g.h * g.w * g.c_in;
    let x = &x[image * size..(image + 1) * size];
    if is_pointwise(g) {
        return f(&x[rows.start * g.ow * g.c_in..rows.end * g.ow * g.c_in]);
    }
    scratch(rows.len() * g.ow * g.depth(), |col| {
        gather(g, x, rows, col);
        f(col);
    });
}

/// The gradient for the input.
pub(crate) fn input_gradient<T: Element>(g: Geometry, grad: &[T], w: &[T]) -> Vec<T> {
    if flips(&g) {
        let (flipped, w) = (flip(&g), flip_weights(&g, w));
        return forward(flipped, grad, &w, None, 1.0);
    }
    let image_size = g.h * g.w * g.c_in;
    let mut dx = vec![T::zero(); g.batch * image_size];
    let (rows, per_image) = tiles(&g);
    dx.par_chunks_mut(image_size.max(1)).enumerate().one_by_one().for_each(|(image, dx)| {
        for tile in 0..per_image {
            let range = tile * rows..((tile + 1) * rows).min(g.oh);
            let pixels = range.len() * g.ow;
            scratch(pixels * g.depth(), |col| {
                let grad = &grad[(image * g.oh + range.start) * g.ow * g.c_out..];
                gemm(
                    (pixels, g.depth(), g.c_out),
                    Mat::rows(grad, g.c_out),
                    Mat::rows(w, g.depth()),
                    col,
                    g.depth(),
                    false,
                );
                scatter(&g, col, range, dx);
            });
        }
    });
    dx
}

/// Whether the input gradient is itself a convolution: [`flip`].
pub(crate) fn flips(g: &Geometry) -> bool {
    g.conv.stride == (1, 1) && g.conv.padding.0 < g.kh && g.conv.padding.1 < g.kw
}

/// The convolution of the output gradient that gives the input gradient at stride 1.
pub(crate) fn flip(g: &Geometry) -> Geometry {
    let padding = (g.kh - 1 - g.conv.padding.0, g.kw - 1 - g.conv.padding.1);
    let conv = crate::Conv2d { stride: (1, 1), padding };
    Geometry { h: g.oh, w: g.ow, c_in: g.c_out, c_out: g.c_in, oh: g.h, ow: g.w, conv, ..*g }
}

/// `[C_out, kh, kw, C_in]` turned by half a turn and transposed: `[C_in, kh, kw, C_out]`.
pub(crate) fn flip_weights<T: Element>(g: &Geometry, w: &[T]) -> Vec<T> {
    let taps = g.kh * g.kw;
    let mut out = cpu::uninit(w.len());
    out.par_chunks_mut((taps * g.c_out).max(1)).enumerate().one_by_one().for_each(|(ci, out)| {
        for (tap, out) in out.chunks_exact_mut(g.c_out).enumerate() {
            for (co, out) in out.iter_mut().enumerate() {
                *out = w[(co * taps + taps - 1 - tap) * g.c_in + ci];
            }
        }
    });
    out
}

/// Partial sums of the weight gradient: a fixed number, so that the result does not depend on the threads.
const PARTS: usize = 8;

/// The gradient for the weight.
pub(crate) fn weight_gradient<T: Element>(g: Geometry, x: &[T], grad: &[T]) -> Vec<T> {
    let (rows, per_image) = tiles(&g);
    let tasks = g.batch * per_image;
    let parts = PARTS.min(tasks).max(1);
    let partial: Vec<Vec<T>> = (0..parts)
        .into_par_iter()
        .one_by_one()
        .map(|part| {
            let mut dw = vec![T::zero(); g.c_out * g.depth()];
            for task in part * tasks / parts..(part + 1) * tasks / parts {
                let (image, tile) = (task / per_image, task % per_image);
                let range = tile * rows..((tile + 1) * rows).min(g.oh);
                let pixels = range.len() * g.ow;
                let grad = &grad[(image * g.oh + range.start) * g.ow * g.c_out..];
                with_tile(&g, x, image, range, |col| {
                    gemm(
                        (g.c_out, g.depth(), pixels),
                        Mat::rows(grad, g.c_out).t(),
                        Mat::rows(col, g.depth()),
                        &mut dw,
                        g.depth(),
                        true,
                    );
                });
            }
            dw
        })
        .collect();
    let mut partial = partial.into_iter();
    let mut dw = partial.next().unwrap_or_default();
    for part in partial {
        add_assign(&mut dw, &part);
    }
    dw
}
