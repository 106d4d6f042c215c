//! What lies behind the main object: skies with clouds, sun, moon and stars, land, water, blurred greenery, walls.

use super::canvas::{Area, Canvas, Frame, Point, Rgb, at};
use super::dice::Dice;
use super::shapes::{circle, ellipse, noise, sine, smoothstep, value_noise};

/// The time of day: colours of the sky, and the light that falls on things.
#[derive(Clone, Copy)]
pub(super) struct Daylight {
    pub(super) zenith: Rgb,
    pub(super) horizon: Rgb,
    pub(super) light: Rgb,
    pub(super) is_night: bool,
}

const fn daylight(zenith: Rgb, horizon: Rgb, light: Rgb, is_night: bool) -> Daylight {
    Daylight { zenith, horizon, light, is_night }
}

const DAYLIGHTS: [Daylight; 7] = [
    daylight(Rgb(0.20, 0.52, 0.92), Rgb(0.74, 0.90, 0.99), Rgb(1.0, 1.0, 1.0), false),
    daylight(Rgb(0.12, 0.42, 0.84), Rgb(0.60, 0.84, 0.97), Rgb(1.02, 1.0, 0.96), false),
    daylight(Rgb(0.46, 0.60, 0.90), Rgb(1.0, 0.83, 0.70), Rgb(1.05, 0.98, 0.92), false),
    daylight(Rgb(0.34, 0.24, 0.56), Rgb(1.0, 0.60, 0.32), Rgb(1.04, 0.86, 0.76), false),
    daylight(Rgb(0.55, 0.66, 0.76), Rgb(0.88, 0.91, 0.92), Rgb(0.94, 0.96, 0.98), false),
    daylight(Rgb(0.14, 0.14, 0.38), Rgb(0.66, 0.42, 0.60), Rgb(0.80, 0.74, 0.88), true),
    daylight(Rgb(0.03, 0.05, 0.17), Rgb(0.15, 0.22, 0.46), Rgb(0.60, 0.68, 0.90), true),
];

/// Paints a sky with clouds and, at random, a sun, or a moon and stars.
pub(super) fn sky(canvas: &mut Canvas, dice: &mut Dice) -> Daylight {
    let day = DAYLIGHTS[dice.below(DAYLIGHTS.len())];
    let clouds = dice.seed();
    let shift = dice.range(0.0, 50.0);
    let cover = dice.range(0.42, 0.75);
    let cloud_color = Rgb(1.0, 1.0, 1.0).tinted(day.light).mix(day.horizon, 0.25);
    canvas.place(Frame::PICTURE);
    canvas.fill(|p| {
        let base = day.zenith.mix(day.horizon, smoothstep(-0.1, 0.85, p.y));
        let density = noise(at(p.x * 3.0 + shift, p.y * 6.5), clouds);
        base.mix(cloud_color, 0.8 * smoothstep(cover, cover + 0.22, density))
    });
    if day.is_night {
        scatter_stars(canvas, dice, 14);
    }
    if dice.chance(0.7) {
        let place = at(dice.pick([0.17, 0.83]) + dice.range(-0.05, 0.05), dice.range(0.10, 0.24));
        let radius = dice.range(0.055, 0.095);
        if day.is_night { moon(canvas, place, radius, day.zenith) } else { sun(canvas, place, radius) }
    }
    day
}

/// `count` small stars of different brightness.
pub(super) fn scatter_stars(canvas: &mut Canvas, dice: &mut Dice, count: usize) {
    for _ in 0..count {
        let star = at(dice.range(0.02, 0.98), dice.range(0.02, 0.75));
        let size = dice.range(0.005, 0.012);
        let brightness = dice.range(0.4, 1.0);
        let area = Area(star.x - size, star.y - size, star.x + size, star.y + size);
        canvas.paint_soft(area, size, brightness, |p| circle(p, star, size), |_| Rgb(1.0, 0.98, 0.90));
    }
}

fn sun(canvas: &mut Canvas, place: Point, radius: f32) {
    let glow = radius * 3.0;
    let area = Area(place.x - glow, place.y - glow, place.x + glow, place.y + glow);
    let warm = Rgb(1.0, 0.93, 0.62);
    canvas.paint_soft(area, glow * 1.4, 0.75, |p| circle(p, place, radius * 1.2), |_| warm);
    canvas.paint(area, |p| circle(p, place, radius), |_| Rgb(1.0, 0.96, 0.74));
}

fn moon(canvas: &mut Canvas, place: Point, radius: f32, shadow: Rgb) {
    let area = Area(place.x - radius, place.y - radius, place.x + radius, place.y + radius);
    let bite = at(place.x + radius * 0.5, place.y - radius * 0.25);
    canvas.paint_soft(
        area,
        radius,
        0.25,
        |p| circle(p, place, radius * 1.3),
        |_| Rgb(0.9, 0.92, 1.0).mix(shadow, 0.5),
    );
    let crescent = |p| circle(p, place, radius).max(-circle(p, bite, radius * 0.8));
    canvas.paint(area, crescent, |_| Rgb(0.97, 0.96, 0.86));
}

