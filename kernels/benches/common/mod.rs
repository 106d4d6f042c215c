//! What the benches share: seeded inputs, and timing of an operation forward and forward with backward.

use candle_core::{DType, Device, Result, Tensor};
use criterion::Criterion;
use nestgen_kernels::{Var, alloc, backward, no_grad};

/// Fixed numbers between -2 and 2.
pub(crate) fn numbers(dims: &[usize]) -> Tensor {
    let count: usize = dims.iter().product();
    let data: Vec<f32> = (0..count).map(|i| ((i * 7919 + 13) % 4001) as f32 / 1000.0 - 2.0).collect();
    Tensor::from_vec(data, dims, &Device::Cpu).expect("dims and data agree")
}

/// A loss whose gradient with respect to `y` is `grad`, at no cost of its own.
fn sink(y: &Var, grad: &Tensor) -> Result<Var> {
    let grad = grad.clone();
    let zero = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    Ok(Var::record_once("sink", zero, &[y], move |_, _| Ok(vec![Some(grad.clone())])))
}

/// Times `f` on `inputs`, without and with its backward pass.
pub(crate) fn bench(c: &mut Criterion, name: &str, inputs: &[Tensor], f: impl Fn(&[Var]) -> Result<Var>) {
    alloc::keep_pages();
    let constants: Vec<Var> = inputs.iter().cloned().map(Var::constant).collect();
    let grad = numbers(f(&constants).expect("the shapes fit").dims());
    let mut group = c.benchmark_group(name);
    group.sample_size(20);
    group.bench_function("forward", |b| b.iter(|| no_grad(|| f(&constants).expect("the shapes fit"))));
    group.bench_function("forward+backward", |b| {
        b.iter(|| {
            let leaves: Vec<Var> = inputs.iter().cloned().map(Var::leaf).collect();
            let loss = f(&leaves).and_then(|y| sink(&y, &grad));
            backward(loss.expect("the shapes fit")).expect("the rule holds")
        })
    });
    group.finish();
}
