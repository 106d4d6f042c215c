//! Planted objects: the main object of a scene, small, anywhere, before a backdrop that has nothing to do with it.
//!
//! In the scenes themselves a boat is on water and in the middle: a classifier may be right without having looked at the
//! boat. Here the object is the only thing that tells the class, and where it is says nothing, so an explanation that
//! points elsewhere is wrong.

use super::backdrop::{greenery, meadow, sky, wall, water};
use super::canvas::{Canvas, at};
use super::dice::Dice;
use super::shapes::hsv;
use super::{SCENES, Scene, finish};
use crate::rng::Rng;

/// The picture is thought of as this many cells a side; the object's middle is in a cell drawn at random.
const CELLS: usize = 4;
/// Side of the square that stands for the object's whole scene, as a share of the picture's: the object itself, about 0.7
/// of it, fills most of one cell.
pub const PLANTED_SIZE: f32 = 0.32;
/// The object's middle is this far from the middle of its cell at most, as a share of the cell.
const JITTER: f32 = 0.15;

/// Renders planted object `index` of `seed` at `res` px, at least 1. Its class is `index % 12`; the square of its scene
/// takes `size` of the picture's side, see [`PLANTED_SIZE`]. Larger ones are moved away from the edges.
pub fn render(seed: u64, index: u64, res: usize, size: f32) -> Scene {
    let label = (index % SCENES.len() as u64) as usize;
    let mut canvas = Canvas::new(res);
    let mut dice = Dice(Rng::new(seed).split("planted").at(index));
    backdrop(&mut canvas, &mut dice);
    let margin = (0.75 * (size - PLANTED_SIZE)).clamp(0.0, 0.5);
    let mut middle = || {
        let cell = dice.below(CELLS) as f32 + 0.5 + dice.range(-JITTER, JITTER);
        (cell / CELLS as f32).clamp(margin, 1.0 - margin)
    };
    let middle = at(middle(), middle());
    canvas.plant(at(middle.x - size / 2.0, middle.y - size / 2.0), size);
    SCENES[label].1(&mut canvas, &mut dice);
    finish(canvas, label, res)
}

/// One of the backdrops of the scenes, whatever the object.
fn backdrop(canvas: &mut Canvas, dice: &mut Dice) {
    let color = |dice: &mut Dice, value| hsv(dice.range(0.0, 1.0), dice.range(0.2, 0.7), value);
    match dice.below(5) {
        0 => {
            sky(canvas, dice);
        }
        1 => {
            let day = sky(canvas, dice);
            let height = dice.range(0.3, 0.8);
            meadow(canvas, dice, &day, height);
        }
        2 => {
            let day = sky(canvas, dice);
            let height = dice.range(0.1, 0.6);
            water(canvas, dice, &day, height);
        }
        3 => {
            let (dark, bright) = (color(dice, 0.3), color(dice, 0.8));
            greenery(canvas, dice, dark, bright);
        }
        _ => {
            let value = dice.range(0.4, 0.85);
            let paint = color(dice, value);
            wall(canvas, dice, paint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_small_and_equally_often_in_every_cell() {
        let mut counts = [0; CELLS * CELLS];
        for index in 0..960 {
            let object = render(2, index, 64, PLANTED_SIZE).object;
            let (width, height) = (object.right - object.left, object.bottom - object.top);
            // A tall tree's scene does not hold all of it.
            assert!(width.max(height) <= PLANTED_SIZE + 0.08, "object {index} is {width} by {height}");
            assert!(width.max(height) >= 0.1, "object {index} is {width} by {height}");
            let cell = |low: f32, high: f32| ((low + high) / 2.0 * CELLS as f32) as usize;
            counts[cell(object.top, object.bottom) * CELLS + cell(object.left, object.right)] += 1;
        }
        assert!(counts.iter().all(|n| (30..=95).contains(n)), "{counts:?}");
    }

    #[test]
    fn a_larger_object_is_in_the_picture() {
        for index in 0..96 {
            let object = render(3, index, 64, 0.64).object;
            let (width, height) = (object.right - object.left, object.bottom - object.top);
            assert!((0.2..=0.72).contains(&width.max(height)), "object {index} is {width} by {height}");
            let middle = [(object.left + object.right) / 2.0, (object.top + object.bottom) / 2.0];
            assert!(middle.iter().all(|m| (0.15..=0.85).contains(m)), "object {index} is at {middle:?}");
        }
    }

    #[test]
    fn outside_the_object_there_is_only_the_backdrop() {
        const RES: usize = 64;
        for index in 0..36 {
            let scene = render(4, index, RES, PLANTED_SIZE);
            let mut canvas = Canvas::new(RES);
            backdrop(&mut canvas, &mut Dice(Rng::new(4).split("planted").at(index)));
            let plain = canvas.into_bytes();
            let object = scene.object;
            // Antialiased and glowing edges reach a little over the box, which ends where half is covered.
            let near = |place: usize, low: f32, high: f32| {
                let place = place as f32;
                place >= low * RES as f32 - 4.0 && place < high * RES as f32 + 4.0
            };
            for (i, (got, expected)) in scene.pixels.chunks(3).zip(plain.chunks(3)).enumerate() {
                let inside =
                    near(i % RES, object.left, object.right) && near(i / RES, object.top, object.bottom);
                assert!(inside || got == expected, "object {index} is at pixel {i}, outside {object:?}");
            }
        }
    }
}
