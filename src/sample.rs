//! From a snapshot to pictures: single images by seed, grids, interpolations.
//!
//! Image `i` depends on the network and on its seed alone, whatever is drawn beside it.

use std::path::Path;

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::models::Generator;
use crate::rng::Rng;
use crate::train::fakes::{generate, seed_latent};
use crate::train::state::FORMAT;
use crate::train::tensors::{self, Metadata, NamedTensors};

/// The least share of normal numbers that a truncation may keep: each latent value is drawn until one is kept.
const LEAST_KEPT: f64 = 1e-4;

/// A snapshot as read from its file: weights without a network yet.
pub struct Snapshot {
    /// The configuration of its run, whose `[model]` says which network it is.
    pub config: String,
    /// Thousands of images, weights, best score: what the run noted.
    pub metadata: Metadata,
    /// The weights.
    pub tensors: NamedTensors,
}

/// Reads a `network-snapshot-*.safetensors`.
///
/// # Errors
/// When the file is damaged or is no snapshot.
pub fn read_snapshot(path: &Path) -> Result<Snapshot> {
    let (mut metadata, tensors) = tensors::read(path)?;
    let (Some(config), Some(FORMAT)) = (metadata.remove("config"), metadata.get("format").map(String::as_str))
    else {
        return Err(Error::Checkpoint {
            path: path.to_path_buf(),
            reason: "it holds tensors, but not a generator of ours".into(),
            hint: Some("give a network-snapshot-*.safetensors of a run".into()),
        });
    };
    Ok(Snapshot { config, metadata, tensors })
}

/// How far from 0 latent values may be under a truncation: `2 * truncation`.
///
/// # Errors
/// When next to no value would be kept, and drawing again would take for ever.
pub fn truncation_limit(truncation: Option<f64>) -> Result<Option<f32>> {
    let Some(psi) = truncation else { return Ok(None) };
    let limit = 2.0 * psi;
    // The normal density at 0 times the width of ±limit: the share within where that is narrow, and never less than it.
    let kept = limit * std::f64::consts::FRAC_2_PI.sqrt();
    if kept >= LEAST_KEPT {
        return Ok(Some(limit as f32));
    }
    Err(Error::Usage {
        message: format!("--trunc {psi:?} keeps less than one in {} of the latent values", 1.0 / LEAST_KEPT),
        hint: Some("values from 0.2 (few kinds) to 1 (nearly all) make sense".into()),
    })
}

/// The latents `[N, z_dim]` of seeds. With `truncation` below 1, values beyond `2 * truncation` are drawn again:
/// fewer rare images, less variety (Brock et al., arXiv 1809.11096, section 3.1).
///
/// # Errors
/// Those of [`truncation_limit`].
pub fn seed_latents(seeds: &[u64], z_dim: usize, truncation: Option<f64>) -> Result<Tensor> {
    let limit = truncation_limit(truncation)?;
    let rows: Vec<f32> = seeds.iter().flat_map(|&seed| seed_latent_within(seed, z_dim, limit)).collect();
    Ok(Tensor::from_vec(rows, (seeds.len(), z_dim), &Device::Cpu)?)
}

fn seed_latent_within(seed: u64, z_dim: usize, limit: Option<f32>) -> Vec<f32> {
    let mut latent = seed_latent(seed, z_dim);
    if let Some(limit) = limit {
        let mut again = Rng::new(seed).split("z-again");
        for value in &mut latent {
            while value.abs() > limit {
                *value = again.normal();
            }
        }
    }
    latent
}

/// Calls `f(seeds, images [n, H, W, 3])` batch by batch, `batch` seeds at a time, until `f` returns `false`.
///
/// # Errors
/// Those of `f`, of the network, and of [`truncation_limit`].
pub fn for_each_batch(
    generator: &Generator,
    seeds: &[u64],
    truncation: Option<f64>,
    batch: usize,
    mut f: impl FnMut(&[u64], Tensor) -> Result<bool>,
) -> Result<()> {
    for seeds in seeds.chunks(batch.max(1)) {
        let images = generate(generator, &seed_latents(seeds, generator.z_dim(), truncation)?, batch)?;
        if !f(seeds, images)? {
            break;
        }
    }
    Ok(())
}

/// Latents `[steps, z_dim]` on the way from one seed's to another's along the sphere that normal latents live near.
///
/// Shoemake, "Animating rotation with quaternion curves" (1985); the length goes linearly from one to the other.
///
/// The two ends are the seeds' latents under `truncation`, as [`seed_latents`] has them.
///
/// # Errors
/// Those of [`truncation_limit`].
pub fn interpolate(from: u64, to: u64, steps: usize, z_dim: usize, truncation: Option<f64>) -> Result<Tensor> {
    let limit = truncation_limit(truncation)?;
    let (from, to) = (seed_latent_within(from, z_dim, limit), seed_latent_within(to, z_dim, limit));
    let norm = |z: &[f32]| z.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    let (from_norm, to_norm) = (norm(&from), norm(&to));
    let dot: f64 = from.iter().zip(&to).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    let angle = (dot / (from_norm * to_norm)).clamp(-1.0, 1.0).acos();
    let mut rows = Vec::with_capacity(steps * z_dim);
    for step in 0..steps {
        let t = step as f64 / (steps.max(2) - 1) as f64;
        // Latents on one line have no arc between them.
        let (a, b) = if angle.sin() > 1e-6 {
            (((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin())
        } else {
            (1.0 - t, t)
        };
        let length = (1.0 - t) * from_norm + t * to_norm;
        let along = |(x, y): (&f32, &f32)| {
            ((a * f64::from(*x) / from_norm + b * f64::from(*y) / to_norm) * length) as f32
        };
        rows.extend(from.iter().zip(&to).map(along));
    }
    Ok(Tensor::from_vec(rows, (steps, z_dim), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpolation_starts_and_ends_at_its_seeds_and_keeps_the_length() {
        let rows = interpolate(3, 4, 5, 32, None).unwrap().to_vec2::<f32>().unwrap();
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-5);
        assert!(close(&rows[0], &seed_latent(3, 32)) && close(&rows[4], &seed_latent(4, 32)));
        let norm = |z: &[f32]| z.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((norm(&rows[2]) - (norm(&rows[0]) + norm(&rows[4])) / 2.0).abs() < 1e-4);
        let within = interpolate(3, 4, 5, 32, Some(0.5)).unwrap().to_vec2::<f32>().unwrap();
        let ends = seed_latents(&[3, 4], 32, Some(0.5)).unwrap().to_vec2::<f32>().unwrap();
        assert!(close(&within[0], &ends[0]) && close(&within[4], &ends[1]) && !close(&within[0], &rows[0]));
    }

    #[test]
    fn truncation_bounds_latents_and_leaves_the_others() {
        let free = seed_latents(&[1, 2], 64, None).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let cut =
            seed_latents(&[1, 2], 64, Some(0.5)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(cut.iter().all(|z| z.abs() <= 1.0) && free.iter().any(|z| z.abs() > 1.0));
        assert!(free.iter().zip(&cut).all(|(f, c)| f.abs() > 1.0 || f == c));
        let narrow =
            seed_latents(&[1], 4, Some(1e-4)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(narrow.iter().all(|z| z.abs() <= 2e-4));
        for endless in [0.0, -1.0, f64::NAN, 1e-300, 5e-5] {
            assert!(seed_latents(&[1], 4, Some(endless)).is_err(), "{endless}");
        }
    }
}
