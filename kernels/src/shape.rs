//! Changes of shape: no arithmetic, only which element is where. All can be differentiated twice.

use candle_core::{DType, Result, bail};

use crate::Var;

/// The same elements in another shape.
///
/// # Errors
/// When the number of elements differs.
pub fn reshape(x: &Var, dims: &[usize]) -> Result<Var> {
    if dims.iter().product::<usize>() != x.value().elem_count() {
        bail!("reshape: expected {} elements, got {dims:?}", x.value().elem_count());
    }
    let value = x.value().reshape(dims)?;
    let before = x.dims().to_vec();
    Ok(Var::record("reshape", value, &[x], move |grad, _| Ok(vec![Some(reshape(grad, &before)?)])))
}

/// Reorders dimensions: dimension `i` of the result is dimension `order[i]` of `x`.
///
/// # Errors
/// When `order` is not a permutation of the dimensions of `x`.
pub fn permute(x: &Var, order: &[usize]) -> Result<Var> {
    let mut inverse = vec![usize::MAX; x.dims().len()];
    for (to, &from) in order.iter().enumerate() {
        match inverse.get_mut(from) {
            Some(slot) if *slot == usize::MAX => *slot = to,
            _ => bail!("permute: expected a permutation of {} dimensions, got {order:?}", x.dims().len()),
        }
    }
    if order.len() != inverse.len() {
        bail!("permute: expected a permutation of {} dimensions, got {order:?}", inverse.len());
    }
    let value = x.value().permute(order)?.contiguous()?;
    Ok(Var::record("permute", value, &[x], move |grad, _| Ok(vec![Some(permute(grad, &inverse)?)])))
}

/// The elements `start..start + len` of dimension `dim`.
///
/// # Errors
/// When the range is outside the dimension.
pub fn narrow(x: &Var, dim: usize, start: usize, len: usize) -> Result<Var> {
    let size = match x.dims().get(dim) {
        Some(&size) if start.checked_add(len).is_some_and(|end| end <= size) => size,
        _ => bail!("narrow: expected a range inside {:?}, got dimension {dim}, {start} + {len}", x.dims()),
    };
    let value = x.value().narrow(dim, start, len)?.contiguous()?;
    Ok(Var::record("narrow", value, &[x], move |grad, _| {
        let zeros = |len: usize| -> Result<Option<Var>> {
            let mut dims = grad.dims().to_vec();
            dims[dim] = len;
            let zeros = || candle_core::Tensor::zeros(dims, grad.dtype(), grad.device()).map(Var::constant);
            (len > 0).then(zeros).transpose()
        };
        let (before, after) = (zeros(start)?, zeros(size - start - len)?);
        let parts: Vec<&Var> = before.iter().chain([grad]).chain(&after).collect();
        Ok(vec![Some(cat(&parts, dim)?)])
    }))
}

/// Joins values along dimension `dim`; the other dimensions agree.
///
/// # Errors
/// When there is nothing to join, or another dimension or the element type differs.
pub fn cat(parts: &[&Var], dim: usize) -> Result<Var> {
    if parts.iter().any(|part| part.dtype() == DType::BF16)
        && parts.iter().any(|part| part.dtype() == DType::F32)
    {
        let wide: Vec<Var> = parts.iter().map(|part| crate::widened(part)).collect::<Result<_>>()?;
        return cat(&wide.iter().collect::<Vec<_>>(), dim);
    }
    let Some(first) = parts.first() else { bail!("cat: expected at least one part, got none") };
    let fits = |part: &Var| {
        let (a, b) = (part.dims(), first.dims());
        part.dtype() == first.dtype() && a.len() == b.len() && (0..a.len()).all(|d| d == dim || a[d] == b[d])
    };
    if dim >= first.dims().len() || !parts.iter().all(|part| fits(part)) {
        let shapes: Vec<_> = parts.iter().map(|part| part.dims()).collect();
        bail!("cat: expected shapes that agree outside dimension {dim}, got {shapes:?}");
    }
    let kept: Vec<_> = parts.iter().filter(|part| part.dims()[dim] > 0).map(|part| part.value()).collect();
    let value = match kept.as_slice() {
        [] => first.value().clone(),
        [one] => (*one).clone(),
        many => candle_core::Tensor::cat(many, dim)?.contiguous()?,
    };
    let lengths: Vec<usize> = parts.iter().map(|part| part.dims()[dim]).collect();
    Ok(Var::record("cat", value, parts, move |grad, wants| {
        let mut start = 0;
        let mut grads = Vec::with_capacity(lengths.len());
        for (&len, &want) in lengths.iter().zip(wants) {
            grads.push(if want { Some(narrow(grad, dim, start, len)?) } else { None });
            start += len;
        }
        Ok(grads)
    }))
}
