//! Boxes and points from heat maps, without ever having been shown one, and how well they fit.
//!
//! As in the paper on class activation maps: the map is brought to the size of the image, cut at a share of its range,
//! and the box goes around the largest connected part. The point is that part's middle, not the map's peak: maps
//! were seen to have plateaus around objects, on which the peak is anywhere (samples/planted).

use super::cam::Heat;
use crate::data::synthetic::BoundingBox;

/// Side of the map on which parts are found.
const SIDE: usize = 64;

/// The largest part of a map that stands out.
#[derive(Clone, Copy, Debug)]
pub struct HotPart {
    /// The box around it.
    pub bounds: BoundingBox,
    /// Its middle, weighted by how far places stand out, as shares of the side: right and down.
    pub middle: (f64, f64),
}

/// The largest part of the map that is above `threshold` of its range; all of a map that is the same everywhere.
pub fn hot_part(heat: &Heat, threshold: f64) -> HotPart {
    let map = heat.normalised().resized(SIDE).normalised();
    let mut open: Vec<bool> = map.values.iter().map(|&value| value >= threshold).collect();
    let parts = (0..open.len()).map(|start| connected(&mut open, start));
    let largest = parts.fold(Vec::new(), |best, part| if part.len() > best.len() { part } else { best });
    let part = if largest.is_empty() { (0..SIDE * SIDE).collect() } else { largest };
    let (mut bounds, mut sums) = ([SIDE, SIDE, 0, 0], [0.0; 3]);
    for place in part {
        let (x, y) = (place % SIDE, place / SIDE);
        bounds = [bounds[0].min(x), bounds[1].min(y), bounds[2].max(x + 1), bounds[3].max(y + 1)];
        // Never 0, so that places at the threshold have a middle too.
        let weight = (map.values[place] - threshold).max(1e-9);
        sums = [sums[0] + weight, sums[1] + weight * (x as f64 + 0.5), sums[2] + weight * (y as f64 + 0.5)];
    }
    let share = |place: usize| place as f32 / SIDE as f32;
    let [left, top, right, bottom] = bounds.map(share);
    let middle = (sums[1] / sums[0] / SIDE as f64, sums[2] / sums[0] / SIDE as f64);
    HotPart { bounds: BoundingBox { left, top, right, bottom }, middle }
}

/// The open places that can be reached from one, over sides; they are closed.
fn connected(open: &mut [bool], start: usize) -> Vec<usize> {
    let mut part: Vec<usize> = std::mem::take(&mut open[start]).then_some(start).into_iter().collect();
    let mut next = 0;
    while let Some(&place) = part.get(next) {
        next += 1;
        let (x, y) = (place % SIDE, place / SIDE);
        let neighbours = [
            (x > 0).then(|| place - 1),
            (x + 1 < SIDE).then(|| place + 1),
            place.checked_sub(SIDE),
            (y + 1 < SIDE).then(|| place + SIDE),
        ];
        part.extend(neighbours.into_iter().flatten().filter(|&place| std::mem::take(&mut open[place])));
    }
    part
}

/// The share of the image that is in the box: how often a blind point, anywhere, is.
pub fn area(b: BoundingBox) -> f64 {
    f64::from((b.right - b.left).max(0.0)) * f64::from((b.bottom - b.top).max(0.0))
}

/// The area that two boxes share over the area they cover together, 0 to 1.
pub fn iou(a: BoundingBox, b: BoundingBox) -> f64 {
    let both = area(BoundingBox {
        left: a.left.max(b.left),
        top: a.top.max(b.top),
        right: a.right.min(b.right),
        bottom: a.bottom.min(b.bottom),
    });
    let either = area(a) + area(b) - both;
    if either > 0.0 { both / either } else { 0.0 }
}

/// Whether a point (right, down) is in a box.
pub fn holds(b: BoundingBox, (x, y): (f64, f64)) -> bool {
    x >= f64::from(b.left) && x <= f64::from(b.right) && y >= f64::from(b.top) && y <= f64::from(b.bottom)
}

/// The centre of a box.
pub fn center(b: BoundingBox) -> (f64, f64) {
    (f64::from(b.left + b.right) / 2.0, f64::from(b.top + b.bottom) / 2.0)
}

/// The share of a grid of `side` x `side` places whose centres are in the box: how often a blind guess is right.
pub fn chance(b: BoundingBox, side: usize) -> f64 {
    let share = |i: usize| (i as f64 + 0.5) / side as f64;
    let places = (0..side * side).filter(|&i| holds(b, (share(i % side), share(i / side))));
    places.count() as f64 / (side * side).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn bounds(left: f32, top: f32, right: f32, bottom: f32) -> BoundingBox {
        BoundingBox { left, top, right, bottom }
    }

    #[test]
    fn the_box_is_around_the_largest_hot_part() {
        let mut values = vec![0.0; 64];
        // A hot place at the upper left, a larger hot part at the lower right.
        values[0] = 1.0;
        for place in [45, 46, 53, 54] {
            values[place] = 0.9;
        }
        let found = hot_part(&Heat { side: 8, values }, 0.5);
        let expected = bounds(5.0 / 8.0, 5.0 / 8.0, 7.0 / 8.0, 7.0 / 8.0);
        assert!(iou(found.bounds, expected) > 0.75, "{found:?}");
        let (x, y) = found.middle;
        assert!((x - 0.75).abs() < 1e-9 && (y - 0.75).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn a_flat_map_is_one_part() {
        for threshold in [0.0, 0.4, 1.0] {
            let found = hot_part(&Heat { side: 2, values: vec![3.0; 4] }, threshold);
            assert_eq!(found.bounds, bounds(0.0, 0.0, 1.0, 1.0));
            let (x, y) = found.middle;
            assert!((x - 0.5).abs() < 1e-9 && (y - 0.5).abs() < 1e-9, "{found:?}");
        }
    }

    #[test]
    fn overlap_and_chance_are_areas() {
        let (a, b) = (bounds(0.0, 0.0, 0.5, 1.0), bounds(0.25, 0.0, 0.75, 1.0));
        assert!((iou(a, b) - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!((iou(a, a), iou(a, bounds(0.6, 0.0, 0.7, 0.1))), (1.0, 0.0));
        assert_eq!(chance(a, 4), 0.5);
        assert!(holds(a, center(a)) && !holds(a, (0.6, 0.5)));
    }
}
