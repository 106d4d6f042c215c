//! Scenes on land: house, tree, mountain, car, mushroom.

use super::backdrop::{Daylight, greenery, meadow, shadow, sky};
use super::canvas::{Area, Canvas, Frame, Point, Rgb, at};
use super::dice::Dice;
use super::shapes::{
    circle, convex, ellipse, hsv, lit, noise, rounded_box, segment, sine, smoothstep, value_noise,
};

/// A house with door, windows and chimney on a meadow.
pub(super) fn house(canvas: &mut Canvas, dice: &mut Dice) {
    let day = sky(canvas, dice);
    meadow(canvas, dice, &day, 0.70);
    canvas.place(dice.frame(at(0.5, 0.56), 0.37, 0.0));
    shadow(canvas, at(0.05, 0.72), at(0.95, 0.10));
    canvas.mark_object(true);
    let wall = dice.pick([
        Rgb(0.96, 0.92, 0.80),
        Rgb(0.86, 0.44, 0.34),
        Rgb(0.62, 0.76, 0.86),
        Rgb(0.95, 0.80, 0.42),
        Rgb(0.92, 0.92, 0.94),
        Rgb(0.94, 0.66, 0.62),
    ]);
    let wall = dice.near(wall, 0.04).tinted(day.light);
    let roof =
        dice.pick([Rgb(0.66, 0.22, 0.16), Rgb(0.32, 0.34, 0.42), Rgb(0.46, 0.28, 0.18), Rgb(0.20, 0.42, 0.44)]);
    let roof = dice.near(roof, 0.04).tinted(day.light);
    let peak = dice.range(-0.92, -0.70);
    if dice.chance(0.75) {
        let chimney = at(0.45, peak * 0.62);
        let area = Area(0.34, chimney.y - 0.26, 0.56, 0.0);
        canvas.paint(area, |p| rounded_box(p, chimney, at(0.10, 0.26), 0.01), |_| roof.times(0.8));
    }
    let bricks = dice.seed();
    let courses = dice.chance(0.5);
    canvas.paint(
        Area(-0.68, -0.15, 0.68, 0.72),
        |p| rounded_box(p, at(0.0, 0.28), at(0.68, 0.44), 0.01),
        |p| {
            let grain = if courses { sine(p.y * 6.0).max(0.0) * 0.12 } else { 0.0 };
            let under_eaves = 0.30 * smoothstep(0.10, -0.12, p.y);
            wall.times(
                1.03 - 0.16 * p.x - grain - under_eaves
                    + 0.10 * (value_noise(at(p.x * 14.0, p.y * 20.0), bricks) - 0.5),
            )
        },
    );
    let eaves = [at(0.0, peak), at(0.90, -0.08), at(0.82, 0.02), at(-0.82, 0.02), at(-0.90, -0.08)];
    canvas.paint(
        Area(-0.9, peak, 0.9, 0.02),
        |p| convex(p, eaves),
        |p| {
            let rows = sine(p.y * 5.5).max(-0.3);
            roof.times(1.0 - 0.25 * p.x - 0.12 * rows)
        },
    );
    let pane = if day.is_night { Rgb(1.0, 0.86, 0.42) } else { Rgb(0.58, 0.80, 0.94).tinted(day.light) };
    let frame_color = Rgb(0.98, 0.98, 0.96).tinted(day.light);
    let door_side = dice.range(-0.12, 0.12);
    for x in [-0.42, 0.42] {
        window(canvas, at(x, 0.22), frame_color, pane);
    }
    let door_hue = dice.range(0.0, 1.0);
    let door = hsv(door_hue, 0.6, 0.5).tinted(day.light);
    let middle = at(door_side, 0.45);
    let area = Area(door_side - 0.17, 0.15, door_side + 0.17, 0.72);
    canvas.paint(
        area,
        |p| rounded_box(p, middle, at(0.16, 0.27), 0.03),
        |p| door.times(1.0 - 0.4 * (p.x - middle.x)),
    );
    let knob = at(door_side + 0.09, 0.48);
    canvas.paint(area, |p| circle(p, knob, 0.025), |_| Rgb(0.95, 0.85, 0.4));
    canvas.mark_object(false);
}

