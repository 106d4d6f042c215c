//! Scenes in the air, on and in water, and in space: balloon, boat, fish, planet.

use super::backdrop::{meadow, scatter_stars, sky, water};
use super::canvas::{Area, Canvas, Frame, Point, Rgb, at};
use super::dice::Dice;
use super::shapes::{
    circle, convex, ellipse, hsv, lit, noise, rounded_box, segment, sine, smooth_union, smoothstep, value_noise,
};

/// A striped hot-air balloon above low hills.
pub(super) fn balloon(canvas: &mut Canvas, dice: &mut Dice) {
    let day = sky(canvas, dice);
    meadow(canvas, dice, &day, 0.94);
    canvas.place(dice.frame(at(0.5, 0.47), 0.40, 0.012));
    canvas.mark_object(true);
    for x in [-0.10, 0.10] {
        let rope = move |p| segment(p, at(x * 1.9, 0.45), at(x, 0.86), 0.012);
        canvas.paint(Area(-0.2, 0.4, 0.2, 0.9), rope, |_| Rgb(0.25, 0.18, 0.12));
    }
    let hue = dice.range(0.0, 1.0);
    let first = hsv(hue, 0.80, 0.92).tinted(day.light);
    let other_hue = hue + dice.pick([0.12, 0.5, 0.33]);
    let second =
        if dice.chance(0.4) { Rgb(0.98, 0.96, 0.90) } else { hsv(other_hue, 0.7, 0.98) }.tinted(day.light);
    let gores = dice.range(1.3, 2.2);
    let (banded, phase) = (dice.chance(0.25), dice.range(0.0, 1.0));
    let envelope = |p: Point| {
        let neck = [at(-0.52, 0.10), at(0.52, 0.10), at(0.15, 0.66), at(-0.15, 0.66)];
        smooth_union(circle(p, at(0.0, -0.26), 0.70), convex(p, neck), 0.18)
    };
    canvas.paint(Area(-0.75, -1.0, 0.75, 0.7), envelope, |p| {
        let half = if p.y < 0.1 {
            (0.5 - (p.y + 0.26) * (p.y + 0.26)).max(0.04).sqrt()
        } else {
            0.62 - 0.70 * (p.y - 0.1)
        };
        let across = (p.x / half.max(0.12)).clamp(-1.0, 1.0);
        // The arc sine of `across`, roughly: stripes crowd towards the rim as on a ball.
        let angle = across * (1.0 + 0.35 * across * across);
        let stripe = if banded { sine(p.y * gores + phase) } else { sine(angle * gores * 0.74 + phase) };
        let color = first.mix(second, smoothstep(-0.2, 0.2, stripe));
        lit(color, at(p.x, p.y + 0.20), 0.74)
    });
    let wicker = dice.near(Rgb(0.55, 0.36, 0.18), 0.05).tinted(day.light);
    canvas.paint(
        Area(-0.15, 0.80, 0.15, 1.03),
        |p| rounded_box(p, at(0.0, 0.91), at(0.145, 0.11), 0.03),
        |p| wicker.times(1.05 - 1.6 * p.x - 0.22 * sine(p.y * 14.0)),
    );
    canvas.mark_object(false);
}

