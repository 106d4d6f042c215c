//! Every model against PyTorch: outputs, gradients and buffers of `tests/fixtures/make_models.py`.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use nestgen::models::{Classifier, Discriminator, Generator};
use nestgen::nn::{Builder, ParamSet};
use nestgen::rng::Rng;
use nestgen_kernels::{Var, backward, mul, portable, sum_all};

/// Relative to the largest value of a tensor: f32 sums in another order, through a few layers.
const TOLERANCE: f64 = 1e-4;
/// Gradients smaller than this part of the model's largest are rounding noise of larger terms.
const NOISE: f64 = 1e-5;

struct Fixture {
    tensors: BTreeMap<String, Tensor>,
    config: String,
    /// Operations for one image.
    flops: u64,
}

impl Fixture {
    fn open(name: &str) -> Self {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/models_{name}.safetensors"));
        let bytes = std::fs::read(path).expect("the fixture is there");
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).expect("a safetensors file");
        let metadata = metadata.metadata().as_ref().expect("metadata");
        let (config, flops) = (metadata["config"].clone(), metadata["flops"].parse().expect("a number"));
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).expect("tensors");
        Self { tensors: tensors.into_iter().collect(), config, flops }
    }

    fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the fixture has no {name}"))
    }

    /// An input in the element type of the model.
    fn input(&self, name: &str, dtype: DType) -> Result<Tensor> {
        self.get(name).to_dtype(dtype)
    }

    fn group(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let part = |(name, t): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_string(), t.clone()));
        self.tensors.iter().filter_map(part).collect()
    }

    /// Operations that ours spares: a 1x1 shortcut beside an upsampling or before a pooling goes through a quarter of the pixels that
    /// PyTorch's model takes it through, of which block `i` has `pixels(i)`.
    fn spared(&self, pixels: impl Fn(u32) -> u64) -> u64 {
        let shortcut = |i: u32| self.tensors.get(&format!("before.blocks.{i}.shortcut.weight"));
        let counts = (0..).map_while(|i| Some(2 * pixels(i) * shortcut(i)?.elem_count() as u64));
        counts.map(|flops| flops / 4 * 3).sum()
    }

    /// Loads the weights, runs `forward` in training and in evaluation, compares all there is.
    fn check(
        &self,
        params: &ParamSet,
        dtype: DType,
        forward: impl Fn(&Var, bool) -> Result<Var>,
    ) -> Result<()> {
        let weights = self.group("before.").into_iter().map(|(name, t)| Ok((name, t.to_dtype(dtype)?)));
        params.load_torch(&weights.collect::<Result<_>>()?).expect("the fixture fits the model");
        let x = Var::leaf(self.input("in.x", dtype)?);
        let y = forward(&x, true)?;
        assert_close("out.y", y.value(), self.get("out.y"), 0.0)?;
        let grads = backward(sum_all(&mul(&y, &Var::constant(self.input("in.weights", dtype)?))?)?)?;
        let expected = self.group("grad.");
        let largest =
            expected.values().map(max_abs).collect::<Result<Vec<_>>>()?.into_iter().fold(0.0, f64::max);
        assert_close("grad.x", grads.leaf(&x).expect("a gradient"), &expected["x"], NOISE * largest)?;
        assert_eq!(expected.len(), params.params().len() + 1);
        for param in params.params() {
            let got = grads.param(param).unwrap_or_else(|| panic!("no gradient for {}", param.name()));
            let got = if got.rank() == 4 { got.permute((0, 3, 1, 2))? } else { got.clone() };
            assert!(max_abs(&got)? > 0.0, "the gradient of {} is zero", param.name());
            assert_close(param.name(), &got, &expected[param.name()], NOISE * largest)?;
        }
        let after = self.group("after.");
        assert_eq!(after.len(), params.statistics().len() + params.buffers().len());
        for buffer in params.statistics().iter().chain(params.buffers()) {
            assert_close(buffer.name(), &buffer.value(), &after[buffer.name()], 0.0)?;
        }
        assert_close("out.eval", forward(&x, false)?.value(), self.get("out.eval"), 0.0)
    }
}