fn window(canvas: &mut Canvas, center: Point, frame: Rgb, pane: Rgb) {
    let area = Area(center.x - 0.16, center.y - 0.18, center.x + 0.16, center.y + 0.18);
    canvas.paint(area, |p| rounded_box(p, center, at(0.16, 0.18), 0.01), |_| frame);
    let glass = |p: Point| {
        let q = at((p.x - center.x).abs() - 0.075, (p.y - center.y).abs() - 0.085);
        rounded_box(q, at(0.0, 0.0), at(0.057, 0.067), 0.0)
    };
    canvas.paint(area, glass, |p| pane.times(1.05 - 0.8 * (p.y - center.y)));
}

/// A broad-leaved tree, or a conifer, on a meadow.
pub(super) fn tree(canvas: &mut Canvas, dice: &mut Dice) {
    let day = sky(canvas, dice);
    meadow(canvas, dice, &day, 0.78);
    canvas.place(dice.frame(at(0.5, 0.50), 0.42, 0.006));
    shadow(canvas, at(0.06, 0.84), at(0.62, 0.09));
    canvas.mark_object(true);
    let bark = dice.near(Rgb(0.42, 0.28, 0.17), 0.05).tinted(day.light);
    let grain = dice.seed();
    let trunk = [at(-0.075, 0.0), at(0.075, 0.0), at(0.13, 0.86), at(-0.13, 0.86)];
    canvas.paint(
        Area(-0.13, 0.0, 0.13, 0.86),
        |p| convex(p, trunk),
        |p| bark.times(1.05 - 2.6 * p.x + 0.35 * (value_noise(at(p.x * 22.0, p.y * 5.0), grain) - 0.5)),
    );
    if dice.chance(0.3) {
        conifer(canvas, dice, &day)
    } else {
        crown(canvas, dice, &day)
    }
    canvas.mark_object(false);
}

fn crown(canvas: &mut Canvas, dice: &mut Dice, day: &Daylight) {
    let leaf = dice.pick([
        Rgb(0.22, 0.56, 0.18),
        Rgb(0.34, 0.64, 0.20),
        Rgb(0.88, 0.46, 0.12),
        Rgb(0.84, 0.24, 0.14),
        Rgb(0.95, 0.62, 0.72),
        Rgb(0.90, 0.74, 0.18),
    ]);
    let leaf = dice.near(leaf, 0.05).tinted(day.light);
    let leaves = dice.seed();
    let puffs: [(Point, f32); 5] = [(0.0, -0.42), (-0.34, -0.18), (0.34, -0.18), (-0.18, -0.56), (0.2, -0.54)]
        .map(|(x, y)| (at(x + dice.range(-0.07, 0.07), y + dice.range(-0.06, 0.06)), dice.range(0.30, 0.42)));
    let outline = |p: Point| {
        let edge = 0.07 * (value_noise(at(p.x * 8.0, p.y * 8.0), leaves) - 0.5);
        puffs.iter().map(|&(center, radius)| circle(p, center, radius)).fold(f32::INFINITY, f32::min) + edge
    };
    canvas.paint(Area(-0.85, -1.05, 0.85, 0.35), outline, |p| {
        let clumps = noise(at(p.x * 7.0, p.y * 7.0), leaves ^ 1);
        lit(leaf, at(p.x, p.y + 0.32), 0.75).times(0.62 + 0.72 * clumps)
    });
    if dice.chance(0.3) {
        let fruit = dice.pick([Rgb(0.90, 0.14, 0.12), Rgb(1.0, 0.62, 0.10)]).tinted(day.light);
        for _ in 0..7 {
            let place = at(dice.range(-0.48, 0.48), dice.range(-0.70, 0.0));
            let area = Area(place.x - 0.06, place.y - 0.06, place.x + 0.06, place.y + 0.06);
            canvas.paint(area, |p| circle(p, place, 0.055), |p| lit(fruit, p.minus(place), 0.06));
        }
    }
}

