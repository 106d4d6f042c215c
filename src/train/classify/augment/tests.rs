//! Crops, erased rectangles, operations: of the right size, as often as they should be, by seed, epoch and image alone.

use std::collections::BTreeSet;

use super::*;
use crate::data::synthetic;

const PLAIN: Normalise = Normalise { mean: [0.5; 3], std: [0.5; 3] };
const OFF: AugmentConfig = AugmentConfig {
    crop_padding: 0,
    crop_area: 1.0,
    mirror: false,
    rand_layers: 0,
    rand_magnitude: 9.0,
    rand_std: 0.5,
    rand_probability: 0.5,
    erase_probability: 0.0,
    erase_area: [0.02, 0.3],
    erase_aspect: 0.3,
};

fn augment(config: AugmentConfig) -> Augment {
    Augment { config, normalise: PLAIN, stream: Rng::new(3), res: 32 }
}

fn of(config: AugmentConfig, epoch: u64, image: u32) -> Vec<f32> {
    let pixels = synthetic::render(0, u64::from(image), 32).pixels;
    let mut out = Vec::new();
    augment(config).append(epoch, image, &pixels, &mut out);
    out
}

#[test]
fn a_random_part_is_inside_as_large_as_it_must_be_and_anywhere() {
    // Red tells the column, green the row.
    let pixels: Vec<u8> = (0..32 * 32).flat_map(|i| [(i % 32 * 8) as u8, (i / 32 * 8) as u8, 9]).collect();
    let crop = augment(AugmentConfig { crop_area: 0.25, ..OFF });
    let (mut lefts, mut least) = (Vec::new(), f32::INFINITY);
    for epoch in 0..200 {
        let mut out = Vec::new();
        crop.append(epoch, 0, &pixels, &mut out);
        let byte = |x: usize, y: usize, c: usize| (out[(y * 32 + x) * 3 + c] * 0.5 + 0.5) * 255.0;
        let at = |x: usize, y: usize, c: usize| byte(x, y, c) / 8.0;
        let blue = (0..1024).map(|i| byte(i % 32, i / 32, 2));
        assert!(blue.into_iter().all(|blue| (blue - 9.0).abs() < 1e-3), "something came from outside");
        // Between pixels that no edge clamps: 16 columns are half of the part.
        let (width, height) = ((at(24, 9, 0) - at(8, 9, 0)) * 2.0, (at(9, 24, 1) - at(9, 8, 1)) * 2.0);
        let (area, aspect) = (width * height / 1024.0, width / height);
        assert!((0.22..=1.03).contains(&area) && (0.70..=1.43).contains(&aspect), "{width} x {height}");
        least = least.min(area);
        lefts.push(at(16, 16, 0) - width / 2.0);
    }
    assert!(least < 0.4, "no small part: {least}");
    assert!(lefts.iter().any(|&left| left < 2.0) && lefts.iter().any(|&left| left > 8.0), "{lefts:?}");
}

#[test]
fn an_image_depends_on_seed_epoch_and_index_alone() {
    let config = AugmentConfig { crop_area: 0.3, erase_probability: 1.0, ..AugmentConfig::default() };
    let first = of(config, 4, 7);
    assert_eq!(first.len(), 32 * 32 * 3);
    assert_eq!(first, of(config, 4, 7));
    assert_ne!(first, of(config, 5, 7));
    let scenes: Vec<Vec<u8>> = (5..9).map(|i| synthetic::render(0, i, 32).pixels).collect();
    let images: Vec<(u32, &[u8])> = (5..9).zip(&scenes).map(|(i, pixels)| (i, pixels.as_slice())).collect();
    let batch = augment(config).batch(4, &images);
    assert_eq!(batch[2 * first.len()..3 * first.len()], first, "the neighbours have no say");
}

#[test]
fn without_augmentation_values_are_normalised_bytes() {
    let pixels = synthetic::render(0, 3, 32).pixels;
    let expected: Vec<f32> = pixels.iter().map(|&byte| (f32::from(byte) / 255.0 - 0.5) / 0.5).collect();
    assert_eq!(of(OFF, 0, 3), expected);
    let coloured = Normalise { mean: [0.1, 0.2, 0.3], std: [0.5, 0.25, 0.125] };
    let mut out = Vec::new();
    coloured.append(&[255, 0, 51], &mut out);
    assert!(out.iter().zip([1.8, -0.8, -0.8]).all(|(a, b): (&f32, f64)| (f64::from(*a) - b).abs() < 1e-6));
}

