//! What the own kernels compute, from tensor to tensor on one GPU. Tensors are f32 or bf16, vectors of parameters and
//! statistics f32; a result has the type of the first operand where nothing else is said.

use candle_core::{DType, Result, Tensor, bail};

use super::plan::{BLOCK, Plan};
use crate::conv2d::Geometry;
use crate::{Activation, Samples};

/// Whether there are kernels of our own for `x`: on a GPU, f32 or bf16, and not empty.
pub(crate) fn takes(x: &Tensor) -> bool {
    let here = x.device().is_cuda();
    // Tests pretend that the processor is a GPU.
    #[cfg(test)]
    let here = here || super::emulation::is_pretended();
    here && matches!(x.dtype(), DType::F32 | DType::BF16) && x.elem_count() > 0
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
    bail!("{}: this build has no kernels for {} operands", plan.kernel, inputs.len())
}

/// The two outputs of a kernel that has two.
pub(super) fn two(kernel: &str, outputs: Vec<Tensor>) -> Result<[Tensor; 2]> {
    outputs.try_into().map_err(|_| candle_core::Error::Msg(format!("{kernel}: expected two outputs")))
}

pub(super) fn one(plan: &Plan, inputs: &[Option<&Tensor>]) -> Result<Tensor> {
    let mut outputs = run(plan, inputs)?;
    Ok(outputs.remove(0))
}

/// How many multiprocessors the GPU of `x` has, those of an H200 where it does not tell.
fn multiprocessors(x: &Tensor) -> usize {
    const USUAL: usize = 132;
    match x.device() {
        #[cfg(feature = "cuda")]
        candle_core::Device::Cuda(device) => super::device::multiprocessors(device).unwrap_or(USUAL),
        _ => USUAL,
    }
}

/// A plan for an output like `x`, element by element.
fn like(kernel: &'static str, x: &Tensor) -> Plan {
    Plan::eights(kernel, 1, x.dims()).with_types(&[x.dtype()])
}

/// The width of a bias.
fn width(b: Option<&Tensor>) -> usize {
    b.map_or(1, Tensor::elem_count)
}

/// A vector, which kernels read as f32 whatever their other operands are.
fn vector(x: Option<&Tensor>) -> Result<Option<&Tensor>> {
    match x {
        Some(x) if x.dtype() != DType::F32 => bail!("a vector is {:?} and has to be f32", x.dtype()),
        x => Ok(x),
    }
}

/// `leak(x + b)`, `b` repeated over the leading dimensions.
pub(crate) fn bias_leak(x: &Tensor, b: Option<&Tensor>, slope: f32) -> Result<Tensor> {
    let plan = like("bias_leak", x).with_sizes(&[width(b)]).with_numbers(&[slope]);
    one(&plan, &[Some(x), vector(b)?])
}

/// `x + b`, `b` repeated over the leading dimensions, f32.
pub(crate) fn add_vector(x: &Tensor, b: &Tensor) -> Result<Tensor> {
    let plan = Plan::eights("bias_leak", 1, x.dims()).with_sizes(&[width(Some(b))]).with_numbers(&[1.0]);
    one(&plan, &[Some(x), vector(Some(b))?])
}

/// `residual + (x + b)`, of the residual's type.
pub(crate) fn bias_residual(x: &Tensor, b: Option<&Tensor>, residual: &Tensor) -> Result<Tensor> {
    one(&like("bias_residual", residual).with_sizes(&[width(b)]), &[Some(x), vector(b)?, Some(residual)])
}

/// `grad` where `output` is positive, `slope * grad` elsewhere; of the output's type.
pub(crate) fn leak_backward(grad: &Tensor, output: &Tensor, slope: f32) -> Result<Tensor> {
    one(&like("leak_backward", output).with_numbers(&[slope]), &[Some(grad), Some(output)])
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

/// Further smooth functions, which only losses and gates use.
pub(crate) const SOFTPLUS: usize = 4;
pub(crate) const SIGMOID: usize = 5;

/// A smooth activation of `x + b`, of type `to`.
pub(crate) fn activate(x: &Tensor, b: Option<&Tensor>, kind: usize, to: DType) -> Result<Tensor> {
    let plan = Plan::eights("activate", 1, x.dims()).with_types(&[to]).with_sizes(&[width(b), kind]);
    one(&plan, &[Some(x), vector(b)?])
}

/// `grad` times its derivative at `x + b`; of the type of `x`.
pub(crate) fn activate_backward(x: &Tensor, b: Option<&Tensor>, grad: &Tensor, kind: usize) -> Result<Tensor> {
    one(&like("activate_backward", x).with_sizes(&[width(b), kind]), &[Some(x), vector(b)?, Some(grad)])
}

/// The sum, of the wider type.
pub(crate) fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let wider = if x.dtype() == DType::F32 { x } else { y };
    one(&like("add", wider), &[Some(x), Some(y)])
}

