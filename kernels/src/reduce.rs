//! Sums over leading or trailing dimensions, and the broadcasts that are their backward passes.
//! All can be differentiated twice.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::Var;
use crate::cpu::{self, Element, by_dtype};
use crate::gemm::Shared;
use crate::map::CHUNK;
use crate::portable;
use crate::simd::multiversion;
use crate::threads::Tasks;

/// Independent running sums: enough to hide the latency of an addition at full vector width.
const LANES: usize = 64;

multiversion! {
    fn sum_slice<T: Element>(x: &[T]) -> T {
        let mut lanes = [T::zero(); LANES];
        let mut chunks = x.chunks_exact(LANES);
        for chunk in &mut chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += *x;
            }
        }
        let mut total = T::zero();
        for x in chunks.remainder() {
            total += *x;
        }
        for lane in lanes {
            total += lane;
        }
        total
    }
    /// Adds every row of `rows` (as long as `out`) to `out`.
    pub(crate) fn accumulate_rows<T: Element>(rows: &[T], out: &mut [T]) {
        for row in rows.chunks_exact(out.len()) {
            for (out, x) in out.iter_mut().zip(row) {
                *out += *x;
            }
        }
    }
    /// Writes `a * b`, and adds every row of it (as long as `sums`) to `sums`.
    fn times_rows<T: Element>(a: &[T], b: &[T], out: &mut [T], sums: &mut [T]) {
        let width = sums.len();
        for ((out, a), b) in out.chunks_exact_mut(width).zip(a.chunks_exact(width)).zip(b.chunks_exact(width)) {
            for (((out, a), b), sum) in out.iter_mut().zip(a).zip(b).zip(sums.iter_mut()) {
                *out = *a * *b;
                *sum += *out;
            }
        }
    }
    /// Multiplies `a` by `b` in place, and adds every row of the result (as long as `sums`) to `sums`.
    pub(crate) fn times_rows_in_place<T: Element>(a: &mut [T], b: &[T], sums: &mut [T]) {
        let width = sums.len();
        for (a, b) in a.chunks_exact_mut(width).zip(b.chunks_exact(width)) {
            for ((a, b), sum) in a.iter_mut().zip(b).zip(sums.iter_mut()) {
                *a *= *b;
                *sum += *a;
            }
        }
    }
    fn add_to_rows<T: Element>(x: &[T], b: &[T], out: &mut [T]) {
        for (out, x) in out.chunks_mut(b.len()).zip(x.chunks(b.len())) {
            for ((out, x), b) in out.iter_mut().zip(x).zip(b) {
                *out = *x + *b;
            }
        }
    }
}

/// Sum of a long slice: fixed chunks in the element type, chunk totals in f64.
fn sum_long<T: Element>(x: &[T]) -> f64 {
    let totals: Vec<f64> = x.par_chunks(CHUNK).one_by_one().map(|x| sum_slice(x).to_f64()).collect();
    totals.iter().sum()
}

/// Elements of one row of [`column_reduce`] for matrices of `width` columns: narrow rows are taken several at a
/// time, so that inner loops stay at vector width.
pub(crate) fn reduce_width(width: usize) -> usize {
    width * (LANES / width.max(1)).max(1)
}

/// Reduces a `[rows, width]` matrix of `len` elements over its rows, to `outputs` vectors of `width` numbers.
///
/// `f(range, width, sums)` adds the rows in `range` to `sums`, `outputs` vectors of the given width. That width
/// is `reduce_width(width)` for most calls: what `f` reads by column must be repeated accordingly.
pub(crate) fn column_reduce<T: Element>(
    len: usize,
    width: usize,
    outputs: usize,
    f: impl Fn(std::ops::Range<usize>, usize, &mut [T]) + Sync,
) -> Vec<f64> {
    let mut total = vec![0.0; outputs * width];
    if width == 0 {
        return total;
    }
    let wide = reduce_width(width);
    let task = (4 * CHUNK / wide).max(1) * wide;
    let body = len / wide * wide;
    let mut partial: Vec<Vec<T>> = (0..body.div_ceil(task))
        .into_par_iter()
        .one_by_one()
        .map(|i| {
            let mut sums = vec![T::zero(); outputs * wide];
            f(i * task..body.min((i + 1) * task), wide, &mut sums);
            sums
        })
        .collect();
    let mut tail = vec![T::zero(); outputs * width];
    f(body..len, width, &mut tail);
    partial.push(tail);
    // Matrices may be wider than long: the gradient of a position embedding has a row an image.
    for (output, total) in total.chunks_exact_mut(width).enumerate() {
        total.par_chunks_mut(CHUNK).enumerate().one_by_one().for_each(|(chunk, total)| {
            for sums in &partial {
                let each = sums.len() / outputs;
                for row in sums[output * each..][..each].chunks_exact(width) {
                    total.iter_mut().zip(&row[chunk * CHUNK..]).for_each(|(total, x)| *total += x.to_f64());
                }
            }
        });
    }
    total
}

