//! 2-D convolution over channels-last images, any kernel, stride and padding. Can be differentiated twice.
//!
//! Three bilinear maps make up the operation and all its derivatives: the convolution itself, the gradient
//! for its input and the gradient for its weight. The derivatives of each are again maps of the three.

use candle_core::{Result, Tensor, bail};

#[cfg(target_arch = "x86_64")]
use crate::conv2d_f32;
use crate::cpu::{self, Element, by_dtype};
use crate::fused::{activation_backward, kept_output, slope};
use crate::im2col;
use crate::mixed::{factor, go_together, goes_with};
use crate::portable;
use crate::reduce::sum_leading;
use crate::{Activation, Var};

/// How a kernel moves over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Step from one output to the next, in input pixels: (rows, columns).
    pub stride: (usize, usize),
    /// Zeros around the image on each side: (rows above and below, columns left and right).
    pub padding: (usize, usize),
}

impl Conv2d {
    /// Stride 1 and half the (odd) kernel as padding: the output is as large as the input.
    pub fn same(kernel: usize) -> Self {
        Self { stride: (1, 1), padding: (kernel / 2, kernel / 2) }
    }
}

/// The sizes of one convolution, checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Geometry {
    pub(crate) batch: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) c_in: usize,
    pub(crate) c_out: usize,
    pub(crate) kh: usize,
    pub(crate) kw: usize,
    pub(crate) oh: usize,
    pub(crate) ow: usize,
    pub(crate) conv: Conv2d,
}

impl Geometry {
    pub(crate) fn of(x: &[usize], w: &[usize], conv: Conv2d) -> Result<Self> {
        let (&[batch, h, width, c_in], &[c_out, kh, kw, channels]) = (x, w) else {
            bail!("conv2d: expected x [B, H, W, C_in] and w [C_out, kh, kw, C_in], got {x:?} and {w:?}")
        };
        let (ph, pw) = conv.padding;
        let fits = c_in > 0
            && c_out > 0
            && kh > 0
            && kw > 0
            && h + 2 * ph >= kh
            && width + 2 * pw >= kw
            && conv.stride.0 > 0
            && conv.stride.1 > 0;
        if channels != c_in || !fits {
            bail!(
                "conv2d: expected weights for {c_in} channels that fit the padded image {x:?}, got {w:?}, {conv:?}"
            );
        }
        let (oh, ow) = ((h + 2 * ph - kh) / conv.stride.0 + 1, (width + 2 * pw - kw) / conv.stride.1 + 1);
        Ok(Self { batch, h, w: width, c_in, c_out, kh, kw, oh, ow, conv })
    }

    pub(crate) fn x_dims(&self) -> [usize; 4] {
        [self.batch, self.h, self.w, self.c_in]
    }

    pub(crate) fn w_dims(&self) -> [usize; 4] {
        [self.c_out, self.kh, self.kw, self.c_in]
    }

    pub(crate) fn y_dims(&self) -> [usize; 4] {
        [self.batch, self.oh, self.ow, self.c_out]
    }

    /// Products that one output sums.
    pub(crate) fn depth(&self) -> usize {
        self.kh * self.kw * self.c_in
    }
}

