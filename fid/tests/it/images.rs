//! Test images from a formula of integers alone, so that any language makes the same bytes.

use std::path::Path;

use nestgen_fid::formula::{draw, fnv1a64};
use nestgen_images::RgbImage8;

/// Side of the test images.
pub(crate) const SIDE: usize = 64;

/// A counted stream of draws.
struct Stream {
    state: u64,
    drawn: u64,
}

impl Stream {
    fn below(&mut self, n: u64) -> i64 {
        let value = draw(self.state, self.drawn);
        self.drawn += 1;
        ((value >> 33) % n) as i64
    }
}

/// Image `index` of a kind (`real` or `fake`) and seed: a colour gradient, a few shapes, noise.
pub(crate) fn image(kind: &str, seed: u64, index: usize) -> RgbImage8 {
    let real = kind == "real";
    let mut stream = Stream { state: fnv1a64(&format!("nestgen-fid-image/{kind}/{seed}/{index}")), drawn: 0 };
    let corners: Vec<i64> =
        (0..12).map(|_| if real { stream.below(256) } else { 48 + stream.below(160) }).collect();
    let side = SIDE as i64;
    let mut pixels = vec![0i64; SIDE * SIDE * 3];
    for (i, value) in pixels.iter_mut().enumerate() {
        let (channel, x, y) = (i % 3, (i / 3) as i64 % side, (i / 3) as i64 / side);
        let corner = |c: usize| corners[c * 3 + channel];
        let top = corner(0) * (63 - x) + corner(1) * x;
        let bottom = corner(2) * (63 - x) + corner(3) * x;
        *value = (top * (63 - y) + bottom * y) / 3969;
    }
    for _ in 0..1 + stream.below(if real { 7 } else { 3 }) {
        let (disk, cx, cy, r) =
            (stream.below(2) == 0, stream.below(64), stream.below(64), 3 + stream.below(21));
        let colour = [stream.below(256), stream.below(256), stream.below(256)];
        for (i, value) in pixels.iter_mut().enumerate() {
            let (dx, dy) = ((i / 3) as i64 % side - cx, (i / 3) as i64 / side - cy);
            if (disk && dx * dx + dy * dy < r * r) || (!disk && dx.abs() < r && 2 * dy.abs() < r) {
                *value = colour[i % 3];
            }
        }
    }
    let amplitude = if real { 10 * stream.below(3) } else { 12 * (1 + stream.below(3)) };
    if amplitude > 0 {
        pixels.iter_mut().for_each(|value| *value += stream.below(2 * amplitude as u64 + 1) - amplitude);
    }
    let data = pixels.into_iter().map(|value| value.clamp(0, 255) as u8).collect();
    RgbImage8 { width: SIDE as u32, height: SIDE as u32, data }
}

/// Writes images as PNG files.
pub(crate) fn write_png(folder: &Path, images: impl IntoIterator<Item = RgbImage8>) {
    std::fs::create_dir_all(folder).expect("a folder");
    for (i, picture) in images.into_iter().enumerate() {
        let buffer =
            image::RgbImage::from_raw(picture.width, picture.height, picture.data).expect("whole pixels");
        buffer.save(folder.join(format!("{i:05}.png"))).expect("a PNG file");
    }
}

#[test]
fn the_images_are_those_of_the_specification() {
    let real = image("real", 1, 0);
    let at = |row: usize, column: usize| real.data[(row * SIDE + column) * 3..][..3].to_vec();
    assert_eq!(at(0, 0), [219, 120, 123]);
    assert_eq!(at(10, 20), [174, 142, 146]);
    let sum = |picture: RgbImage8| picture.data.iter().map(|&b| u64::from(b)).sum::<u64>();
    assert_eq!(sum(real), 1_539_497);
    assert_eq!(sum(image("fake", 2, 0)), 1_704_017);
}
