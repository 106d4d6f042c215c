//! Convolutions of the residual discriminator at 64 px, batch 16.

mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use nestgen_kernels as k;

fn run(c: &mut Criterion) {
    for (side, c_in, c_out, kernel) in [
        (64, 64, 64, 3),
        (32, 128, 128, 3),
        (16, 256, 256, 3),
        (8, 512, 512, 3),
        (4, 512, 512, 3),
        (64, 3, 64, 3),
        (32, 64, 128, 1),
    ] {
        let inputs = [
            common::numbers(&[16, side, side, c_in]),
            common::numbers(&[c_out, kernel, kernel, c_in]),
            common::numbers(&[c_out]),
        ];
        common::bench(c, &format!("conv {kernel}x{kernel}, {c_in} to {c_out}, {side} px"), &inputs, |x| {
            k::conv2d(&x[0], &x[1], Some(&x[2]), k::Conv2d::same(kernel), k::Activation::LeakyRelu(0.2))
        });
    }
}

criterion_group!(benches, run);
criterion_main!(benches);