/// Column sums of a `[rows, width]` matrix.
pub(crate) fn column_sums<T: Element>(x: &[T], width: usize) -> Vec<T> {
    let sums = column_reduce(x.len(), width, 1, |range, _, sums| accumulate_rows(&x[range], sums));
    sums.into_iter().map(T::lit).collect()
}

/// The product of two tensors of one shape, element by element, and its sums over all but the last dimension, of `width`.
pub(crate) fn times_with_column_sums<T: Element>(
    a: &Tensor,
    b: &Tensor,
    width: usize,
) -> Result<(Tensor, Tensor)> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let (out, sums) = cpu::with_slice::<T, _>(&a, |a| {
        cpu::with_slice::<T, _>(&b, |b| {
            let mut out = cpu::uninit(a.len());
            let to = Shared::new(&mut out);
            let sums = column_reduce(a.len(), width, 1, |range, _, sums| {
                // SAFETY: `column_reduce` gives every element to one call.
                let out = unsafe { to.range(range.start, range.len()) };
                times_rows(&a[range.clone()], &b[range], out, sums);
            });
            Ok((out, sums.into_iter().map(T::lit).collect::<Vec<T>>()))
        })
    })?;
    Ok((Tensor::from_vec(out, a.shape(), a.device())?, Tensor::from_vec(sums, width, a.device())?))
}

/// `x + b` with `b` repeated over the leading dimensions (the caller checked the shapes).
pub(crate) fn add_suffix<T: Element>(x: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (x, b) = (x.contiguous()?, b.contiguous()?);
    let out = cpu::with_slice::<T, _>(&x, |x| {
        cpu::with_slice::<T, _>(&b, |b| {
            let mut out = cpu::uninit(x.len());
            if b.is_empty() {
                return Ok(out);
            }
            let chunk = (CHUNK / b.len()).max(1) * b.len();
            out.par_chunks_mut(chunk)
                .zip(x.par_chunks(chunk))
                .one_by_one()
                .for_each(|(out, x)| add_to_rows(x, b, out));
            Ok(out)
        })
    })?;
    Tensor::from_vec(out, x.shape(), x.device())
}

fn elements(dims: &[usize]) -> usize {
    dims.iter().product()
}

/// Sums over the leading dimensions; `suffix` are the dimensions that stay.
///
/// # Errors
/// When `suffix` is not a suffix of the dimensions of `x`.
pub(crate) fn sum_leading(x: &Var, suffix: &[usize]) -> Result<Var> {
    if !x.dims().ends_with(suffix) {
        bail!("sum_leading: expected a suffix of {:?}, got {suffix:?}", x.dims());
    }
    if x.dims() == suffix {
        return Ok(x.clone());
    }
    let value = match portable::takes(x.value()) {
        true => portable::reduce::sum_leading(x.value(), suffix)?,
        false => by_dtype!("sum_leading", x, T => sum_leading_value::<T>(x.value(), suffix))?,
    };
    let dims = x.dims().to_vec();
    Ok(Var::record("sum_leading", value, &[x], move |grad, _| Ok(vec![Some(broadcast_leading(grad, &dims)?)])))
}

fn sum_leading_value<T: Element>(x: &Tensor, suffix: &[usize]) -> Result<Tensor> {
    let sums = cpu::with_slice::<T, _>(&x.contiguous()?, |x| {
        let width = elements(suffix);
        Ok(if width == 1 { vec![T::lit(sum_long(x))] } else { column_sums(x, width) })
    })?;
    Tensor::from_vec(sums, suffix, x.device())
}

/// Repeats `x` over new leading dimensions, to the shape `dims`.
///
/// # Errors
/// When the dimensions of `x` are not a suffix of `dims`.
pub(crate) fn broadcast_leading(x: &Var, dims: &[usize]) -> Result<Var> {
    if !dims.ends_with(x.dims()) {
        bail!("broadcast_leading: expected a suffix of {dims:?}, got {:?}", x.dims());
    }
    if x.dims() == dims {
        return Ok(x.clone());
    }
    let value = match portable::takes(x.value()) {
        true => x.value().broadcast_as(dims)?.contiguous()?,
        false => by_dtype!("broadcast_leading", x, T => broadcast_leading_value::<T>(x.value(), dims))?,
    };
    let suffix = x.dims().to_vec();
    Ok(Var::record("broadcast_leading", value, &[x], move |grad, _| {
        Ok(vec![Some(sum_leading(grad, &suffix)?)])
    }))
}

