//! The optimizer's arithmetic on tensors.

use candle_core::{Result, Tensor};

use super::reduce::sum_all;
use crate::optim::Step;

/// One step of Adam: the new parameter, mean and mean square.
pub(crate) fn adam(step: Step, [p, g, mean, square]: [&Tensor; 4]) -> Result<[Tensor; 3]> {
    let mean = lerp(mean, g, step.fresh)?;
    let square = lerp(square, &g.sqr()?, step.fresh_square)?;
    let root = square.sqrt()?.affine(step.root_correction.into(), step.eps.into())?;
    let change = (&mean / root)?.affine(step.rate.into(), 0.0)?;
    Ok([(p.affine(step.keep.into(), 0.0)? - change)?, mean, square])
}

/// `from + weight * (to - from)`.
pub(crate) fn lerp(from: &Tensor, to: &Tensor, weight: f32) -> Result<Tensor> {
    from + (to - from)?.affine(weight.into(), 0.0)?
}

/// The sum of squares of all tensors, read back as one number.
pub(crate) fn sum_squares(tensors: &[&Tensor]) -> Result<f64> {
    let sums: Vec<Tensor> = tensors.iter().map(|x| sum_all(&x.sqr()?)?.reshape(1)).collect::<Result<_>>()?;
    if sums.is_empty() {
        return Ok(0.0);
    }
    let sums = Tensor::cat(&sums, 0)?.to_vec1::<f32>()?;
    Ok(sums.into_iter().map(f64::from).sum())
}