fn conifer(canvas: &mut Canvas, dice: &mut Dice, day: &Daylight) {
    let needle = dice.near(Rgb(0.10, 0.38, 0.24), 0.05).tinted(day.light);
    let snowy = dice.chance(0.35);
    let needles = dice.seed();
    for (top, bottom, half) in [(-0.25, 0.48, 0.60), (-0.62, 0.14, 0.48), (-0.98, -0.24, 0.34)] {
        let tier = [at(0.0, top), at(half, bottom), at(-half, bottom)];
        canvas.paint(
            Area(-half, top, half, bottom + 0.05),
            |p| convex(p, tier) + 0.05 * (value_noise(at(p.x * 14.0, p.y * 3.0), needles) - 0.5),
            |p| {
                let down = (p.y - top) / (bottom - top);
                let base = needle.times(
                    1.15 - 0.5 * down - 0.5 * p.x
                        + 0.5 * (value_noise(at(p.x * 16.0, p.y * 10.0), needles) - 0.5),
                );
                if snowy {
                    base.mix(Rgb(0.96, 0.98, 1.0).tinted(day.light), smoothstep(0.55, 0.25, down))
                } else {
                    base
                }
            },
        );
    }
}

/// A snow-capped peak between lower ridges, with firs or a lake in front.
pub(super) fn mountain(canvas: &mut Canvas, dice: &mut Dice) {
    let day = sky(canvas, dice);
    let stone = dice.pick([Rgb(0.42, 0.44, 0.54), Rgb(0.50, 0.42, 0.40), Rgb(0.34, 0.42, 0.50)]);
    let stone = dice.near(stone, 0.04).tinted(day.light);
    let ridge = dice.seed();
    canvas.place(Frame::PICTURE);
    let phase = dice.range(0.0, 9.0);
    let far = stone.mix(day.horizon, 0.55);
    canvas.paint(
        Area(0.0, 0.40, 1.0, 1.0),
        |p| 0.62 - 0.18 * noise(at(p.x * 4.0 + phase, 0.0), ridge) - p.y,
        |_| far,
    );
    canvas.place(dice.frame(at(0.5, 0.50), 0.40, 0.0));
    canvas.mark_object(true);
    let lean = dice.range(-0.2, 0.2);
    let summit = at(lean, dice.range(-0.85, -0.65));
    let slopes = [summit, at(1.15, 0.62), at(-1.15, 0.62)];
    let snow_line = dice.range(-0.35, 0.05);
    let snow = Rgb(0.97, 0.98, 1.0).tinted(day.light);
    let outline = |p: Point| convex(p, slopes) + 0.16 * (noise(at(p.x * 5.0, p.y * 5.0), ridge) - 0.5);
    canvas.paint(Area(-1.2, -1.0, 1.2, 0.62), outline, |p| {
        let folds = noise(at(p.x * 4.0 - p.y * 2.0, p.y * 6.0 + p.x * 2.0), ridge ^ 7);
        let sunny = smoothstep(
            -0.05,
            0.08,
            lean + 0.25 * (p.y - summit.y) * (folds - 0.5) * 2.0 - p.x + 0.12 * sine(p.y * 2.2),
        );
        let shade = 0.58 + 0.52 * sunny;
        let is_snow = smoothstep(0.05, -0.06, p.y - snow_line - 0.55 * (folds - 0.5));
        stone.times(0.75 + 0.5 * folds).mix(snow, is_snow).times(shade)
    });
    canvas.mark_object(false);
    if dice.chance(0.35) {
        super::backdrop::water(canvas, dice, &day, 0.74);
    } else {
        meadow(canvas, dice, &day, 0.80);
        firs(canvas, dice, &day);
    }
}

fn firs(canvas: &mut Canvas, dice: &mut Dice, day: &Daylight) {
    let green = dice.near(Rgb(0.08, 0.30, 0.18), 0.03).tinted(day.light);
    for _ in 0..6 {
        let foot = at(dice.range(0.0, 1.0), dice.range(0.80, 0.92));
        let height = dice.range(0.12, 0.22);
        let half = height * 0.26;
        let cone = [at(foot.x, foot.y - height), at(foot.x + half, foot.y), at(foot.x - half, foot.y)];
        let area = Area(foot.x - half, foot.y - height, foot.x + half, foot.y);
        canvas.paint(area, |p| convex(p, cone), |p| green.times(1.1 - 4.0 * (p.x - foot.x)));
    }
}

