//! Whole operations and their gradients on a GPU, or as on one with the own kernels emulated, beside the processor's: in f32
//! to rounding, in bf16 to its rounding.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::emulation::{can_run, close, pretending, single};
use super::fused;
use crate::gradcheck::device;
use crate::precision::{Precision, with};
use crate::*;

type Operation = fn(&[Var]) -> Result<Var>;

/// As a share of the norm: sums of some hundred terms of size 1 in another order. A GPU also has its own exponentials.
fn exact() -> f64 {
    if device().is_cuda() { 1e-4 } else { 2e-5 }
}
/// The same, rounded to 8 bits here and there.
const ROUGH: f64 = 2e-2;

/// Attention of what a product has made, which is bf16 where products round.
fn attention_behind(v: &[Var]) -> Result<Var> {
    let packed = linear(&v[0], &scale(&v[1], 0.1)?, Some(&v[2]), Activation::None)?;
    linear(&attention(&packed, 2)?, &v[3], None, Activation::None)
}

/// Samples 0 and 2 of a batch of three.
fn two_of_three(x: &Var) -> Result<Samples> {
    Samples::new(&[0, 2], 3, x.device())
}

/// A product of some samples beside a skip connection of all.
fn branch_of_some(v: &[Var]) -> Result<Var> {
    let samples = two_of_three(&v[0])?;
    let x = layer_norm(&take_samples(&v[0], &samples)?, &v[2], &v[2], 1e-6)?;
    let y = add_samples(&v[0], &linear(&x, &v[1], Some(&v[2]), Activation::None)?, &samples, 1.25)?;
    linear(&layer_norm(&y, &v[2], &v[2], 1e-6)?, &v[3], None, Activation::None)
}