/// A sailing boat on the sea.
pub(super) fn boat(canvas: &mut Canvas, dice: &mut Dice) {
    let day = sky(canvas, dice);
    let horizon = dice.range(0.56, 0.64);
    water(canvas, dice, &day, horizon);
    let frame = dice.frame(at(0.5, 0.48), 0.42, 0.012);
    canvas.place(frame);
    let reflection = Area(-0.8, 0.5, 0.8, 0.95);
    canvas.paint_soft(
        reflection,
        0.25,
        0.40,
        |p| ellipse(at(p.x + 0.05 * sine(p.y * 6.0), p.y), at(0.0, 0.70), at(0.72, 0.20)),
        |_| Rgb(0.03, 0.10, 0.20),
    );
    canvas.mark_object(true);
    let cloth_hue = dice.range(0.0, 1.0);
    let white = Rgb(0.98, 0.97, 0.93);
    let main = if dice.chance(0.5) { white } else { hsv(cloth_hue, 0.65, 0.95) }.tinted(day.light);
    let jib = if dice.chance(0.5) { white } else { hsv(cloth_hue + 0.08, 0.7, 0.95) }.tinted(day.light);
    let top = dice.range(-0.98, -0.82);
    let reach = dice.range(0.55, 0.72);
    canvas.paint(
        Area(-0.03, top - 0.05, 0.05, 0.4),
        |p| segment(p, at(0.0, top), at(0.0, 0.4), 0.022),
        |_| Rgb(0.36, 0.24, 0.14),
    );
    let bands = dice.chance(0.35);
    let sail = [at(0.05, top + 0.03), at(reach, 0.27), at(0.05, 0.27)];
    canvas.paint(
        Area(0.05, top, reach, 0.27),
        |p| convex(p, sail),
        |p| {
            let stripe = if bands { smoothstep(-0.2, 0.2, sine(p.y * 2.4)) * 0.55 } else { 0.0 };
            main.times(1.06 - 0.5 * p.x + 0.1 * p.y).mix(jib.times(0.9), stripe)
        },
    );
    let fore = [at(-0.05, top + 0.12), at(-0.05, 0.27), at(-reach * 0.85, 0.27)];
    canvas.paint(Area(-reach, top, -0.05, 0.27), |p| convex(p, fore), |p| jib.times(0.88 - 0.35 * p.x));
    let hull_color = dice.pick([
        Rgb(0.62, 0.20, 0.14),
        Rgb(0.16, 0.26, 0.46),
        Rgb(0.50, 0.32, 0.18),
        Rgb(0.92, 0.92, 0.90),
        Rgb(0.14, 0.44, 0.40),
    ]);
    let hull_color = dice.near(hull_color, 0.04).tinted(day.light);
    let hull = [at(-0.82, 0.36), at(0.82, 0.36), at(0.58, 0.68), at(-0.54, 0.68)];
    canvas.paint(
        Area(-0.85, 0.32, 0.85, 0.7),
        |p| convex(p, hull) - 0.02,
        |p| {
            let rail = smoothstep(0.045, 0.03, (p.y - 0.41).abs());
            hull_color.times(1.1 - 1.1 * (p.y - 0.36) - 0.2 * p.x).mix(white.tinted(day.light), rail * 0.85)
        },
    );
    canvas.mark_object(false);
    canvas.place(Frame::PICTURE);
    let foam = dice.seed();
    let line = frame.center.y + frame.scale * 0.67;
    canvas.paint_soft(
        Area(0.0, line - 0.03, 1.0, line + 0.06),
        0.03,
        0.75,
        |p| {
            let crest = 0.02 * (value_noise(at(p.x * 12.0, 0.0), foam) - 0.5);
            ellipse(at(p.x, p.y + crest), at(frame.center.x, line), at(frame.scale * 0.78, 0.012))
        },
        |_| Rgb(0.92, 0.97, 1.0).tinted(day.light),
    );
}