/// Rolling land below about `height` in two layers; returns the height of the nearer one at the middle.
pub(super) fn meadow(canvas: &mut Canvas, dice: &mut Dice, day: &Daylight, height: f32) {
    let green =
        dice.pick([Rgb(0.36, 0.66, 0.24), Rgb(0.46, 0.68, 0.22), Rgb(0.24, 0.56, 0.28), Rgb(0.72, 0.66, 0.30)]);
    let green = dice.near(green, 0.05).tinted(day.light);
    canvas.place(Frame::PICTURE);
    for (lift, color) in [(0.09, green.mix(day.horizon, 0.35)), (0.0, green)] {
        let phase = dice.range(0.0, 1.0);
        let swing = dice.range(0.015, 0.04);
        let grass = dice.seed();
        let top = height - lift;
        let edge = |p: Point| top + swing * sine(phase + p.x * 0.8) - p.y;
        let shade = |p: Point| {
            let blades = value_noise(at(p.x * 34.0, p.y * 16.0), grass);
            color.times(0.80 + 0.28 * blades - 0.22 * (p.y - top))
        };
        canvas.paint(Area(0.0, top - swing, 1.0, 1.0), edge, shade);
    }
}

/// Water from `height` down, with waves that flatten towards the horizon.
pub(super) fn water(canvas: &mut Canvas, dice: &mut Dice, day: &Daylight, height: f32) {
    let deep =
        dice.pick([Rgb(0.05, 0.32, 0.56), Rgb(0.04, 0.42, 0.52), Rgb(0.10, 0.26, 0.50)]).tinted(day.light);
    let waves = dice.seed();
    canvas.place(Frame::PICTURE);
    canvas.paint(
        Area(0.0, height, 1.0, 1.0),
        |p| height - p.y,
        |p| {
            let depth = ((p.y - height) / (1.0 - height)).max(0.0);
            let crest = value_noise(at(p.x * 9.0 / (0.35 + depth), 40.0 * depth / (0.5 + depth)), waves);
            let base = day.horizon.mix(deep, 0.35 + 0.6 * depth.sqrt());
            base.mix(Rgb(1.0, 1.0, 1.0).tinted(day.light), 0.45 * smoothstep(0.62, 0.95, crest))
        },
    );
}

/// Blurred greenery with round spots of light, as behind a close-up.
pub(super) fn greenery(canvas: &mut Canvas, dice: &mut Dice, dark: Rgb, bright: Rgb) {
    let seed = dice.seed();
    let shift = dice.range(0.0, 50.0);
    canvas.fill(|p| {
        let patch = value_noise(at(p.x * 3.0 + shift, p.y * 3.0), seed);
        dark.mix(bright, smoothstep(0.15, 0.9, patch * 0.75 + 0.45 * (0.6 - p.y)))
    });
    canvas.place(Frame::PICTURE);
    for _ in 0..7 {
        let spot = at(dice.range(0.0, 1.0), dice.range(0.0, 0.9));
        let radius = dice.range(0.03, 0.10);
        let area = Area(spot.x - radius, spot.y - radius, spot.x + radius, spot.y + radius);
        let color = bright.mix(Rgb(1.0, 1.0, 0.8), dice.range(0.2, 0.6));
        canvas.paint_soft(area, radius * 0.25, 0.35, |p| circle(p, spot, radius), |_| color);
    }
}

/// A wall in one colour: plain, striped or dotted.
pub(super) fn wall(canvas: &mut Canvas, dice: &mut Dice, color: Rgb) {
    let pattern = dice.below(3);
    let count = dice.range(4.0, 8.0);
    let phase = at(dice.range(0.0, 1.0), dice.range(0.0, 1.0));
    let accent = color.mix(Rgb(1.0, 1.0, 1.0), 0.28);
    canvas.fill(|p| {
        let light = 1.12 - 0.30 * (p.x * 0.4 + p.y * 0.8);
        let cell = at(p.x * count + phase.x, p.y * count + phase.y);
        let share = match pattern {
            0 => 0.0,
            1 => smoothstep(-0.12, 0.12, sine(cell.x)),
            _ => {
                let odd = cell.y.floor() * 0.5;
                let inner = at(cell.x + odd - (cell.x + odd).floor() - 0.5, cell.y - cell.y.floor() - 0.5);
                smoothstep(0.30, 0.20, inner.length())
            }
        };
        color.mix(accent, share).times(light)
    });
}

/// A soft dark spot under a thing that stands on the ground, in the frame's coordinates.
pub(super) fn shadow(canvas: &mut Canvas, center: Point, radii: Point) {
    let area = Area(center.x - radii.x, center.y - radii.y, center.x + radii.x, center.y + radii.y);
    canvas.paint_soft(area, radii.y, 0.45, |p| ellipse(p, center, radii), |_| Rgb(0.04, 0.05, 0.08));
}
