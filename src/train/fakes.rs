//! Latents and the images that a generator draws from them.

use candle_core::{Device, Result, Tensor};
use nestgen_kernels::{Var, no_grad};
use rayon::prelude::*;

use crate::models::Generator;
use crate::rng::Rng;

/// Latents `[numbers, z_dim]`, standard normal; each row is a function of the stream and its number alone.
pub fn latents(stream: &Rng, numbers: &[u64], z_dim: usize) -> Result<Var> {
    // In threads: a GPU waits for them.
    let mut rows = vec![0f32; numbers.len() * z_dim];
    let each = rows.par_chunks_mut(z_dim.max(1)).zip(numbers.par_iter());
    each.for_each(|(row, &number)| stream.at(number).fill_normal(row));
    Ok(Var::constant(Tensor::from_vec(rows, (numbers.len(), z_dim), &Device::Cpu)?))
}

/// The latent of image `seed`: what `nestgen sample --seeds` draws and training's grids show.
pub fn seed_latent(seed: u64, z_dim: usize) -> Vec<f32> {
    Rng::new(seed).split("z").normals(z_dim)
}

/// Images `[N, H, W, 3]`, about -1..1, of latents `[N, z_dim]`, drawn `batch` at a time without gradients. They are in the
/// processor's memory, wherever they were drawn.
pub fn generate(generator: &Generator, latents: &Tensor, batch: usize) -> Result<Tensor> {
    let count = latents.dim(0)?;
    let parts: Vec<Tensor> = (0..count)
        .step_by(batch.max(1))
        .map(|start| {
            let z = Var::constant(latents.narrow(0, start, batch.max(1).min(count - start))?.contiguous()?);
            no_grad(|| generator.forward(&z, false))?.into_value().to_device(&Device::Cpu)
        })
        .collect::<Result<_>>()?;
    Tensor::cat(&parts, 0)
}
