//! Signed distances (negative inside), noise, and the few functions scenes need that IEEE arithmetic does not have.
//! Formulas of the distances: Inigo Quilez, "2D distance functions".

use super::canvas::{Point, Rgb, at};

pub(super) fn circle(p: Point, center: Point, radius: f32) -> f32 {
    p.minus(center).length() - radius
}

/// Close to the true distance near the edge, exact on it.
pub(super) fn ellipse(p: Point, center: Point, radii: Point) -> f32 {
    let d = p.minus(center);
    let scaled = at(d.x / radii.x, d.y / radii.y);
    let gradient = at(scaled.x / radii.x, scaled.y / radii.y).length();
    let k = scaled.length();
    if gradient > 0.0 { k * (k - 1.0) / gradient } else { -radii.x.min(radii.y) }
}

/// `half`: half width and height, corners included.
pub(super) fn rounded_box(p: Point, center: Point, half: Point, corner: f32) -> f32 {
    let d = p.minus(center);
    let (x, y) = (d.x.abs() - half.x + corner, d.y.abs() - half.y + corner);
    at(x.max(0.0), y.max(0.0)).length() + x.max(y).min(0.0) - corner
}

/// A line from `a` to `b` of half thickness `radius`, round at its ends.
pub(super) fn segment(p: Point, a: Point, b: Point, radius: f32) -> f32 {
    let (pa, ba) = (p.minus(a), b.minus(a));
    let along = (pa.x * ba.x + pa.y * ba.y) / (ba.x * ba.x + ba.y * ba.y);
    let along = along.clamp(0.0, 1.0);
    at(pa.x - ba.x * along, pa.y - ba.y * along).length() - radius
}

/// A convex polygon, corners clockwise as seen on the screen; exact along its sides.
pub(super) fn convex<const N: usize>(p: Point, corners: [Point; N]) -> f32 {
    let mut distance = f32::NEG_INFINITY;
    for i in 0..N {
        let (a, b) = (corners[i], corners[(i + 1) % N]);
        let side = b.minus(a);
        let d = p.minus(a);
        distance = distance.max((d.x * side.y - d.y * side.x) / side.length());
    }
    distance
}

/// Union with a rounded joint of about `width`.
pub(super) fn smooth_union(a: f32, b: f32, width: f32) -> f32 {
    let h = ((width - (a - b).abs()) / width).max(0.0);
    a.min(b) - h * h * width * 0.25
}

/// 0 below `low`, 1 above `high`, smooth between.
pub(super) fn smoothstep(low: f32, high: f32, x: f32) -> f32 {
    let t = ((x - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// `sin(2 pi turns)` to within 0.001, from products alone.
pub(super) fn sine(turns: f32) -> f32 {
    let t = turns - turns.floor() - 0.5;
    let parabola = 16.0 * t * (0.5 - t.abs());
    -(0.775 * parabola + 0.225 * parabola * parabola.abs())
}

/// Cosine and sine of an angle in turns, normalised.
pub(super) fn turn(turns: f32) -> (f32, f32) {
    let (cos, sin) = (sine(turns + 0.25), sine(turns));
    let length = (cos * cos + sin * sin).sqrt();
    (cos / length, sin / length)
}

/// Smooth value noise, 0..1, one hill or dale a unit; two octaves.
pub(super) fn noise(p: Point, seed: u32) -> f32 {
    (2.0 * value_noise(p, seed) + value_noise(at(p.x * 2.03 + 17.0, p.y * 2.03 + 5.0), seed ^ 0x9e37)) / 3.0
}

/// Smooth value noise, 0..1, one octave.
pub(super) fn value_noise(p: Point, seed: u32) -> f32 {
    let (x0, y0) = (p.x.floor(), p.y.floor());
    let (fx, fy) = (p.x - x0, p.y - y0);
    let (sx, sy) = (fx * fx * (3.0 - 2.0 * fx), fy * fy * (3.0 - 2.0 * fy));
    let (x, y) = (x0 as i32, y0 as i32);
    let corner = |dx, dy| lattice(x.wrapping_add(dx), y.wrapping_add(dy), seed);
    let top = corner(0, 0) + (corner(1, 0) - corner(0, 0)) * sx;
    let bottom = corner(0, 1) + (corner(1, 1) - corner(0, 1)) * sx;
    top + (bottom - top) * sy
}

/// A fixed random number 0..1 for each lattice point.
pub(super) fn lattice(x: i32, y: i32, seed: u32) -> f32 {
    let mut h = (x as u32).wrapping_mul(0x27d4_eb2d) ^ (y as u32).wrapping_mul(0x1656_67b1) ^ seed;
    h = (h ^ (h >> 15)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    ((h ^ (h >> 16)) >> 8) as f32 / (1 << 24) as f32
}

/// `color` as on a ball of radius `radius` around the origin, lit from the upper left.
pub(super) fn lit(color: Rgb, offset: Point, radius: f32) -> Rgb {
    let (x, y) = (offset.x / radius, offset.y / radius);
    let facing = -(0.5 * x + 0.75 * y);
    let rim = 1.0 - 0.22 * (x * x + y * y).min(1.3);
    color.times((0.98 + 0.32 * facing) * rim)
}

/// Hue 0..1 around the circle, saturation and value 0..1.
pub(super) fn hsv(hue: f32, saturation: f32, value: f32) -> Rgb {
    let channel = |shift: f32| {
        let k = hue + shift - (hue + shift).floor();
        let ramp = ((k * 6.0 - 3.0).abs() - 1.0).clamp(0.0, 1.0);
        value * (1.0 - saturation + saturation * ramp)
    };
    Rgb(channel(0.0), channel(2.0 / 3.0), channel(1.0 / 3.0))
}
