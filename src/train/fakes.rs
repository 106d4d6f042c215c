//! Latents and the images that a generator draws from them.

use candle_core::{Device, Result, Tensor};
use nestgen_kernels::{Var, no_grad};

use crate::models::Generator;
use crate::rng::Rng;

/// Latents `[numbers, z_dim]`, standard normal; each row is a function of the stream and its number alone.
pub fn latents(stream: &Rng, numbers: &[u64], z_dim: usize) -> Result<Var> {
    let rows = numbers.iter().flat_map(|&number| stream.at(number).normals(z_dim)).collect::<Vec<f32>>();
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