fn broadcast_leading_value<T: Element>(x: &Tensor, dims: &[usize]) -> Result<Tensor> {
    let out = cpu::with_slice::<T, _>(&x.contiguous()?, |x| {
        let mut out = cpu::uninit(elements(dims));
        match x {
            [] => {}
            [one] => out.par_chunks_mut(CHUNK).for_each(|out| out.fill(*one)),
            _ => out.par_chunks_mut(x.len()).for_each(|out| out.copy_from_slice(x)),
        }
        Ok(out)
    })?;
    Tensor::from_vec(out, dims, x.device())
}

/// Sum of all elements, as a tensor without dimensions.
pub fn sum_all(x: &Var) -> Result<Var> {
    sum_leading(x, &[])
}

/// `[B, ..] -> [B]`: the sum of each sample's elements.
///
/// # Errors
/// When `x` has no dimensions.
pub fn sum_per_sample(x: &Var) -> Result<Var> {
    let Some(&batch) = x.dims().first() else { bail!("sum_per_sample: expected [B, ..], got []") };
    if x.dims().len() == 1 {
        return Ok(x.clone());
    }
    let value = match portable::takes(x.value()) {
        true => portable::reduce::sum_per_sample(x.value(), batch)?,
        false => by_dtype!("sum_per_sample", x, T => sum_rows::<T>(x.value(), batch))?,
    };
    let dims = x.dims().to_vec();
    Ok(Var::record("sum_per_sample", value, &[x], move |grad, _| {
        Ok(vec![Some(repeat_per_sample(grad, &dims)?)])
    }))
}

fn sum_rows<T: Element>(x: &Tensor, batch: usize) -> Result<Tensor> {
    let sums: Vec<T> = cpu::with_slice::<T, _>(&x.contiguous()?, |x| {
        let each = x.len() / batch.max(1);
        Ok((0..batch).map(|b| T::lit(sum_long(&x[b * each..(b + 1) * each]))).collect())
    })?;
    Tensor::from_vec(sums, batch, x.device())
}

/// `[B] -> dims = [B, ..]`: repeats each sample's number over its elements.
fn repeat_per_sample(x: &Var, dims: &[usize]) -> Result<Var> {
    let value = match portable::takes(x.value()) {
        true => portable::reduce::repeat_per_sample(x.value(), dims)?,
        false => by_dtype!("repeat_per_sample", x, T => repeat_rows::<T>(x.value(), dims))?,
    };
    Ok(Var::record("repeat_per_sample", value, &[x], |grad, _| Ok(vec![Some(sum_per_sample(grad)?)])))
}

fn repeat_rows<T: Element>(x: &Tensor, dims: &[usize]) -> Result<Tensor> {
    let out = cpu::with_slice::<T, _>(&x.contiguous()?, |x| {
        let mut out = cpu::uninit(elements(dims));
        let each = out.len() / x.len().max(1);
        if each > 0 {
            out.par_chunks_mut(each).zip(x.par_iter()).for_each(|(out, x)| out.fill(*x));
        }
        Ok(out)
    })?;
    Tensor::from_vec(out, dims, x.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::pattern;

    /// Rows that are longer than a chunk, or do not divide it, against candle's own operations.
    #[test]
    fn long_rows_are_summed_and_added_to_in_chunks() -> Result<()> {
        for dims in [[3, 20_000], [3, 12_480]] {
            let (x, b) = (pattern(&dims, 1)?, pattern(&dims[1..], 2)?);
            let sums = sum_leading(&Var::constant(x.clone()), &dims[1..])?.into_value();
            let sum = crate::add_broadcast(&Var::constant(x.clone()), &Var::constant(b.clone()))?.into_value();
            for (found, want) in [(sums, x.sum(0)?), (sum, x.broadcast_add(&b)?)] {
                assert_eq!(found.dims(), want.dims());
                let error = (found - want)?.abs()?.max_all()?.to_scalar::<f64>()?;
                assert!(error < 1e-14, "{dims:?}: {error:e}");
            }
        }
        Ok(())
    }
}