/// `activation(conv(x, w) + b)`: `x [B, H, W, C_in]`, `w [C_out, kh, kw, C_in]`, `b [C_out]`, result
/// `[B, (H + 2 padding - kh) / stride + 1, .., C_out]`.
///
/// The result for an image depends neither on the other images of the batch nor on the number of threads, to
/// the bit. Can be differentiated twice with an activation of the relu family.
///
/// # Errors
/// When the channels disagree or the kernel is larger than the padded image.
pub fn conv2d(x: &Var, w: &Var, b: Option<&Var>, conv: Conv2d, activation: Activation) -> Result<Var> {
    let geometry = Geometry::of(x.dims(), w.dims(), conv)?;
    let bias_fits = b.is_none_or(|b| b.dims() == [geometry.c_out] && goes_with(b.dtype(), x));
    if !go_together(w, x) || !bias_fits {
        bail!("conv2d: expected b [{}] and one element type, got {:?}", geometry.c_out, b.map(Var::dims));
    }
    let Some(slope) = slope(activation) else {
        return crate::activate(&conv2d(x, w, b, conv, Activation::None)?, activation);
    };
    let (x, w) = (&factor(x)?, &factor(w)?);
    let value = forward(geometry, x.value(), w.value(), b.map(Var::value), slope)?;
    // A frozen network keeps no inputs for its weights.
    let (kept_x, kept_w, output) = (w.is_tracked().then(|| x.clone()), w.clone(), kept_output(&value, slope));
    let inputs: Vec<&Var> = [x, w].into_iter().chain(b).collect();
    Ok(Var::record("conv2d", value, &inputs, move |grad, wants| {
        // Rounded once for both products.
        let grad = factor(&activation_backward(grad, output.as_ref(), slope)?)?;
        let dx = if wants[0] { Some(input_gradient(geometry, &grad, &kept_w)?) } else { None };
        let dw = match &kept_x {
            Some(x) if wants[1] => Some(weight_gradient(geometry, x, &grad)?),
            _ => None,
        };
        let mut grads = vec![dx, dw];
        if let Some(&want) = wants.get(2) {
            grads.push(if want { Some(sum_leading(&grad, &[geometry.c_out])?) } else { None });
        }
        Ok(grads)
    }))
}

/// The convolution alone, as a map of the set.
fn convolve(geometry: Geometry, x: &Var, w: &Var) -> Result<Var> {
    conv2d(x, w, None, geometry.conv, Activation::None)
}

/// The gradient for the input: linear in `grad [B, OH, OW, C_out]` and in `w`.
fn input_gradient(geometry: Geometry, grad: &Var, w: &Var) -> Result<Var> {
    let (grad, w) = (&factor(grad)?, &factor(w)?);
    let value = input_gradient_value(geometry, grad.value(), w.value())?;
    let (kept_grad, kept_w) = (grad.clone(), w.clone());
    Ok(Var::record("conv2d_input_gradient", value, &[grad, w], move |outer, wants| {
        let dgrad = if wants[0] { Some(convolve(geometry, outer, &kept_w)?) } else { None };
        let dw = if wants[1] { Some(weight_gradient(geometry, outer, &kept_grad)?) } else { None };
        Ok(vec![dgrad, dw])
    }))
}

/// The gradient for the weight: linear in `x` and in `grad [B, OH, OW, C_out]`.
fn weight_gradient(geometry: Geometry, x: &Var, grad: &Var) -> Result<Var> {
    let (x, grad) = (&factor(x)?, &factor(grad)?);
    let value = weight_gradient_value(geometry, x.value(), grad.value())?;
    let (kept_x, kept_grad) = (x.clone(), grad.clone());
    Ok(Var::record("conv2d_weight_gradient", value, &[x, grad], move |outer, wants| {
        let dx = if wants[0] { Some(input_gradient(geometry, &kept_grad, outer)?) } else { None };
        let dgrad = if wants[1] { Some(convolve(geometry, &kept_x, outer)?) } else { None };
        Ok(vec![dx, dgrad])
    }))
}

fn forward(g: Geometry, x: &Tensor, w: &Tensor, b: Option<&Tensor>, slope: f32) -> Result<Tensor> {
    if portable::takes(x) {
        return portable::conv2d::forward(g, x, w, b, slope);
    }
    #[cfg(target_arch = "x86_64")]
    if crate::micro::takes(x) {
        let bias: Option<Vec<f32>> = b.map(Tensor::to_vec1).transpose()?;
        let epilogue = crate::micro::Epilogue { bias: bias.as_deref(), slope };
        return on_slices::<f32>(x, w, &g.y_dims(), |x, w| conv2d_f32::forward(g, x, w, epilogue));
    }
    by_dtype!("conv2d", x, T => {
        let bias: Option<Vec<T>> = b.map(Tensor::to_vec1).transpose()?;
        on_slices::<T>(x, w, &g.y_dims(), |x, w| im2col::forward(g, x, w, bias.as_deref(), slope))
    })
}

fn input_gradient_value(g: Geometry, grad: &Tensor, w: &Tensor) -> Result<Tensor> {
    if portable::takes(grad) {
        return portable::conv2d::input_gradient(g, grad, w);
    }
    #[cfg(target_arch = "x86_64")]
    if crate::micro::takes(grad) {
        return on_slices::<f32>(grad, w, &g.x_dims(), |grad, w| conv2d_f32::input_gradient(g, grad, w));
    }
    by_dtype!("conv2d", grad, T => {
        on_slices::<T>(grad, w, &g.x_dims(), |grad, w| im2col::input_gradient(g, grad, w))
    })
}

