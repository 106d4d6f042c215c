//! Checks the derivatives of an operation against central differences, in f64.
//!
//! An output of any shape is reduced to one number by fixed weights, so that an error in any element shows.
//! [`check_gradients`] compares the backward pass with differences of the value; [`check_second_order`]
//! compares the backward pass of the backward pass with differences of first gradients.

use candle_core::{Device, Result, Tensor, bail};

use crate::{Var, add, backward, grad, mul, no_grad, sum_all};

/// Step of the differences: the error of a central difference in f64 is about step^2 plus 1e-16 / step.
const STEP: f64 = 1e-5;
/// Largest accepted error, relative to the largest derivative (or 1): 100 times what rounding explains.
const TOLERANCE: f64 = 1e-7;

/// The environment variable that moves the tests of operations to the GPU when it is `cuda`.
pub const DEVICE_VARIABLE: &str = "NESTGEN_TEST_DEVICE";

/// Where tests put their tensors: the processor, or the first GPU if [`DEVICE_VARIABLE`] says so.
#[cfg(feature = "cuda")]
pub fn device() -> Device {
    static DEVICE: std::sync::OnceLock<Device> = std::sync::OnceLock::new();
    let open = || match std::env::var(DEVICE_VARIABLE).as_deref() {
        #[expect(clippy::expect_used, reason = "tests were told that there is a GPU")]
        Ok("cuda") => crate::cuda::open(0).expect("a GPU"),
        _ => Device::Cpu,
    };
    DEVICE.get_or_init(open).clone()
}

/// Where tests put their tensors: the processor, in a build without CUDA.
#[cfg(not(feature = "cuda"))]
pub fn device() -> Device {
    Device::Cpu
}

/// Fixed numbers of both signs between 0.5 and 1.5 in size: test inputs and weights without a generator.
pub fn pattern(dims: &[usize], seed: u64) -> Result<Tensor> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x1234_5678_9ABC_DEF1);
    let count = dims.iter().product();
    let mut data: Vec<f64> = Vec::with_capacity(count);
    for _ in 0..count {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let sign = if state >> 63 == 1 { 1.0 } else { -1.0 };
        data.push(sign * (0.5 + ((state >> 20) & 0xFFFF_FFFF) as f64 / (1u64 << 32) as f64));
    }
    Tensor::from_vec(data, dims, &device())
}

/// The weighted sum of an output.
fn weighted(output: &Var) -> Result<Var> {
    sum_all(&mul(output, &Var::constant(pattern(output.dims(), 77)?))?)
}

/// Compares the gradient of `f` for every element of every input with a central difference.
///
/// # Errors
/// When an input is not f64, `f` fails, or a derivative is off (the message names input and element).
pub fn check_gradients(f: impl Fn(&[Var]) -> Result<Var>, inputs: &[Tensor]) -> Result<()> {
    let leaves: Vec<Var> = inputs.iter().map(|x| Var::leaf(x.clone())).collect();
    let gradients = backward(weighted(&f(&leaves)?)?)?;
    let found: Vec<Option<Tensor>> = leaves.iter().map(|leaf| gradients.leaf(leaf).cloned()).collect();
    compare(&found, inputs, |inputs| {
        let constants: Vec<Var> = inputs.iter().map(|x| Var::constant(x.clone())).collect();
        no_grad(|| weighted(&f(&constants)?))?.into_value().to_scalar::<f64>()
    })
}

/// Compares second derivatives of `f` (weighted over all pairs of inputs) with central differences of first
/// derivatives.
///
/// # Errors
/// As [`check_gradients`]; also when an operation in `f` cannot be differentiated twice.
pub fn check_second_order(f: impl Fn(&[Var]) -> Result<Var>, inputs: &[Tensor]) -> Result<()> {
    let leaves: Vec<Var> = inputs.iter().map(|x| Var::leaf(x.clone())).collect();
    let slope = directional(&f, &leaves, true)?;
    let found: Vec<Option<Tensor>> = match slope.is_tracked() {
        true => {
            let gradients = backward(slope)?;
            leaves.iter().map(|leaf| gradients.leaf(leaf).cloned()).collect()
        }
        false => vec![None; leaves.len()],
    };
    compare(&found, inputs, |inputs| {
        let leaves: Vec<Var> = inputs.iter().map(|x| Var::leaf(x.clone())).collect();
        directional(&f, &leaves, false)?.into_value().to_scalar::<f64>()
    })
}

/// The weighted sum of all first gradients of the square of `f`'s weighted output plus that output: the
/// square makes second derivatives of linear operations differ from zero.
fn directional(f: &impl Fn(&[Var]) -> Result<Var>, leaves: &[Var], create_graph: bool) -> Result<Var> {
    let output = weighted(&f(leaves)?)?;
    let loss = add(&crate::square(&output)?, &output)?;
    let wanted: Vec<&Var> = leaves.iter().collect();
    let mut total: Option<Var> = None;
    for (i, gradient) in grad(&loss, &wanted, create_graph)?.iter().enumerate() {
        let part = sum_all(&mul(gradient, &Var::constant(pattern(gradient.dims(), 100 + i as u64)?))?)?;
        total = Some(match total {
            Some(sum) => add(&sum, &part)?,
            None => part,
        });
    }
    match total {
        Some(total) => Ok(total),
        None => bail!("gradient check: expected at least one input, got none"),
    }
}

fn compare(
    found: &[Option<Tensor>],
    inputs: &[Tensor],
    value: impl Fn(&[Tensor]) -> Result<f64>,
) -> Result<()> {
    for (i, input) in inputs.iter().enumerate() {
        let data = input.flatten_all()?.to_vec1::<f64>()?;
        let mut expected = Vec::with_capacity(data.len());
        for j in 0..data.len() {
            let shifted = |by: f64| -> Result<f64> {
                let mut data = data.clone();
                data[j] += by;
                let mut inputs = inputs.to_vec();
                inputs[i] = Tensor::from_vec(data, input.shape(), input.device())?;
                value(&inputs)
            };
            expected.push((shifted(STEP)? - shifted(-STEP)?) / (2.0 * STEP));
        }
        let got = match &found[i] {
            Some(gradient) => gradient.flatten_all()?.to_vec1::<f64>()?,
            None => vec![0.0; data.len()],
        };
        let largest = expected.iter().fold(1.0f64, |a, b| a.max(b.abs()));
        for (j, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let close = (got - expected).abs() <= TOLERANCE * largest;
            if !close {
                bail!("gradient of input {i}, element {j}: expected {expected}, got {got} (largest {largest})");
            }
        }
    }
    Ok(())
}
