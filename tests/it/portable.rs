//! The way to a GPU, walked on the processor: everything again with the portable path forced (`kernels/src/portable/`),
//! where asking for the elements of a tensor is an error, and next to the fast path.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use nestgen_kernels::portable;

/// Means over four adversarial steps, relative: f32 kernels that round in another order, through optimizer steps that
/// amplify it.
const LOSSES: f64 = 1e-3;
/// Every tensor of the state after them, optimizers included: root mean square of the difference over its own. Adam
/// divides by the size of the gradient, so biases with hardly any gradient yet are furthest apart (0.8 % when this was
/// written, most weights 1e-5); a wrong rule is off by all of it.
const TENSORS: f64 = 3e-2;

/// Networks of every architecture with their second derivatives, training with every term and a resume, pictures,
/// explanations, scores: tests that exist, in a process of their own.
#[test]
fn the_same_tests_pass_on_the_portable_path() {
    if portable::forced() {
        return;
    }
    let tests = [
        "models::",
        "model_gradients::",
        "train::resumed_equals_uninterrupted_to_the_bit",
        "steps::a_batch_in_parts_is_the_batch_in_one",
        "train::held_out_images_are_judged_and_change_nothing",
        "classify::it_learns_and_what_it_saved_says_the_same",
        "explain::gradcat_and_activation_maps_agree_with_pytorch",
    ];
    let program = std::env::current_exe().unwrap();
    let run = Command::new(program).args(tests).env(portable::VARIABLE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    for test in tests {
        let passed = |line: &str| line.starts_with("test ") && line.contains(test) && line.ends_with("ok");
        assert!(said.lines().any(passed), "there is no {test}: {said}");
    }
}

/// A few steps with the portable path forced or not, in some precision: the folder of the run.
fn four_steps(outdir: &Path, forced: bool, precision: &str) -> PathBuf {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nestgen"));
    command.args(["train", "--preset", "demo64", "--kimg", "0.016", "--batch", "4", "--tick", "0.016"]);
    for setting in [
        "data.scenes=16",
        "train.augment.kind=fixed",
        "train.augment.probability=0.5",
        "train.penalty.lecam=0.01",
        "train.penalty.lecam_start_kimg=0",
        "train.penalty.r1_gamma=0.1",
        "train.penalty.interval=2",
        "train.clip_norm=1.0",
        "train.grid=[2,2]",
        "eval.every_kimg=0",
    ] {
        command.args(["--set", setting]);
    }
    command.args(["--precision", precision]);
    command.arg("--outdir").arg(outdir).env(portable::VARIABLE, if forced { "1" } else { "0" });
    let run = command.output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    std::fs::read_dir(outdir).unwrap().next().unwrap().unwrap().path()
}

fn statistics(run: &Path) -> serde_json::Value {
    let lines = std::fs::read_to_string(run.join("stats.jsonl")).unwrap();
    serde_json::from_str(lines.lines().next().unwrap()).unwrap()
}

fn tensors(run: &Path, name: &str) -> BTreeMap<String, Tensor> {
    let file = run.join("training-state-000000").join(format!("{name}.safetensors"));
    candle_core::safetensors::load(file, &Device::Cpu).unwrap().into_iter().collect()
}

#[test]
fn a_run_is_the_same_on_both_paths_to_rounding() {
    if portable::forced() {
        return;
    }
    let places = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (fast, forced) =
        (four_steps(places[0].path(), false, "f32"), four_steps(places[1].path(), true, "f32"));
    for key in ["Loss/D", "Loss/G", "Loss/R1", "Loss/LeCam", "Logits/real", "Logits/fake", "Fakes/diversity"] {
        let value = |run: &Path| statistics(run)[key]["mean"].as_f64().unwrap();
        let (a, b) = (value(&fast), value(&forced));
        assert!((a - b).abs() <= LOSSES * a.abs(), "{key}: {a} on the fast path, {b} on the other");
    }
    let size = |x: &Tensor| x.to_dtype(DType::F64)?.sqr()?.mean_all()?.sqrt()?.to_scalar::<f64>();
    for name in ["generator", "generator-ema", "discriminator", "generator-adam", "discriminator-adam"] {
        let (ours, theirs) = (tensors(&fast, name), tensors(&forced, name));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
        for (key, ours) in &ours {
            let difference = ours.sub(&theirs[key]).unwrap();
            let (apart, size) = (size(&difference).unwrap(), size(ours).unwrap());
            assert!(apart <= TENSORS * size, "{name} {key}: {apart} apart, of size {size}");
        }
    }
}

/// Means over four steps in bf16, relative to those in f32: the rounding of a product, through networks and optimizer steps.
const ROUGH_LOSSES: f64 = 5e-2;

#[test]
fn a_run_in_bf16_is_near_and_its_state_is_f32() {
    if portable::forced() {
        return;
    }
    let places = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (exact, rough) =
        (four_steps(places[0].path(), true, "f32"), four_steps(places[1].path(), true, "bf16"));
    let mut furthest = 0.0f64;
    for key in ["Loss/D", "Loss/G", "Logits/real", "Logits/fake", "Fakes/diversity"] {
        let value = |run: &Path| statistics(run)[key]["mean"].as_f64().unwrap();
        let (a, b) = (value(&exact), value(&rough));
        furthest = furthest.max((a - b).abs() / a.abs());
        assert!((a - b).abs() <= ROUGH_LOSSES * a.abs().max(0.1), "{key}: {a} in f32, {b} in bf16");
    }
    assert!(furthest > LOSSES / 10.0, "nothing was rounded: {furthest:e}");
    for name in ["generator", "generator-ema", "discriminator", "generator-adam", "discriminator-adam"] {
        for (key, tensor) in tensors(&rough, name) {
            assert!(matches!(tensor.dtype(), DType::F32 | DType::I64), "{name} {key}: {:?}", tensor.dtype());
        }
    }
    let record = std::fs::read_to_string(rough.join("provenance.json")).unwrap();
    assert!(record.contains("threads, bf16"), "{record}");
}