fn max_abs(t: &Tensor) -> Result<f64> {
    t.to_dtype(DType::F64)?.abs()?.max_all()?.to_scalar()
}

fn assert_close(what: &str, got: &Tensor, expected: &Tensor, noise: f64) -> Result<()> {
    assert_eq!(got.dims(), expected.dims(), "{what}");
    let difference = max_abs(&(got.contiguous()? - expected.to_dtype(got.dtype())?)?)?;
    let allowed = TOLERANCE * max_abs(expected)? + noise;
    assert!(difference <= allowed, "{what}: off by {difference:.3e}, allowed {allowed:.3e}");
    Ok(())
}

fn check_generator(name: &str, dtype: DType) -> Result<()> {
    let fixture = Fixture::open(name);
    let config = serde_json::from_str(&fixture.config).expect("a generator's configuration");
    let model = Generator::new(&config, &Rng::new(0), dtype, &Device::Cpu)?;
    let spared = if name == "sagan_generator" { fixture.spared(|i| 64 << (2 * i)) } else { 0 };
    assert_eq!(model.flops(), fixture.flops - spared);
    fixture.check(model.params(), dtype, |z, train| model.forward(z, train))
}

fn check_discriminator(name: &str) -> Result<()> {
    let fixture = Fixture::open(name);
    let config = serde_json::from_str(&fixture.config).expect("a discriminator's configuration");
    let model = Discriminator::new(&config, &Builder::new(&Rng::new(0), DType::F32, &Device::Cpu))?;
    let spared = if name == "sagan_discriminator" { fixture.spared(|i| 1024 >> (2 * i)) } else { 0 };
    assert_eq!(model.flops(), fixture.flops - spared);
    fixture.check(model.params(), DType::F32, |images, train| model.forward(images, train))
}

fn check_classifier(name: &str) -> Result<()> {
    let fixture = Fixture::open(name);
    let config = serde_json::from_str(&fixture.config).expect("a classifier's configuration");
    let model = Classifier::new(&config, &Rng::new(0), DType::F32, &Device::Cpu)?;
    assert_eq!(model.flops(), fixture.flops);
    fixture.check(model.params(), DType::F32, |images, _| model.forward(images, None))
}

/// timm's own model: its names and shapes load, its logits come out, and saving gives its tensors back.
fn check_timm(name: &str) -> Result<()> {
    let fixture = Fixture::open(name);
    let config = serde_json::from_str(&fixture.config).expect("a classifier's configuration");
    let model = Classifier::new(&config, &Rng::new(0), DType::F32, &Device::Cpu)?;
    assert_eq!(model.flops(), fixture.flops);
    let tensors = fixture.group("before.");
    model.load_timm(&tensors).expect("timm's names and shapes fit");
    let logits = model.forward(&Var::constant(fixture.get("in.x").clone()), None)?;
    assert_close("logits", logits.value(), fixture.get("out.eval"), 0.0)?;
    let saved: BTreeMap<_, _> = model.timm_tensors()?.into_iter().collect();
    assert_eq!(saved.keys().collect::<Vec<_>>(), tensors.keys().collect::<Vec<_>>());
    for (name, tensor) in saved {
        assert_eq!(tensor.dims(), tensors[&name].dims());
        assert_eq!(max_abs(&(tensor - &tensors[&name])?)?, 0.0, "{name}");
    }
    Ok(())
}

#[test]
fn nest_classifier_with_multi_query_and_every_aggregation() -> Result<()> {
    ["multi_query", "conv", "pool", "none"]
        .iter()
        .try_for_each(|n| check_classifier(&format!("classifier_{n}")))
}

#[test]
fn vit_classifier() -> Result<()> {
    check_classifier("classifier_vit")
}

#[test]
fn timm_weights_load_and_save() -> Result<()> {
    ["timm_nest_same", "timm_nest_symmetric", "timm_vit"].iter().try_for_each(|name| check_timm(name))
}