fn weight_gradient_value(g: Geometry, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    if portable::takes(x) {
        return portable::conv2d::weight_gradient(g, x, grad);
    }
    #[cfg(target_arch = "x86_64")]
    if crate::micro::takes(x) {
        return on_slices::<f32>(x, grad, &g.w_dims(), |x, grad| conv2d_f32::weight_gradient(g, x, grad));
    }
    by_dtype!("conv2d", x, T => {
        on_slices::<T>(x, grad, &g.w_dims(), |x, grad| im2col::weight_gradient(g, x, grad))
    })
}

fn on_slices<T: Element>(
    a: &Tensor,
    b: &Tensor,
    dims: &[usize],
    f: impl FnOnce(&[T], &[T]) -> Vec<T>,
) -> Result<Tensor> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let out = cpu::with_slice::<T, _>(&a, |a| cpu::with_slice::<T, _>(&b, |b| Ok(f(a, b))))?;
    Tensor::from_vec(out, dims, a.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradients, check_second_order, pattern};

    fn conv(stride: (usize, usize), padding: (usize, usize)) -> Conv2d {
        Conv2d { stride, padding }
    }

    /// (x, w, how): odd sizes, strides, asymmetric kernels, one pixel, padding beyond the kernel.
    fn cases() -> Vec<([usize; 4], [usize; 4], Conv2d)> {
        vec![
            ([2, 5, 4, 3], [2, 3, 3, 3], Conv2d::same(3)),
            ([1, 6, 7, 2], [3, 3, 3, 2], conv((2, 2), (1, 1))),
            ([2, 4, 5, 2], [2, 1, 5, 2], conv((1, 1), (0, 2))),
            ([1, 6, 3, 2], [2, 4, 2, 2], conv((2, 1), (1, 0))),
            ([2, 1, 1, 3], [4, 1, 1, 3], conv((1, 1), (0, 0))),
            ([1, 1, 1, 2], [2, 3, 3, 2], Conv2d::same(3)),
            ([1, 3, 3, 1], [1, 1, 1, 1], conv((1, 2), (1, 2))),
            ([1, 4, 3, 2], [3, 1, 1, 2], conv((2, 2), (0, 0))),
            ([1, 1, 3, 2], [2, 1, 2, 2], conv((5, 1), (1, 0))),
        ]
    }

    #[test]
    fn gradients_match_differences() -> Result<()> {
        for (x, w, how) in cases() {
            for activation in [Activation::None, Activation::LeakyRelu(0.2)] {
                let f = |v: &[Var]| conv2d(&v[0], &v[1], Some(&v[2]), how, activation);
                let inputs = [pattern(&x, 1)?, pattern(&w, 2)?, pattern(&[w[0]], 3)?];
                check_gradients(f, &inputs)?;
                check_second_order(f, &inputs)?;
            }
        }
        Ok(())
    }

    /// f32 against f64, as a share of the largest element: 10 times the rounding of sums of a few thousand products.
    const SINGLE: f64 = 1e-5;

    /// The f32 kernels against the f64 ones, which the differences above have checked: every algorithm, sizes that
    /// fill no tile, panel or block.
    #[test]
    fn single_precision_agrees_with_double() -> Result<()> {
        let more = [
            ([3, 9, 13, 16], [48, 3, 3, 16], Conv2d::same(3)),
            ([2, 16, 16, 64], [32, 3, 3, 64], Conv2d::same(3)),
            ([2, 18, 11, 32], [80, 3, 3, 32], conv((1, 1), (0, 0))),
            ([1, 21, 17, 48], [32, 3, 3, 48], conv((1, 1), (2, 2))),
            ([2, 12, 14, 24], [40, 3, 3, 24], Conv2d::same(3)),
            ([5, 4, 4, 32], [70, 3, 3, 32], Conv2d::same(3)),
            ([2, 17, 17, 20], [33, 1, 7, 20], conv((1, 1), (0, 3))),
            ([2, 15, 14, 3], [32, 3, 3, 3], conv((2, 2), (0, 0))),
            ([2, 15, 14, 24], [32, 5, 5, 24], conv((1, 1), (2, 2))),
            ([3, 7, 9, 40], [50, 1, 1, 40], conv((1, 1), (0, 0))),
            ([2, 8, 8, 16], [16, 4, 4, 16], conv((2, 2), (1, 1))),
            // Two groups of Winograd's tiles, the second of which begins inside of an image, and two panels of weights.
            ([87, 5, 5, 128], [48, 3, 3, 128], Conv2d::same(3)),
        ];
        for (x, w, how) in cases().into_iter().chain(more) {
            let inputs = [pattern(&x, 1)?, pattern(&w, 2)?, pattern(&[w[0]], 3)?];
            let run = |dtype| -> Result<Vec<Tensor>> {
                let leaves: Vec<Var> =
                    inputs.iter().map(|x| Ok(Var::leaf(x.to_dtype(dtype)?))).collect::<Result<_>>()?;
                let y = conv2d(&leaves[0], &leaves[1], Some(&leaves[2]), how, Activation::LeakyRelu(0.2))?;
                let weights = Var::constant(pattern(y.dims(), 4)?.to_dtype(dtype)?);
                let gradients = crate::backward(crate::sum_all(&crate::mul(&y, &weights)?)?)?;
                let mut all = vec![y.into_value()];
                all.extend(leaves.iter().filter_map(|leaf| gradients.leaf(leaf).cloned()));
                all.iter().map(|t| t.to_dtype(candle_core::DType::F64)).collect()
            };
            let (single, double) = (run(candle_core::DType::F32)?, run(candle_core::DType::F64)?);
            assert_eq!(single.len(), 4);
            for (i, (single, double)) in single.iter().zip(&double).enumerate() {
                let error = (single - double)?.abs()?.max_all()?.to_scalar::<f64>()?;
                let largest = double.abs()?.max_all()?.to_scalar::<f64>()?;
                assert!(error <= SINGLE * largest, "{x:?} {w:?} output {i}: {error} of {largest}");
            }
        }
        Ok(())
    }

    /// `<y, g> = <dx, x> = <dw, w>`, where an image has several tiles of gathered pixels. In f64, which has no other way.
    #[test]
    fn gradients_over_several_tiles_are_adjoints() -> Result<()> {
        let (x, w) = (Var::leaf(pattern(&[1, 32, 32, 64], 1)?), Var::leaf(pattern(&[8, 4, 4, 64], 2)?));
        let y = conv2d(&x, &w, None, conv((2, 2), (1, 1)), Activation::None)?;
        let dot = |a: &Tensor, b: &Tensor| (a * b)?.sum_all()?.to_scalar::<f64>();
        let grad = pattern(y.dims(), 3)?;
        let want = dot(y.value(), &grad)?;
        let gradients = crate::backward(sum_leading(&crate::mul(&y, &Var::constant(grad))?, &[])?)?;
        for leaf in [&x, &w] {
            let Some(gradient) = gradients.leaf(leaf) else { bail!("conv2d: no gradient") };
            let found = dot(gradient, leaf.value())?;
            assert!((found - want).abs() < 1e-9 * want.abs(), "{:?}: {found} {want}", leaf.dims());
        }
        Ok(())
    }

    #[test]
    fn shape_errors_are_errors() -> Result<()> {
        let var = |dims: &[usize]| pattern(dims, 1).map(Var::constant);
        let x = var(&[1, 4, 4, 3])?;
        let refuse = |w: &[usize], b: usize, how: Conv2d| -> Result<bool> {
            Ok(conv2d(&x, &var(w)?, Some(&var(&[b])?), how, Activation::None).is_err())
        };
        assert!(refuse(&[2, 3, 3, 4], 2, Conv2d::same(3))?, "channels");
        assert!(refuse(&[2, 3, 3, 3], 3, Conv2d::same(3))?, "bias");
        assert!(refuse(&[2, 5, 5, 3], 2, conv((1, 1), (0, 0)))?, "kernel larger than image");
        assert!(refuse(&[2, 3, 3, 3], 2, conv((0, 1), (1, 1)))?, "stride 0");
        assert!(refuse(&[2, 3, 3], 2, Conv2d::same(3))?, "rank");
        Ok(())
    }
}
