//! Every algorithm against the plain sum in f64, and against itself in other batches.

use super::{ConvShape, Layer, Map, Workspace};

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
                    out.push(sum.max(0.0));
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

/// Runs a layer into the middle of a wider map; checks that nothing else was written.
fn run(layer: &Layer, input: &Map) -> Vec<f32> {
    let (height, width) = layer.shape().output(input.height, input.width);
    let channels = layer.shape().out_channels;
    let (total, offset) = (channels + 32, 16);
    let mut output = Map { images: input.images, height, width, channels: total, data: Vec::new() };
    output.data = vec![-5.0; output.pixels() * total];
    layer.forward(input, &mut output, offset, true, &mut Workspace::default());
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
    ];
    for (shape, images, height, width) in cases {
        let weights = noise(1, shape.weights());
        let bias = noise(2, shape.out_channels);
        let input = input(images, height, width, shape.in_channels);
        let expected = reference(&shape, &weights, &bias, &input);
        let scale = expected.iter().fold(0f64, |max, x| max.max(x.abs()));
        for layer in [Layer::new(shape, &weights, &bias), Layer::new_direct(shape, &weights, &bias)] {
            let got = run(&layer, &input);
            assert_eq!(got.len(), expected.len());
            for (i, (&g, e)) in got.iter().zip(&expected).enumerate() {
                let error = (f64::from(g) - e).abs();
                assert!(error <= LAYER_TOLERANCE * scale, "{shape:?}, {i}: off by {error:e} of {scale}");
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
        let together = run(&layer, &batch);
        for image in 0..batch.images {
            let single = Map { images: 1, data: batch.image(image).to_vec(), ..Map { data: vec![], ..batch } };
            let alone = run(&layer, &single);
            assert_eq!(together[image * alone.len()..][..alone.len()], alone[..], "image {image}, {shape:?}");
        }
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