/// How often, and how strongly: as many operations as the same stream gives by hand.
#[test]
fn operations_come_as_often_and_as_strong_as_they_should() {
    let never = AugmentConfig { rand_layers: 3, rand_probability: 0.0, ..OFF };
    let always = AugmentConfig { rand_layers: 3, rand_probability: 1.0, rand_std: 0.0, ..OFF };
    let half = AugmentConfig { rand_layers: 1, rand_probability: 0.5, ..OFF };
    let (mut changed, mut stronger) = (0, 0);
    for image in 0..60 {
        assert_eq!(of(never, 0, image), of(OFF, 0, image));
        for magnitude in [2.0, 7.0] {
            let pixels = synthetic::render(0, u64::from(image), 32).pixels;
            let mut rng = Rng::new(3).at(0).at(u64::from(image));
            let mut bitmap = Bitmap::new(pixels, 32);
            for _ in 0..3 {
                rng.uniform();
                rng.normal();
                bitmap = rand_augment::random_operation(bitmap, magnitude, &mut rng);
            }
            let mut by_hand = Vec::new();
            PLAIN.append(bitmap.bytes(), &mut by_hand);
            let config = AugmentConfig { rand_magnitude: magnitude, ..always };
            assert!(of(config, 0, image) == by_hand, "image {image} at {magnitude}");
        }
        changed += u32::from(of(half, 0, image) != of(OFF, 0, image));
        let spread = AugmentConfig { rand_std: 3.0, rand_magnitude: 5.0, ..always };
        stronger += u32::from(of(spread, 0, image) != of(AugmentConfig { rand_std: 0.0, ..spread }, 0, image));
    }
    // Thirty, or less: some operations change nothing. And magnitudes that are drawn are others.
    assert!((15..40).contains(&changed) && stronger > 30, "{changed} {stronger}");
}

#[test]
fn a_rectangle_without_an_aspect_is_a_square() {
    let config = AugmentConfig { erase_probability: 1.0, erase_aspect: 1.0, ..OFF };
    for image in 0..20 {
        let (plain, erased) = (of(OFF, 0, image), of(config, 0, image));
        let changed = (0..32 * 32).filter(|&p| plain[p * 3..p * 3 + 3] != erased[p * 3..p * 3 + 3]);
        let (rows, columns): (BTreeSet<usize>, BTreeSet<usize>) = changed.map(|p| (p / 32, p % 32)).unzip();
        assert_eq!(rows.len(), columns.len(), "image {image}");
    }
}

#[test]
fn erasing_replaces_one_rectangle_of_the_right_size() {
    let config = AugmentConfig { erase_probability: 1.0, ..OFF };
    let mut noise = Vec::new();
    for image in 0..40 {
        let (plain, erased) = (of(OFF, 0, image), of(config, 0, image));
        let changed: Vec<(usize, usize)> = (0..32 * 32)
            .filter(|&p| plain[p * 3..p * 3 + 3] != erased[p * 3..p * 3 + 3])
            .map(|p| (p / 32, p % 32))
            .collect();
        let rows = changed.iter().map(|p| p.0).max().unwrap() - changed.iter().map(|p| p.0).min().unwrap() + 1;
        let columns =
            changed.iter().map(|p| p.1).max().unwrap() - changed.iter().map(|p| p.1).min().unwrap() + 1;
        assert_eq!(rows * columns, changed.len(), "image {image}: not a rectangle");
        let share = changed.len() as f64 / 1024.0;
        // Sides are rounded to whole pixels.
        assert!((0.01..0.36).contains(&share), "image {image}: {share}");
        noise.extend(changed.iter().flat_map(|(y, x)| {
            let at = (y * 32 + x) * 3;
            erased[at..at + 3].iter().map(|&value| f64::from(value))
        }));
    }
    // Standard normal, of values that are normalised already; each channel by itself.
    let moment = |power| noise.iter().map(|value| value.powi(power)).sum::<f64>() / noise.len() as f64;
    assert!(moment(1).abs() < 0.04 && (moment(2) - 1.0).abs() < 0.05, "{} {}", moment(1), moment(2));
    let across = noise.chunks_exact(3).map(|pixel| pixel[0] * pixel[1]).sum::<f64>() * 3.0 / noise.len() as f64;
    assert!(across.abs() < 0.07, "{across}");
}

#[test]
fn crops_move_by_at_most_the_padding_and_mirror_half() {
    let config = AugmentConfig { crop_padding: 4, mirror: true, ..OFF };
    let mut mirrored = 0;
    for image in 0..60 {
        let (plain, moved) = (of(OFF, 0, image), of(config, 0, image));
        let pixel = |values: &[f32], x: i64, y: i64| {
            let at = ((y * 32 + x) * 3) as usize;
            [values[at], values[at + 1], values[at + 2]]
        };
        let matches = |flip: bool, dx: i64, dy: i64| {
            (6..26).all(|y| {
                (6..26).all(|x| {
                    let source = if flip { 31 - x } else { x };
                    pixel(&moved, x, y) == pixel(&plain, source + dx, y + dy)
                })
            })
        };
        let shifts = || (-4..=4).flat_map(|dx| (-4..=4).map(move |dy| (dx, dy)));
        let straight = shifts().any(|(dx, dy)| matches(false, dx, dy));
        let flipped = shifts().any(|(dx, dy)| matches(true, dx, dy));
        assert!(straight || flipped, "image {image}");
        mirrored += u32::from(flipped);
    }
    assert!((15..45).contains(&mirrored), "{mirrored}");
}