/// A car seen from the side on a road.
pub(super) fn car(canvas: &mut Canvas, dice: &mut Dice) {
    let day = sky(canvas, dice);
    meadow(canvas, dice, &day, 0.62);
    canvas.place(Frame::PICTURE);
    let asphalt = Rgb(0.30, 0.31, 0.34).tinted(day.light);
    let gravel = dice.seed();
    canvas.paint(
        Area(0.0, 0.66, 1.0, 1.0),
        |p| 0.66 - p.y,
        |p| {
            let line = smoothstep(0.012, 0.006, (p.y - 0.86).abs()) * smoothstep(-0.1, 0.1, sine(p.x * 3.0));
            let grain = value_noise(at(p.x * 60.0, p.y * 60.0), gravel);
            asphalt.times(0.85 + 0.3 * grain).mix(Rgb(0.95, 0.92, 0.8).tinted(day.light), line)
        },
    );
    canvas.place(dice.frame(at(0.5, 0.58), 0.42, 0.0));
    shadow(canvas, at(0.0, 0.64), at(1.0, 0.09));
    canvas.mark_object(true);
    let hue = dice.range(0.0, 1.0);
    let paint = if dice.chance(0.75) {
        hsv(hue, 0.78, 0.86)
    } else {
        dice.pick([Rgb(0.92, 0.92, 0.93), Rgb(0.24, 0.25, 0.28)])
    };
    let paint = paint.tinted(day.light);
    let roof = dice.range(-0.52, -0.36);
    let front = dice.range(0.52, 0.66);
    let back = dice.range(-0.74, -0.52);
    let cabin = [at(back + 0.26, roof), at(front - 0.34, roof), at(front, 0.06), at(back, 0.06)];
    canvas.paint(
        Area(back, roof, front, 0.1),
        |p| convex(p, cabin) - 0.04,
        |p| paint.times(1.1 - 0.3 * (p.y - roof)),
    );
    let glass = if day.is_night { Rgb(0.95, 0.86, 0.55) } else { Rgb(0.62, 0.82, 0.92).tinted(day.light) };
    canvas.paint(
        Area(back, roof, front, 0.1),
        |p| (convex(p, cabin) + 0.07).max(0.035 - (p.x - 0.02).abs()).max(p.y + 0.02),
        |p| {
            glass
                .times(1.1 - 0.7 * (p.y - roof))
                .mix(Rgb(1.0, 1.0, 1.0), 0.3 * smoothstep(0.2, 0.4, sine(p.x * 1.1 - p.y * 0.9)))
        },
    );
    canvas.paint(
        Area(-0.95, -0.08, 0.95, 0.5),
        |p| rounded_box(p, at(0.0, 0.22), at(0.95, 0.27), 0.14),
        |p| {
            let gleam = 0.35 * smoothstep(0.10, 0.0, (p.y - 0.06).abs());
            paint.times(1.05 - 0.75 * (p.y - 0.1)).mix(Rgb(1.0, 1.0, 1.0), gleam)
        },
    );
    let lamp = |p: Point| ellipse(p, at(0.88, 0.16), at(0.06, 0.08));
    canvas.paint(Area(0.8, 0.06, 0.95, 0.26), lamp, |_| Rgb(1.0, 0.96, 0.70));
    let tail = |p: Point| ellipse(p, at(-0.90, 0.16), at(0.045, 0.08));
    canvas.paint(Area(-0.96, 0.06, -0.84, 0.26), tail, |_| Rgb(0.85, 0.10, 0.10));
    for x in [-0.52, 0.52] {
        wheel(canvas, at(x, 0.44), 0.215);
    }
    canvas.mark_object(false);
}

