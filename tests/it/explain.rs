//! GradCAT and class activation maps against PyTorch (`tests/fixtures/make_explain.py`), and the verb that draws them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use nestgen::config::classify::{ClassifyRunConfig, model_preset};
use nestgen::data::synthetic::class_names;
use nestgen::explain::{explain, traceable};
use nestgen::models::{Classifier, ClassifierConfig};
use nestgen::rng::Rng;
use nestgen::train::classify::MODEL_BEST;
use nestgen::train::tensors::{self, Metadata};

use super::bad_input::{png, refused, text};
use super::cli::nestgen;

/// f32 through a few layers against f64, relative to the largest value of a tensor.
const TOLERANCE: f64 = 1e-4;

struct Fixture {
    tensors: BTreeMap<String, Tensor>,
    config: ClassifierConfig,
}

impl Fixture {
    fn open() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/explain.safetensors");
        let bytes = fs::read(path).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let config = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["config"]).unwrap();
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
        Self { tensors: tensors.into_iter().collect(), config }
    }

    fn numbers(&self, name: String) -> Vec<f64> {
        let tensor = self.tensors[&name].flatten_all().unwrap().to_dtype(DType::F64).unwrap();
        tensor.to_vec1().unwrap()
    }

    fn classifier(&self) -> Classifier {
        let model = Classifier::new(&self.config, &Rng::new(0), DType::F32, &Device::Cpu).unwrap();
        let weights =
            self.tensors.iter().filter_map(|(n, t)| Some((n.strip_prefix("before.")?.to_owned(), t.clone())));
        model.load_timm(&weights.collect()).unwrap();
        model
    }
}

fn assert_close(what: &str, got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    for (a, b) in got.iter().zip(expected) {
        assert!((a - b).abs() <= TOLERANCE * largest, "{what}: {a} against {b}");
    }
}

#[test]
fn gradcat_and_activation_maps_agree_with_pytorch() {
    let fixture = Fixture::open();
    let classifier = fixture.classifier();
    let nest = traceable(&classifier).unwrap();
    let bias = nest.params().params().iter().find(|p| p.name() == "head.bias").unwrap().value();
    let bias: Vec<f32> = bias.to_vec1().unwrap();
    let mut paths = std::collections::BTreeSet::new();
    for image in 0..2 {
        let input = fixture.tensors["in.x"].get(image).unwrap();
        let (probabilities, explained) = explain(nest, &input, |p| (0..p.len()).collect()).unwrap();
        assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        for (class, e) in explained.iter().enumerate() {
            let expected = |what: &str| fixture.numbers(format!("{what}.{image}.{class}"));
            let nodes = &e.traversal.nodes;
            assert_close("logit", &[e.traversal.logit], &expected("logit"));
            let path: Vec<f64> = nodes.iter().map(|node| node.chosen as f64).collect();
            assert_eq!(path, expected("path"), "image {image}, class {class}");
            let values: Vec<f64> = nodes.iter().flat_map(|node| node.values).collect();
            assert_close("values", &values, &expected("values"));
            assert_close("cam", &e.heat.values, &expected("cam"));
            // The map is exact: its mean and the bias make the logit.
            let mean = e.heat.values.iter().sum::<f64>() / e.heat.values.len() as f64;
            assert_close("mean of the map", &[mean + f64::from(bias[class])], &[e.traversal.logit]);
            let leaf = e.traversal.leaf();
            assert_eq!((leaf.right - leaf.left, nodes.len()), (0.25, 2));
            paths.insert(nodes.iter().map(|node| node.chosen).collect::<Vec<_>>());
        }
    }
    assert!(paths.len() >= 4, "the fixture's paths differ: {paths:?}");
}

/// A classifier for 32 px of `classes` with initial weights, as `classify train` would save it.
pub(crate) fn untrained(folder: &Path, name: &str, classes: &[impl serde::Serialize]) {
    let config = ClassifyRunConfig::of_model(model_preset(name, 32, classes.len()).unwrap());
    let classifier = Classifier::new(&config.model, &Rng::new(0), DType::F32, &Device::Cpu).unwrap();
    let classes = serde_json::json!(classes).to_string();
    let metadata = Metadata::from([
        ("format".into(), nestgen::train::classify::FORMAT.into()),
        ("classes".into(), classes),
        ("config".into(), config.to_toml()),
    ]);
    let mut bytes = Vec::new();
    tensors::write(&mut bytes, &metadata, &classifier.timm_tensors().unwrap()).unwrap();
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(MODEL_BEST), bytes).unwrap();
}

