//! Built-in labelled scenes, so that the first command needs no download: 12 classes of small rendered pictures, any number
//! of them, at any resolution.
//!
//! Scene `index` of a `seed` is a pure function of the two: its class is `index % 12`, everything else (time of day,
//! colours, place, size, details, texture) is drawn from the stream ("scene", index). Shapes are signed distances with
//! shading and noise, painted back to front and antialiased at the resolution asked for. `samples/scenes.png` shows the
//! first 96 of seed 0.

mod afloat;
mod backdrop;
mod canvas;
mod dice;
mod export;
mod indoors;
mod outdoors;
mod planted;
mod shapes;

use canvas::Canvas;
use dice::Dice;
pub use export::write_pngs;
use nestgen_images::hex;
pub use planted::{PLANTED_SIZE, render as render_planted};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{ImageData, LoadOptions};
use crate::error::{Error, Result};
use crate::rng::Rng;

/// The seed of the scenes that are trained on: one set for everybody, whatever the seed of training.
pub const TRAINING_SEED: u64 = 0;
/// The seed of those that classifiers are tested on.
pub const TEST_SEED: u64 = 1;

type Painter = fn(&mut Canvas, &mut Dice);

const SCENES: [(&str, Painter); 12] = [
    ("balloon", afloat::balloon),
    ("boat", afloat::boat),
    ("car", outdoors::car),
    ("cat", indoors::cat),
    ("fish", afloat::fish),
    ("flower", indoors::flower),
    ("house", outdoors::house),
    ("mountain", outdoors::mountain),
    ("mushroom", outdoors::mushroom),
    ("planet", afloat::planet),
    ("robot", indoors::robot),
    ("tree", outdoors::tree),
];

/// Changes with every change of the pictures, so that records of runs tell which set they saw.
const VERSION: u32 = 1;

/// Class names in label order.
pub fn class_names() -> Vec<String> {
    SCENES.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// Where the main object is, as shares of the picture's side: 0 is left and top, 1 right and bottom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoundingBox {
    /// Left edge.
    pub left: f32,
    /// Top edge.
    pub top: f32,
    /// Right edge.
    pub right: f32,
    /// Bottom edge.
    pub bottom: f32,
}

/// One rendered scene.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// 8-bit RGB, `[res, res, 3]`.
    pub pixels: Vec<u8>,
    /// Index into [`class_names`].
    pub label: u32,
    /// Around the main object, parts hidden behind the foreground included.
    pub object: BoundingBox,
}

/// Renders scene `index` of `seed` at `res` px, at least 1.
pub fn render(seed: u64, index: u64, res: usize) -> Scene {
    let label = (index % SCENES.len() as u64) as usize;
    let mut canvas = Canvas::new(res);
    let mut dice = Dice(Rng::new(seed).split("scene").at(index));
    SCENES[label].1(&mut canvas, &mut dice);
    finish(canvas, label, res)
}

fn finish(canvas: Canvas, label: usize, res: usize) -> Scene {
    let share = |pixel: usize| pixel as f32 / res as f32;
    let object =
        canvas.object().map_or(BoundingBox { left: 0.0, top: 0.0, right: 1.0, bottom: 1.0 }, |b| BoundingBox {
            left: share(b.left),
            top: share(b.top),
            right: share(b.right + 1),
            bottom: share(b.bottom + 1),
        });
    Scene { pixels: canvas.into_bytes(), label: label as u32, object }
}

