//! `nestgen train --dry-run`: what a run would be.

use std::process::ExitCode;

use nestgen::config::{RunConfig, build_networks};

use super::memory::{GIB, TrainingMemory, available_bytes};
use super::ui;

/// Prints the resolved configuration and, as its comments, parameters, FLOPs an image, and memory.
pub(super) fn print(config: &RunConfig) -> anyhow::Result<ExitCode> {
    let networks = build_networks(config)?;
    let (generator, discriminator) = (&networks.generator, &networks.discriminator);
    let (g, d) = (generator.params().count(), discriminator.params().count());
    let millions = |n: usize| format!("{:.2} M parameters", n as f64 / 1e6);
    let giga = |flops: u64| format!("{:.2} GFLOP an image forward", flops as f64 / 1e9);
    let gibi = |bytes: usize| bytes as f64 / GIB;
    ui::result_line(&config.to_toml())?;
    ui::result_line(&format!("# generator:     {}, {}", millions(g), giga(generator.flops())))?;
    ui::result_line(&format!("# discriminator: {}, {}", millions(d), giga(discriminator.flops())))?;
    let memory = TrainingMemory::of(&networks)?;
    ui::result_line(&format!(
        "# memory:        {:.2} GiB of weights, gradients, optimizers and EMA, {:.2} GiB of activations",
        gibi(memory.weights),
        gibi(memory.activations(config.train.micro_batch()))
    ))?;
    if let Some(available) = available_bytes(1) {
        let largest = memory.largest_batch(available).unwrap_or(0);
        let free = gibi(available);
        ui::result_line(&format!(
            "#                {free:.1} GiB are free: batches up to about {largest} fit"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
