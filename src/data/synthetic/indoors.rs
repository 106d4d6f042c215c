//! Close-ups: cat, robot, flower.

use super::backdrop::{greenery, wall};
use super::canvas::{Area, Canvas, Point, Rgb, at};
use super::dice::Dice;
use super::shapes::{
    circle, convex, ellipse, hsv, lit, noise, rounded_box, segment, sine, smoothstep, turn, value_noise,
};

/// A cat's face before a wall.
pub(super) fn cat(canvas: &mut Canvas, dice: &mut Dice) {
    let hue = dice.range(0.0, 1.0);
    let (saturation, value) = (dice.range(0.25, 0.55), dice.range(0.55, 0.9));
    wall(canvas, dice, hsv(hue, saturation, value));
    canvas.place(dice.frame(at(0.5, 0.55), 0.42, 0.02));
    canvas.mark_object(true);
    let coat = dice.pick([
        Rgb(0.92, 0.60, 0.26),
        Rgb(0.60, 0.58, 0.58),
        Rgb(0.24, 0.22, 0.24),
        Rgb(0.96, 0.94, 0.90),
        Rgb(0.66, 0.46, 0.30),
        Rgb(0.88, 0.78, 0.62),
    ]);
    let coat = dice.near(coat, 0.04);
    let pink = Rgb(0.95, 0.62, 0.62);
    let tip = dice.range(-1.0, -0.86);
    for side in [-1.0_f32, 1.0] {
        let ear =
            |p: Point| convex(at(p.x * side, p.y), [at(0.60, tip), at(0.76, -0.14), at(0.12, -0.48)]) - 0.03;
        let area = if side > 0.0 { Area(0.05, tip, 0.85, -0.05) } else { Area(-0.85, tip, -0.05, -0.05) };
        canvas.paint(area, ear, |p| coat.times(0.95 - 0.15 * p.x));
        canvas.paint(area, |p| ear(p) + 0.11, |_| pink.times(0.9));
    }
    let fur = dice.seed();
    let tabby = dice.chance(0.45);
    let light = dice.chance(0.5);
    let head = |p: Point| ellipse(p, at(0.0, 0.08), at(0.80, 0.66));
    canvas.paint(Area(-0.8, -0.6, 0.8, 0.76), head, |p| {
        let hair = 0.16 * (noise(at(p.x * 14.0, p.y * 18.0), fur) - 0.5);
        let forehead = smoothstep(-0.12, -0.25, p.y) * smoothstep(0.36, 0.28, p.x.abs());
        let cheeks = smoothstep(0.52, 0.60, p.x.abs()) * smoothstep(0.0, 0.1, p.y);
        let stripes = if tabby {
            0.45 * (forehead * smoothstep(0.0, 0.5, sine(p.x * 4.2 + 0.25))
                + cheeks * smoothstep(0.0, 0.5, sine(p.y * 4.5)))
        } else {
            0.0
        };
        lit(coat, at(p.x, p.y - 0.05), 0.85).times(1.0 + hair - stripes)
    });
    let muzzle_color = if light { Rgb(0.98, 0.96, 0.93) } else { coat.mix(Rgb(1.0, 0.98, 0.95), 0.45) };
    let muzzle = |p: Point| ellipse(at(p.x.abs(), p.y), at(0.15, 0.40), at(0.20, 0.16));
    canvas.paint(Area(-0.36, 0.2, 0.36, 0.6), muzzle, |p| lit(muzzle_color, at(p.x, p.y - 0.4), 0.5));
    let iris =
        dice.pick([Rgb(0.46, 0.78, 0.30), Rgb(0.95, 0.78, 0.20), Rgb(0.34, 0.66, 0.92), Rgb(0.86, 0.52, 0.16)]);
    let slit = dice.range(0.03, 0.085);
    for x in [-0.33, 0.33] {
        let area = Area(x - 0.2, -0.15, x + 0.2, 0.2);
        canvas.paint(area, |p| ellipse(p, at(x, 0.02), at(0.175, 0.155)), |_| Rgb(0.08, 0.07, 0.07));
        canvas.paint(
            area,
            |p| ellipse(p, at(x, 0.02), at(0.15, 0.13)),
            |p| iris.times(1.1 + 1.2 * (p.y - 0.02)),
        );
        canvas.paint(area, |p| ellipse(p, at(x, 0.02), at(slit, 0.125)), |_| Rgb(0.04, 0.04, 0.05));
        canvas.paint(area, |p| circle(p, at(x - 0.05, -0.04), 0.035), |_| Rgb(1.0, 1.0, 1.0));
    }
    let nose = [at(-0.095, 0.255), at(0.095, 0.255), at(0.0, 0.35)];
    canvas.paint(Area(-0.12, 0.22, 0.12, 0.38), |p| convex(p, nose) - 0.02, |_| pink.times(0.85));
    let dark = coat.times(0.25);
    for side in [-1.0_f32, 1.0] {
        canvas.paint(
            Area(-0.2, 0.3, 0.2, 0.5),
            |p| segment(p, at(0.0, 0.38), at(0.11 * side, 0.46), 0.018),
            |_| dark,
        );
        for drop in [-0.05, 0.06] {
            let whisker =
                |p| segment(p, at(0.28 * side, 0.38 + drop), at(0.92 * side, 0.34 + 2.4 * drop), 0.011);
            canvas.paint(Area(-0.95, 0.1, 0.95, 0.7), whisker, |_| Rgb(0.97, 0.97, 0.97));
        }
    }
    canvas.mark_object(false);
}

