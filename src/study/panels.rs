//! Pictures that say more about a generator than a score: ways between latents, and the training images that its
//! samples are nearest to.

use candle_core::Tensor;
use nestgen_kernels::cpu::with_downloaded;
use rayon::prelude::*;

use crate::data::ImageData;
use crate::error::Result;
use crate::models::Generator;
use crate::sample::{interpolate, seed_latents};
use crate::train::fakes::generate;
use crate::train::grid::{Picture, to_byte};

/// Images drawn at once.
const BATCH: usize = 12;
/// Ways between two latents, one a row.
const WAYS: u64 = 4;
/// Images on a way, its ends among them.
const STEPS: usize = 9;
/// Samples whose neighbours are shown, one a row.
const SAMPLES: usize = 6;
/// Neighbours of a sample, nearest first.
const NEIGHBOURS: usize = 5;

/// Rows of images on the way from one seed's latent to another's: 0 to 1, 2 to 3, ...
///
/// # Errors
/// Those of the network.
pub fn interpolations(generator: &Generator) -> Result<Picture> {
    let z_dim = generator.z_dim();
    let ways: Vec<Tensor> =
        (0..WAYS).map(|way| interpolate(2 * way, 2 * way + 1, STEPS, z_dim, None)).collect::<Result<_, _>>()?;
    let images = generate(generator, &Tensor::cat(&ways, 0)?, BATCH)?;
    Ok(Picture::grid(&images, STEPS)?)
}

/// In each row a sample (seeds 0, 1, ...) and the training images that differ least from it in mean squared error of
/// pixels; with `mirror`, training images count flipped as well.
///
/// # Errors
/// Those of the network and of reading images.
pub fn nearest(generator: &Generator, data: &ImageData, mirror: bool) -> Result<Picture> {
    let seeds: Vec<u64> = (0..SAMPLES as u64).collect();
    let images = generate(generator, &seed_latents(&seeds, generator.z_dim(), None)?, BATCH)?;
    let samples: Vec<Vec<u8>> = with_downloaded::<f32, _>(&images, |values| {
        let bytes = values.chunks_exact((values.len() / SAMPLES).max(1));
        Ok(bytes.map(|image| image.iter().map(|&value| to_byte(value)).collect()).collect())
    })?;
    let found = neighbours(&samples, data, mirror)?;
    let side = data.res();
    let rows: Vec<Vec<Vec<u8>>> = samples
        .into_iter()
        .zip(found)
        .map(|(sample, found)| {
            let read = found.into_iter().map(|(_, image, flipped)| read(data, image, flipped));
            std::iter::once(Ok(sample)).chain(read).collect::<Result<_>>()
        })
        .collect::<Result<_>>()?;
    let mut pixels = Vec::with_capacity(SAMPLES * (NEIGHBOURS + 1) * side * side * 3);
    for row in &rows {
        for y in 0..side {
            for image in row {
                pixels.extend(image.iter().skip(y * side * 3).take(side * 3));
            }
        }
    }
    let columns = rows.first().map_or(0, Vec::len);
    Ok(Picture { width: (columns * side) as u32, height: (rows.len() * side) as u32, pixels })
}

/// Squared distance, index, and whether it is flipped.
type Neighbour = (u64, usize, bool);

/// The nearest training images of every sample, nearest first.
fn neighbours(samples: &[Vec<u8>], data: &ImageData, mirror: bool) -> Result<Vec<Vec<Neighbour>>> {
    /// Images that a thread looks at before its findings are merged.
    const CHUNK: usize = 256;
    let starts: Vec<usize> = (0..data.len()).step_by(CHUNK).collect();
    let of_chunk = |start: &usize| -> Result<Vec<Vec<Neighbour>>> {
        let mut found = vec![Vec::new(); samples.len()];
        for image in *start..(start + CHUNK).min(data.len()) {
            for flipped in [false, true].into_iter().filter(|&flipped| mirror || !flipped) {
                let pixels = read(data, image, flipped)?;
                for (sample, found) in samples.iter().zip(&mut found) {
                    found.push((distance(sample, &pixels), image, flipped));
                }
            }
        }
        found.iter_mut().for_each(keep_nearest);
        Ok(found)
    };
    let chunks: Vec<_> = starts.par_iter().map(of_chunk).collect::<Result<_>>()?;
    Ok((0..samples.len())
        .map(|sample| {
            let mut all = chunks.iter().filter_map(|chunk| chunk.get(sample)).flatten().copied().collect();
            keep_nearest(&mut all);
            all
        })
        .collect())
}

/// Sorts by distance and keeps the first, each image once.
fn keep_nearest(found: &mut Vec<Neighbour>) {
    found.sort_unstable();
    let mut seen = Vec::with_capacity(NEIGHBOURS);
    found.retain(|&(_, image, _)| {
        let kept = seen.len() < NEIGHBOURS && !seen.contains(&image);
        if kept {
            seen.push(image);
        }
        kept
    });
}

fn distance(a: &[u8], b: &[u8]) -> u64 {
    let square = |(&a, &b): (&u8, &u8)| {
        let difference = u64::from(a.abs_diff(b));
        difference * difference
    };
    a.iter().zip(b).map(square).sum()
}

/// A training image as bytes `[res, res, 3]`, left and right swapped if `flipped`.
fn read(data: &ImageData, image: usize, flipped: bool) -> Result<Vec<u8>> {
    let side = data.res();
    let mut pixels = vec![0; side * side * 3];
    data.read(image, &mut pixels)?;
    if flipped {
        pixels = pixels.chunks(side * 3).flat_map(|row| row.chunks(3).rev().flatten().copied()).collect();
    }
    Ok(pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_training_image_is_its_own_nearest_neighbour_and_its_flip_the_next() {
        let data = ImageData::synthetic(3, 600, 32, &|_, _| true).unwrap();
        let sample = read(&data, 577, true).unwrap();
        let found = neighbours(std::slice::from_ref(&sample), &data, true).unwrap();
        assert_eq!(found[0][0], (0, 577, true));
        assert_eq!(found[0].len(), NEIGHBOURS);
        assert!(found[0].windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 != pair[1].1));
        let straight = neighbours(&[sample], &data, false).unwrap();
        assert!(straight[0][0].0 > 0);
    }
}