#[test]
fn figures_and_json_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let (run, scenes, outdir) = (dir.path().join("run"), dir.path().join("scenes"), dir.path().join("out"));
    untrained(&run, "nest-xs", &class_names());
    assert!(nestgen(&["data", "synth", "-n", "24", "--res", "48", "--outdir", text(&scenes)]).status.success());
    let boxes = scenes.join("objects.csv");
    let args = ["classify", "explain", text(&scenes), "--run", text(&run), "--boxes", text(&boxes)];
    let out =
        nestgen(&[&args[..], &["--figures", "2", "--classes", "cat,tree", "--outdir", text(&outdir)]].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let pictures = fs::read_dir(&outdir).unwrap().map(|e| e.unwrap().path());
    let pictures: Vec<_> = pictures.filter(|path| path.extension().is_some_and(|e| e == "png")).collect();
    assert_eq!(pictures.len(), 2);
    let size = image::image_dimensions(&pictures[0]).unwrap();
    assert!(size.0 > 3 * 200 && size.1 > 2 * 200, "three columns, two rows: {size:?}");
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(outdir.join("explanations.json")).unwrap()).unwrap();
    let all = json["images"].as_array().unwrap();
    assert!(all.iter().all(|image| image["explained"].as_array().unwrap().len() == 2));
    let first = &json["images"][0];
    assert_eq!((json["images"].as_array().unwrap().len(), &first["class"]), (24, &"balloon".into()));
    assert_eq!(first["explained"][1]["class"], "tree");
    assert_eq!(first["explained"][0]["gradcat"]["nodes"][0]["values"].as_array().unwrap().len(), 4);
    assert!((0.0..=1.0).contains(&first["explained"][0]["cam"]["middle"][1].as_f64().unwrap()));
    assert!(first["explained"][0]["iou"].as_f64().is_some() && first["box"][2].as_f64().unwrap() <= 1.0);
}

/// People are shown such names changed; the files have them as they are.
#[test]
#[cfg(target_os = "linux")]
fn files_may_have_names_that_are_no_text() {
    use std::os::unix::ffi::OsStrExt;

    let dir = tempfile::tempdir().unwrap();
    let (run, outdir) = (dir.path().join("run"), dir.path().join("out"));
    untrained(&run, "nest-xs", &class_names());
    let class = dir.path().join("set/cat");
    fs::create_dir_all(&class).unwrap();
    fs::write(class.join(std::ffi::OsStr::from_bytes(b"caf\xe9.png")), png(16)).unwrap();
    let set = dir.path().join("set");
    let args =
        ["classify", "explain", text(&set), "--run", text(&run), "--outdir", text(&outdir), "--top-k", "4"];
    let out = nestgen(&args);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(outdir.join("explanations.json")).unwrap()).unwrap();
    let probabilities = json["images"][0]["explained"].as_array().unwrap().iter();
    let probabilities: Vec<f64> = probabilities.map(|one| one["probability"].as_f64().unwrap()).collect();
    assert!(probabilities.len() == 4 && probabilities.is_sorted_by(|a, b| a >= b), "{probabilities:?}");
    assert!(fs::read_to_string(outdir.join("explanations.json")).unwrap().contains("caf"));
}

#[test]
fn what_cannot_be_explained() {
    let dir = tempfile::tempdir().unwrap();
    let (nest, vit) = (dir.path().join("nest"), dir.path().join("vit"));
    untrained(&nest, "nest-xs", &class_names());
    untrained(&vit, "vit-xs", &class_names());
    let image = dir.path().join("a.png");
    fs::write(&image, png(16)).unwrap();
    let explain = |run: &Path, image: &Path, more: &[&str], says: &[&str]| {
        let outdir = dir.path().join("out");
        let args = ["classify", "explain", text(image), "--run", text(run), "--outdir", text(&outdir)];
        refused(&[&args[..], more].concat(), says);
    };
    explain(&vit, &image, &[], &["a ViT"]);
    explain(&nest, &dir.path().join("none.png"), &[], &["none.png"]);
    explain(&nest, &image, &["--classes", "unicorn"], &["unicorn"]);
    explain(&nest, &image, &["--threshold", "2"], &["--threshold 2"]);
    let small = dir.path().join("small.png");
    fs::write(&small, png(1)).unwrap();
    explain(&nest, &small, &[], &["small.png", "1x1 px", "patch of 2 px"]);
    let cut = dir.path().join("cut.png");
    fs::write(&cut, &png(64)[..100]).unwrap();
    explain(&nest, &cut, &[], &["cut.png"]);
    let boxes = dir.path().join("boxes.csv");
    for (table, says) in [
        ("file,left\na.png,3\n", "line 1"),
        ("file,left,top,right,bottom\na.png,3\n", "line 2"),
        ("file,left,top,right,bottom\nb.png,0,0,9,9\n", "no box of these images"),
    ] {
        fs::write(&boxes, table).unwrap();
        explain(&nest, &image, &["--boxes", text(&boxes)], &["boxes", says]);
    }
}
