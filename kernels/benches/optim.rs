//! Adam and moving averages of 20M parameters.

#[allow(dead_code)]
mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use nestgen_kernels as k;

fn run(c: &mut Criterion) {
    k::alloc::keep_pages();
    let param = |i: usize| k::Param::new(format!("p{i}"), common::numbers(&[1000, 1000]));
    let params: Vec<k::Param> = (0..20).map(param).collect();
    let pairs: Vec<(k::Param, k::Param)> = params.iter().map(|p| (param(0), p.clone())).collect();
    let mut gradients = k::Gradients::default();
    for param in &params {
        gradients.set_param(param, param.value());
    }
    let mut adam = k::Adam::new(&params, k::AdamConfig::default()).expect("names differ");
    c.bench_function("Adam, 20M", |b| b.iter(|| adam.step(&gradients, 1e-4).expect("shapes agree")));
    c.bench_function("moving average, 20M", |b| b.iter(|| k::ema_update(&pairs, 0.999).expect("shapes agree")));
}

criterion_group!(benches, run);
criterion_main!(benches);