/// A robot's head before a wall.
pub(super) fn robot(canvas: &mut Canvas, dice: &mut Dice) {
    let hue = dice.range(0.0, 1.0);
    let (saturation, value) = (dice.range(0.3, 0.6), dice.range(0.4, 0.85));
    wall(canvas, dice, hsv(hue, saturation, value));
    canvas.place(dice.frame(at(0.5, 0.56), 0.42, 0.012));
    canvas.mark_object(true);
    let metal_hue = hue + dice.range(0.3, 0.7);
    let metal = if dice.chance(0.4) { Rgb(0.72, 0.76, 0.80) } else { hsv(metal_hue, 0.42, 0.84) };
    let trim = metal.times(0.55);
    let glow_hue = dice.pick([0.0, 0.12, 0.33, 0.52, 0.83]);
    let glow = hsv(glow_hue, 0.85, 1.0);
    canvas.paint(Area(-0.05, -0.92, 0.05, -0.5), |p| segment(p, at(0.0, -0.86), at(0.0, -0.5), 0.03), |_| trim);
    let bulb = at(0.0, -0.90);
    canvas.paint(
        Area(-0.11, -1.01, 0.11, -0.79),
        |p| circle(p, bulb, 0.10),
        |p| lit(glow, p.minus(bulb), 0.11),
    );
    for side in [-1.0_f32, 1.0] {
        let ear = |p| rounded_box(p, at(0.80 * side, 0.02), at(0.12, 0.20), 0.05);
        canvas.paint(Area(-0.95, -0.2, 0.95, 0.25), ear, |p| trim.times(1.1 - 0.4 * p.y));
    }
    let corner = dice.range(0.08, 0.30);
    let jaw = dice.range(0.60, 0.72);
    let scratches = dice.seed();
    canvas.paint(
        Area(-0.76, -0.58, 0.76, jaw),
        |p| rounded_box(p, at(0.0, (jaw - 0.58) * 0.5), at(0.74, (jaw + 0.58) * 0.5), corner),
        |p| {
            let brushed = 0.10 * (value_noise(at(p.x * 4.0, p.y * 34.0), scratches) - 0.5);
            metal.times(1.10 - 0.24 * p.x - 0.34 * p.y + brushed)
        },
    );
    let round_eyes = dice.chance(0.6);
    let gaze = dice.range(-0.05, 0.05);
    for x in [-0.32, 0.32] {
        let area = Area(x - 0.25, -0.4, x + 0.25, 0.12);
        let eye = |p: Point, grow: f32| {
            if round_eyes {
                circle(p, at(x, -0.14), 0.17 + grow)
            } else {
                rounded_box(p, at(x, -0.14), at(0.18 + grow, 0.13 + grow), 0.04)
            }
        };
        canvas.paint(area, |p| eye(p, 0.06), |_| trim.times(0.55));
        canvas.paint(
            area,
            |p| eye(p, 0.0),
            |p| glow.mix(Rgb(1.0, 1.0, 1.0), 0.5 * smoothstep(0.16, 0.0, p.minus(at(x, -0.14)).length())),
        );
        canvas.paint(area, |p| circle(p, at(x + gaze, -0.14), 0.06), |_| Rgb(0.06, 0.06, 0.10));
    }
    let teeth = dice.range(3.0, 5.0);
    canvas.paint(
        Area(-0.46, 0.22, 0.46, 0.5),
        |p| rounded_box(p, at(0.0, 0.36), at(0.44, 0.11), 0.05),
        |p| {
            trim.times(0.5).mix(
                Rgb(0.95, 0.95, 0.90),
                smoothstep(-0.5, 0.0, sine(p.x * teeth)) * smoothstep(0.09, 0.07, (p.y - 0.36).abs()),
            )
        },
    );
    for corner in [at(-0.60, -0.44), at(0.60, -0.44), at(-0.60, jaw - 0.14), at(0.60, jaw - 0.14)] {
        let area = Area(corner.x - 0.05, corner.y - 0.05, corner.x + 0.05, corner.y + 0.05);
        canvas.paint(area, |p| circle(p, corner, 0.045), |_| trim);
    }
    canvas.mark_object(false);
}