/// A striped fish among bubbles and weed.
pub(super) fn fish(canvas: &mut Canvas, dice: &mut Dice) {
    let (surface, depth) = dice.pick([
        (Rgb(0.36, 0.80, 0.92), Rgb(0.02, 0.26, 0.48)),
        (Rgb(0.44, 0.86, 0.80), Rgb(0.02, 0.34, 0.42)),
        (Rgb(0.34, 0.62, 0.92), Rgb(0.04, 0.12, 0.40)),
    ]);
    let rays = dice.seed();
    canvas.fill(|p| {
        let ray = value_noise(at((p.x + 0.35 * p.y) * 6.0, 0.4 * p.y), rays);
        surface.mix(depth, smoothstep(-0.15, 1.05, p.y)).times(1.0 + 0.35 * (ray - 0.4) * (1.0 - p.y))
    });
    sea_floor(canvas, dice, depth);
    canvas.place(dice.frame(at(0.5, 0.50), 0.44, 0.03));
    canvas.mark_object(true);
    let hue = dice.pick([0.03, 0.08, 0.13, 0.55, 0.62, 0.86]) + dice.range(-0.03, 0.03);
    let body_color = hsv(hue, 0.80, 0.97);
    let stripe_color = if dice.chance(0.5) { Rgb(0.98, 0.96, 0.92) } else { hsv(hue + 0.45, 0.7, 0.55) };
    let fin = hsv(hue + 0.03, 0.85, 0.85);
    let plump = dice.range(0.36, 0.52);
    let fork = dice.range(0.34, 0.48);
    let ribs = |p: Point| fin.times(0.95 + 0.15 * sine(p.y * 5.0 + p.x * 2.0));
    let tail = |p: Point| {
        let upper = convex(p, [at(-0.92, -fork), at(-0.42, 0.0), at(-0.80, 0.04)]);
        let lower = convex(p, [at(-0.80, -0.04), at(-0.42, 0.0), at(-0.92, fork)]);
        upper.min(lower) - 0.03
    };
    canvas.paint(Area(-1.0, -0.55, -0.4, 0.55), tail, ribs);
    let back = |p: Point| ellipse(p, at(-0.02, -plump * 0.85), at(0.34, 0.20));
    canvas.paint(Area(-0.4, -0.75, 0.36, 0.0), back, ribs);
    let belly = |p: Point| ellipse(p, at(-0.05, plump * 0.92), at(0.16, 0.16));
    canvas.paint(Area(-0.3, 0.0, 0.2, 0.7), belly, ribs);
    let body = |p: Point| {
        let trunk = ellipse(p, at(0.10, 0.0), at(0.64, plump));
        smooth_union(trunk, segment(p, at(-0.5, 0.0), at(-0.3, 0.0), 0.09), 0.2)
    };
    let stripes = dice.range(1.2, 2.6);
    let (phase, striped) = (dice.range(0.0, 1.0), dice.chance(0.75));
    canvas.paint(Area(-0.62, -0.56, 0.76, 0.56), body, |p| {
        let band =
            if striped { smoothstep(0.1, 0.4, sine(p.x * stripes + phase + 0.25 * p.y * p.y)) } else { 0.0 };
        let scales = 0.08 * sine(p.x * 9.0 + p.y * 4.5) * sine(p.y * 9.0 - p.x * 4.5);
        let belly = smoothstep(0.05, 0.45, p.y) * 0.35;
        let color = body_color.mix(stripe_color, band).mix(Rgb(1.0, 0.98, 0.9), belly);
        lit(color, at((p.x - 0.1) * 0.7, p.y), 0.55).times(1.0 + scales)
    });
    let side_fin = [at(-0.05, 0.02), at(0.16, 0.10), at(-0.10, 0.30)];
    canvas.paint(
        Area(-0.2, 0.0, 0.2, 0.35),
        |p| convex(p, side_fin) - 0.03,
        |p| fin.times(0.9 + 0.2 * sine(p.y * 6.0)),
    );
    let eye = at(0.46, -0.10);
    canvas.paint(Area(0.3, -0.25, 0.6, 0.05), |p| circle(p, eye, 0.105), |_| Rgb(0.99, 0.99, 0.97));
    canvas.paint(
        Area(0.3, -0.25, 0.6, 0.05),
        |p| circle(p, at(0.485, -0.10), 0.058),
        |_| Rgb(0.05, 0.05, 0.08),
    );
    canvas.mark_object(false);
    bubbles(canvas, dice);
}

fn sea_floor(canvas: &mut Canvas, dice: &mut Dice, depth: Rgb) {
    canvas.place(Frame::PICTURE);
    let sand = Rgb(0.80, 0.72, 0.50).mix(depth, 0.35);
    let grains = dice.seed();
    canvas.paint(
        Area(0.0, 0.84, 1.0, 1.0),
        |p| 0.90 + 0.03 * sine(p.x * 1.1) - p.y,
        |p| sand.times(0.85 + 0.3 * noise(at(p.x * 20.0, p.y * 30.0), grains)),
    );
    for _ in 0..4 {
        let foot = dice.range(0.03, 0.97);
        let tall = dice.range(0.15, 0.36);
        let phase = dice.range(0.0, 1.0);
        let weed = dice.near(Rgb(0.12, 0.50, 0.28), 0.08).mix(depth, 0.25);
        let blade = |p: Point| {
            let sway = 0.03 * sine(p.y * 3.0 + phase);
            segment(at(p.x - sway, p.y), at(foot, 1.0), at(foot, 0.96 - tall), 0.018)
        };
        canvas.paint(Area(foot - 0.06, 0.92 - tall, foot + 0.06, 1.0), blade, |p| weed.times(1.5 - 0.7 * p.y));
    }
}

