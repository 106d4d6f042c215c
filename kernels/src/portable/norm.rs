//! Layer and batch normalisation.

use candle_core::{D, DType, Device, Result, Tensor};

use super::reduce::{column_sums, weighted_column_sums};
use crate::batch_norm::{Batch, BatchStatistics, SumOverParts, add_up};
use crate::cuda::fused;
use crate::mixed::{fitting, widened, widened_value};
use crate::precision::{Precision, current};
use crate::{Var, cpu};

const LAST: D = D::Minus1;

/// [`crate::layer_norm`] of checked operands. Can be differentiated once.
pub(crate) fn layer_norm(x: &Var, w: &Var, b: &Var, eps: f64) -> Result<Var> {
    if fused::takes_rows(x.value()) {
        return layer_norm_fused(x, w, b, eps);
    }
    let x = &widened(x)?;
    let (input, gain) = (x.value().contiguous()?, w.value().clone());
    let mean = input.mean_keepdim(LAST)?;
    let centred = input.broadcast_sub(&mean)?;
    let rstd = centred.sqr()?.mean_keepdim(LAST)?.affine(1.0, eps)?.sqrt()?.recip()?;
    let value = centred.broadcast_mul(&rstd)?.broadcast_mul(&gain)?.broadcast_add(b.value())?;
    Ok(Var::record_once("layer_norm", value, &[x, w, b], move |grad, wants| {
        let grad = &widened_value(grad)?;
        let normal = input.broadcast_sub(&mean)?.broadcast_mul(&rstd)?;
        let width = gain.elem_count();
        let rows = |x: Tensor| x.contiguous()?.reshape((x.elem_count() / width, width));
        let mut grads = vec![None, None, None];
        if wants[0] {
            let scaled = grad.broadcast_mul(&gain)?;
            let inner = (&scaled * &normal)?.mean_keepdim(LAST)?;
            let dx = (scaled.broadcast_sub(&scaled.mean_keepdim(LAST)?)? - normal.broadcast_mul(&inner)?)?;
            grads[0] = Some(dx.broadcast_mul(&rstd)?);
        }
        if wants[1] {
            grads[1] = Some(column_sums(&rows((grad * &normal)?)?)?);
        }
        if wants[2] {
            grads[2] = Some(column_sums(&rows(grad.clone())?)?);
        }
        Ok(grads)
    }))
}

/// [`layer_norm`] by kernels of our own. What follows a layer norm is a product, which takes bf16 where it rounds.
fn layer_norm_fused(x: &Var, w: &Var, b: &Var, eps: f64) -> Result<Var> {
    let to = if current() == Precision::Bf16 { DType::BF16 } else { DType::F32 };
    let (input, gain) = (x.value().contiguous()?, w.value().clone());
    let [value, statistics] = fused::layer_norm(&input, &gain, b.value(), eps, to)?;
    Ok(Var::record_adding("layer_norm", value, &[x, w, b], move |grad, _, other| {
        let found = fused::layer_norm_backward(grad, &input, &gain, &statistics, other)?;
        Ok(found.map(Some).to_vec())
    }))
}

/// [`crate::batch_norm`] of checked operands.
pub(crate) fn batch_norm(
    x: &Var,
    w: &Var,
    b: &Var,
    eps: f64,
    parts: Option<&SumOverParts>,
) -> Result<(Var, BatchStatistics)> {
    let x = &fitting(x)?;
    let channels = w.value().elem_count();
    let own = x.value().elem_count() / channels;
    let matrix = x.value().contiguous()?.reshape((own, channels))?;
    let rows = add_up(vec![own as f64], parts)[0];
    let batch = Batch { rows, parts: parts.cloned() };
    if fused::takes(&matrix) {
        return batch_norm_fused(x, &matrix, w, b, eps, batch);
    }
    let average = |x: &Tensor| over_parts(&column_sums(x)?, parts)?.affine(1.0 / rows, 0.0);
    // What rounding left of the mean is found in the centred numbers, which are small.
    let mean = average(&matrix)?;
    let mean = (&mean + average(&matrix.broadcast_sub(&mean)?)?)?;
    let var = average(&matrix.broadcast_sub(&mean)?.sqr()?)?;
    let y = normalise(x, w, b, &mean, &var, eps, Some(batch))?;
    Ok((y, BatchStatistics { mean, var, rows }))
}

