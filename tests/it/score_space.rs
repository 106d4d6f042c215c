//! `--features FILE`: classifiers and DINOv2 as feature spaces, against PyTorch and through the binary.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use nestgen::data::ImageData;
use nestgen::models::{Classifier, ClassifierConfig, nest};
use nestgen::rng::Rng;
use nestgen::score_space;
use nestgen::train::tensors::{self, Metadata, NamedTensors};
use nestgen_fid::formula::{draw, fnv1a64};
use nestgen_fid::kid::kid;
use nestgen_fid::{Extractor, Resize, Tap};

use super::bad_input::{refused, text};
use super::cli::nestgen;

/// f32 through two transformer layers against f64, relative to the largest feature.
const TOLERANCE: f32 = 1e-5;

/// The first digits of the SHA-256 of the file of `scenes-v1`.
const SCENES_V1: &str = "afa85b3fc9e3";

const DIM: usize = 128;
const DEPTH: usize = 2;

/// Writes a file of tensors with metadata; its path.
fn write(dir: &Path, name: &str, metadata: &[(&str, &str)], tensors: &NamedTensors) -> PathBuf {
    let path = dir.join(name);
    let metadata: Metadata = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let mut bytes = Vec::new();
    tensors::write(&mut bytes, &metadata, tensors).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

/// A tensor of `tests/fixtures/make_dinov2.py` by its name and shape.
fn formula(name: &str, shape: &[usize]) -> (String, Tensor) {
    let count: usize = shape.iter().product();
    let (scale, shift) = if shape.len() >= 2 && name.ends_with("weight") {
        ((3.0 / (count / shape[0]) as f64).sqrt(), 0.0)
    } else if name.contains("norm") && name.ends_with("weight") {
        (0.25, 1.0)
    } else {
        (0.5, 0.0)
    };
    let state = fnv1a64(name);
    let unit = |i: u64| ((draw(state, i) >> 40) as f64 - 8_388_608.0) / 8_388_608.0;
    let values: Vec<f32> = (0..count as u64).map(|i| (shift + scale * unit(i)) as f32).collect();
    (name.to_owned(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
}

/// The weights of `tests/fixtures/make_dinov2.py` under the names of DINOv2's authors.
fn dinov2() -> NamedTensors {
    let mut tensors = vec![
        formula("cls_token", &[1, 1, DIM]),
        formula("mask_token", &[1, DIM]),
        formula("pos_embed", &[1, 50, DIM]),
        formula("patch_embed.proj.weight", &[DIM, 3, 14, 14]),
        formula("patch_embed.proj.bias", &[DIM]),
        formula("norm.weight", &[DIM]),
        formula("norm.bias", &[DIM]),
    ];
    for block in 0..DEPTH {
        let mut add =
            |part: &str, shape: &[usize]| tensors.push(formula(&format!("blocks.{block}.{part}"), shape));
        for (layer, outputs, inputs) in [
            ("attn.qkv", 3 * DIM, DIM),
            ("attn.proj", DIM, DIM),
            ("mlp.fc1", 4 * DIM, DIM),
            ("mlp.fc2", DIM, 4 * DIM),
        ] {
            add(&format!("{layer}.weight"), &[outputs, inputs]);
            add(&format!("{layer}.bias"), &[outputs]);
        }
        for part in ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"] {
            add(part, &[DIM]);
        }
    }
    tensors
}

/// The same under the names of the transformers library.
fn renamed(tensors: NamedTensors) -> NamedTensors {
    let mut out = NamedTensors::new();
    for (name, tensor) in tensors {
        if let Some((block, part)) = name.split_once(".attn.qkv.") {
            for (i, third) in ["query", "key", "value"].iter().enumerate() {
                let name =
                    format!("{block}.attention.attention.{third}.{part}").replace("blocks.", "encoder.layer.");
                out.push((name, tensor.narrow(0, i * DIM, DIM).unwrap().contiguous().unwrap()));
            }
            continue;
        }
        let name = match name.as_str() {
            "pos_embed" => "embeddings.position_embeddings".to_owned(),
            "cls_token" | "mask_token" => format!("embeddings.{name}"),
            _ => name
                .replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
                .replace("blocks.", "encoder.layer.")
                .replace(".attn.proj.", ".attention.output.dense.")
                .replace(".ls1.gamma", ".layer_scale1.lambda1")
                .replace(".ls2.gamma", ".layer_scale2.lambda1"),
        };
        let name = name.strip_prefix("norm.").map(|part| format!("layernorm.{part}")).unwrap_or(name);
        out.push((name, tensor));
    }
    out
}

/// Features of the two images of `tests/fixtures/make_dinov2.py`.
fn features(extractor: &Extractor) -> Vec<f32> {
    let image = |index: usize| {
        let state = fnv1a64(&format!("image/{index}"));
        (0..64 * 64 * 3).map(move |i| (draw(state, i) >> 56) as u8)
    };
    let pixels: Vec<u8> = (0..2).flat_map(image).collect();
    let features = extractor.extract_pixels(Tap::D2048, Resize::Pytorch, &pixels, 64, 64, &|_, _| {});
    features.expect("features").data
}

#[test]
fn dinov2_has_pytorchs_features_under_either_naming() {
    let dir = tempfile::tempdir().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dinov2_tiny.safetensors");
    let (_, fixture) = tensors::read(&path).unwrap();
    let expected = fixture[0].1.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    let authors = score_space::open(&write(dir.path(), "a.safetensors", &[], &dinov2()), &Device::Cpu).unwrap();
    assert_eq!(authors.name(), "FD-DINOv2-128x2");
    let got = features(&authors);
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        assert!((got - expected).abs() <= TOLERANCE * largest, "feature {i}: {got}, expected {expected}");
    }
    let other =
        score_space::open(&write(dir.path(), "b.safetensors", &[], &renamed(dinov2())), &Device::Cpu).unwrap();
    assert!(features(&other) == got, "the transformers library's names give other features");
    assert_ne!(authors.sha256(), other.sha256());
}

/// A small NesT in the file format of classifiers.
pub(crate) fn classifier(dir: &Path, name: &str) -> PathBuf {
    seeded_classifier(dir, name, 1)
}

/// The same with other weights.
pub(crate) fn seeded_classifier(dir: &Path, name: &str, seed: u64) -> PathBuf {
    let shape =
        nest::Config { dims: vec![8, 12], depths: vec![1, 1], heads: vec![2, 3], ..nest::Config::tiny(32, 3) };
    let config = ClassifierConfig::Nest(nest::Config { patch_size: 4, ..shape });
    let network = Classifier::new(&config, &Rng::new(seed), DType::F32, &Device::Cpu).unwrap();
    #[derive(serde::Serialize)]
    struct File {
        model: ClassifierConfig,
        data: BTreeMap<&'static str, [f32; 3]>,
    }
    let data = BTreeMap::from([("mean", [0.5; 3]), ("std", [0.25; 3])]);
    let config = toml::to_string(&File { model: config, data }).unwrap();
    let metadata = [("format", nestgen::train::classify::FORMAT), ("config", &config)];
    write(dir, name, &metadata, &network.timm_tensors().unwrap())
}

/// A folder of `count` different images.
pub(crate) fn images(dir: &Path, name: &str, count: u32) -> PathBuf {
    let folder = dir.join(name);
    fs::create_dir(&folder).unwrap();
    for i in 0..count {
        let image = image::RgbImage::from_fn(20, 24, |x, y| {
            image::Rgb([(x * (i + 3)) as u8, (y * 9) as u8, (i * 40) as u8])
        });
        image.save(folder.join(format!("{i}.png"))).unwrap();
    }
    folder
}

#[test]
fn a_classifier_scores_under_its_own_name_and_hash() {
    let dir = tempfile::tempdir().unwrap();
    let file = classifier(dir.path(), "animals.safetensors");
    let (real, fake) = (images(dir.path(), "real", 5), images(dir.path(), "fake", 6));
    let out = nestgen(&["fid", text(&real), text(&fake), "--features", text(&file), "--json"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((report["name"].as_str(), report["dims"].as_u64()), (Some("FD-animals"), Some(12)));
    assert_eq!(report["extractor_sha256"].as_str(), Some(tensors::file_sha256(&file).unwrap().as_str()));
    assert!(report["resize"].is_null() && report["scores"]["frechet"]["value"].as_f64().unwrap() > 0.0);
    let run = dir.path().join("00001-animals-nest");
    fs::create_dir(&run).unwrap();
    assert_eq!(
        score_space::open(&classifier(&run, "model_best.safetensors"), &Device::Cpu).unwrap().name(),
        "FD-00001-animals-nest"
    );
}

#[test]
fn files_that_are_no_feature_space() {
    let dir = tempfile::tempdir().unwrap();
    let (real, fake) = (images(dir.path(), "real", 2), images(dir.path(), "fake", 3));
    let refuse = |file: &Path, says: &[&str]| {
        refused(&["fid", text(&real), text(&fake), "--features", text(file)], says);
    };
    refuse(Path::new("random-v2"), &["random-v2"]);
    let other = dir.path().join("weights.pth");
    fs::write(&other, "some text").unwrap();
    refuse(&other, &["weights.pth", "not a whole safetensors file"]);
    let both = ["fid", text(&real), text(&fake), "--features", text(&other)];
    refused(&[&both[..], &["--dims", "64"]].concat(), &["--dims and --resize are Inception's"]);
    // Nowhere are Inception's weights: `auto` is the other space.
    let mut auto = std::process::Command::new(env!("CARGO_BIN_EXE_nestgen"));
    auto.args(["fid", text(&real), text(&fake), "--features", "auto", "--dims", "64"])
        .env_remove("NESTGEN_INCEPTION");
    let out = auto.env("TORCH_HOME", dir.path()).output().unwrap();
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(told.contains("`scenes-v1` has its own size") && out.status.code() == Some(1), "{told}");
    let generator = write(dir.path(), "generator.safetensors", &[], &vec![formula("x", &[3])]);
    refuse(&generator, &["generator.safetensors", "neither a classifier of ours nor DINOv2"]);
    let changed = |name: &str, change: &dyn Fn(&mut NamedTensors)| {
        let mut tensors = dinov2();
        change(&mut tensors);
        write(dir.path(), name, &[], &tensors)
    };
    let lacks =
        changed("lacks.safetensors", &|tensors| tensors.retain(|(name, _)| name != "blocks.1.ls2.gamma"));
    refuse(&lacks, &["lacks.safetensors", "blocks.1.ls2.gamma"]);
    let registers =
        changed("registers.safetensors", &|tensors| tensors.push(formula("register_tokens", &[1, 4, DIM])));
    refuse(&registers, &["registers.safetensors", "unexpected: register_tokens"]);
    let positions = changed("positions.safetensors", &|tensors| {
        tensors
            .iter_mut()
            .filter(|(name, _)| name == "pos_embed")
            .for_each(|t| *t = formula("pos_embed", &[1, 48, DIM]));
    });
    refuse(&positions, &["positions.safetensors", "`pos_embed` has shape [1, 48, 128]"]);
    let nan = changed("nan.safetensors", &|tensors| {
        let value = Tensor::full(f32::NAN, DIM, &Device::Cpu).unwrap();
        tensors.iter_mut().filter(|(name, _)| name == "norm.bias").for_each(|t| t.1 = value.clone());
    });
    refuse(&nan, &["nan.safetensors", "`norm.bias` holds a number that is not finite"]);
}

/// Pixels of built-in scenes, `[count, 64, 64, 3]`.
fn scenes(seed: u64, count: usize) -> Vec<u8> {
    let data = ImageData::synthetic(seed, count, 64, &|_, _| true).unwrap();
    let mut pixels = vec![0; count * 64 * 64 * 3];
    for (i, image) in pixels.chunks_exact_mut(64 * 64 * 3).enumerate() {
        data.read(i, image).unwrap();
    }
    pixels
}

#[test]
fn scenes_v1_needs_no_file_and_ranks_what_is_worse() {
    let extractor = score_space::extractor("scenes-v1", None, &Device::Cpu).unwrap();
    assert_eq!((extractor.name().as_str(), extractor.dims(Tap::D2048)), ("FD-scenes-v1", 96));
    // Other weights would be other scores under the same name.
    assert!(extractor.sha256().starts_with(SCENES_V1), "{}", extractor.sha256());
    let features = |pixels: &[u8]| {
        extractor.extract_pixels(Tap::D2048, Resize::Pytorch, pixels, 64, 64, &|_, _| {}).unwrap()
    };
    let real = features(&scenes(0, 240));
    let distance = |pixels: &[u8]| kid(&real, &features(pixels)).unwrap().value;
    let other = scenes(1, 240);
    let noisy = |most: u64| -> Vec<u8> {
        let noise = |i: usize| (draw(7, i as u64) % (2 * most + 1)) as i32 - most as i32;
        other.iter().enumerate().map(|(i, &x)| (i32::from(x) + noise(i)).clamp(0, 255) as u8).collect()
    };
    // Every third of the twelve classes, each three times.
    let size = 64 * 64 * 3;
    let few: Vec<u8> = scenes(2, 720).chunks_exact(size).step_by(3).flatten().copied().collect();
    let scores = [distance(&other), distance(&noisy(24)), distance(&noisy(72)), distance(&few)];
    let [same, little, much, few] = scores;
    assert!(same < 0.02 && same < little && little < much && same < few, "{scores:?}");
}