fn bubbles(canvas: &mut Canvas, dice: &mut Dice) {
    canvas.place(Frame::PICTURE);
    for _ in 0..5 {
        let place = at(dice.range(0.05, 0.95), dice.range(0.05, 0.6));
        let radius = dice.range(0.012, 0.035);
        let area = Area(place.x - radius, place.y - radius, place.x + radius, place.y + radius);
        let ring = |p| circle(p, place, radius * 0.85).abs() - radius * 0.15;
        canvas.paint_soft(area, 0.0, 0.75, ring, |_| Rgb(0.92, 0.98, 1.0));
    }
}

/// A banded or cloudy planet among stars, often with a ring.
pub(super) fn planet(canvas: &mut Canvas, dice: &mut Dice) {
    let nebula = dice.seed();
    let tone_hue = dice.range(0.55, 0.95);
    let tone = hsv(tone_hue, 0.7, 0.45);
    let shift = dice.range(0.0, 50.0);
    canvas.fill(|p| {
        let cloud = noise(at(p.x * 2.6 + shift, p.y * 2.6), nebula);
        Rgb(0.02, 0.02, 0.07).mix(tone, 0.85 * smoothstep(0.45, 0.95, cloud))
    });
    canvas.place(Frame::PICTURE);
    scatter_stars(canvas, dice, 26);
    let ringed = dice.chance(0.65);
    canvas.place(dice.frame(at(0.5, 0.5), if ringed { 0.42 } else { 0.46 }, if ringed { 0.09 } else { 0.05 }));
    canvas.mark_object(true);
    let hue = dice.range(0.0, 1.0);
    let radius = if ringed { 0.58 } else { 0.74 };
    let ring_color = hsv(hue + 0.08, 0.30, 0.92);
    let ring_flat = dice.range(0.20, 0.32);
    let ring = |p: Point| {
        let r = at(p.x, p.y / ring_flat).length();
        ((r - 0.86).abs() - 0.16) * ring_flat
    };
    let ring_shade = |p: Point| {
        let r = at(p.x, p.y / ring_flat).length();
        ring_color.times(0.72 + 0.28 * sine(r * 7.0))
    };
    if ringed {
        canvas.paint(Area(-1.05, -0.4, 1.05, 0.4), ring, ring_shade);
    }
    let surface = dice.seed();
    let (base, accent) = (hsv(hue, 0.62, 0.92), hsv(hue + dice.pick([0.06, 0.10, 0.5]), 0.50, 0.98));
    let banded = ringed || dice.chance(0.5);
    let bands = dice.range(1.2, 2.4);
    canvas.paint(
        Area(-radius, -radius, radius, radius),
        |p| circle(p, at(0.0, 0.0), radius),
        |p| {
            let swirl = noise(at(p.x * 3.2 + 9.0, p.y * 4.0), surface);
            let share = if banded {
                0.5 + 0.5 * sine(p.y * bands + 0.35 * swirl)
            } else {
                smoothstep(0.42, 0.58, swirl)
            };
            let color = base.mix(accent, share);
            let night = smoothstep(0.75, -0.15, (0.62 * p.x + 0.55 * p.y) / radius);
            color.times(0.16 + 0.98 * night).times(1.0 - 0.25 * (p.length() / radius) * (p.length() / radius))
        },
    );
    if ringed {
        canvas.paint(Area(-1.05, 0.0, 1.05, 0.4), |p| ring(p).max(-p.y), ring_shade);
    }
    canvas.mark_object(false);
}