const OPERATIONS: [(&str, Operation, &[&[usize]]); 41] = [
    ("linear", |v| linear(&v[0], &v[1], Some(&v[2]), Activation::None), &[&[9, 33], &[17, 33], &[17]]),
    (
        "linear, leaky relu",
        |v| linear(&v[0], &v[1], None, Activation::LeakyRelu(0.2)),
        &[&[3, 5, 33], &[8, 33]],
    ),
    ("linear, GELU", |v| linear(&v[0], &v[1], Some(&v[2]), Activation::GeluErf), &[&[9, 33], &[17, 33], &[17]]),
    ("linear, tanh", |v| linear(&v[0], &v[1], Some(&v[2]), Activation::Tanh), &[&[9, 5], &[17, 5], &[17]]),
    (
        "linear_residual",
        |v| linear_residual(&v[0], &v[1], Some(&v[2]), &v[3]),
        &[&[9, 33], &[17, 33], &[17], &[9, 17]],
    ),
    (
        "feed_forward",
        |v| feed_forward(&v[0], (&v[1], Some(&v[2])), Activation::GeluTanh, (&v[3], Some(&v[4])), Some(&v[0])),
        &[&[9, 12], &[40, 12], &[40], &[12, 40], &[12]],
    ),
    (
        "layer_norm",
        |v| linear(&layer_norm(&v[0], &v[1], &v[2], 1e-6)?, &v[3], None, Activation::None),
        &[&[2, 3, 40], &[40], &[40], &[8, 40]],
    ),
    (
        "layer_norm beside a skip connection",
        |v| {
            let y = linear(&layer_norm(&v[0], &v[1], &v[2], 1e-6)?, &v[3], None, Activation::None)?;
            linear(&layer_norm(&add(&v[0], &y)?, &v[2], &v[1], 1e-6)?, &v[3], None, Activation::None)
        },
        &[&[2, 3, 40], &[40], &[40], &[40, 40]],
    ),
    ("matmul", |v| matmul(&v[0], &v[1], true, false), &[&[3, 20, 7], &[3, 20, 11]]),
    ("attention", |v| attention(&v[0], 2), &[&[1, 2, 35, 96]]),
    ("attention of many tokens", |v| attention(&v[0], 2), &[&[1, 1, 70, 96]]),
    ("attention of whole tiles", |v| attention(&v[0], 1), &[&[2, 1, 64, 96]]),
    ("attention of few tokens", |v| attention(&v[0], 1), &[&[2, 1, 9, 60]]),
    ("attention of few tokens and large heads", |v| attention(&v[0], 2), &[&[2, 1, 16, 288]]),
    (
        "multi_query_attention of few tokens",
        |v| multi_query_attention(&v[0], &v[1], 3),
        &[&[1, 2, 16, 96], &[1, 2, 16, 64]],
    ),
    (
        "multi_query_attention of many tokens",
        |v| multi_query_attention(&v[0], &v[1], 2),
        &[&[1, 1, 66, 80], &[1, 1, 66, 80]],
    ),
    (
        "multi_query_attention of whole tiles",
        |v| multi_query_attention(&v[0], &v[1], 3),
        &[&[1, 2, 48, 192], &[1, 2, 48, 128]],
    ),
    ("multi_query_attention", |v| multi_query_attention(&v[0], &v[1], 2), &[&[1, 2, 20, 80], &[1, 2, 20, 80]]),
    ("attention behind a product", attention_behind, &[&[1, 1, 17, 20], &[96, 20], &[96], &[20, 32]]),
    // Heads that are whole runs of eight and no whole step of sixteen: behind each lies the next.
    ("attention of three runs a head", attention_behind, &[&[1, 2, 20, 20], &[144, 20], &[144], &[20, 48]]),
    (
        "conv2d, leaky relu",
        |v| conv2d(&v[0], &v[1], Some(&v[2]), Conv2d::same(3), Activation::LeakyRelu(0.1)),
        &[&[2, 7, 6, 5], &[8, 3, 3, 5], &[8]],
    ),
    (
        "conv2d with strides",
        |v| {
            let x = conv2d(&v[0], &v[1], None, Conv2d { stride: (2, 2), padding: (1, 1) }, Activation::None)?;
            let y = conv2d(&v[0], &v[2], None, Conv2d { stride: (2, 2), padding: (0, 0) }, Activation::None)?;
            add(&x, &y)
        },
        &[&[1, 6, 8, 8], &[4, 4, 4, 8], &[4, 1, 1, 8]],
    ),
    (
        "a residual block with relu",
        |v| {
            let x = conv2d(&v[0], &v[1], Some(&v[2]), Conv2d::same(3), Activation::Relu)?;
            let y = conv2d(
                &activate(&x, Activation::LeakyRelu(0.2))?,
                &v[3],
                None,
                Conv2d::same(1),
                Activation::None,
            )?;
            avg_pool2(&add(&x, &y)?)
        },
        &[&[1, 4, 6, 5], &[8, 3, 3, 5], &[8], &[8, 1, 1, 8]],
    ),
    (
        "batch_norm",
        |v| {
            let x = conv2d(&v[0], &v[1], None, Conv2d::same(1), Activation::None)?;
            Ok(batch_norm(&x, &v[2], &v[3], 1e-5, None)?.0)
        },
        &[&[2, 4, 3, 6], &[7, 1, 1, 6], &[7], &[7]],
    ),
    (
        "regrouping",
        |v| {
            let tokens = blockify(
                &upsample_nearest2(&conv2d(&v[0], &v[1], None, Conv2d::same(1), Activation::None)?)?,
                2,
            )?;
            add(&deblockify(&deaggregate(&tokens, 2)?, 2)?, &deaggregate_to_plane(&tokens, 2)?)
        },
        &[&[1, 2, 2, 3], &[32, 1, 1, 3]],
    ),
    (
        "max_pool",
        |v| {
            max_pool3s2(&conv2d(&v[0], &v[1], None, Conv2d::same(1), Activation::None)?, PoolPadding::Symmetric)
        },
        &[&[1, 5, 5, 3], &[4, 1, 1, 3]],
    ),
    (
        "maxima in whole eights",
        |v| {
            let x = conv2d(&v[0], &v[1], None, Conv2d::same(1), Activation::None)?;
            add(&max_pool3s2(&x, PoolPadding::Symmetric)?, &max_pool2(&x)?)
        },
        &[&[1, 6, 4, 8], &[16, 1, 1, 8]],
    ),
    (
        "spectral_norm",
        |v| {
            let (u, rest) = (v[1].value(), v[2].value());
            let w = spectral_norm(&v[0], u, rest, true)?;
            add(&w.weight, &spectral_norm(&v[0], &w.u, &w.v, false)?.weight)
        },
        &[&[5, 3, 3, 7], &[5, 1], &[63, 1]],
    ),
    (
        "mixed sums",
        |v| {
            let y = linear(&v[0], &v[1], None, Activation::None)?;
            let both = cat(&[&add(&y, &v[2])?, &y], 1)?;
            add(&mean_middle(&both)?, &scale(&sum_middle(&y)?, 0.5)?)
        },
        &[&[2, 5, 33], &[16, 33], &[2, 5, 16]],
    ),
    ("a branch of some samples", branch_of_some, &[&[3, 3, 20], &[20, 20], &[20], &[16, 20]]),
    ("a branch of some samples in whole eights", branch_of_some, &[&[3, 5, 24], &[24, 24], &[24], &[16, 24]]),
    ("some samples and no others", |v| take_samples(&v[0], &two_of_three(&v[0])?), &[&[3, 3, 7]]),
    (
        "feed_forward of odd widths without biases",
        |v| feed_forward(&v[0], (&v[1], None), Activation::Silu, (&v[2], None), None),
        &[&[3, 150, 12], &[37, 12], &[9, 37]],
    ),
    (
        "feed_forward of several blocks",
        |v| feed_forward(&v[0], (&v[1], Some(&v[2])), Activation::GeluTanh, (&v[3], None), None),
        &[&[83, 8], &[160, 8], &[160], &[8, 160]],
    ),
    // Sizes in multiples of eight, for which kernels are compiled by their operands' types.
    (
        "feed_forward in whole eights",
        |v| feed_forward(&v[0], (&v[1], Some(&v[2])), Activation::GeluErf, (&v[3], Some(&v[4])), Some(&v[0])),
        &[&[3, 7, 16], &[40, 16], &[40], &[16, 40], &[16]],
    ),
    (
        "layer_norm beside a skip connection in whole eights",
        |v| {
            let y = linear(&layer_norm(&v[0], &v[1], &v[2], 1e-6)?, &v[3], Some(&v[2]), Activation::None)?;
            linear(&layer_norm(&add(&v[0], &y)?, &v[2], &v[1], 1e-6)?, &v[3], None, Activation::None)
        },
        &[&[2, 19, 64], &[64], &[64], &[64, 64]],
    ),
    (
        "a layer_norm of wide rows in whole eights",
        |v| linear(&layer_norm(&v[0], &v[1], &v[2], 1e-6)?, &v[3], None, Activation::LeakyRelu(0.2)),
        &[&[3, 320], &[320], &[320], &[16, 320]],
    ),
    (
        "a residual block in whole eights",
        |v| {
            let x = conv2d(&v[0], &v[1], Some(&v[2]), Conv2d::same(3), Activation::LeakyRelu(0.2))?;
            let y = conv2d(&x, &v[3], None, Conv2d::same(3), Activation::None)?;
            upsample_nearest2(&avg_pool2(&add(&x, &batch_norm(&y, &v[2], &v[4], 1e-5, None)?.0)?)?)
        },
        &[&[2, 4, 6, 8], &[8, 3, 3, 8], &[8], &[8, 3, 3, 8], &[8]],
    ),
    ("softplus", |v| softplus(&scale(&v[0], 3.0)?), &[&[2, 9]]),
    ("sigmoid", |v| sigmoid(&scale(&v[0], 3.0)?), &[&[2, 9]]),
    (
        "position embedding",
        |v| add_broadcast(&linear(&v[0], &v[1], None, Activation::None)?, &v[2]),
        &[&[2, 5, 33], &[16, 33], &[5, 16]],
    ),
];