impl ImageData {
    /// The first `count` scenes of `seed` at `res` px, labelled. `progress(done, total)` is called from worker threads.
    ///
    /// # Errors
    /// No images or no pixels asked for; more than the memory budget of a set that is read holds.
    pub fn synthetic(
        seed: u64,
        count: usize,
        res: usize,
        progress: &(dyn Fn(usize, usize) -> bool + Sync),
    ) -> Result<ImageData> {
        if count == 0 || res == 0 {
            let message = format!("{count} scenes of {res} px: both numbers must be positive");
            return Err(Error::Usage { message, hint: None });
        }
        let needed = [res, res, 3].into_iter().fold(count, usize::saturating_mul) as u64;
        let budget = LoadOptions::new(res as u32).memory_budget_bytes;
        if needed > budget {
            return Err(Error::Usage {
                message: format!(
                    "{count} scenes of {res} px need {} MiB, more than the {} MiB of the memory budget",
                    needed >> 20,
                    budget >> 20
                ),
                hint: Some(
                    "choose fewer scenes, or write them with `nestgen data synth`, make a pack of them with `nestgen data \
                     pack` and train from it"
                        .into(),
                ),
            });
        }
        let mut pixels = vec![0; count * res * res * 3];
        let done = std::sync::atomic::AtomicUsize::new(0);
        let finished = pixels.par_chunks_exact_mut(res * res * 3).enumerate().try_for_each(|(i, out)| {
            out.copy_from_slice(&render(seed, i as u64, res).pixels);
            let done = done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            progress(done, count).then_some(())
        });
        if finished.is_none() {
            return Err(Error::Usage { message: "stopped while rendering scenes".into(), hint: None });
        }
        let labels = (0..count).map(|i| (i % SCENES.len()) as u32).collect();
        let description = format!("synthetic scenes v{VERSION}, seed {seed}");
        let digest = hex(&Sha256::digest(&pixels));
        ImageData::from_pixels(res, pixels, Some(labels), class_names(), description, digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scene_is_a_function_of_seed_and_index() {
        for index in 0..24 {
            let scene = render(1, index, 32);
            assert_eq!(scene, render(1, index, 32));
            assert_ne!(scene.pixels, render(2, index, 32).pixels);
            assert_ne!(scene.pixels, render(1, index + 12, 32).pixels);
            assert_eq!(u64::from(scene.label), index % 12);
        }
    }

    #[test]
    fn the_object_fills_much_of_the_picture_and_stays_in_the_middle() {
        for index in 0..600 {
            let BoundingBox { left, top, right, bottom } = render(5, index, 32).object;
            let area = (right - left) * (bottom - top);
            assert!((0.2..=1.0).contains(&area), "scene {index}: {area}");
            let (x, y) = ((left + right) / 2.0, (top + bottom) / 2.0);
            assert!((0.3..0.7).contains(&x) && (0.3..0.75).contains(&y), "scene {index}: {x} {y}");
        }
    }

    #[test]
    fn resolutions_show_the_same_scene() {
        for index in 0..12 {
            let (small, large) = (render(3, index, 32).pixels, render(3, index, 64).pixels);
            let mean = |x: usize, y: usize, c: usize| {
                let sum: u32 = [(0, 0), (1, 0), (0, 1), (1, 1)]
                    .iter()
                    .map(|(dx, dy)| u32::from(large[((2 * y + dy) * 64 + 2 * x + dx) * 3 + c]))
                    .sum();
                sum as f64 / 4.0
            };
            let difference: f64 = (0..32 * 32 * 3)
                .map(|i| (f64::from(small[i]) - mean(i / 3 % 32, i / 96, i % 3)).abs())
                .sum::<f64>()
                / (32.0 * 32.0 * 3.0);
            assert!(difference < 4.0, "scene {index} differs by {difference} grey levels");
        }
    }

    /// Runs are compared by the digest of their data: these bytes change only together with `VERSION`.
    #[test]
    fn the_pictures_of_this_version_stay_as_they_are() {
        const DIGEST: &str = "b795087a5ba6f0be0a433079495303d6bc2cf1d0c9631d94b4463c78feb18e77";
        assert_eq!(ImageData::synthetic(0, 24, 32, &|_, _| true).unwrap().digest(), DIGEST);
    }

    #[test]
    fn sets_are_balanced_and_distinct() {
        let data = ImageData::synthetic(0, 36, 16, &|_, _| true).unwrap();
        assert_eq!((data.len(), data.res(), data.class_names().len()), (36, 16, 12));
        assert_eq!((0..36).filter(|&i| data.label(i) == Some(4)).count(), 3);
        let other = ImageData::synthetic(1, 36, 16, &|_, _| true).unwrap();
        assert_ne!(data.digest(), other.digest());
        assert!(ImageData::synthetic(0, 0, 16, &|_, _| true).is_err());
        for count in [99_999_999_999, usize::MAX] {
            let error = ImageData::synthetic(0, count, 16, &|_, _| true).err().unwrap();
            assert!(error.to_string().contains("memory budget"), "{error}");
        }
    }
}
