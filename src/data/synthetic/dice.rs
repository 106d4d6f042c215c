//! The random choices of one scene.

use super::canvas::{Frame, Point, Rgb, at};
use super::shapes::turn;
use crate::rng::Rng;

pub(super) struct Dice(pub(super) Rng);

impl Dice {
    pub(super) fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.0.uniform() as f32
    }

    pub(super) fn chance(&mut self, probability: f32) -> bool {
        self.0.uniform() < f64::from(probability)
    }

    /// 0 to `n - 1`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0.below(n as u64) as usize
    }

    pub(super) fn pick<T: Copy, const N: usize>(&mut self, choices: [T; N]) -> T {
        choices[self.below(N)]
    }

    pub(super) fn seed(&mut self) -> u32 {
        self.0.next_u64() as u32
    }

    /// A colour near `color`.
    pub(super) fn near(&mut self, color: Rgb, spread: f32) -> Rgb {
        let brightness = self.range(-spread, spread);
        let mut vary = |value: f32| (value + brightness + self.range(-spread, spread) * 0.6).clamp(0.0, 1.0);
        Rgb(vary(color.0), vary(color.1), vary(color.2))
    }

    /// A frame near `center` of about `scale`, tilted by at most `tilt` turns, flipped half of the time.
    pub(super) fn frame(&mut self, center: Point, scale: f32, tilt: f32) -> Frame {
        let shift = at(self.range(-0.07, 0.07), self.range(-0.04, 0.04));
        Frame {
            center: at(center.x + shift.x, center.y + shift.y),
            scale: scale * self.range(0.88, 1.12),
            tilt: turn(self.range(-tilt, tilt)),
            flipped: self.chance(0.5),
        }
    }
}
