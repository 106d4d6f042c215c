//! Layer normalisation of narrow and wide tokens.

mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use nestgen_kernels as k;

fn run(c: &mut Criterion) {
    for (dims, width) in [([16, 64, 64, 64], 64), ([64, 64, 16, 192], 192)] {
        let inputs = [common::numbers(&dims), common::numbers(&[width]), common::numbers(&[width])];
        common::bench(c, &format!("layer norm, {width} channels"), &inputs, |x| {
            k::layer_norm(&x[0], &x[1], &x[2], 1e-6)
        });
    }
}

criterion_group!(benches, run);
criterion_main!(benches);
