//! Activation functions over 4M elements.

mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use nestgen_kernels as k;

fn run(c: &mut Criterion) {
    let all = [
        k::Activation::GeluErf,
        k::Activation::GeluTanh,
        k::Activation::Silu,
        k::Activation::Tanh,
        k::Activation::LeakyRelu(0.2),
    ];
    for activation in all {
        common::bench(c, &format!("{activation:?}"), &[common::numbers(&[64, 1024, 64])], |x| {
            k::activate(&x[0], activation)
        });
    }
}

criterion_group!(benches, run);
criterion_main!(benches);
