//! What the own kernels compute, from tensor to tensor: f32 tensors on one GPU.

use candle_core::{DType, Result, Tensor};

use super::plan::Plan;
use crate::Activation;
use crate::conv2d::Geometry;
use crate::optim::Step;

/// Whether there are kernels of our own for `x`: f32 on a GPU, and not empty.
pub(crate) fn takes(x: &Tensor) -> bool {
    x.device().is_cuda() && x.dtype() == DType::F32 && x.elem_count() > 0
}

/// Launches; inputs that are missing are null.
pub(super) fn run(plan: &Plan, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>> {
    let inputs: Vec<Option<Tensor>> =
        inputs.iter().map(|x| x.map(Tensor::contiguous).transpose()).collect::<Result<_>>()?;
    #[cfg(test)]
    if inputs.iter().flatten().all(|x| x.device().is_cpu()) {
        return super::emulation::launch(plan, &inputs);
    }
    #[cfg(feature = "cuda")]
    return super::launch::launch(plan, &inputs);
    #[cfg(not(feature = "cuda"))]
    candle_core::bail!("{}: this build has no kernels for {} operands", plan.kernel, inputs.len())
}

pub(super) fn one(plan: &Plan, inputs: &[Option<&Tensor>]) -> Result<Tensor> {
    let mut outputs = run(plan, inputs)?;
    Ok(outputs.remove(0))
}

/// `leak(x + b)`, `b [C]` over the last dimension.
pub(crate) fn bias_leak(x: &Tensor, b: Option<&Tensor>, slope: f32) -> Result<Tensor> {
    let width = b.map_or(1, Tensor::elem_count);
    let plan = Plan::elements("bias_leak", 1, x.dims()).with_sizes(&[width]).with_numbers(&[slope]);
    one(&plan, &[Some(x), b])
}

/// `grad` where `output` is positive, `slope * grad` elsewhere.
pub(crate) fn leak_backward(grad: &Tensor, output: &Tensor, slope: f32) -> Result<Tensor> {
    let plan = Plan::elements("leak_backward", 1, grad.dims()).with_numbers(&[slope]);
    one(&plan, &[Some(grad), Some(output)])
}

/// The number of a smooth activation in the kernels.
pub(crate) fn smooth_kind(activation: Activation) -> Option<usize> {
    match activation {
        Activation::GeluErf => Some(0),
        Activation::GeluTanh => Some(1),
        Activation::Silu => Some(2),
        Activation::Tanh => Some(3),
        Activation::None | Activation::Relu | Activation::LeakyRelu(_) => None,
    }
}

/// A smooth activation.
pub(crate) fn activate(x: &Tensor, kind: usize) -> Result<Tensor> {
    one(&Plan::elements("activate", 1, x.dims()).with_sizes(&[kind]), &[Some(x)])
}

/// `grad` times its derivative at `x`.
pub(crate) fn activate_backward(x: &Tensor, grad: &Tensor, kind: usize) -> Result<Tensor> {
    one(&Plan::elements("activate_backward", 1, x.dims()).with_sizes(&[kind]), &[Some(x), Some(grad)])
}

/// One step of Adam: the new parameter, mean and mean square.
pub(crate) fn adam(step: Step, state: [&Tensor; 4]) -> Result<[Tensor; 3]> {
    let Step { fresh, fresh_square, rate, root_correction, eps, keep } = step;
    let numbers = [fresh, fresh_square, rate, root_correction, eps, keep];
    let plan = Plan::elements("adam", 3, state[0].dims()).with_numbers(&numbers);
    let outputs = run(&plan, &state.map(Some))?;
    outputs.try_into().map_err(|_| candle_core::Error::Msg("adam: expected three outputs".into()))
}

/// `from + weight * (to - from)`.
pub(crate) fn lerp(from: &Tensor, to: &Tensor, weight: f32) -> Result<Tensor> {
    let plan = Plan::elements("lerp_towards", 1, from.dims()).with_numbers(&[weight]);
    one(&plan, &[Some(from), Some(to)])
}

/// `[images, h, w, c_in] -> [images * oh * ow, kh * kw * c_in]`: what each output of a convolution sees. Fewer than
/// 2^32 elements.
pub(crate) fn columns(g: &Geometry, x: &Tensor) -> Result<Tensor> {
    let dims = [x.dim(0)? * g.oh * g.ow, g.depth()];
    let ((sy, sx), (py, px)) = (g.conv.stride, g.conv.padding);
    let sizes = [g.h, g.w, g.c_in, g.kh, g.kw, g.oh, g.ow, sy, sx, py, px];
    one(&Plan::elements("columns", 1, &dims).with_sizes(&sizes), &[Some(x)])
}

/// How many narrow rows are taken as one: neighbouring threads read neighbours, and none is idle.
fn rows_together(rows: usize, width: usize) -> usize {
    let mut together = 1;
    while together * width * 2 <= 64 && rows.is_multiple_of(together * 2) {
        together *= 2;
    }
    together
}

/// Sums the sums of chunks.
fn finish_sums(mut sums: Tensor, width: usize) -> Result<Tensor> {
    loop {
        let chunks = sums.elem_count() / width;
        if chunks == 1 {
            return sums.reshape(width);
        }
        let plan = Plan::columns("column_sums", chunks, width, 1);
        sums = one(&plan, &[Some(&sums.reshape((chunks, width))?)])?;
    }
}

/// The sums of the columns of `x [rows, width]`, with a factor `weights` of the same shape if given.
pub(crate) fn column_sums(x: &Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let together = rows_together(rows, width);
    let kernel = if weights.is_some() { "weighted_column_sums" } else { "column_sums" };
    finish_sums(one(&Plan::columns(kernel, rows / together, together * width, 1), &[Some(x), weights])?, width)
}

/// Samples whose sums one launch can find: blocks along y.
pub(crate) const MOST_CHUNKS: usize = 65535;

/// `[B, .., C] -> [B, C]`: the sums over what lies between.
pub(crate) fn middle_sums(x: &Tensor, batch: usize, channels: usize) -> Result<Tensor> {
    let rows = x.elem_count() / channels;
    one(&Plan::columns_of("column_sums", (rows, rows / batch), channels, 1), &[Some(x), None])
}

/// Two sums over the rows of `[rows, channels]` by a kernel that reads `inputs` once.
fn two_sums(
    kernel: &'static str,
    rows: usize,
    channels: usize,
    inputs: &[Option<&Tensor>],
) -> Result<[Tensor; 2]> {
    let together = rows_together(rows, channels);
    let plan = Plan::columns(kernel, rows / together, together * channels, 2).with_sizes(&[channels]);
    match &run(&plan, inputs)?[..] {
        [first, second] => Ok([finish_sums(first.clone(), channels)?, finish_sums(second.clone(), channels)?]),
        _ => candle_core::bail!("{kernel}: expected two outputs"),
    }
}

/// For `x [rows, channels]`: the sums of `x - shift` and of its square.
pub(crate) fn centred_sums(x: &Tensor, shift: &Tensor) -> Result<[Tensor; 2]> {
    let (rows, channels) = x.dims2()?;
    two_sums("centred_sums", rows, channels, &[Some(x), Some(shift)])
}

/// Batch norm's vectors `[channels]`.
pub(crate) struct Statistics<'a> {
    pub(crate) mean: &'a Tensor,
    /// 1 / standard deviation.
    pub(crate) rstd: &'a Tensor,
    /// `rstd` times the gain.
    pub(crate) scale: &'a Tensor,
}

