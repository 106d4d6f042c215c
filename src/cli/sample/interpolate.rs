//! `nestgen interpolate`: pictures on the way from one seed's latent to the next.

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::Tensor;
use clap::Args;
use nestgen::error::Error;
use nestgen::sample::{interpolate, truncation_limit};
use nestgen::train::fakes::generate;
use nestgen::train::grid::Picture;

use super::seeds::{MOST_CELLS, parse_seeds};
use crate::cli::network::Network;
use crate::cli::ui;

/// Draw the way from one seed's image to the next
#[derive(Args)]
pub(crate) struct InterpolateArgs {
    #[command(flatten)]
    network: Network,
    /// The seeds to pass through, two or more: `0,5-9`
    #[arg(long, value_name = "LIST", default_value = "0-7")]
    seeds: String,
    /// Draw the seeds' latents within ±2·PSI only, as `sample --trunc` does
    #[arg(long, value_name = "PSI")]
    trunc: Option<f64>,
    /// Images in a row, both ends included
    #[arg(long, default_value_t = 9)]
    steps: usize,
    /// The picture to write: one row for each pair of neighbouring seeds
    #[arg(long, value_name = "FILE", default_value = "interpolation.png", value_parser = ui::file_to_write(&["png"]))]
    out: PathBuf,
}

pub(crate) fn run(args: &InterpolateArgs) -> anyhow::Result<ExitCode> {
    let seeds = parse_seeds(&args.seeds)?;
    if !(2..=MOST_CELLS).contains(&args.steps) || !(2..=MOST_CELLS + 1).contains(&seeds.len()) {
        anyhow::bail!(Error::usage(
            format!(
                "an interpolation takes two seeds and two steps at least, and {MOST_CELLS} rows and steps at most"
            ),
            "--seeds 0-7 --steps 9"
        ));
    }
    truncation_limit(args.trunc)?;
    let (generator, path) = args.network.load()?;
    let mut strips = Vec::new();
    for pair in seeds.windows(2) {
        let z = interpolate(pair[0], pair[1], args.steps, generator.z_dim(), args.trunc)?;
        strips.push(generate(&generator, &z, 32)?);
    }
    Picture::grid(&Tensor::cat(&strips, 0)?, args.steps)?.write(&args.out)?;
    ui::result_line(&format!("wrote {} from {}", args.out.display(), path.display()))?;
    Ok(ExitCode::SUCCESS)
}
