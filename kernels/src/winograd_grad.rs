//! The weight gradient of 3x3 convolutions with stride 1 by [`crate::winograd`], in f32 on AVX-512 and AVX2.
//!
//! The transpose of the algorithm of [`crate::winograd_conv`]: at each of the 36 points, the transformed inputs times the
//! transformed output gradients, summed over all tiles, and one transform back at the end. A task owns some input
//! channels and a panel of output channels and sums over tiles in their order, so there are no partial sums to merge and
//! the result does not depend on the threads.

#![cfg(target_arch = "x86_64")]

use rayon::prelude::*;

use crate::conv2d::Geometry;
use crate::gemm::Shared;
use crate::lanes::{LANES, with_lanes};
use crate::micro::{self, Added, Ahead, Depth, Epilogue, PANEL, Panels, ROWS};
use crate::scratch::scratch;
use crate::threads::Tasks;
use crate::winograd::{self, OUT, PRODUCTS};
use crate::winograd_conv::{Group, transform_inputs};

/// Input channels of a task: two blocks of the kernel.
const TASK_CHANNELS: usize = 2 * ROWS;

/// Elements from point to point of the transformed gradients `[panel][tile][32]`.
fn gradient_stride(group: &Group, panels: usize) -> usize {
    group.stride(panels * PANEL)
}

with_lanes! {
    /// Transforms the output gradients of row `row` of a group's tiles.
    ///
    /// # Safety
    /// `to` has room for the group's transforms, and nobody else writes this row of tiles.
    unsafe fn transform_gradients<V>(g: &Geometry, grad: &[f32], group: &Group, row: usize, to: *mut f32) {
        let stride = gradient_stride(group, g.c_out.div_ceil(PANEL));
        for t in row * group.per_row..(row + 1) * group.per_row {
            let (image, y0, x0) = group.place(t);
            let (rows, cols) = (OUT.min(g.oh - y0), OUT.min(g.ow - x0));
            for channel in (0..g.c_out).step_by(V::WIDTH) {
                let mut tile = [[V::splat(0.0); OUT]; OUT];
                for (dy, line) in tile.iter_mut().enumerate().take(rows) {
                    for (dx, value) in line.iter_mut().enumerate().take(cols) {
                        let pixel = (image * g.oh + y0 + dy) * g.ow + x0 + dx;
                        let from = &grad[pixel * g.c_out + channel..][..V::WIDTH];
                        // SAFETY: `from` holds as many elements.
                        *value = unsafe { V::load(from.as_ptr()) };
                    }
                }
                let points = winograd::gradient_2d(&tile);
                let at = (channel / PANEL * group.tiles() + t) * PANEL + channel % PANEL;
                for (point, value) in points.as_flattened().iter().enumerate() {
                    // SAFETY: the caller vouches for the buffer.
                    unsafe { value.store(to.add(point * stride + at)) };
                }
            }
        }
    }

    /// Transforms sums `[point][channel][32]` back to nine taps and adds them to a packed panel of the weight gradient, whose
    /// rows are (tap, input channel).
    ///
    /// # Safety
    /// The panel has `9 * c_in` rows, and nobody else writes those of these channels.
    unsafe fn add_taps<V>(
        sums: &[f32], channels: std::ops::Range<usize>, c_in: usize, columns: usize, panel: *mut f32,
    ) {
        let stride = channels.len() * PANEL;
        for (i, ci) in channels.enumerate() {
            for column in (0..columns).step_by(V::WIDTH) {
                let mut m = [[V::splat(0.0); 6]; 6];
                for point in 0..PRODUCTS {
                    let from = &sums[point * stride + i * PANEL + column..][..V::WIDTH];
                    // SAFETY: `from` holds as many elements.
                    m[point / 6][point % 6] = unsafe { V::load(from.as_ptr()) };
                }
                for (tap, value) in winograd::weight_gradient_2d(&m).as_flattened().iter().enumerate() {
                    // SAFETY: row (tap, ci) of the panel; the caller vouches for it.
                    unsafe {
                        let to = panel.add((tap * c_in + ci) * PANEL + column);
                        V::load(to).add(*value).store(to);
                    }
                }
            }
        }
    }
}

/// The gradient for the weight of the convolution `g`.
pub(crate) fn weight_gradient(g: Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let panels = g.c_out.div_ceil(PANEL);
    let mut dw = Panels { data: vec![0.0; panels * PANEL * g.depth()], depth: g.depth(), n: g.c_out };
    let groups = Group::all(&g, g.c_in + panels * PANEL);
    let input_len = |group: &Group| PRODUCTS * group.stride(g.c_in);
    let size = |group: &Group| input_len(group) + PRODUCTS * gradient_stride(group, panels);
    let parts = g.c_in.div_ceil(TASK_CHANNELS);
    scratch(groups.iter().map(size).max().unwrap_or(0), |buffer: &mut [f32]| {
        for group in &groups {
            let (inputs, grads) = buffer.split_at_mut(input_len(group));
            let (to_inputs, to_grads) = (Shared::new(inputs), Shared::new(grads));
            (0..group.rows).into_par_iter().one_by_one().for_each(|row| {
                // SAFETY: every row writes its own tiles.
                unsafe {
                    transform_inputs(&g, x, group, row, to_inputs.start());
                    transform_gradients(&g, grad, group, row, to_grads.start());
                }
            });
            let to = Shared::new(&mut dw.data);
            (0..panels * parts).into_par_iter().one_by_one().for_each(|task| {
                let (panel, part) = (task / parts, task % parts);
                let channels = part * g.c_in / parts..(part + 1) * g.c_in / parts;
                let columns = PANEL.min(g.c_out - panel * PANEL);
                scratch(PRODUCTS * channels.len() * PANEL, |sums: &mut [f32]| {
                    sum_products(&g, group, inputs, grads, panel, channels.clone(), sums);
                    // SAFETY: tasks have different panels or channels.
                    unsafe {
                        let panel = to.start().add(panel * PANEL * g.depth());
                        add_taps(sums, channels, g.c_in, columns, panel);
                    }
                });
            });
        }
    });
    dw.to_transposed()
}

/// For every point: `sums[channel][32] = sum over tiles of input[tile][channel] * gradient[tile][32]`.
fn sum_products(
    g: &Geometry,
    group: &Group,
    inputs: &[f32],
    grads: &[f32],
    panel: usize,
    channels: std::ops::Range<usize>,
    sums: &mut [f32],
) {
    let tiles = group.tiles();
    let depth = Depth { segments: 1, stride: 0, len: tiles, step: LANES };
    let from: Vec<usize> = channels.clone().map(|ci| ci / LANES * tiles * LANES + ci % LANES).collect();
    let to: Vec<usize> = (0..channels.len()).map(|i| i * PANEL).collect();
    let width = PANEL.min(g.c_out - panel * PANEL);
    for (point, sums) in sums.chunks_exact_mut(channels.len() * PANEL).enumerate() {
        let inputs = &inputs[point * group.stride(g.c_in)..];
        let grads = &grads[point * gradient_stride(group, g.c_out.div_ceil(PANEL)) + panel * tiles * PANEL..];
        // SAFETY: callers check `micro::takes`; `from` and the depth stay inside one point's transforms, `to` inside `sums`.
        unsafe {
            let (sums, added) = (sums.as_mut_ptr(), Added::Nothing);
            micro::multiply(
                inputs,
                &from,
                depth,
                grads,
                Epilogue::NONE,
                added,
                Ahead::NOTHING,
                sums,
                &to,
                width,
            );
        }
    }
}
