//! Attention inside blocks, at the shapes of the transposed NesT, ViT and NesT classifiers.

mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use nestgen_kernels as k;

fn run(c: &mut Criterion) {
    for (name, blocks, tokens, heads, hd) in [
        ("generator, 64 tokens", (16, 16), 64, 4, 32),
        ("ViT, 64 tokens", (64, 1), 64, 3, 64),
        ("NesT, 196 tokens", (8, 4), 196, 3, 32),
    ] {
        let qkv = common::numbers(&[blocks.0, blocks.1, tokens, 3 * heads * hd]);
        common::bench(c, &format!("attention, {name}"), &[qkv], |x| k::attention(&x[0], heads));
    }
    let inputs = [common::numbers(&[64, 64, 16, 192]), common::numbers(&[64, 64, 16, 128])];
    common::bench(c, "multi-query attention, 16 tokens", &inputs, |x| {
        k::multi_query_attention(&x[0], &x[1], 3)
    });
}

criterion_group!(benches, run);
criterion_main!(benches);
