//! The feed-forward part on a GPU. What its second layer saw is not kept: the pass that takes a gradient through the activation
//! makes it again beside, and adds up the first bias's gradient.

use candle_core::{Result, Tensor};

use super::elementwise::activate;
use super::linear::{add_residual, epilogue, product};
use super::reduce::factor_with_sums;
use crate::autograd::is_recorded;
use crate::cuda::fused;
use crate::feed_forward::Layer;
use crate::linear::{check, check_residual, check_wide};
use crate::mixed::factor;
use crate::{Activation, Var};

/// Whether there are kernels for it.
pub(crate) fn takes(x: &Var, activation: Activation) -> bool {
    super::takes(x.value()) && fused::takes(x.value()) && fused::smooth_kind(activation).is_some()
}

/// [`crate::feed_forward`] where [`takes`] says so.
pub(crate) fn feed_forward(
    x: &Var,
    (w1, b1): Layer<'_>,
    activation: Activation,
    (w2, b2): Layer<'_>,
    residual: Option<&Var>,
) -> Result<Var> {
    let Some(kind) = fused::smooth_kind(activation) else {
        candle_core::bail!("feed_forward: {activation:?} is not smooth")
    };
    let width = check(x, w1, b1)?;
    let c_out = check_wide(x, Some(width), w2, b2)?;
    let added = residual.map(|residual| check_residual(x, residual, c_out)).transpose()?;
    let (x, w1, w2) = (&factor(x)?, &factor(w1)?, &factor(w2)?);
    let c_in = w1.dims()[1];
    let rows = x.value().elem_count() / c_in;
    let flat = x.value().contiguous()?.reshape((rows, c_in))?;
    let dims = |last: usize| [&x.dims()[..x.dims().len() - 1], &[last]].concat();

    let bias = b1.map(|b| b.value().clone());
    let before = product(&flat, w1.value(), (false, true), false)?;
    let hidden = activate(&before, bias.as_ref(), activation)?;
    let inputs: Vec<&Var> = [x, w1, w2].into_iter().chain(b1).chain(b2).chain(residual).collect();
    // Where there is no way back, nothing of the hidden layer outlives its use.
    let before = is_recorded(&inputs).then_some(before);
    let out = product(&hidden, w2.value(), (false, true), false)?.reshape(dims(c_out))?;
    drop(hidden);
    let value = match &added {
        Some(added) => add_residual(out, b2.map(Var::value), added)?,
        None => epilogue(out, b2.map(Var::value), 1.0)?,
    };

    let Some(before) = before else { return Ok(Var::constant(value)) };
    let (x_dims, has_b1, has_b2) = (x.dims().to_vec(), b1.is_some(), b2.is_some());
    let (w1, w2) = (w1.value().clone(), w2.value().clone());
    Ok(Var::record_once("feed_forward", value, &inputs, move |grad, wants| {
        let flat_grad = grad.contiguous()?.reshape((rows, c_out))?;
        let wants_b2 = has_b2 && wants[3 + usize::from(has_b1)];
        let (rounded, db2) = match wants_b2 {
            true => factor_with_sums(&flat_grad).map(|(rounded, sums)| (rounded, Some(sums)))?,
            false => (factor(&Var::constant(flat_grad))?.into_value(), None),
        };
        let at_hidden = product(&rounded, &w2, (false, false), false)?;
        let [at_before, hidden, db1] = fused::through_hidden(&before, bias.as_ref(), &at_hidden, kind)?;
        let when = |wanted: bool, f: &dyn Fn() -> Result<Tensor>| wanted.then(f).transpose();
        let mut grads = vec![
            when(wants[0], &|| product(&at_before, &w1, (false, false), false)?.reshape(&x_dims[..]))?,
            when(wants[1], &|| product(&at_before, &flat, (true, false), true))?,
            when(wants[2], &|| product(&rounded, &hidden, (true, false), true))?,
        ];
        grads.extend(has_b1.then_some(Some(db1)));
        if has_b2 {
            grads.push(db2);
        }
        if wants.len() > grads.len() {
            grads.push(Some(grad.clone()));
        }
        Ok(grads)
    }))
}