/// The same numbers as another type.
pub(crate) fn convert(x: &Tensor, to: DType) -> Result<Tensor> {
    one(&Plan::eights("convert", 1, x.dims()).with_types(&[to]), &[Some(x)])
}

/// A factor `[B]` for each sample of `x [B, ..]`.
pub(crate) fn scale_samples(x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    let each = x.elem_count() / factors.elem_count().max(1);
    one(&like("scale_samples", x).with_sizes(&[each]), &[Some(x), vector(Some(factors))?])
}

/// `scale` times some samples of a batch `x [B, ..]`, as type `to`.
pub(crate) fn take_samples(x: &Tensor, samples: &Samples, scale: f64, to: DType) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    dims[0] = samples.count();
    let each = x.elem_count() / samples.batch();
    let plan = Plan::eights("take_samples", 1, &dims).with_types(&[to]);
    let plan = plan.with_sizes(&[each, x.elem_count()]).with_numbers(&[scale as f32]);
    one(&plan, &[Some(x), Some(&samples.map)])
}

/// A batch `x`, or zeros, with `scale` times the rows of `branch` added to some of its samples, as type `to`.
pub(crate) fn add_samples(
    x: Option<&Tensor>,
    branch: &Tensor,
    samples: &Samples,
    scale: f64,
    to: DType,
) -> Result<Tensor> {
    let mut dims = branch.dims().to_vec();
    dims[0] = samples.batch();
    let each = branch.elem_count() / samples.count();
    let plan = Plan::eights("add_samples", 1, &dims).with_types(&[to]);
    let plan = plan.with_sizes(&[each, samples.count()]).with_numbers(&[scale as f32]);
    one(&plan, &[x, Some(branch), Some(&samples.map)])
}

/// `[images, h, w, c_in] -> [images * oh * ow, kh * kw * c_in]`: what each output of a convolution sees, with zeros behind
/// it up to a multiple of 8, which the matrix units' kernels want. Fewer than 2^32 elements.
pub(crate) fn columns(g: &Geometry, x: &Tensor) -> Result<Tensor> {
    let dims = [x.dim(0)? * g.oh * g.ow, g.depth().next_multiple_of(8)];
    let ((sy, sx), (py, px)) = (g.conv.stride, g.conv.padding);
    let sizes = [g.h, g.w, g.c_in, g.kh, g.kw, g.oh, g.ow, sy, sx, py, px];
    one(&Plan::eights("columns", 1, &dims).with_types(&[x.dtype()]).with_sizes(&sizes), &[Some(x)])
}

/// The rows of `x [rows, n]` cut off at `to`, or with zeros behind them.
pub(crate) fn resize_rows(x: &Tensor, to: usize) -> Result<Tensor> {
    let (rows, from) = x.dims2()?;
    let plan = Plan::eights("resize_rows", 1, &[rows, to]).with_types(&[x.dtype()]);
    one(&plan.with_sizes(&[from, to]), &[Some(x)])
}

/// `[c_out, kh, kw, c_in] -> [c_in, kh, kw, c_out]`, the taps in reverse order: the transposed convolution's kernel.
pub(crate) fn flip(w: &Tensor) -> Result<Tensor> {
    let (c_out, kh, kw, c_in) = w.dims4()?;
    let plan = Plan::elements("flip", 1, &[c_in, kh, kw, c_out]).with_types(&[w.dtype()]);
    one(&plan.with_sizes(&[c_out, kh * kw, c_in]), &[Some(w)])
}