impl Statistics<'_> {
    /// `(x - mean) scale + offset`, by channel.
    pub(crate) fn normalise(&self, x: &Tensor, offset: &Tensor) -> Result<Tensor> {
        let plan = Plan::elements("normalise", 1, x.dims()).with_sizes(&[offset.elem_count()]);
        one(&plan, &[Some(x), Some(self.mean), Some(self.scale), Some(offset)])
    }

    /// The gradients of offset and gain: the sums of the gradient and of its product with normalised `x`.
    pub(crate) fn sums(&self, grad: &Tensor, x: &Tensor) -> Result<[Tensor; 2]> {
        let channels = self.mean.elem_count();
        let inputs = [Some(grad), Some(x), Some(self.mean), Some(self.rstd)];
        two_sums("norm_sums", x.elem_count() / channels, channels, &inputs)
    }

    /// The gradient of `x`; `share` is 1 over the number of rows, or 0 where the statistics are no functions of `x`.
    pub(crate) fn backward(&self, grad: &Tensor, x: &Tensor, sums: &[Tensor; 2], share: f64) -> Result<Tensor> {
        let plan = Plan::elements("normalise_backward", 1, x.dims());
        let plan = plan.with_sizes(&[self.mean.elem_count()]).with_numbers(&[share as f32]);
        let vectors = [self.mean, self.rstd, self.scale, &sums[0], &sums[1]].map(Some);
        one(&plan, &[&[Some(grad), Some(x)], &vectors[..]].concat())
    }
}

/// Layer normalisation of rows: the output, the normalised rows, and the reciprocal standard deviation of each.
pub(crate) fn layer_norm(x: &Tensor, w: &Tensor, b: &Tensor, eps: f64) -> Result<[Tensor; 3]> {
    let width = w.elem_count();
    let rows = x.elem_count() / width;
    let outputs = vec![x.dims().to_vec(), x.dims().to_vec(), vec![rows]];
    let plan = Plan::rows("layer_norm", rows, width, outputs).with_numbers(&[eps as f32]);
    let outputs = run(&plan, &[Some(x), Some(w), Some(b)])?;
    outputs.try_into().map_err(|_| candle_core::Error::Msg("layer_norm: expected three outputs".into()))
}

/// The gradient of the input of [`layer_norm`].
pub(crate) fn layer_norm_backward(grad: &Tensor, normal: &Tensor, w: &Tensor, rstd: &Tensor) -> Result<Tensor> {
    let width = w.elem_count();
    let plan = Plan::rows("layer_norm_backward", grad.elem_count() / width, width, vec![grad.dims().to_vec()]);
    one(&plan, &[Some(grad), Some(normal), Some(w), Some(rstd)])
}

/// Probabilities over the last dimension of `scale * x`.
pub(crate) fn softmax(x: &Tensor, scale: f64) -> Result<Tensor> {
    let width = x.dim(candle_core::D::Minus1)?;
    let plan = Plan::rows("softmax", x.elem_count() / width, width, vec![x.dims().to_vec()]);
    one(&plan.with_numbers(&[scale as f32]), &[Some(x)])
}

/// The gradient of the scores of [`softmax`].
pub(crate) fn softmax_backward(p: &Tensor, grad: &Tensor, scale: f64) -> Result<Tensor> {
    let width = p.dim(candle_core::D::Minus1)?;
    let plan = Plan::rows("softmax_backward", p.elem_count() / width, width, vec![p.dims().to_vec()]);
    one(&plan.with_numbers(&[scale as f32]), &[Some(p), Some(grad)])
}
