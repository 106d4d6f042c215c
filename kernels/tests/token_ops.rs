//! Outputs and gradients against PyTorch's, from `fixtures/token_ops.py`, at every instruction set.

mod again;

use std::collections::HashMap;

use candle_core::{Result, Tensor};
use nestgen_kernels as k;
use nestgen_kernels::simd::Level;
use nestgen_kernels::{Activation, Var};

/// f32 against f32: sums of up to 196 terms of size 1 in another order.
const TOLERANCE: f32 = 2e-5;

struct Fixture(HashMap<String, Tensor>);

impl Fixture {
    fn load() -> Result<Self> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/token_ops.safetensors");
        Ok(Self(candle_core::safetensors::load(path, &nestgen_kernels::gradcheck::device())?))
    }

    fn get(&self, name: &str) -> Result<&Tensor> {
        self.0.get(name).ok_or_else(|| candle_core::Error::Msg(format!("no {name} in the fixture")))
    }

    /// Compares output and gradients of `f` with those recorded under `name` for `inputs`.
    fn check(&self, name: &str, inputs: &[&str], f: impl Fn(&[Var]) -> Result<Var>) -> Result<()> {
        let mut leaves = Vec::new();
        for input in inputs {
            leaves.push(Var::leaf(self.get(&format!("{name}.{input}"))?.clone()));
        }
        let y = f(&leaves)?;
        close(&format!("{name}.y"), y.value(), self.get(&format!("{name}.y"))?)?;
        let weight = Var::constant(self.get(&format!("{name}.weight"))?.clone());
        let gradients = k::backward(k::sum_all(&k::mul(&y, &weight)?)?)?;
        for (leaf, input) in leaves.iter().zip(inputs) {
            let Some(found) = gradients.leaf(leaf) else { panic!("{name}: no gradient for {input}") };
            close(&format!("{name}.d{input}"), found, self.get(&format!("{name}.d{input}"))?)?;
        }
        Ok(())
    }
}

fn close(name: &str, found: &Tensor, want: &Tensor) -> Result<()> {
    assert_eq!(found.dims(), want.dims(), "{name}");
    if want.elem_count() > 0 {
        let size = want.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?.max(1.0);
        let worst = (found - want)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        assert!(worst <= TOLERANCE * size, "{name}: off by {worst}, largest value {size}");
    }
    Ok(())
}

#[test]
fn every_operation_agrees_with_pytorch_at_every_instruction_set() -> Result<()> {
    let fixture = Fixture::load()?;
    for level in [Level::Plain, Level::Avx2, Level::Avx512, Level::Amx] {
        k::simd::force(level);
        for (tokens, heads) in [(16, 1), (49, 2), (64, 2), (196, 1)] {
            fixture.check(&format!("attention.{tokens}.{heads}"), &["qkv"], |x| k::attention(&x[0], heads))?;
        }
        fixture.check("multi_query.16.3", &["q", "kv"], |x| k::multi_query_attention(&x[0], &x[1], 3))?;
        fixture.check("layer_norm", &["x", "w", "b"], |x| k::layer_norm(&x[0], &x[1], &x[2], 1e-6))?;
        fixture.check("softmax", &["x"], |x| k::softmax(&x[0]))?;
        fixture.check("log_softmax", &["x"], |x| k::log_softmax(&x[0]))?;
        let targets = fixture.get("cross_entropy.targets")?;
        fixture.check("cross_entropy", &["x"], |x| k::cross_entropy(&x[0], targets))?;
        fixture.check("gelu_erf", &["x"], |x| k::activate(&x[0], Activation::GeluErf))?;
        fixture.check("gelu_tanh", &["x"], |x| k::activate(&x[0], Activation::GeluTanh))?;
        fixture.check("silu", &["x"], |x| k::activate(&x[0], Activation::Silu))?;
        fixture.check("tanh", &["x"], |x| k::activate(&x[0], Activation::Tanh))?;
        fixture.check("deaggregate.4", &["x"], |x| k::deaggregate(&x[0], 4))?;
    }
    Ok(())
}

#[test]
fn the_portable_path_passes_the_same_tests() {
    again::on_the_portable_path();
}

#[test]
fn a_gpu_passes_the_same_tests() {
    again::on_the_gpu();
}
