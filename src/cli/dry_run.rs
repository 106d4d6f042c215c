//! `nestgen train --dry-run`: what a run would be.

use std::process::ExitCode;

use candle_core::{DType, Device};
use nestgen::config::{RunConfig, build_generator};
use nestgen::models::Discriminator;
use nestgen::nn::Builder;
use nestgen::rng::Rng;

use super::ui;

/// Prints the resolved configuration, parameters, FLOPs an image, and memory for weights and optimizers.
pub(super) fn print(config: &RunConfig) -> anyhow::Result<ExitCode> {
    let generator = build_generator(config)?;
    let builder = Builder::new(&Rng::new(0), DType::F32, &Device::Cpu);
    let discriminator = Discriminator::new(&config.discriminator, &builder)?;
    let (g, d) = (generator.params().count(), discriminator.params().count());
    let millions = |n: usize| format!("{:.2} M parameters", n as f64 / 1e6);
    let giga = |flops: u64| format!("{:.2} GFLOP an image forward", flops as f64 / 1e9);
    ui::result_line(&config.to_toml())?;
    ui::result_line(&format!("generator:     {}, {}", millions(g), giga(generator.flops())))?;
    ui::result_line(&format!("discriminator: {}, {}", millions(d), giga(discriminator.flops())))?;
    // Weights, gradients and two averages of Adam for both; the averaged generator on top.
    let bytes = 4 * (4 * (g + d) + g);
    ui::result_line(&format!(
        "weights, gradients, optimizers and EMA: {:.2} GiB, and activations",
        bytes as f64 / 1073741824.0
    ))?;
    Ok(ExitCode::SUCCESS)
}
