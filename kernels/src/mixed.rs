//! Two element types in one graph: where products round their factors to bf16, what lies between products is bf16 too.
//!
//! Only on the portable path, and only in that precision. The rules: parameters are f32; the result of a product is bf16; an
//! operation whose kernels take either type gives the type of its input, or the wider of two; all others get their inputs
//! widened. Sums over rows and statistics are f32. The gradient of an f32 value is f32, so parameters and whatever is computed
//! outside of this crate see nothing of this; that of a bf16 value may have either type.

use candle_core::{DType, Result, Tensor};

use crate::cuda::fused;
use crate::precision::{Precision, current};
use crate::{Var, portable};

/// The same numbers as another type.
pub(crate) fn convert(x: &Tensor, to: DType) -> Result<Tensor> {
    if x.dtype() == to {
        return Ok(x.clone());
    }
    if fused::takes(x) && matches!(to, DType::F32 | DType::BF16) {
        fused::convert(x, to)
    } else {
        x.to_dtype(to)
    }
}

/// `x` as f32 if it is bf16.
pub(crate) fn widened_value(x: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::BF16 { convert(x, DType::F32) } else { Ok(x.clone()) }
}

fn converted(x: &Var, to: DType) -> Result<Var> {
    recorded(x, convert(x.value(), to)?)
}

/// `value` is `x` as another type.
fn recorded(x: &Var, value: Tensor) -> Result<Var> {
    Ok(Var::record("convert", value, &[x], |grad, _| Ok(vec![Some(grad.clone())])))
}

/// `x` as f32 if it is bf16: for what leaves a network, and for operations without kernels for bf16.
///
/// # Errors
/// When the device fails.
pub fn widened(x: &Var) -> Result<Var> {
    if x.dtype() == DType::BF16 { converted(x, DType::F32) } else { Ok(x.clone()) }
}

/// `x` as it is where there are kernels for either type, else widened.
pub(crate) fn fitting(x: &Var) -> Result<Var> {
    if fused::takes(x.value()) { Ok(x.clone()) } else { widened(x) }
}

/// A factor of a product in the current precision. A parameter is rounded once for all products until it changes.
pub(crate) fn factor(x: &Var) -> Result<Var> {
    if !portable::takes(x.value()) {
        return Ok(x.clone());
    }
    match (current(), x.dtype()) {
        (Precision::Bf16, DType::F32) => recorded(x, x.rounded(|value| convert(value, DType::BF16))?),
        (Precision::F32 | Precision::Tf32, DType::BF16) => converted(x, DType::F32),
        _ => Ok(x.clone()),
    }
}

/// Whether two operands go together: of one type, or f32 and bf16.
pub(crate) fn go_together(a: &Var, b: &Var) -> bool {
    goes_with(a.dtype(), b) || goes_with(b.dtype(), a)
}

/// Whether a parameter of type `dtype` goes with `x`: of its type, or f32 beside bf16.
pub(crate) fn goes_with(dtype: DType, x: &Var) -> bool {
    dtype == x.dtype() || (dtype == DType::F32 && x.dtype() == DType::BF16)
}
