//! Passes over images that are bound by memory: pooling, nearest upsampling, batch norm.

mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use nestgen_kernels as k;

fn run(c: &mut Criterion) {
    let x = common::numbers(&[16, 64, 64, 64]);
    common::bench(c, "average pool 2x2", std::slice::from_ref(&x), |x| k::avg_pool2(&x[0]));
    common::bench(c, "max pool 3x3 / 2", std::slice::from_ref(&x), |x| {
        k::max_pool3s2(&x[0], k::PoolPadding::TfSame)
    });
    common::bench(c, "upsample nearest", &[common::numbers(&[16, 32, 32, 64])], |x| {
        k::upsample_nearest2(&x[0])
    });
    let channel = common::numbers(&[64]);
    common::bench(c, "batch norm, 64 channels", &[x, channel.clone(), channel], |x| {
        Ok(k::batch_norm(&x[0], &x[1], &x[2], 1e-5, None)?.0)
    });
}

criterion_group!(benches, run);
criterion_main!(benches);
