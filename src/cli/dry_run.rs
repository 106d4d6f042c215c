//! `nestgen train --dry-run`: what a run would be.

use std::process::ExitCode;

use candle_core::{DType, Device, Tensor};
use nestgen::config::{RunConfig, build_networks};
use nestgen::train::adversarial::Networks;
use nestgen_kernels::{Var, alloc::live_bytes};

use super::ui;

/// Prints the resolved configuration, parameters, FLOPs an image, and memory.
pub(super) fn print(config: &RunConfig) -> anyhow::Result<ExitCode> {
    let networks = build_networks(config)?;
    let (generator, discriminator) = (&networks.generator, &networks.discriminator);
    let (g, d) = (generator.params().count(), discriminator.params().count());
    let millions = |n: usize| format!("{:.2} M parameters", n as f64 / 1e6);
    let giga = |flops: u64| format!("{:.2} GFLOP an image forward", flops as f64 / 1e9);
    let gibi = |bytes: usize| bytes as f64 / 1073741824.0;
    ui::result_line(&config.to_toml())?;
    ui::result_line(&format!("generator:     {}, {}", millions(g), giga(generator.flops())))?;
    ui::result_line(&format!("discriminator: {}, {}", millions(d), giga(discriminator.flops())))?;
    // Weights, gradients and two averages of Adam for both; the averaged generator on top.
    let weights = 4 * (4 * (g + d) + g);
    let activations = activations(&networks, config.train.micro_batch())?;
    ui::result_line(&format!(
        "memory:        {:.2} GiB of weights, gradients, optimizers and EMA, {:.2} GiB of activations",
        gibi(weights),
        gibi(activations)
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Bytes that a step keeps for its backward pass: measured on two images and on four, for a fixed part and one that
/// grows with the batch. A penalty on gradients keeps about as much again.
fn activations(networks: &Networks, batch: usize) -> anyhow::Result<usize> {
    let forward = |batch: usize| -> anyhow::Result<(usize, usize)> {
        let z = Var::constant(Tensor::zeros((batch, networks.generator.z_dim()), DType::F32, &Device::Cpu)?);
        let before = live_bytes();
        let images = networks.generator.forward(&z, true)?;
        let logits = networks.discriminator.forward(&images, true)?;
        let generator_step = live_bytes().saturating_sub(before);
        drop(logits);
        let images = Var::constant(images.into_value());
        let before = live_bytes();
        // D sees as many real images as fakes.
        let logits =
            [networks.discriminator.forward(&images, true)?, networks.discriminator.forward(&images, true)?];
        let discriminator_step = live_bytes().saturating_sub(before);
        drop(logits);
        Ok((generator_step, discriminator_step))
    };
    let (two, four) = (forward(2)?, forward(4)?);
    let at_batch = |two: usize, four: usize| {
        let image = four.saturating_sub(two) / 2;
        two + image * batch.saturating_sub(2)
    };
    Ok(at_batch(two.0, four.0).max(at_batch(two.1, four.1)))
}
