//! Every trainable tensor of every model against finite differences, in f64.

use candle_core::{DType, Device, Result, Tensor};
use nestgen::models::{Classifier, Discriminator, Generator};
use nestgen::nn::{Builder, ParamSet};
use nestgen::rng::Rng;
use nestgen_kernels::{Param, Var, backward, mul, no_grad, sum_all};

/// Half the distance of the two points of a central difference: small, because every ReLU that switches
/// between them is an error of the order of the step.
const STEP: f64 = 3e-7;
/// Rounding in the loss over the step, and the switches.
const TOLERANCE: f64 = 1e-5;
/// Training passes before the check.
const SETTLING: usize = 20;
fn noise(shape: &[usize], rng: &mut Rng, scale: f64) -> Result<Tensor> {
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| f64::from(rng.normal()) * scale).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Replaces every parameter by a random one, so that zeros hide nothing.
fn randomise(params: &ParamSet) -> Result<()> {
    let rng = Rng::new(5);
    params.params().iter().enumerate().try_for_each(|(i, param)| {
        param.set((noise(param.value().dims(), &mut rng.at(i as u64), 0.2)? + 0.05)?)
    })
}

fn shifted(param: &Param, index: usize, by: f64) -> Result<Tensor> {
    let value = param.value();
    let mut values = value.flatten_all()?.to_vec1::<f64>()?;
    values[index] += by;
    Tensor::from_vec(values, value.dims(), value.device())
}

fn check(params: &ParamSet, input: &[usize], forward: impl Fn(&Var, bool) -> Result<Var>) -> Result<()> {
    randomise(params)?;
    let mut rng = Rng::new(6);
    let x = Var::constant(noise(input, &mut rng, 1.0)?);
    // Spectral norms and running statistics have to find the new weights.
    for _ in 0..SETTLING {
        no_grad(|| forward(&x, true))?;
    }
    let forward = |x: &Var| forward(x, false);
    let y = forward(&x)?;
    let weights = Var::constant(noise(y.dims(), &mut rng, 1.0)?);
    let loss = |y: &Var| sum_all(&mul(y, &weights)?);
    let grads = backward(loss(&y)?)?;
    for param in params.params() {
        let grad = grads.param(param).unwrap_or_else(|| panic!("no gradient for {}", param.name()));
        let grad = grad.contiguous()?.flatten_all()?.to_vec1::<f64>()?;
        assert!(grad.iter().any(|&g| g != 0.0), "the gradient of {} is zero", param.name());
        let before = param.value();
        let index = rng.below(grad.len() as u64) as usize;
        let at = |by: f64| -> Result<f64> {
            param.set(shifted(param, index, by)?)?;
            let value = no_grad(|| loss(&forward(&x)?))?.value().to_scalar::<f64>();
            param.set(before.clone())?;
            value
        };
        let expected = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
        let (got, allowed) = (grad[index], TOLERANCE * (1.0 + expected.abs()));
        let name = param.name();
        assert!((got - expected).abs() <= allowed, "{name}[{index}]: {got} but {expected} by differences");
    }
    Ok(())
}

fn builder() -> Builder {
    Builder::new(&Rng::new(1), DType::F64, &Device::Cpu)
}

fn generator(config: &str, z_dim: usize) -> Result<()> {
    let model = Generator::build(&serde_json::from_str(config).expect("a configuration"), &builder())?;
    check(model.params(), &[2, z_dim], |z, train| model.forward(z, train))
}

fn discriminator(config: &str) -> Result<()> {
    let model = Discriminator::new(&serde_json::from_str(config).expect("a configuration"), &builder())?;
    check(model.params(), &[4, 32, 32, 3], |images, train| model.forward(images, train))
}

fn classifier(config: &str) -> Result<()> {
    let model = Classifier::build(&serde_json::from_str(config).expect("a configuration"), &builder())?;
    check(model.params(), &[2, 16, 16, 3], |images, _| model.forward(images, None))
}

#[test]
fn transposed_nest() -> Result<()> {
    for (attention, deaggregation, rgb, block_size, dims) in [
        ("multi_head", "pixel_shuffle", "last_level", 8, "[8, 4, 4]"),
        ("multi_query", "pixel_shuffle_conv", "every_level", 8, "[8, 4, 4]"),
        ("multi_head", "nearest_conv", "last_level", 8, "[8, 4, 4]"),
        ("multi_head", "nearest_conv", "last_level", 16, "[8, 4]"),
    ] {
        let depths = if block_size == 8 { "[1, 1, 0]" } else { "[1, 0]" };
        let config = format!(
            r#"{{"kind": "transposed_nest", "resolution": 32, "z_dim": 3, "block_size": {block_size}, "dims": {dims},
                "depths": {depths}, "head_dim": 4, "attention": "{attention}", "deaggregation": "{deaggregation}",
                "rgb": "{rgb}"}}"#
        );
        generator(&config, 3)?;
    }
    Ok(())
}

#[test]
fn residual_discriminator() -> Result<()> {
    for (spectral_norm, minibatch_stddev) in [(true, false), (false, true)] {
        discriminator(&format!(
            r#"{{"kind": "residual", "resolution": 32, "channels": [3, 4, 4, 4],
                "spectral_norm": {spectral_norm}, "minibatch_stddev": {minibatch_stddev}}}"#
        ))?;
    }
    Ok(())
}

#[test]
fn sagan() -> Result<()> {
    for attention in [true, false] {
        generator(
            &format!(
                r#"{{"kind": "sagan", "resolution": 32, "z_dim": 3, "width": 8, "attention": {attention}}}"#
            ),
            3,
        )?;
        discriminator(&format!(
            r#"{{"kind": "sagan", "resolution": 32, "width": 8, "attention": {attention}}}"#
        ))?;
    }
    Ok(())
}

#[test]
fn nest_classifier() -> Result<()> {
    for aggregation in ["conv_pool", "conv", "pool", "none"] {
        classifier(&format!(
            r#"{{"kind": "nest", "resolution": 16, "patch_size": 2, "dims": [4, 8], "depths": [1, 1],
                "heads": [2, 2], "attention": "multi_query", "aggregation": "{aggregation}", "padding": "same",
                "gelu": "tanh", "drop_path": 0.0, "classes": 3}}"#
        ))?;
    }
    Ok(())
}

#[test]
fn vit_classifier() -> Result<()> {
    classifier(
        r#"{"kind": "vit", "resolution": 16, "patch_size": 4, "dim": 8, "depth": 1, "heads": 2, "gelu": "erf",
            "drop_path": 0.0, "classes": 3}"#,
    )
}
