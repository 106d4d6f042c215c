//! Blocking, pixel shuffle and de-aggregation of 4M elements.

mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use nestgen_kernels as k;

fn run(c: &mut Criterion) {
    let x = common::numbers(&[16, 64, 64, 64]);
    common::bench(c, "blockify", std::slice::from_ref(&x), |x| k::blockify(&x[0], 8));
    common::bench(c, "pixel_shuffle2", std::slice::from_ref(&x), |x| k::pixel_shuffle2(&x[0]));
    common::bench(c, "deaggregate", &[common::numbers(&[16, 16, 64, 256])], |x| k::deaggregate(&x[0], 8));
}

criterion_group!(benches, run);
criterion_main!(benches);