/// How many narrow rows are taken as one: neighbouring threads read neighbours, and none is idle.
fn rows_together(rows: usize, width: usize) -> usize {
    let mut together = 1;
    while together * width * 2 <= 128 && rows.is_multiple_of(together * 2) {
        together *= 2;
    }
    together
}

/// Sums the sums of chunks `[chunks, quantities * n * width]`, to `[quantities, width]`: over chunks first and then over the `n`
/// rows taken together, since one block adds up either, and few columns leave most of its threads idle.
fn finish_sums(sums: Tensor, quantities: usize, width: usize) -> Result<Tensor> {
    let over = |x: Tensor, rows: usize, width: usize| {
        if rows == 1 {
            return Ok(x);
        }
        one(&Plan::sums_of_chunks((x.elem_count() / width, rows), width), &[Some(&x)])
    };
    let (chunks, wide) = sums.dims2()?;
    let whole = over(sums, chunks, wide)?;
    over(whole, wide / (quantities * width), width)?.reshape((quantities, width))
}

/// The sums of the columns of `x [rows, width]`, with a factor `weights` of the same shape if given.
pub(crate) fn column_sums(x: &Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let together = rows_together(rows, width);
    let kernel = if weights.is_some() { "weighted_column_sums" } else { "column_sums" };
    let plan = Plan::columns(kernel, rows / together, together * width, 1);
    finish_sums(one(&plan, &[Some(x), weights])?, 1, width)?.reshape(width)
}

/// [`column_sums`] of `x`, and `x` as bf16: a gradient's sums, and the factor of products that it becomes.
pub(crate) fn rounded_with_sums(x: &Tensor) -> Result<[Tensor; 2]> {
    let (rows, width) = x.dims2()?;
    let together = rows_together(rows, width);
    let mut plan = Plan::columns("column_sums_and_rounded", rows / together, together * width, 1);
    plan.outputs.push(vec![rows, width]);
    let plan = plan.with_types(&[DType::F32, DType::BF16]);
    let [sums, rounded] = two(plan.kernel, run(&plan, &[Some(x)])?)?;
    Ok([rounded, finish_sums(sums, 1, width)?.reshape(width)?])
}

/// Chunks of rows at most in [`through_hidden`]: enough blocks for every GPU also where rows are short.
const HIDDEN_CHUNKS: usize = 512;
/// Rows of a chunk at least.
const HIDDEN_ROWS: usize = 32;

/// From the gradient of a smooth activation of `x + b`, `x [rows, width]`: that of `x` and the activation's value, of its type,
/// and the sums of the first over rows, the bias's gradient.
pub(crate) fn through_hidden(
    x: &Tensor,
    b: Option<&Tensor>,
    grad: &Tensor,
    kind: usize,
) -> Result<[Tensor; 3]> {
    let (rows, width) = x.dims2()?;
    let chunk = rows.div_ceil(HIDDEN_CHUNKS).max(HIDDEN_ROWS);
    let mut plan = Plan::columns_of("through_hidden", (rows, chunk), width, 1).with_sizes(&[kind]);
    plan.outputs.extend([vec![rows, width], vec![rows, width]]);
    let plan = plan.with_types(&[DType::F32, x.dtype(), x.dtype()]);
    let [sums, dx, value]: [Tensor; 3] = run(&plan, &[Some(x), vector(b)?, Some(grad)])?
        .try_into()
        .map_err(|_| candle_core::Error::Msg("through_hidden: expected three outputs".into()))?;
    Ok([dx, value, finish_sums(sums, 1, width)?.reshape(width)?])
}

/// Blocks whose parts of an inner product one block of the next kernel adds up.
const INNER_PARTS: usize = 256;

/// `(x, y)` in parts: their sum is the inner product.
pub(crate) fn inner_parts(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    one(&Plan::block_parts("inner_parts", x.elem_count(), INNER_PARTS), &[Some(x), Some(y)])
}

/// `x [n, 1]` over its length plus `eps`, and 1 over the inner product of both, `[1]`.
pub(crate) fn unit_vector(x: &Tensor, eps: f64) -> Result<[Tensor; 2]> {
    let plan = Plan::blocks("unit_vector", (1, 1), 16, vec![x.dims().to_vec(), vec![1]]);
    let plan = plan.with_sizes(&[x.elem_count()]).with_numbers(&[eps as f32]);
    two("unit_vector", run(&plan, &[Some(x)])?)
}