/// A flower with a round heart before blurred greenery.
pub(super) fn flower(canvas: &mut Canvas, dice: &mut Dice) {
    let bright = dice.pick([Rgb(0.50, 0.72, 0.30), Rgb(0.34, 0.64, 0.46), Rgb(0.64, 0.74, 0.36)]);
    greenery(canvas, dice, Rgb(0.08, 0.24, 0.12), bright);
    canvas.place(dice.frame(at(0.5, 0.43), 0.40, 0.02));
    canvas.mark_object(true);
    let stem = dice.near(Rgb(0.24, 0.52, 0.18), 0.04);
    let bend = dice.range(-0.25, 0.25);
    let stalk = |p: Point| segment(at(p.x - bend * p.y * p.y, p.y), at(0.0, 0.1), at(0.0, 1.6), 0.045);
    canvas.paint(Area(-0.9, 0.1, 0.9, 1.6), stalk, |p| stem.times(1.0 - 2.0 * p.x));
    let leaf_y = dice.range(0.95, 1.15);
    let leaf_x = bend * leaf_y * leaf_y;
    let leaf = |p: Point| {
        let q = p.minus(at(leaf_x + 0.26, leaf_y - 0.08));
        ellipse(at(q.x + 0.5 * q.y, q.y - 0.3 * q.x), at(0.0, 0.0), at(0.26, 0.11))
    };
    canvas.paint(Area(leaf_x - 0.1, leaf_y - 0.4, leaf_x + 0.65, leaf_y + 0.3), leaf, |p| {
        stem.times(1.3 - 0.5 * (p.y - leaf_y))
    });
    let hue = dice.pick([0.0, 0.08, 0.14, 0.58, 0.75, 0.86, 0.93]) + dice.range(-0.03, 0.03);
    let petal = if dice.chance(0.2) { Rgb(0.98, 0.97, 0.95) } else { hsv(hue, 0.66, 0.96) };
    let inner = petal.mix(hsv(hue + 0.06, 0.95, 0.75), 0.6);
    let count = 5 + dice.below(6);
    let slim = 1.45 / count as f32 * dice.range(0.85, 1.1);
    let spin = dice.range(0.0, 1.0);
    // Odd petals lie on the even ones.
    for petal_index in (0..count).step_by(2).chain((1..count).step_by(2)) {
        let (cos, sin) = turn(spin + petal_index as f32 / count as f32);
        let along = move |p: Point| at(p.x * cos + p.y * sin, p.y * cos - p.x * sin);
        canvas.paint(
            Area(-0.98, -0.98, 0.98, 0.98),
            |p| ellipse(along(p), at(0.55, 0.0), at(0.41, slim)),
            |p| {
                let q = along(p);
                let vein = 0.06 * sine(q.y * 6.0 / slim * 0.2);
                let color = inner.mix(petal, smoothstep(0.25, 0.75, q.x));
                color.times(0.97 + vein - 0.22 * (q.y / slim) * (q.y / slim) - 0.10 * (p.x + p.y))
            },
        );
    }
    let heart = dice.pick([Rgb(0.98, 0.80, 0.20), Rgb(0.45, 0.28, 0.12), Rgb(0.96, 0.62, 0.16)]);
    let seeds = dice.seed();
    let radius = dice.range(0.22, 0.32);
    canvas.paint(
        Area(-radius, -radius, radius, radius),
        |p| circle(p, at(0.0, 0.0), radius),
        |p| lit(heart, p, radius * 1.15).times(0.75 + 0.5 * value_noise(at(p.x * 24.0, p.y * 24.0), seeds)),
    );
    canvas.mark_object(false);
}
