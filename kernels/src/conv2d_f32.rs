//! Chooses the algorithm of an f32 convolution on vector units.

#![cfg(target_arch = "x86_64")]

use crate::conv2d::Geometry;
use crate::micro::{Epilogue, Panels};
use crate::product::{self, Kernel};
use crate::{direct, im2col, winograd_conv, winograd_grad};

/// The convolution with its epilogue.
pub(crate) fn forward(g: Geometry, x: &[f32], w: &[f32], epilogue: Epilogue<'_>) -> Vec<f32> {
    convolve(g, x, &direct::pack(&g, w), epilogue)
}

fn convolve(g: Geometry, x: &[f32], w: &Panels, epilogue: Epilogue<'_>) -> Vec<f32> {
    if winograd_conv::fits(&g) {
        return winograd_conv::forward(g, x, w, epilogue);
    }
    direct::forward(g, x, w, epilogue)
}

/// The gradient for the input.
pub(crate) fn input_gradient(g: Geometry, grad: &[f32], w: &[f32]) -> Vec<f32> {
    if !im2col::flips(&g) {
        return im2col::input_gradient(g, grad, w);
    }
    convolve(im2col::flip(&g), grad, &direct::pack_flipped(&g, w), Epilogue::NONE)
}

/// The gradient for the weight.
pub(crate) fn weight_gradient(g: Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    if winograd_conv::fits(&g) {
        return winograd_grad::weight_gradient(g, x, grad);
    }
    if im2col::is_pointwise(&g) {
        return product::transposed_left(Kernel::Vectors, (g.c_out, g.c_in, g.batch * g.oh * g.ow), grad, x);
    }
    im2col::weight_gradient(g, x, grad)
}
