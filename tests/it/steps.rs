//! What a training step does, seen from outside. Runs that repeat one another show that a step is always the same; here
//! it must be the right one: each part is turned off or up by itself, and shows in losses or weights.

use candle_core::Device;
use nestgen::train::resume_point::resume_point;

use super::train::{statistics, tiny, train, watched};

/// Networks that stand still: what differs between two such runs is what their steps see.
const FROZEN: [&str; 3] =
    ["train.generator.lr=1e-30", "train.discriminator.lr=1e-30", "train.loss=non_saturating"];

/// A run's statistics, one entry a tick.
fn ticks(more: &[&str]) -> Vec<serde_json::Map<String, serde_json::Value>> {
    let dir = tempfile::tempdir().unwrap();
    let (run, _) = train(&tiny(more), dir.path(), None, None).unwrap();
    statistics(&run)
}

fn number(tick: &serde_json::Map<String, serde_json::Value>, key: &str, what: &str) -> f64 {
    tick[key][what].as_f64().unwrap_or_else(|| panic!("no {what} of {key}"))
}

/// The weights that a run ends with.
fn weights(more: &[&str], network: &str) -> Vec<f32> {
    let dir = tempfile::tempdir().unwrap();
    train(&tiny(more), dir.path(), None, None).unwrap();
    let state = &resume_point(dir.path(), "latest").unwrap().states[0];
    let tensors =
        candle_core::safetensors::load(state.join(format!("{network}.safetensors")), &Device::Cpu).unwrap();
    let mut names: Vec<_> = tensors.keys().collect();
    names.sort();
    names.iter().flat_map(|name| tensors[*name].flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
}

/// How far apart two sets of weights are, as a share of the first one's length.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let length =
        |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    length(&mut a.iter().zip(b).map(|(a, b)| a - b)) / length(&mut a.iter().copied())
}

#[test]
fn both_steps_see_augmented_images_and_new_ones_each_time() {
    let whole = ticks(&[&FROZEN[..], &["train.augment.kind=none"]].concat());
    let augmented = ticks(&[&FROZEN[..], &["train.augment.probability=1"]].concat());
    // G's step; D's real images; D's fakes.
    for key in ["Loss/G", "Logits/real", "Logits/fake"] {
        assert_ne!(number(&whole[0], key, "mean"), number(&augmented[0], key, "mean"), "{key}");
        assert!(number(&whole[0], key, "std") > 1e-6, "{key} is the same in every step: {:?}", whole[0]);
    }
}

/// The average's half-life is in images that the discriminator has seen.
#[test]
fn averages_follow_by_the_images_of_a_step() {
    let one_step = [
        "train.d_steps=2",
        "train.kimg=0.008",
        "train.tick_kimg=0.008",
        "train.ema.halflife_kimg=0.008",
        "train.ema.ramp=0",
        "train.generator.lr=0.01",
    ];
    let initial = weights(&[&one_step[..], &["train.generator.lr=1e-30"]].concat(), "generator");
    let (trained, average) = (weights(&one_step, "generator"), weights(&one_step, "generator-ema"));
    assert!(apart(&initial, &trained) > 1e-2);
    let between: Vec<f32> = initial.iter().zip(&trained).map(|(a, b)| (a + b) / 2.0).collect();
    assert!(apart(&between, &average) < 1e-6, "{}", apart(&between, &average));
}

#[test]
fn the_schedule_holds_for_both_networks() {
    for network in ["generator", "discriminator"] {
        let frozen = weights(&["train.generator.lr=1e-30", "train.discriminator.lr=1e-30"], network);
        let early = weights(&["train.schedule.warmup_kimg=1e6"], network);
        let usual = weights(&[], network);
        assert!(apart(&frozen, &early) < 1e-6, "{network}: {}", apart(&frozen, &early));
        assert!(apart(&frozen, &usual) > 1e-2, "{network}: {}", apart(&frozen, &usual));
    }
}

/// With a large epsilon Adam's step is proportional to the gradient: a part that is lost or weighs too much shows.
#[test]
fn a_batch_in_parts_is_the_batch_in_one() {
    // LeCam's averages follow every part.
    let plain = [
        "train.penalty.lecam=0",
        "train.penalty.r1_gamma=0.1",
        "train.generator.eps=0.1",
        "train.discriminator.eps=0.1",
        "train.generator.lr=0.01",
        "train.discriminator.lr=0.01",
    ];
    let frozen = ["train.generator.lr=1e-30", "train.discriminator.lr=1e-30"];
    for network in ["generator", "discriminator"] {
        let one = weights(&plain, network);
        let parts = weights(&[&plain[..], &["train.accumulate=2"]].concat(), network);
        let moved = apart(&one, &weights(&[&plain[..], &frozen].concat(), network));
        assert!(moved > 1e-2, "{network} hardly moved: {moved}");
        // Sums of f32 in another order, through 16 steps.
        assert!(apart(&one, &parts) < 1e-4 * moved, "{network}: {} of {moved}", apart(&one, &parts));
    }
}

