//! What PyTorch has computed (`fixtures/*.py`), and operations beside it.

use std::collections::HashMap;

use candle_core::{DType, Result, Tensor};
use nestgen_kernels as k;
use nestgen_kernels::Var;

/// f32 against f32, relative to the largest value: sums of up to a thousand terms of size 1 in another order, and the
/// Winograd transforms (1.7 times the rounding of a direct sum).
pub(crate) const TOLERANCE: f64 = 2e-5;

/// Inputs, outputs, weights of a sum and gradients, by name.
pub(crate) struct Fixture(HashMap<String, Tensor>);

impl Fixture {
    pub(crate) fn load(name: &str) -> Result<Self> {
        let path = format!("{}/tests/fixtures/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        Ok(Self(candle_core::safetensors::load(path, &k::gradcheck::device())?))
    }

    pub(crate) fn get(&self, name: &str) -> Result<&Tensor> {
        self.0.get(name).ok_or_else(|| candle_core::Error::Msg(format!("no {name} in the fixture")))
    }

    pub(crate) fn leaf(&self, name: &str, dtype: DType) -> Result<Var> {
        Ok(Var::leaf(self.get(name)?.to_dtype(dtype)?))
    }

    /// Compares output and gradients of `f` with those recorded under `name` for `inputs`.
    pub(crate) fn check(&self, name: &str, inputs: &[&str], f: impl Fn(&[Var]) -> Result<Var>) -> Result<()> {
        let leaves: Vec<Var> = inputs
            .iter()
            .map(|input| self.leaf(&format!("{name}.{input}"), DType::F32))
            .collect::<Result<_>>()?;
        let y = f(&leaves)?;
        close(&format!("{name}.y"), y.value(), self.get(&format!("{name}.y"))?, TOLERANCE)?;
        let weight = Var::constant(self.get(&format!("{name}.weight"))?.clone());
        let gradients = k::backward(k::sum_all(&k::mul(&y, &weight)?)?)?;
        for (leaf, input) in leaves.iter().zip(inputs) {
            let Some(found) = gradients.leaf(leaf) else { panic!("{name}: no gradient for {input}") };
            close(&format!("{name}.d{input}"), found, self.get(&format!("{name}.d{input}"))?, TOLERANCE)?;
        }
        Ok(())
    }
}

/// Within a share of the largest value.
pub(crate) fn close(name: &str, found: &Tensor, want: &Tensor, tolerance: f64) -> Result<()> {
    assert_eq!(found.dims(), want.dims(), "{name}");
    let (found, want) = (found.to_dtype(DType::F64)?, want.to_dtype(DType::F64)?);
    if want.elem_count() == 0 {
        return Ok(());
    }
    let size = want.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?;
    let worst = (found - want)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?;
    assert!(worst <= tolerance * size, "{name}: off by {worst}, largest value {size}");
    Ok(())
}