/// Multiples of a quarter, which bf16 holds: the first product of an operation is exact but for its own rounding, which
/// keeps signs and order, so that nothing crosses a relu's kink or wins another maximum.
fn quarters(dims: &[usize], seed: u64) -> Result<Tensor> {
    (single(dims, seed)? * 4.0)?.round()? / 4.0
}

/// Value and gradients of an operation on f32 operands.
fn all(f: Operation, inputs: &[Tensor], device: &Device) -> Result<Vec<Tensor>> {
    let leaves = inputs.iter().map(|x| x.to_device(device).map(Var::leaf)).collect::<Result<Vec<_>>>()?;
    let y = widened(&f(&leaves)?)?;
    let weights = Var::constant(single(y.dims(), 9)?.to_device(device)?);
    let gradients = backward(sum_all(&mul(&y, &weights)?)?)?;
    let mut all = vec![y.into_value()];
    all.extend(leaves.iter().filter_map(|leaf| gradients.leaf(leaf).cloned()));
    Ok(all)
}

fn check(name: &str, found: &[Tensor], want: &[Tensor], tolerance: f64) -> Result<()> {
    assert_eq!(found.len(), want.len(), "{name}");
    for (i, (found, want)) in found.iter().zip(want).enumerate() {
        if found.dtype() != DType::F32 {
            bail!("{name}, output {i}: {:?}", found.dtype());
        }
        let [found, want] = [found, want].map(|x| x.to_device(&Device::Cpu)?.to_dtype(DType::F64));
        let (found, want) = (found?, want?);
        let norm = |x: &Tensor| x.sqr()?.sum_all()?.to_scalar::<f64>();
        let error = (norm(&(found - &want)?)? / norm(&want)?).sqrt();
        assert!(error <= tolerance, "{name}, output {i}: {error:e} of its norm");
    }
    Ok(())
}