/// The gradient of a weight from that of the weight over its spectral norm; see the kernel.
pub(crate) fn spectral_gradient(
    grad: &Tensor,
    u: &Tensor,
    v: &Tensor,
    inverse: &Tensor,
    parts: &Tensor,
) -> Result<Tensor> {
    let plan = like("spectral_gradient", grad).with_sizes(&[v.elem_count(), parts.elem_count()]);
    one(&plan, &[Some(grad), Some(u), Some(v), Some(inverse), Some(parts)])
}

/// Samples whose sums one launch can find: blocks along y.
pub(crate) const MOST_CHUNKS: usize = 65535;

/// `[B, .., C] -> [B, C]`: the sums over what lies between.
pub(crate) fn middle_sums(x: &Tensor, batch: usize, channels: usize) -> Result<Tensor> {
    let rows = x.elem_count() / channels;
    one(&Plan::columns_of("column_sums", (rows, rows / batch), channels, 1), &[Some(x), None])
}

/// Two sums `[2, channels]` over the rows of `[rows, channels]` by a kernel that reads `inputs` once.
fn two_sums(
    kernel: &'static str,
    rows: usize,
    channels: usize,
    inputs: &[Option<&Tensor>],
    numbers: &[f32],
) -> Result<Tensor> {
    let together = rows_together(rows, channels);
    let plan = Plan::columns(kernel, rows / together, together * channels, 2).with_sizes(&[channels]);
    finish_sums(one(&plan.with_numbers(numbers), inputs)?, 2, channels)
}

/// For `x [rows, channels]` and the sums of its columns: those of `x - mean` and of its square `[2, channels]`, where the mean is
/// `share` of the sums.
pub(crate) fn centred_sums(x: &Tensor, sums: &Tensor, share: f64) -> Result<Tensor> {
    let (rows, channels) = x.dims2()?;
    two_sums("centred_sums", rows, channels, &[Some(x), vector(Some(sums))?], &[share as f32])
}

/// What batch norm makes of these sums and of its gain `w`: mean, variance, 1 / standard deviation, and that times `w`.
pub(crate) fn batch_statistics(
    sums: &Tensor,
    centred: &Tensor,
    w: &Tensor,
    share: f64,
    eps: f64,
) -> Result<[Tensor; 4]> {
    let plan = Plan::elements("batch_statistics", 4, w.dims()).with_numbers(&[share as f32, eps as f32]);
    run(&plan, &[vector(Some(sums))?, vector(Some(centred))?, vector(Some(w))?])?
        .try_into()
        .map_err(|_| candle_core::Error::Msg("batch_statistics: expected four outputs".into()))
}

/// `keep * x + take * y`.
pub(crate) fn blend(x: &Tensor, keep: f64, y: &Tensor, take: f64) -> Result<Tensor> {
    one(&like("blend", x).with_numbers(&[keep as f32, take as f32]), &[Some(x), Some(y)])
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
        let plan = like("normalise", x).with_sizes(&[offset.elem_count()]);
        let [mean, scale, offset] = [self.mean, self.scale, offset].map(|x| vector(Some(x)));
        one(&plan, &[Some(x), mean?, scale?, offset?])
    }

    /// The gradients of offset and gain: the sums of the gradient and of its product with normalised `x`.
    pub(crate) fn sums(&self, grad: &Tensor, x: &Tensor) -> Result<[Tensor; 2]> {
        let channels = self.mean.elem_count();
        let inputs = [Some(grad), Some(x), vector(Some(self.mean))?, vector(Some(self.rstd))?];
        let sums = two_sums("norm_sums", x.elem_count() / channels, channels, &inputs, &[])?;
        Ok([sums.get(0)?, sums.get(1)?])
    }

    /// The gradient of `x`, of its type; `share` is 1 over the number of rows, or 0 where the statistics are no functions of `x`.
    pub(crate) fn backward(&self, grad: &Tensor, x: &Tensor, sums: &[Tensor; 2], share: f64) -> Result<Tensor> {
        let plan = like("normalise_backward", x);
        let plan = plan.with_sizes(&[self.mean.elem_count()]).with_numbers(&[share as f32]);
        let mut inputs = vec![Some(grad), Some(x)];
        for of_channels in [self.mean, self.rstd, self.scale, &sums[0], &sums[1]] {
            inputs.push(vector(Some(of_channels))?);
        }
        one(&plan, &inputs)
    }
}