#[test]
fn timm_weights_of_another_variant_are_refused_by_name() -> Result<()> {
    let fixture = Fixture::open("timm_vit");
    let mut config: serde_json::Value = serde_json::from_str(&fixture.config).expect("JSON");
    config["classes"] = 7.into();
    let config = serde_json::from_value(config).expect("a classifier's configuration");
    let model = Classifier::new(&config, &Rng::new(0), DType::F32, &Device::Cpu)?;
    let error = model.load_timm(&fixture.group("before.")).expect_err("the head has other classes").to_string();
    assert!(error.contains("head.weight (expected [7, 8], got [5, 8])"), "{error}");
    Ok(())
}

#[test]
fn transposed_nest_with_pixel_shuffle() -> Result<()> {
    check_generator("nest_shuffle", DType::F32)
}

#[test]
fn transposed_nest_with_pixel_shuffle_and_convolution_and_multi_query() -> Result<()> {
    check_generator("nest_shuffle_conv", DType::F32)
}

#[test]
fn transposed_nest_with_nearest_upsampling() -> Result<()> {
    check_generator("nest_nearest", DType::F32)
}

#[test]
fn transposed_nest_that_draws_at_every_level() -> Result<()> {
    check_generator("nest_every_level", DType::F32)
}

#[test]
fn discriminator_with_spectral_norm() -> Result<()> {
    check_discriminator("discriminator_spectral")
}

#[test]
fn discriminator_with_minibatch_stddev() -> Result<()> {
    check_discriminator("discriminator_stddev")
}

#[test]
fn sagan_generator() -> Result<()> {
    // One ReLU of this fixture gets an input that is zero but for f32's rounding, and with the order of a sum its
    // gradient comes and goes: in f64 it agrees to 2e-6.
    check_generator("sagan_generator", DType::F64)
}

#[test]
fn sagan_discriminator() -> Result<()> {
    check_discriminator("sagan_discriminator")
}

/// Whatever a generator's widths and whatever else is in the batch, an image has the same bits; not on the portable path,
/// where candle's product takes another way for another size.
#[test]
fn an_image_does_not_depend_on_its_batch() -> Result<()> {
    if portable::forced() {
        return Ok(());
    }
    let nest = |deaggregation: &str, dims: &str| {
        format!(
            r#"{{"kind": "transposed_nest", "resolution": 32, "z_dim": 8, "block_size": 8, "dims": {dims},
                "depths": [1, 1, 0], "head_dim": 4, "attention": "multi_head",
                "deaggregation": "{deaggregation}", "rgb": "every_level"}}"#
        )
    };
    let sagan = |width: usize| {
        format!(r#"{{"kind": "sagan", "resolution": 32, "z_dim": 8, "width": {width}, "attention": true}}"#)
    };
    for config in [
        nest("pixel_shuffle_conv", "[16, 16, 16]"),
        nest("pixel_shuffle_conv", "[96, 32, 32]"),
        nest("nearest_conv", "[16, 16, 16]"),
        nest("nearest_conv", "[48, 24, 12]"),
        sagan(8),
        sagan(16),
    ] {
        let shape = serde_json::from_str(&config).expect("a configuration");
        let generator = Generator::new(&shape, &Rng::new(0), DType::F32, &Device::Cpu)?;
        let bits = |z: &Tensor| -> Result<Vec<u32>> {
            let images = generator.forward(&Var::constant(z.clone()), false)?;
            Ok(images.value().flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
        };
        let z: Vec<f32> = (0..24).map(|i| (i as f32).sin()).collect();
        let z = Tensor::from_vec(z, (3, 8), &Device::Cpu)?;
        let together = bits(&z)?;
        for (i, image) in together.chunks(together.len() / 3).enumerate() {
            assert!(bits(&z.narrow(0, i, 1)?)? == image, "image {i} of {config}");
        }
    }
    Ok(())
}