/// [`batch_norm`] of `x`, and of its rows as a `matrix`, by kernels of our own.
fn batch_norm_fused(
    x: &Var,
    matrix: &Tensor,
    w: &Var,
    b: &Var,
    eps: f64,
    batch: Batch,
) -> Result<(Var, BatchStatistics)> {
    let (rows, parts) = (batch.rows, batch.parts.as_ref());
    let sums = over_parts(&column_sums(matrix)?, parts)?;
    let centred = over_parts(&fused::centred_sums(matrix, &sums, 1.0 / rows)?, parts)?;
    let [mean, var, rstd, scale] = fused::batch_statistics(&sums, &centred, w.value(), 1.0 / rows, eps)?;
    let y = normalise_fused(x, w, b, [mean.clone(), rstd, scale], Some(batch))?;
    Ok((y, BatchStatistics { mean, var, rows }))
}

/// Sums over the whole batch, from those over this part.
fn over_parts(sums: &Tensor, parts: Option<&SumOverParts>) -> Result<Tensor> {
    if parts.is_none() {
        return Ok(sums.clone());
    }
    let own = sums.to_dtype(DType::F64)?;
    let own = cpu::with_downloaded::<f64, _>(&own, |own| Ok(own.to_vec()))?;
    let whole = Tensor::from_vec(add_up(own, parts), sums.shape(), &Device::Cpu)?;
    whole.to_dtype(sums.dtype())?.to_device(sums.device())
}

/// [`crate::batch_norm_eval`] of checked operands; with `batch` the statistics are functions of its rows.
pub(crate) fn normalise(
    x: &Var,
    w: &Var,
    b: &Var,
    mean: &Tensor,
    var: &Tensor,
    eps: f64,
    batch: Option<Batch>,
) -> Result<Var> {
    let rstd = var.affine(1.0, eps)?.sqrt()?.recip()?;
    let scale = (w.value() * &rstd)?;
    if fused::takes(x.value()) {
        return normalise_fused(x, w, b, [mean.clone(), rstd, scale], batch);
    }
    let x = &widened(x)?;
    let value = x.value().broadcast_sub(mean)?.broadcast_mul(&scale)?.broadcast_add(b.value())?;
    let (input, mean) = (x.value().clone(), mean.clone());
    let name = if batch.is_some() { "batch_norm" } else { "batch_norm_eval" };
    Ok(Var::record_once(name, value, &[x, w, b], move |grad, wants| {
        let (grad, channels) = (&widened_value(grad)?, rstd.elem_count());
        let rows = grad.elem_count() / channels.max(1);
        let normal = input.broadcast_sub(&mean)?.broadcast_mul(&rstd)?;
        let matrix = |x: &Tensor| x.contiguous()?.reshape((rows, channels));
        let dw = weighted_column_sums(&matrix(grad)?, &matrix(&normal)?)?;
        let db = column_sums(&matrix(grad)?)?;
        let mut dx = None;
        if wants[0] {
            let mut inner = grad.clone();
            if let Some(batch) = &batch {
                let average = |sums| over_parts(sums, batch.parts.as_ref())?.affine(1.0 / batch.rows, 0.0);
                inner = inner.broadcast_sub(&average(&db)?)?;
                inner = (inner - normal.broadcast_mul(&average(&dw)?)?)?;
            }
            dx = Some(inner.broadcast_mul(&scale)?);
        }
        Ok(vec![dx, Some(dw), Some(db)])
    }))
}

/// [`normalise`] by kernels of our own; the vectors are mean, 1 / standard deviation and scale.
fn normalise_fused(x: &Var, w: &Var, b: &Var, vectors: [Tensor; 3], batch: Option<Batch>) -> Result<Var> {
    fn statistics([mean, rstd, scale]: &[Tensor; 3]) -> fused::Statistics<'_> {
        fused::Statistics { mean, rstd, scale }
    }
    let value = statistics(&vectors).normalise(x.value(), b.value())?;
    let input = x.value().clone();
    let name = if batch.is_some() { "batch_norm" } else { "batch_norm_eval" };
    Ok(Var::record_once(name, value, &[x, w, b], move |grad, wants| {
        let statistics = statistics(&vectors);
        let sums = statistics.sums(grad, &input)?;
        let (whole, share) = match &batch {
            Some(batch) => {
                let [db, dw] = &sums;
                let parts = batch.parts.as_ref();
                ([over_parts(db, parts)?, over_parts(dw, parts)?], 1.0 / batch.rows)
            }
            None => (sums.clone(), 0.0),
        };
        let dx = if wants[0] { Some(statistics.backward(grad, &input, &whole, share)?) } else { None };
        let [db, dw] = sums;
        Ok(vec![dx, Some(dw), Some(db)])
    }))
}