/// A kernel of layer norms.
struct RowKernels {
    widest: usize,
    /// How many lanes share a row.
    lanes: usize,
    /// Forward and backward.
    names: [&'static str; 2],
    /// Blocks of the backward pass that are on a multiprocessor at once, as `cuda/layer_norm.cuh` has it.
    resident: usize,
}

const LAYER_NORMS: [RowKernels; 6] = [
    RowKernels { widest: 32, lanes: 8, names: ["layer_norm_32", "layer_norm_backward_32"], resident: 4 },
    RowKernels { widest: 64, lanes: 8, names: ["layer_norm_64", "layer_norm_backward_64"], resident: 3 },
    RowKernels { widest: 128, lanes: 16, names: ["layer_norm_128", "layer_norm_backward_128"], resident: 3 },
    RowKernels { widest: 256, lanes: 32, names: ["layer_norm_256", "layer_norm_backward_256"], resident: 3 },
    RowKernels { widest: 512, lanes: 32, names: ["layer_norm_512", "layer_norm_backward_512"], resident: 2 },
    RowKernels { widest: 1024, lanes: 32, names: ["layer_norm_1024", "layer_norm_backward_1024"], resident: 1 },
];
/// Blocks at most of the forward pass: each reads gain and offset once.
const LAYER_NORM_BLOCKS: usize = 2048;

/// Whether there are layer norms for rows as wide as `x`'s.
pub(crate) fn takes_rows(x: &Tensor) -> bool {
    takes(x) && x.dims().last().is_some_and(|&width| width <= LAYER_NORMS[LAYER_NORMS.len() - 1].widest)
}

/// A plan of the kernel for the rows of `x`, `width` elements each, forward or backward, and its blocks.
fn layer_norm_plan(backward: bool, x: &Tensor, width: usize) -> Plan {
    let rows = x.elem_count() / width;
    let found = LAYER_NORMS.iter().find(|kernels| width <= kernels.widest);
    let kernels = found.unwrap_or(&LAYER_NORMS[LAYER_NORMS.len() - 1]);
    // In the backward pass each leaves sums that are to be added up; those beyond what runs at once would have the GPU wait for
    // a few of them at the end.
    let most = if backward { multiprocessors(x) * kernels.resident } else { LAYER_NORM_BLOCKS };
    let blocks = rows.div_ceil(BLOCK as usize / kernels.lanes).clamp(1, most);
    let second = if backward { vec![blocks, 2 * width] } else { vec![rows, 2] };
    let name = kernels.names[usize::from(backward)];
    Plan::shared_rows(name, blocks, rows, width, vec![x.dims().to_vec(), second])
}

/// Layer normalisation of rows: the output of type `to`, and of each row the mean and the reciprocal standard deviation.
pub(crate) fn layer_norm(x: &Tensor, w: &Tensor, b: &Tensor, eps: f64, to: DType) -> Result<[Tensor; 2]> {
    let width = w.elem_count();
    let plan = layer_norm_plan(false, x, width);
    let plan = plan.with_types(&[to]).with_numbers(&[eps as f32]);
    two("layer_norm", run(&plan, &[Some(x), vector(Some(w))?, vector(Some(b))?])?)
}

/// From the gradient of [`layer_norm`]'s output, those of its input, of its type, of the gain and of the offset. `other` is
/// added to the first.
pub(crate) fn layer_norm_backward(
    grad: &Tensor,
    x: &Tensor,
    w: &Tensor,
    statistics: &Tensor,
    other: Option<&Tensor>,
) -> Result<[Tensor; 3]> {
    let width = w.elem_count();
    let plan = layer_norm_plan(true, x, width).with_types(&[x.dtype()]);
    let inputs = [Some(grad), Some(x), vector(Some(w))?, vector(Some(statistics))?, other];
    let [dx, sums] = two(plan.kernel, run(&plan, &inputs)?)?;
    let sums = finish_sums(sums, 2, width)?;
    Ok([dx, sums.get(1)?, sums.get(0)?])
}

/// Probabilities over the last dimension of `scale * x`, f32.
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
