//! Every algorithm against the plain sum in f64, and against itself in other batches.

use super::{ConvShape, Layer, Map, Workspace, average_pool3_relu, max_pool3};

/// Largest error of one layer, as a share of the largest output: f32 sums of up to 4032 products, through Winograd's
/// transforms (measured: below 2e-6).
const LAYER_TOLERANCE: f64 = 5e-6;

/// Numbers in -1..1 from a counter.
fn noise(seed: u64, len: usize) -> Vec<f64> {
    let mut state = seed;
    (0..len).map(|_| unit(&mut state)).collect()
}

/// The next number in -1..1 (Knuth's linear congruential generator, upper bits).
fn unit(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 40) as f64 / f64::from(1 << 23) - 1.0
}

fn shape(
    in_channels: usize,
    out_channels: usize,
    kernel: (usize, usize),
    stride: usize,
    same: bool,
) -> ConvShape {
    let padding = if same { (kernel.0 / 2, kernel.1 / 2) } else { (0, 0) };
    ConvShape { in_channels, out_channels, kernel, stride, padding }
}

/// The plain sums, before ReLU.
fn reference(shape: &ConvShape, weights: &[f64], bias: &[f64], input: &Map) -> Vec<f64> {
    let (height, width) = shape.output(input.height, input.width);
    let mut out = Vec::new();
    for image in 0..input.images {
        for y in 0..height {
            for x in 0..width {
                for (o, bias) in bias.iter().enumerate() {
                    let mut sum = *bias;
                    for ky in 0..shape.kernel.0 {
                        for kx in 0..shape.kernel.1 {
                            let row = (y * shape.stride + ky).wrapping_sub(shape.padding.0);
                            let column = (x * shape.stride + kx).wrapping_sub(shape.padding.1);
                            if row >= input.height || column >= input.width {
                                continue;
                            }
                            for c in 0..shape.in_channels {
                                let weight =
                                    ((o * shape.in_channels + c) * shape.kernel.0 + ky) * shape.kernel.1 + kx;
                                let pixel = (row * input.width + column) * input.channels + c;
                                sum += weights[weight] * f64::from(input.image(image)[pixel]);
                            }
                        }
                    }
                    out.push(sum);
                }
            }
        }
    }
    out
}

fn input(images: usize, height: usize, width: usize, channels: usize) -> Map {
    let data = noise(7, images * height * width * channels).iter().map(|&x| x as f32).collect();
    Map { images, height, width, channels, data }
}

/// Runs a layer with or without ReLU into the middle of a wider map; checks that nothing else was written.
fn run(layer: &Layer, input: &Map, relu: bool) -> Vec<f32> {
    let (height, width) = layer.shape().output(input.height, input.width);
    let (images, channels) = (input.images, layer.shape().out_channels);
    into_middle((images, height, width), channels, |output, offset| {
        layer.forward(input, output, offset, relu, &mut Workspace::default());
    })
}

/// Runs `f` into the middle of a map that is 32 channels wider; checks that nothing else was written.
fn into_middle(
    (images, height, width): (usize, usize, usize),
    channels: usize,
    f: impl FnOnce(&mut Map, usize),
) -> Vec<f32> {
    let (total, offset) = (channels + 32, 16);
    let mut output = Map { images, height, width, channels: total, data: Vec::new() };
    output.data = vec![-5.0; output.images * output.height * output.width * total];
    f(&mut output, offset);
    let mut out = Vec::new();
    for pixel in output.data.chunks_exact(total) {
        assert!(pixel[..offset].iter().chain(&pixel[offset + channels..]).all(|&x| x == -5.0), "wrote outside");
        out.extend_from_slice(&pixel[offset..offset + channels]);
    }
    out
}

#[test]
fn every_algorithm_matches_the_plain_sum() {
    let cases = [
        (shape(3, 32, (3, 3), 2, false), 2, 13, 11),
        (shape(16, 80, (1, 1), 1, false), 2, 7, 9),
        (shape(32, 48, (3, 3), 1, true), 2, 9, 10),
        (shape(32, 64, (3, 3), 1, false), 1, 12, 9),
        (shape(48, 160, (5, 5), 1, true), 1, 7, 8),
        (shape(32, 96, (1, 7), 1, true), 2, 17, 5),
        (shape(32, 112, (7, 1), 1, true), 2, 17, 6),
        (shape(16, 16, (1, 3), 1, true), 3, 8, 8),
        (shape(16, 32, (3, 1), 1, true), 3, 8, 7),
        (shape(48, 64, (3, 3), 2, false), 1, 17, 17),
        (shape(16, 32, (1, 7), 1, false), 1, 5, 11),
        // More square tiles than a block has.
        (shape(16, 16, (3, 3), 1, true), 2, 24, 24),
    ];
    for (shape, images, height, width) in cases {
        let weights = noise(1, shape.weights());
        let bias = noise(2, shape.out_channels);
        let input = input(images, height, width, shape.in_channels);
        let expected = reference(&shape, &weights, &bias, &input);
        let scale = expected.iter().fold(0f64, |max, x| max.max(x.abs()));
        for layer in [Layer::new(shape, &weights, &bias), Layer::new_direct(shape, &weights, &bias)] {
            for relu in [true, false] {
                let got = run(&layer, &input, relu);
                assert_eq!(got.len(), expected.len());
                for (i, (&g, e)) in got.iter().zip(&expected).enumerate() {
                    let error = (f64::from(g) - if relu { e.max(0.0) } else { *e }).abs();
                    assert!(error <= LAYER_TOLERANCE * scale, "{shape:?}, {i}: off by {error:e} of {scale}");
                }
            }
        }
    }
}

