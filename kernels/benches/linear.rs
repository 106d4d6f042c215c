//! Linear layers of generators and classifiers: forward, and with both gradients.

mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use nestgen_kernels as k;

fn run(c: &mut Criterion) {
    for (tokens, c_in, c_out) in
        [(4160, 192, 768), (4160, 768, 192), (1024, 512, 1536), (16384, 128, 512), (64, 1024, 1024)]
    {
        let inputs =
            [common::numbers(&[tokens, c_in]), common::numbers(&[c_out, c_in]), common::numbers(&[c_out])];
        common::bench(c, &format!("linear, {tokens} tokens, {c_in} to {c_out}"), &inputs, |x| {
            k::linear(&x[0], &x[1], Some(&x[2]), k::Activation::None)
        });
    }
}

criterion_group!(benches, run);
criterion_main!(benches);