/// Operations whose names begin with one of these.
pub(super) fn check_operations(names: &[&str]) -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let wanted = |name: &str| names.iter().any(|part| name.starts_with(part));
    for (name, f, dims) in OPERATIONS.into_iter().filter(|(name, ..)| wanted(name)) {
        let input = |(i, dims): (usize, &&[usize])| quarters(dims, i as u64);
        let inputs: Vec<Tensor> = dims.iter().enumerate().map(input).collect::<Result<_>>()?;
        let want = all(f, &inputs, &Device::Cpu)?;
        check(name, &pretending(|device| all(f, &inputs, device))?, &want, exact())?;
        let rough = with(Precision::Bf16, || pretending(|device| all(f, &inputs, device)))?;
        check(&format!("{name} in bf16"), &rough, &want, ROUGH)?;
    }
    Ok(())
}

#[test]
fn operations_agree_with_the_processors_in_both_types() -> Result<()> {
    check_operations(&[""])
}

/// Penalties on gradients: second derivatives in bf16.
#[test]
fn second_derivatives_agree_in_bf16() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let f = |device: &Device| -> Result<Vec<Tensor>> {
        let leaf = |dims: &[usize], seed| quarters(dims, seed)?.to_device(device).map(Var::leaf);
        let (x, w1, w2) = (leaf(&[2, 4, 4, 3], 1)?, leaf(&[8, 3, 3, 3], 2)?, leaf(&[1, 8], 3)?);
        let frozen = Var::constant(quarters(&[8, 1, 1, 8], 4)?.to_device(device)?);
        let y = conv2d(&x, &w1, None, Conv2d::same(3), Activation::LeakyRelu(0.2))?;
        let y = add(&y, &conv2d(&y, &frozen, None, Conv2d::same(1), Activation::None)?)?;
        let logits = widened(&linear(&mean_middle(&avg_pool2(&y)?)?, &w2, None, Activation::None)?)?;
        let slope = grad(&sum_all(&logits)?, &[&x], true)?;
        let found = backward(sum_all(&square(&slope[0])?)?)?;
        Ok([&w1, &w2].into_iter().filter_map(|leaf| found.leaf(leaf).cloned()).collect())
    };
    let want = f(&Device::Cpu)?;
    check("a penalty", &pretending(f)?, &want, exact())?;
    check("a penalty in bf16", &with(Precision::Bf16, || pretending(f))?, &want, ROUGH)
}

#[test]
fn a_parameter_is_rounded_once_until_it_changes() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let param = Param::new("weight", single(&[8, 16], 1)?.to_device(&device())?);
    let rounded = || with(Precision::Bf16, || pretending(|_| crate::mixed::factor(&param.var())));
    let (first, again) = (rounded()?, rounded()?);
    assert_eq!((first.dtype(), first.value().id()), (DType::BF16, again.value().id()));
    let numbers = |x: &Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let follows = || -> Result<()> {
        assert_eq!(numbers(rounded()?.value())?, numbers(&param.value().to_dtype(DType::BF16)?)?);
        Ok(())
    };
    param.set(single(&[8, 16], 2)?.to_device(&device())?)?;
    follows()?;
    // The optimizer rounds what was asked for.
    let before = numbers(&param.value())?;
    pretending(|_| {
        let mut adam = Adam::new(std::slice::from_ref(&param), AdamConfig::default())?;
        adam.step(&backward(sum_all(&square(&param.var())?)?)?, 0.1)
    })?;
    assert!(param.is_rounded() && numbers(&param.value())? != before);
    follows()
}

#[test]
fn a_vector_longer_than_a_block_reads_at_once_has_its_length() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let x = single(&[5000, 1], 1)?;
    let length = x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt();
    let [unit, inverse] = fused::unit_vector(&x, 1e-12)?;
    close("unit_vector", &unit, &(&x / length)?)?;
    close("1 over the product", &inverse, &Tensor::new(&[(1.0 / length) as f32], x.device())?)
}

#[test]
fn running_averages_of_batch_norm_move_as_on_the_processor() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let f = |device: &Device| -> Result<Vec<Tensor>> {
        let at = |dims: &[usize], seed| single(dims, seed)?.to_device(device);
        let (x, w, b) = (Var::leaf(at(&[2, 3, 5], 1)?), Var::leaf(at(&[5], 2)?), Var::leaf(at(&[5], 3)?));
        let (_, found) = batch_norm(&x, &w, &b, 1e-5, None)?;
        Ok(found.move_averages(&at(&[5], 4)?, &at(&[5], 5)?, 0.1)?.to_vec())
    };
    check("running averages", &pretending(f)?, &f(&Device::Cpu)?, exact())
}
