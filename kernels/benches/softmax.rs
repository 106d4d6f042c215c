//! Softmax over short and long rows, and the loss of a classifier.

mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use nestgen_kernels as k;

fn run(c: &mut Criterion) {
    for width in [16, 64, 196] {
        let x = common::numbers(&[4_000_000 / width, width]);
        common::bench(c, &format!("softmax over {width}"), &[x], |x| k::softmax(&x[0]));
    }
    common::bench(c, "log_softmax over 64", &[common::numbers(&[65_536, 64])], |x| k::log_softmax(&x[0]));
    for classes in [100, 1000] {
        let targets = common::numbers(&[256, classes]);
        let x = common::numbers(&[256, classes]);
        common::bench(c, &format!("cross entropy of {classes} classes"), &[x], |x| {
            k::cross_entropy(&x[0], &targets)
        });
    }
}

criterion_group!(benches, run);
criterion_main!(benches);