fn wheel(canvas: &mut Canvas, hub: Point, radius: f32) {
    let area = Area(hub.x - radius, hub.y - radius, hub.x + radius, hub.y + radius);
    canvas.paint(area, |p| circle(p, hub, radius), |_| Rgb(0.10, 0.10, 0.12));
    canvas.paint(area, |p| circle(p, hub, radius * 0.56), |p| lit(Rgb(0.80, 0.82, 0.86), p.minus(hub), radius));
    canvas.paint(area, |p| circle(p, hub, radius * 0.18), |_| Rgb(0.35, 0.36, 0.40));
}

/// A spotted mushroom in the grass.
pub(super) fn mushroom(canvas: &mut Canvas, dice: &mut Dice) {
    let bright = dice.pick([Rgb(0.52, 0.70, 0.28), Rgb(0.36, 0.62, 0.40), Rgb(0.74, 0.66, 0.34)]);
    greenery(canvas, dice, Rgb(0.07, 0.17, 0.10), bright);
    canvas.place(dice.frame(at(0.5, 0.53), 0.42, 0.02));
    shadow(canvas, at(0.0, 0.84), at(0.5, 0.1));
    canvas.mark_object(true);
    let flesh = dice.near(Rgb(0.95, 0.90, 0.80), 0.03);
    let stem = [at(-0.15, -0.1), at(0.15, -0.1), at(0.23, 0.80), at(-0.23, 0.80)];
    canvas.paint(
        Area(-0.3, -0.1, 0.3, 0.85),
        |p| convex(p, stem) - 0.04,
        |p| {
            let under_cap = 0.45 * smoothstep(0.30, -0.02, p.y);
            flesh.times(1.02 - 0.9 * p.x.abs() - 0.45 * p.x - under_cap)
        },
    );
    let skirt = |p: Point| ellipse(p, at(0.0, 0.22), at(0.26, 0.07));
    canvas.paint(Area(-0.26, 0.14, 0.26, 0.3), skirt, |p| flesh.times(1.0 - 0.6 * p.x));
    let cap_color =
        dice.pick([Rgb(0.85, 0.12, 0.10), Rgb(0.90, 0.42, 0.12), Rgb(0.60, 0.36, 0.20), Rgb(0.56, 0.26, 0.62)]);
    let cap_color = dice.near(cap_color, 0.04);
    let tall = dice.range(0.62, 0.86);
    let dome = |p: Point| ellipse(p, at(0.0, 0.05), at(0.86, tall));
    let cap = |p: Point| dome(p).max(ellipse(p, at(0.0, -0.9), at(1.5, 1.02)));
    let area = Area(-0.86, 0.05 - tall, 0.86, 0.2);
    let gills = |p: Point| ellipse(p, at(0.0, 0.02), at(0.82, 0.13));
    canvas.paint(Area(-0.82, -0.1, 0.82, 0.15), gills, |p| flesh.times(0.72 - 0.1 * sine(p.x * 9.0)));
    canvas.paint(area, cap, |p| lit(cap_color, at(p.x, p.y + 0.22), 0.85));
    for _ in 0..7 {
        let spot = at(dice.range(-0.66, 0.66), dice.range(-0.58, -0.02));
        let radii = at(dice.range(0.07, 0.14), dice.range(0.05, 0.10));
        let around = Area(spot.x - radii.x, spot.y - radii.y, spot.x + radii.x, spot.y + radii.y);
        canvas.paint(
            around,
            |p| ellipse(p, spot, radii).max(cap(p) + 0.02),
            |p| lit(Rgb(0.99, 0.96, 0.90), p, 1.1),
        );
    }
    canvas.mark_object(false);
    grass(canvas, dice, bright.times(0.62));
}

fn grass(canvas: &mut Canvas, dice: &mut Dice, color: Rgb) {
    canvas.place(Frame::PICTURE);
    for _ in 0..16 {
        let foot = at(dice.range(0.0, 1.0), 1.02);
        let tip = at(foot.x + dice.range(-0.08, 0.08), dice.range(0.78, 0.92));
        let blade = dice.near(color, 0.07);
        let area = Area(foot.x.min(tip.x) - 0.02, tip.y, foot.x.max(tip.x) + 0.02, 1.0);
        canvas.paint(area, |p| segment(p, foot, tip, 0.012), |p| blade.times(1.5 - 0.8 * p.y));
    }
}
