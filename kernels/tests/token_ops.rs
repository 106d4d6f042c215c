//! Outputs and gradients against PyTorch's, from `fixtures/token_ops.py`, at every instruction set.

mod again;
mod pytorch;

use candle_core::Result;
use nestgen_kernels as k;
use nestgen_kernels::Activation;
use nestgen_kernels::simd::Level;
use pytorch::Fixture;

#[test]
fn every_operation_agrees_with_pytorch_at_every_instruction_set() -> Result<()> {
    let fixture = Fixture::load("token_ops")?;
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
        fixture.check("branch_of_some", &["x", "w", "b"], |x| {
            let samples = k::Samples::new(&[0, 3], 5, x[0].device())?;
            let branch = k::layer_norm(&k::take_samples(&x[0], &samples)?, &x[1], &x[2], 1e-6)?;
            k::add_samples(&x[0], &branch, &samples, 1.25)
        })?;
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
