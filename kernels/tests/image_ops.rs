//! Outputs and gradients against PyTorch's, from `fixtures/image_ops.py`, at every instruction set.

mod again;
mod pytorch;

use candle_core::{DType, Result, Tensor};
use nestgen_kernels as k;
use nestgen_kernels::simd::Level;
use nestgen_kernels::{Activation, Conv2d, PoolPadding, Var};
use pytorch::{Fixture, close};

/// The gradient of the R1 penalty in f32 against PyTorch's in f64: two more passes, each with the rounding above.
const PENALTY_SINGLE: f64 = 1e-4;
/// The same in f64.
const PENALTY_DOUBLE: f64 = 1e-11;

fn convolutions() -> [(&'static str, Conv2d); 8] {
    let conv = |stride, padding| Conv2d { stride: (stride, stride), padding };
    [
        ("same3", Conv2d::same(3)),
        ("wide3", Conv2d::same(3)),
        ("valid3", conv(1, (0, 0))),
        ("stride2", conv(2, (1, 1))),
        ("row7", conv(1, (0, 3))),
        ("five", Conv2d::same(5)),
        ("point", Conv2d::same(1)),
        ("pixel", Conv2d::same(3)),
    ]
}

fn check_all(fixture: &Fixture) -> Result<()> {
    for (name, how) in convolutions() {
        fixture.check(&format!("conv2d.{name}"), &["x", "w", "b"], |v| {
            k::conv2d(&v[0], &v[1], Some(&v[2]), how, Activation::LeakyRelu(0.2))
        })?;
    }
    fixture.check("linear", &["x", "w", "b"], |v| k::linear(&v[0], &v[1], Some(&v[2]), Activation::Relu))?;
    fixture.check("matmul", &["a", "b"], |v| k::matmul(&v[0], &v[1], true, false))?;
    fixture.check("batch_norm", &["x", "w", "b"], |v| Ok(k::batch_norm(&v[0], &v[1], &v[2], 1e-3, None)?.0))?;
    let (mean, var) = (fixture.get("batch_norm_eval.mean")?, fixture.get("batch_norm_eval.var")?);
    fixture.check("batch_norm_eval", &["x", "w", "b"], |v| {
        k::batch_norm_eval(&v[0], &v[1], &v[2], mean, var, 1e-3)
    })?;
    fixture.check("upsample_nearest2", &["x"], |v| k::upsample_nearest2(&v[0]))?;
    fixture.check("avg_pool2", &["x"], |v| k::avg_pool2(&v[0]))?;
    fixture.check("max_pool2", &["x"], |v| k::max_pool2(&v[0]))?;
    fixture.check("max_pool3s2.symmetric", &["x"], |v| k::max_pool3s2(&v[0], PoolPadding::Symmetric))?;
    fixture.check("max_pool3s2.valid", &["x"], |v| k::max_pool3s2(&v[0], PoolPadding::Valid))?;
    fixture.check("max_pool3s2.tf_same", &["x"], |v| k::max_pool3s2(&v[0], PoolPadding::TfSame))
}

/// A stem, one residual block that halves the image, and a linear layer on the sum over positions.
fn discriminator(x: &Var, w: &[Var]) -> Result<Var> {
    let leaky = Activation::LeakyRelu(0.25);
    let h = k::conv2d(x, &w[0], None, Conv2d::same(3), leaky)?;
    let r = k::conv2d(&h, &w[1], None, Conv2d::same(3), leaky)?;
    let r = k::avg_pool2(&k::conv2d(&r, &w[2], None, Conv2d::same(3), Activation::None)?)?;
    let skip = k::conv2d(&k::avg_pool2(&h)?, &w[3], None, Conv2d::same(1), Activation::None)?;
    let h = k::activate(&k::add(&r, &skip)?, leaky)?;
    k::linear(&k::sum_middle(&h)?, &w[4], None, Activation::None)
}

fn check_penalty(fixture: &Fixture, dtype: DType, tolerance: f64) -> Result<()> {
    let names = ["w0", "w1", "w2", "skip", "last"];
    let x = fixture.leaf("r1.x", dtype)?;
    let weights: Vec<Var> =
        names.iter().map(|name| fixture.leaf(&format!("r1.{name}"), dtype)).collect::<Result<_>>()?;
    let logits = k::sum_all(&discriminator(&x, &weights)?)?;
    let gradient = k::grad(&logits, &[&x], true)?;
    let penalty = k::sum_all(&k::square(&gradient[0])?)?;
    close("r1.penalty", penalty.value(), fixture.get("r1.penalty")?, tolerance)?;
    let gradients = k::backward(penalty)?;
    for (name, weight) in names.iter().zip(&weights) {
        let Some(found) = gradients.leaf(weight) else { panic!("r1: no gradient for {name}") };
        close(&format!("r1.d{name}"), found, fixture.get(&format!("r1.d{name}"))?, tolerance)?;
    }
    Ok(())
}

#[test]
fn every_operation_agrees_with_pytorch_at_every_instruction_set() -> Result<()> {
    let fixture = Fixture::load("image_ops")?;
    for level in [Level::Plain, Level::Avx2, Level::Avx512, Level::Amx] {
        k::simd::force(level);
        check_all(&fixture)?;
        check_penalty(&fixture, DType::F32, PENALTY_SINGLE)?;
    }
    check_penalty(&fixture, DType::F64, PENALTY_DOUBLE)
}

/// Second derivatives of the whole discriminator against differences of first ones.
#[test]
fn the_discriminator_can_be_differentiated_twice() -> Result<()> {
    let p = k::gradcheck::pattern;
    let inputs = [
        p(&[2, 4, 4, 2], 1)?,
        p(&[3, 3, 3, 2], 2)?,
        p(&[3, 3, 3, 3], 3)?,
        p(&[4, 3, 3, 3], 4)?,
        p(&[4, 1, 1, 3], 5)?,
        p(&[1, 4], 6)?,
    ];
    // Scaled so that activations and their gradients stay of size 1.
    let inputs: Vec<Tensor> = inputs.iter().map(|x| x * 0.3).collect::<Result<_>>()?;
    k::gradcheck::check_second_order(|v| discriminator(&v[0], &v[1..]), &inputs)
}

#[test]
fn the_portable_path_passes_the_same_tests() {
    again::on_the_portable_path();
}

#[test]
fn a_gpu_passes_the_same_tests() {
    again::on_the_gpu();
}
