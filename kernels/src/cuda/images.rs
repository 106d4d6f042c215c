//! What the own kernels for images compute, from tensor to tensor on one GPU. A result has the type of its image.

use candle_core::{DType, Result, Tensor};

use super::fused::{one, run, takes, two};
use super::plan::Plan;
use crate::augment::{Direction, ImageChange};

/// Elements of the largest result: the kernels for images count in 32 bits, and enlargement makes four of one.
const LARGEST: usize = 1 << 30;

/// Whether there are kernels for images `x`.
pub(crate) fn takes_image(x: &Tensor) -> bool {
    takes(x) && x.elem_count() < LARGEST
}

/// `factor` times the nearest-neighbour enlargement by 2.
pub(crate) fn enlarge2(x: &Tensor, factor: f64) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let plan = Plan::eights("enlarge2", 1, &[b, 2 * h, 2 * w, c]).with_types(&[x.dtype()]);
    one(&plan.with_sizes(&[h, w, c]).with_numbers(&[factor as f32]), &[Some(x)])
}

/// `factor` times the sum of every 2x2 square.
pub(crate) fn sum_squares2(x: &Tensor, factor: f64) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let (h, w) = (h / 2, w / 2);
    let plan = Plan::eights("sum_squares2", 1, &[b, h, w, c]).with_types(&[x.dtype()]);
    one(&plan.with_sizes(&[h, w, c]).with_numbers(&[factor as f32]), &[Some(x)])
}

/// The mean of 3x3 windows at stride 1 over the pixels that exist, or the transpose of that map.
pub(crate) fn means3(x: &Tensor, transposed: bool) -> Result<Tensor> {
    let (_, h, w, c) = x.dims4()?;
    let plan = Plan::elements("means3", 1, x.dims()).with_types(&[x.dtype()]);
    one(&plan.with_sizes(&[h, w, c, usize::from(transposed)]), &[Some(x)])
}

/// How square windows lie on an image.
#[derive(Clone, Copy)]
pub(crate) struct Windows {
    pub(crate) size: (usize, usize),
    pub(crate) outputs: (usize, usize),
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    /// Padding above and to the left.
    pub(crate) before: (usize, usize),
}

impl Windows {
    /// A plan for images or for windows of `x`'s batch and channels.
    fn plan(&self, kernel: &'static str, outputs: usize, x: &Tensor, (h, w): (usize, usize)) -> Result<Plan> {
        let (b, _, _, c) = x.dims4()?;
        // A second output, numbers of taps, is f32.
        let plan =
            Plan::elements(kernel, outputs, &[b, h, w, c]).with_types(&[x.dtype(), DType::F32][..outputs]);
        let (size, windows) = (self.size, self.outputs);
        let sizes =
            [size.0, size.1, c, windows.0, windows.1, self.kernel, self.stride, self.before.0, self.before.1];
        Ok(plan.with_sizes(&sizes))
    }

    /// The maximum of every window, and the number of the tap that won.
    pub(crate) fn max(&self, x: &Tensor) -> Result<[Tensor; 2]> {
        two("max_pool", run(&self.plan("max_pool", 2, x, self.outputs)?, &[Some(x)])?)
    }

    /// Sends each number of a window to the pixel that won it.
    pub(crate) fn scatter(&self, grad: &Tensor, winner: &Tensor) -> Result<Tensor> {
        one(&self.plan("max_scatter", 1, grad, self.size)?, &[Some(grad), Some(winner)])
    }

    /// The pixel that won each window.
    pub(crate) fn gather(&self, x: &Tensor, winner: &Tensor) -> Result<Tensor> {
        one(&self.plan("max_gather", 1, x, self.outputs)?, &[Some(x), Some(winner)])
    }
}

/// What [`regroup`] does with channels.
#[derive(Clone, Copy)]
pub(crate) enum Channels {
    /// Keeps them.
    Stay,
    /// Four of them become a 2x2 square of pixels.
    ToPixels,
    /// A 2x2 square of pixels becomes four of them.
    FromPixels,
}

/// Regroups the tokens of images, whose tokens lie in blocks of `from` (height, width), into images of `image` (height,
/// width, channels) in blocks of `to`; an image in raster order is one block. `dims` is the result's shape.
pub(crate) fn regroup(
    x: &Tensor,
    from: (usize, usize),
    channels: Channels,
    image: [usize; 3],
    to: (usize, usize),
    dims: &[usize],
) -> Result<Tensor> {
    let ([h, w, c], way) = (image, channels as usize);
    let plan = Plan::eights("regroup", 1, dims).with_types(&[x.dtype()]);
    one(&plan.with_sizes(&[h, w, c, to.0, to.1, from.0, from.1, way]), &[Some(x)])
}

/// Images `[B, H, W, 3]`, f32, through their changes; a few numbers an image are uploaded.
pub(crate) fn change_images(images: &Tensor, changes: &[ImageChange], direction: Direction) -> Result<Tensor> {
    let (b, h, w, _) = images.dims4()?;
    let row = |change: &ImageChange| {
        let ([down, right], [rows, columns]) = (change.shift.map(|by| by as f32), &change.hole);
        let hole = [rows.start, rows.end, columns.start, columns.end].map(|edge| edge as f32);
        [[change.brightness, change.saturation, change.contrast, down, right].as_slice(), &hole].concat()
    };
    let table: Vec<f32> = changes.iter().flat_map(row).collect();
    let table = Tensor::from_vec(table, (b, 9), images.device())?;
    let plan = Plan::blocks("change_images", (b, 1), 16, vec![images.dims().to_vec()]);
    one(&plan.with_sizes(&[h, w, direction as usize]), &[Some(images), Some(&table)])
}
