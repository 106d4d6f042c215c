//! The inference engine at every instruction set, against plain code. A file and hence a process of its own: the
//! instruction set is one for all threads.

use std::sync::Mutex;

use nestgen_kernels::inference::{ConvShape, Layer, Map, Workspace, max_pool3};
use nestgen_kernels::simd::{self, Level};

/// Distance between two instruction sets as a share of the largest output: both are within 5e-6 of f64.
const TOLERANCE: f32 = 1e-5;

/// Numbers in -1..1 that repeat late.
fn pattern(len: usize, step: usize) -> impl Iterator<Item = f64> {
    (0..len).map(move |i| ((i * step) % 1009) as f64 / 504.0 - 1.0)
}

fn run(layer: &Layer, input: &Map) -> Vec<f32> {
    let mut work = Workspace::default();
    let (height, width) = layer.shape().output(input.height, input.width);
    let mut output = work.map(input.images, height, width, layer.shape().out_channels);
    layer.forward(input, &mut output, 0, true, &mut work);
    output.data
}

#[test]
fn instruction_sets_agree() {
    let _alone = LEVEL.lock().unwrap();
    let same = |in_channels, out_channels, kernel: (usize, usize)| ConvShape {
        in_channels,
        out_channels,
        kernel,
        stride: 1,
        padding: (kernel.0 / 2, kernel.1 / 2),
    };
    let shapes = [
        same(32, 48, (1, 1)),
        same(32, 80, (3, 3)),
        same(48, 96, (5, 5)),
        same(16, 64, (1, 7)),
        same(16, 64, (7, 1)),
        same(32, 16, (3, 1)),
        ConvShape { stride: 2, padding: (0, 0), ..same(16, 112, (3, 3)) },
    ];
    for shape in shapes {
        let weights: Vec<f64> = pattern(shape.weights(), 611).collect();
        let bias: Vec<f64> = pattern(shape.out_channels, 97).collect();
        let layer = Layer::new(shape, &weights, &bias);
        let mut input = Workspace::default().map(3, 11, 14, shape.in_channels);
        let len = input.data.len();
        input.data = pattern(len, 353).map(|x| x as f32).collect();
        simd::force(Level::Plain);
        let plain = run(&layer, &input);
        let largest = plain.iter().fold(0f32, |max, x| max.max(*x));
        assert!(largest > 1.0, "{shape:?}: nothing came out");
        for level in [Level::Avx2, Level::Avx512] {
            simd::force(level);
            let found = run(&layer, &input);
            for (i, (x, y)) in found.iter().zip(&plain).enumerate() {
                assert!(
                    (x - y).abs() <= TOLERANCE * largest,
                    "{shape:?} at {level:?}, {i}: {x} and {y} of {largest}"
                );
            }
        }
        // ReLU must not hide a NaN.
        input.data[0] = f32::NAN;
        for level in [Level::Plain, Level::Avx2, Level::Avx512] {
            simd::force(level);
            let hit = run(&layer, &input)[..shape.out_channels].iter().all(|x| x.is_nan());
            assert!(hit, "{shape:?} at {level:?}: a NaN of the first pixel is lost");
        }
    }
}

/// The instruction set is the whole process's: one test at a time.
static LEVEL: Mutex<()> = Mutex::new(());

#[test]
fn a_maximum_is_not_a_number_where_one_of_its_window_is_none() {
    let _alone = LEVEL.lock().unwrap();
    let side = 7;
    for (level, stride) in [Level::Plain, Level::Avx2, Level::Avx512].into_iter().flat_map(|l| [(l, 1), (l, 2)])
    {
        simd::force(level);
        let (padding, outputs) = if stride == 1 { (1, side) } else { (0, (side - 3) / 2 + 1) };
        for place in 0..side * side {
            let mut work = Workspace::default();
            let mut input = work.map(1, side, side, 20);
            input.data = pattern(side * side * 20, 353).map(|x| x as f32).collect();
            let channel = place % 20;
            input.data[place * 20 + channel] = f32::NAN;
            let mut output = work.map(1, outputs, outputs, 20);
            max_pool3(&input, &mut output, 0, stride);
            for (i, x) in output.data.iter().enumerate() {
                let (pixel, of) = (i / 20, i % 20);
                let sees =
                    |at: usize, from: usize| (from * stride..from * stride + 3).contains(&(at + padding));
                let hit =
                    of == channel && sees(place / side, pixel / outputs) && sees(place % side, pixel % outputs);
                assert_eq!(x.is_nan(), hit, "{level:?}, stride {stride}: NaN at {place}, output {i}: {x}");
            }
        }
    }
}