#[test]
fn an_image_has_the_same_bits_in_any_batch() {
    for shape in
        [shape(16, 32, (1, 1), 1, false), shape(32, 32, (3, 3), 1, true), shape(32, 32, (7, 1), 1, true)]
    {
        let layer = Layer::new(shape, &noise(1, shape.weights()), &noise(2, shape.out_channels));
        let batch = input(5, 11, 11, shape.in_channels);
        let together = run(&layer, &batch, true);
        for image in 0..batch.images {
            let single = Map { images: 1, data: batch.image(image).to_vec(), ..Map { data: vec![], ..batch } };
            let alone = run(&layer, &single, true);
            assert_eq!(together[image * alone.len()..][..alone.len()], alone[..], "image {image}, {shape:?}");
        }
    }
}

/// All windows by a plain loop, also those that lie over a border.
#[test]
fn pools_match_plain_loops() {
    for (height, width) in [(3, 4), (5, 7), (1, 1)] {
        let input = input(2, height, width, 16);
        // Values of the pixels of each window of 3x3, whose first is `before` above and to the left of a multiple of `stride`.
        let windows = |height: usize, width: usize, stride: usize, before: usize| -> Vec<Vec<f64>> {
            let mut windows = Vec::new();
            for (image, y, x) in
                (0..2).flat_map(|i| (0..height).flat_map(move |y| (0..width).map(move |x| (i, y, x))))
            {
                let pixels = (0..9).map(|tap| {
                    ((y * stride + tap / 3).wrapping_sub(before), (x * stride + tap % 3).wrapping_sub(before))
                });
                let inside: Vec<_> = pixels.filter(|&(y, x)| y < input.height && x < input.width).collect();
                windows.extend((0..16).map(|c| {
                    let at = |&(y, x): &(usize, usize)| {
                        f64::from(input.image(image)[(y * input.width + x) * 16 + c])
                    };
                    inside.iter().map(at).collect()
                }));
            }
            windows
        };
        let compare = |what: &str, found: Vec<f32>, want: Vec<f64>| {
            assert_eq!(found.len(), want.len(), "{what}");
            for (i, (found, want)) in found.into_iter().zip(want).enumerate() {
                assert!(
                    (f64::from(found) - want).abs() < 1e-6,
                    "{what} of {height}x{width}, {i}: {found} {want}"
                );
            }
        };
        let largest = |windows: Vec<Vec<f64>>| -> Vec<f64> {
            windows.iter().map(|window| window.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b))).collect()
        };
        let means: Vec<f64> = windows(height, width, 1, 1)
            .iter()
            .map(|window| (window.iter().sum::<f64>() / window.len() as f64).max(0.0))
            .collect();
        let whole = (2, height, width);
        let found = into_middle(whole, 16, |output, offset| average_pool3_relu(&input, output, offset));
        compare("average_pool3_relu", found, means);
        let found = into_middle(whole, 16, |output, offset| max_pool3(&input, output, offset, 1));
        compare("max_pool3 at stride 1", found, largest(windows(height, width, 1, 1)));
        if height >= 3 && width >= 3 {
            let (height, width) = ((height - 3) / 2 + 1, (width - 3) / 2 + 1);
            let found =
                into_middle((2, height, width), 16, |output, offset| max_pool3(&input, output, offset, 2));
            compare("max_pool3 at stride 2", found, largest(windows(height, width, 2, 0)));
        }
    }
}

#[test]
fn no_images_have_no_results() {
    let (square, other) = (shape(16, 16, (3, 3), 1, true), shape(16, 16, (1, 1), 1, false));
    for shape in [square, other, self::shape(16, 16, (1, 7), 1, true)] {
        let layer = Layer::new(shape, &noise(1, shape.weights()), &noise(2, 16));
        assert!(run(&layer, &input(0, 8, 8, 16), true).is_empty());
    }
}

#[test]
#[should_panic(expected = "output shape")]
fn a_map_that_does_not_fit_is_refused() {
    let shape = shape(16, 16, (3, 3), 1, true);
    let layer = Layer::new(shape, &noise(1, shape.weights()), &noise(2, 16));
    let mut output = Map { images: 1, height: 4, width: 5, channels: 16, data: vec![0.0; 320] };
    layer.forward(&input(1, 5, 5, 16), &mut output, 0, false, &mut Workspace::default());
}