#[test]
fn a_lazy_penalty_makes_up_for_its_absence_with_its_weight() {
    let dir = tempfile::tempdir().unwrap();
    let penalties = [
        "train.penalty.lecam=0",
        "train.penalty.r1_gamma=0.5",
        "train.penalty.r2_gamma=0.25",
        "train.penalty.interval=4",
        "train.kimg=0.008",
        "train.tick_kimg=0.004",
    ];
    let config = tiny(&penalties);
    let mut told = Vec::new();
    let keep = &mut |progress| {
        told.push(progress);
        true
    };
    watched(&config, dir.path(), None, keep).unwrap();
    let run = resume_point(dir.path(), "latest").unwrap().run;
    let lines = statistics(&run);
    let mean = |line: usize, key: &str| number(&lines[line], key, "mean");
    let due = mean(0, "Loss/D") + 4.0 * (0.5 * mean(0, "Loss/R1") + 0.25 * mean(0, "Loss/R2"));
    assert!((told[0].discriminator_loss - due).abs() < 1e-5, "{} {due}", told[0].discriminator_loss);
    // One is of real images, the other of fakes.
    assert_ne!(mean(0, "Loss/R1"), mean(0, "Loss/R2"));
    assert!(due - mean(0, "Loss/D") > 1e-4, "the penalties are too small to tell: {lines:?}");
    assert!((told[1].discriminator_loss - mean(1, "Loss/D")).abs() < 1e-5, "{told:?}");
    assert!(!lines[1].contains_key("Loss/R1"), "{lines:?}");
}

#[test]
fn penalties_clipping_and_decay_reach_the_weights() {
    let none = ["train.penalty.lecam=0", "train.penalty.interval=1"];
    let with = |more: &[&str], network: &str| weights(&[&none[..], more].concat(), network);
    let penalty = |r1: &str, r2: &str| {
        let gammas = [format!("train.penalty.r1_gamma={r1}"), format!("train.penalty.r2_gamma={r2}")];
        with(&gammas.each_ref().map(String::as_str), "discriminator")
    };
    let [neither, r1, r2] = [("0", "0"), ("10", "0"), ("0", "10")].map(|(r1, r2)| penalty(r1, r2));
    for (a, b) in [(&neither, &r1), (&neither, &r2), (&r1, &r2)] {
        assert!(apart(a, b) > 5e-4, "{}", apart(a, b));
    }
    let rates = |rate: &str| ["generator", "discriminator"].map(|network| format!("train.{network}.lr={rate}"));
    let both = |key: &str, value: &str| {
        ["generator", "discriminator"].map(|network| format!("train.{network}.{key}={value}"))
    };
    let of = |settings: &[[String; 2]], more: &[&str], network: &str| {
        let all: Vec<&str> =
            settings.iter().flatten().map(String::as_str).chain(more.iter().copied()).collect();
        with(&all, network)
    };
    for network in ["generator", "discriminator"] {
        let frozen = of(&[rates("1e-30")], &[], network);
        let large_eps = [rates("0.01"), both("eps", "0.1")];
        assert!(apart(&frozen, &of(&large_eps, &[], network)) > 5e-3, "{network}");
        assert!(apart(&frozen, &of(&large_eps, &["train.clip_norm=1e-6"], network)) < 1e-5, "{network}");
        let decayed = of(&[rates("1e-9"), both("weight_decay", "1e8")], &[], network);
        assert!(apart(&frozen, &decayed) > 0.3, "{network}: {}", apart(&frozen, &decayed));
    }
}

#[test]
fn adaptive_augmentation_goes_by_its_target_up_to_its_limit() {
    for (target, end) in [("train.augment.target=-1", 0.3), ("train.augment.target=1", 0.0)] {
        let adaptive = [
            "train.augment.kind=adaptive",
            "train.augment.probability=0.3",
            "train.augment.adjust_kimg=0.064",
            target,
        ];
        let ticks = ticks(&adaptive);
        let last = number(ticks.last().unwrap(), "Progress/augment", "mean");
        assert!((last - end).abs() < 1e-9, "{target}: {last}");
    }
}
