//! The values of [`crate::linear`]: a product whose rows are finished while they are in the cache.

use std::ops::Range;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::Var;
use crate::activation::Smooth;
use crate::cpu::{self, Element};
use crate::fused;
use crate::gemm::{self, Mat, Shared};
use crate::threads::Tasks;

/// What happens to rows of the product and its bias while they are in the cache.
pub(crate) enum Then<'a, T> {
    /// An activation of the relu family (slope 1: none).
    Leak(f32),
    /// A contiguous tensor in the layout of the result is added.
    Add(&'a Tensor),
    /// An activation; with `slopes`, its derivative is a second result.
    Smooth {
        /// Its loops.
        smooth: Smooth<T>,
        /// Whether the derivative will be needed.
        slopes: bool,
    },
}

/// Rows of `x` that one task multiplies on processors without a kernel of our own.
const ROWS: usize = 128;

/// `then(x w^T + b)`, and the activation's derivative if it is asked for: found beside the value, it costs next to nothing.
pub(crate) fn value<T: Element>(
    x: &Var,
    w: &Var,
    b: Option<&Var>,
    then: &Then<'_, T>,
) -> Result<(Tensor, Option<Tensor>)> {
    let (c_out, c_in) = w.value().dims2()?;
    let mut dims = x.dims().to_vec();
    dims.pop();
    dims.push(c_out);
    let (x, w) = (x.value().contiguous()?, w.value().contiguous()?);
    let rows = x.elem_count() / c_in.max(1);
    let bias: Option<Vec<T>> = b.map(|b| b.value().to_vec1()).transpose()?;
    let slopes = matches!(then, Then::Smooth { slopes: true, .. });
    let mut product = cpu::uninit(rows * c_out);
    let mut activated = cpu::uninit(if slopes { rows * c_out } else { 0 });
    let (to, to_activated) = (Shared::new(&mut product), Shared::new(&mut activated));
    let finish = |rows: Range<usize>| {
        let Then::Smooth { smooth, .. } = then else { return };
        let (start, len) = (rows.start * c_out, rows.len() * c_out);
        // SAFETY: each task has its own rows.
        let product = unsafe { to.range(start, len) };
        if slopes {
            // SAFETY: as above.
            (smooth.both)(product, unsafe { to_activated.range(start, len) });
        } else {
            in_place(smooth.forward, product);
        }
    };
    multiply(&x, &w, bias.as_deref(), then, to, finish)?;
    if slopes {
        let activated = Tensor::from_vec(activated, dims.as_slice(), x.device())?;
        return Ok((activated, Some(Tensor::from_vec(product, dims, x.device())?)));
    }
    Ok((Tensor::from_vec(product, dims, x.device())?, None))
}

/// Applies a function of two slices to one.
pub(crate) fn in_place<T: Element>(f: fn(&[T], &mut [T]), values: &mut [T]) {
    let mut copy = [T::default(); 512];
    for values in values.chunks_mut(copy.len()) {
        let copy = &mut copy[..values.len()];
        copy.copy_from_slice(values);
        f(copy, values);
    }
}

/// The product with its bias, and what of `then` is no activation; `finish` is called with each task's rows.
fn multiply<T: Element>(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&[T]>,
    then: &Then<'_, T>,
    to: Shared<T>,
    finish: impl Fn(Range<usize>) + Sync,
) -> Result<()> {
    let (c_out, c_in) = w.dims2()?;
    let rows = x.elem_count() / c_in.max(1);
    let slope = if let Then::Leak(slope) = then { *slope } else { 1.0 };
    let nothing = Tensor::zeros(0, x.dtype(), x.device())?;
    let added = if let Then::Add(added) = then { added } else { &nothing };
    #[cfg(target_arch = "x86_64")]
    if crate::micro::takes(x) && c_in > 0 && c_out > 0 {
        use crate::micro::{Added, Epilogue};
        use crate::product::{self, Packed};
        let bias: Option<Vec<f32>> = bias.map(|bias| bias.iter().map(|b| b.to_f64() as f32).collect());
        let epilogue = Epilogue { bias: bias.as_deref(), slope };
        let packed = cpu::with_slice::<f32, _>(w, |w| Ok(Packed::from_transposed(w, c_out, c_in)))?;
        return cpu::with_slice::<f32, _>(added, |added| {
            let added = if added.is_empty() { Added::Nothing } else { Added::Tensor(added) };
            cpu::with_slice::<f32, _>(x, |x| {
                product::rows(rows, x, &packed, epilogue, added, to.of_f32(), |_, rows| finish(rows));
                Ok(())
            })
        });
    }
    cpu::with_slice::<T, _>(added, |added| {
        cpu::with_slice::<T, _>(x, |x| {
            cpu::with_slice::<T, _>(w, |w| {
                (0..rows.div_ceil(ROWS)).into_par_iter().one_by_one().for_each(|task| {
                    let mine = task * ROWS..rows.min((task + 1) * ROWS);
                    let (start, len) = (mine.start * c_out, mine.len() * c_out);
                    // SAFETY: each task has its own rows.
                    let out = unsafe { to.range(start, len) };
                    some_rows(&x[mine.start * c_in..mine.end * c_in], w, out, (c_in, c_out));
                    fused::epilogue(out, bias, slope, c_out);
                    if !added.is_empty() {
                        crate::rows::add_assign(out, &added[start..start + len]);
                    }
                    finish(mine);
                });
                Ok(())
            })
        })
    })
}

/// How few rows [`gemm::gemm`] adds up in another order than many: single ones; results of at most 256 elements, which have a
/// loop of their own; and where the inner dimension is divided, results of at most 64 rows and columns, divided otherwise.
fn enough_rows(c_in: usize, c_out: usize) -> usize {
    let by_size = 256 / c_out.max(1) + 1;
    let by_parts = if c_in > 512 && c_out <= 64 { 65 } else { 2 };
    by_size.max(by_parts)
}

/// `x [.., c_in]` times the weight `[c_out, c_in]`, transposed, for at most [`ROWS`] rows. A row's bits do not depend on their
/// number: rows that would be too few get zeros for company, unless [`ROWS`] of them are too few too.
fn some_rows<T: Element>(x: &[T], w: &[T], out: &mut [T], (c_in, c_out): (usize, usize)) {
    let w = Mat::rows(w, c_in).t();
    let (rows, least) = (out.len() / c_out.max(1), enough_rows(c_in, c_out));
    if rows >= least || least > ROWS {
        return gemm::gemm((rows, c_out, c_in), Mat::rows(x, c_in), w, out, c_out, false);
    }
    let mut padded = x.to_vec();
    padded.resize(least * c_in, T::zero());
    let mut product = vec![T::zero(); least * c_out];
    gemm::gemm((least, c_out, c_in), Mat::rows(&padded, c_in), w, &mut product, c_out, false);
    out.copy_from_slice(&product[..out.len()]);
}
