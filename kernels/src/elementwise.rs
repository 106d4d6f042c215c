//! Sums, products and other functions element by element. All can be differentiated twice.

use candle_core::{Result, bail};

use crate::Var;

fn same_shape(name: &str, a: &Var, b: &Var) -> Result<()> {
    if a.dims() != b.dims() {
        bail!("{name}: expected two equal shapes, got {:?} and {:?}", a.dims(), b.dims());
    }
    Ok(())
}

/// Sum of two values of one shape.
///
/// # Errors
/// When the shapes differ.
pub fn add(a: &Var, b: &Var) -> Result<Var> {
    same_shape("add", a, b)?;
    let value = (a.value() + b.value())?;
    Ok(Var::record("add", value, &[a, b], |grad, _| Ok(vec![Some(grad.clone()), Some(grad.clone())])))
}

/// Product of two values of one shape.
///
/// # Errors
/// When the shapes differ.
pub fn mul(a: &Var, b: &Var) -> Result<Var> {
    same_shape("mul", a, b)?;
    let value = (a.value() * b.value())?;
    let (ka, kb) = (a.clone(), b.clone());
    Ok(Var::record("mul", value, &[a, b], move |grad, wants| {
        let da = if wants[0] { Some(mul(grad, &kb)?) } else { None };
        let db = if wants[1] { Some(mul(grad, &ka)?) } else { None };
        Ok(vec![da, db])
    }))
}
