//! What a classifier's training step and its tests do, each beside the same thing made by hand: runs that repeat one another
//! show only that a step is always the same.

use std::fs;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use nestgen::config::classify::model_preset;
use nestgen::data::{ImageData, LabelledImages};
use nestgen::models::Classifier;
use nestgen::ranks::Ranks;
use nestgen::rng::Rng;
use nestgen::train::classify::augment::Normalise;
use nestgen::train::classify::evaluate::evaluate;
use nestgen_kernels::{Param, Var, backward, clip_grad_norm, cross_entropy};

use super::bad_input::text;
use super::classify::{tiny, train};
use super::train::statistics;

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// Images as a classifier sees them, `[N, 32, 32, 3]`.
fn seen(data: &ImageData, indices: &[u32], normalise: Normalise) -> Var {
    let (mut bytes, mut values) = (vec![0; 32 * 32 * 3], Vec::new());
    for &index in indices {
        data.read(index as usize, &mut bytes).unwrap();
        normalise.append(&bytes, &mut values);
    }
    Var::constant(Tensor::from_vec(values, (indices.len(), 32, 32, 3), &Device::Cpu).unwrap())
}

#[test]
fn a_test_counts_what_each_image_gives_by_itself() {
    let data = Arc::new(ImageData::synthetic(3, 240, 32, &|_, _| true).unwrap());
    // More than one batch, and no beginning of the set: places are no indices, labels do not go round.
    let held = LabelledImages::all(data.clone()).unwrap().hold_out(0.35).unwrap().1;
    assert_eq!(held.len(), 84);
    let config = model_preset("nest-xs", 32, 12).unwrap();
    let model = Classifier::new(&config, &Rng::new(0), DType::F32, &Device::Cpu).unwrap();
    // Answers that differ from image to image.
    let head = model.params().params().iter().find(|param| param.name() == "head.weight").unwrap();
    head.set((head.value() * 100.0).unwrap()).unwrap();
    let normalise = Normalise { mean: [0.5; 3], std: [0.5; 3] };
    let (mut loss, mut right, mut five, mut confusion) = (0.0, 0, 0, vec![vec![0u32; 12]; 12]);
    for &index in held.indices().iter() {
        let logits = numbers(model.forward(&seen(&data, &[index], normalise), None).unwrap().value());
        let class = data.label(index as usize).unwrap() as usize;
        loss += logits.iter().map(|logit| logit.exp()).sum::<f64>().ln() - logits[class];
        let above = logits.iter().filter(|logit| **logit > logits[class]).count();
        right += usize::from(above == 0);
        five += usize::from(above < 5);
        let answer = (0..12).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        confusion[class][answer] += 1;
    }
    let tested = evaluate(&model, &held, normalise, &Ranks::alone(), &mut |_| {}).unwrap();
    assert!((tested.loss - loss / 84.0).abs() < 1e-4, "{} {}", tested.loss, loss / 84.0);
    let per_cent = |count: usize| 100.0 * count as f64 / 84.0;
    assert!((tested.top1 - per_cent(right)).abs() < 1e-9, "{tested:?}");
    assert!((tested.top5 - per_cent(five)).abs() < 1e-9, "{tested:?}");
    assert_eq!(tested.confusion, confusion);
}

/// Nothing random, nothing mixed.
const PLAIN: [&str; 6] = [
    "train.mix.probability=0",
    "train.augment.rand_layers=0",
    "train.augment.erase_probability=0",
    "train.augment.crop_padding=0",
    "train.augment.mirror=false",
    "model.drop_path=0",
];

#[test]
fn what_is_held_out_is_not_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set");
    for (label, class) in ["cat", "dog"].iter().enumerate() {
        fs::create_dir_all(set.join(class)).unwrap();
        for i in 0..20u8 {
            let flat = image::RgbImage::from_pixel(32, 32, image::Rgb([i * 10, label as u8 * 200, 7]));
            flat.save(set.join(class).join(format!("{i:02}.png"))).unwrap();
        }
    }
    for (fraction, batch) in [(1.0, 36), (0.5, 18)] {
        let mut config = tiny(&[&PLAIN[..], &["train.epochs=1"]].concat());
        config.data.path = text(&set).into();
        (config.data.fraction, config.train.batch) = (fraction, batch);
        config.model.set_classes(2);
        let (run, _) = train(&config, &dir.path().join(batch.to_string()), None, None).unwrap();
        let (chosen, _) = config.data.open(32, &|_, _| true).unwrap().chosen(&config.data);
        let mut pixels = vec![0; 32 * 32 * 3];
        let read = |&index: &u32| {
            chosen.data().read(index as usize, &mut pixels).unwrap();
            [pixels[0], pixels[1]]
        };
        let mut due: Vec<[u8; 2]> = chosen.indices().iter().map(read).collect();
        // The first step's images side by side: one batch is an epoch.
        let shown = image::open(run.join("first_batch.png")).unwrap().into_rgb8();
        let tile = |place: u32| {
            let pixel = shown.get_pixel(place % 8 * 32, place / 8 * 32);
            [pixel[0], pixel[1]]
        };
        let mut trained: Vec<_> = (0..batch as u32).map(tile).collect();
        due.sort_unstable();
        trained.sort_unstable();
        assert_eq!(trained, due, "fraction {fraction}");
    }
}

