//! Softmax over short and long rows, and the loss of a classifier.

mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use nestgen_kernels as k;

fn run(c: &mut Criterion) {
    for width in [16, 64, 196] {
        let x = common::numbers(&[4_000_000 / width, width]);
        common::bench(c, &format!("softmax over {width}"), &[x], |x| k::softmax(&x[0]));
    }
    let targets = common::numbers(&[256, 100]);
    common::bench(c, "cross entropy of 100 classes", &[common::numbers(&[256, 100])], |x| {
        k::cross_entropy(&x[0], &targets)
    });
}

criterion_group!(benches, run);
criterion_main!(benches);