/// One step on all images, in the first hundredth of a warm-up: AdamW with clipped gradients, label smoothing, and the average after it.
#[test]
fn a_step_is_adamw_made_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let more = [
        "data.scenes=24",
        "data.test_scenes=12",
        "data.mean=[0.4,0.5,0.6]",
        "data.std=[0.2,0.25,0.5]",
        "train.batch=24",
        "train.epochs=1",
        "train.base_lr=10",
        "train.warmup_epochs=0.5",
        "train.eps=0.001",
        "train.beta1=0.8",
        "train.beta2=0.95",
        "train.weight_decay=5",
        "train.clip_norm=0.01",
        "train.label_smoothing=0.2",
        // The batch is the half-life.
        "train.ema.halflife_kimg=0.024",
        "train.ema.ramp=0",
    ];
    let config = tiny(&[&PLAIN[..], &more].concat());
    let (run, _) = train(&config, dir.path(), None, None).unwrap();
    let lr = 10.0 * 24.0 / 256.0 * 0.01;
    let data = ImageData::synthetic(0, 24, 32, &|_, _| true).unwrap();
    let images =
        seen(&data, &(0..24).collect::<Vec<_>>(), Normalise { mean: [0.4, 0.5, 0.6], std: [0.2, 0.25, 0.5] });
    let mut targets = vec![0.2f32 / 12.0; 24 * 12];
    for i in 0..24 {
        targets[i * 12 + data.label(i).unwrap() as usize] += 0.8;
    }
    let targets = Tensor::from_vec(targets, (24, 12), &Device::Cpu).unwrap();
    let rng = Rng::new(0).split("init").split("classifier");
    let model = Classifier::new(&config.model, &rng, DType::F32, &Device::Cpu).unwrap();
    let params = model.params().params();
    let mut grads = backward(cross_entropy(&model.forward(&images, None).unwrap(), &targets).unwrap()).unwrap();
    assert!(clip_grad_norm(&mut grads, params, 0.01).unwrap() > 0.01, "nothing is clipped");
    let load = |name: &str| {
        candle_core::safetensors::load(run.join(format!("last/{name}.safetensors")), &Device::Cpu).unwrap()
    };
    let (after, average, adam) = (load("classifier"), load("classifier-ema"), load("adam"));
    let decays = |param: &Param| param.value().rank() > 1 && !param.name().ends_with("pos_embed");
    for param in params {
        let keep = if decays(param) { 1.0 - lr * 5.0 } else { 1.0 };
        let (weights, grads) = (numbers(&param.value()), numbers(grads.param(param).unwrap()));
        let moment = |name: &str| numbers(&adam[&format!("{}.{name}", param.name())]);
        let (mean, square) = (moment("exp_avg"), moment("exp_avg_sq"));
        let is_near = |a: f64, b: f64| (a - b).abs() < 1e-6 * (1e-3 + b.abs());
        let (means, squares) = (mean.iter().zip(&grads), square.iter().zip(&grads));
        assert!(means.clone().all(|(mean, grad)| is_near(*mean, 0.2 * grad)), "{}", param.name());
        assert!(squares.clone().all(|(square, grad)| is_near(*square, 0.05 * grad * grad)), "{}", param.name());
        let (after, average) = (numbers(&after[param.name()]), numbers(&average[param.name()]));
        for (i, (weight, grad)) in weights.iter().zip(&grads).enumerate() {
            let due = weight * keep - lr * grad / (grad.abs() + 1e-3);
            assert!((after[i] - due).abs() < 2e-6, "{}: {} and not {due}", param.name(), after[i]);
            let due = (weight + due) / 2.0;
            assert!(
                (average[i] - due).abs() < 2e-6,
                "average of {}: {} and not {due}",
                param.name(),
                average[i]
            );
        }
    }
}

#[test]
fn rates_of_a_run_are_those_of_its_schedule() {
    let dir = tempfile::tempdir().unwrap();
    let config = tiny(&["train.min_lr=1e-4"]);
    let (run, _) = train(&config, dir.path(), None, None).unwrap();
    let table = fs::read_to_string(run.join("summary.csv")).unwrap();
    let place = table.lines().next().unwrap().split(',').position(|column| column == "lr").unwrap();
    let rates: Vec<f64> =
        table.lines().skip(1).map(|line| line.split(',').nth(place).unwrap().parse().unwrap()).collect();
    // The rate of an epoch's last step, of 20 of 72 images: a step takes images of the next epoch with it.
    let due = [60.0, 140.0, 200.0].map(|images| config.train.lr(images / 72.0));
    assert_eq!(rates.len(), 3);
    assert!(rates.iter().zip(due).all(|(rate, due)| (rate / due - 1.0).abs() < 1e-12), "{rates:?} {due:?}");
    assert!(rates[2] > 1e-4 * 20.0 / 256.0);
}

#[test]
fn every_part_of_the_recipe_is_seen_by_the_steps() {
    let still = ["train.base_lr=1e-30", "train.label_smoothing=0"];
    let loss = |more: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let (run, _) = train(&tiny(&[&PLAIN[..], &still, more].concat()), dir.path(), None, None).unwrap();
        statistics(&run)[0]["Loss/train"]["mean"].as_f64().unwrap()
    };
    let plain = loss(&[]);
    for part in [
        &["model.drop_path=0.5"][..],
        &["train.label_smoothing=0.1"],
        &["train.augment.rand_layers=2"],
        &["train.augment.mirror=true"],
        &["train.augment.crop_padding=2"],
        &["train.augment.crop_area=0.2"],
        &["train.augment.erase_probability=1"],
        &["train.mix.probability=1", "train.mix.cutmix_alpha=0"],
        &["train.mix.probability=1", "train.mix.mixup_alpha=0"],
    ] {
        assert!((loss(part) - plain).abs() > 1e-6, "{part:?} changes nothing");
    }
}
