//! Every instruction set computes what plain code computes, at the sizes where kernels have edges. In a process of its own, since
//! it changes the instruction set.

use candle_core::{Device, Result, Tensor};
use nestgen_kernels::simd::{self, Level};
use nestgen_kernels::{self as k, Activation, Conv2d, Var};

/// Relative to the norm: f32 sums of at most some hundred terms in another order, and Winograd's 1.7 times that.
const TOLERANCE: f64 = 5e-6;

type Operation = Box<dyn Fn(&[Var]) -> Result<Var>>;

fn numbers(dims: &[usize], seed: usize) -> Result<Tensor> {
    let count: usize = dims.iter().product();
    let values: Vec<f32> = (0..count).map(|i| ((i * 7919 + seed * 104_729) as f32).sin()).collect();
    Tensor::from_vec(values, dims, &Device::Cpu)
}

/// Value and gradients.
fn all(f: &Operation, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let leaves: Vec<Var> = inputs.iter().cloned().map(Var::leaf).collect();
    let y = f(&leaves)?;
    let weights = Var::constant(numbers(y.dims(), 9)?);
    let gradients = k::backward(k::sum_all(&k::mul(&y, &weights)?)?)?;
    let mut all = vec![y.into_value()];
    all.extend(leaves.iter().filter_map(|leaf| gradients.leaf(leaf).cloned()));
    Ok(all)
}

fn cases() -> Vec<(String, Operation, Vec<Vec<usize>>)> {
    let mut cases: Vec<(String, Operation, Vec<Vec<usize>>)> = Vec::new();
    for rows in [1, 2, 5, 6, 7, 12, 13, 29] {
        for columns in [1, 7, 8, 9, 16, 17, 24, 31, 33, 64] {
            for depth in [1, 3, 4, 19, 64] {
                let f: Operation =
                    Box::new(|v| k::linear(&v[0], &v[1], Some(&v[2]), Activation::LeakyRelu(0.2)));
                let dims = vec![vec![rows, depth], vec![columns, depth], vec![columns]];
                cases.push((format!("linear, {rows} rows, {depth} to {columns}"), f, dims));
            }
        }
    }
    for (tokens, head_dim, heads) in [(1, 8, 1), (5, 3, 2), (9, 12, 3), (16, 16, 2), (49, 32, 1), (64, 20, 2)] {
        let f: Operation = Box::new(move |v| k::attention(&v[0], heads));
        cases.push((
            format!("attention, {tokens} tokens, {heads} heads of {head_dim}"),
            f,
            vec![vec![2, 3, tokens, 3 * heads * head_dim]],
        ));
    }
    // More rows than a strip of the matrix units has.
    cases.push((
        "linear_residual, 300 rows, 64 to 64".into(),
        Box::new(|v| k::linear_residual(&v[0], &v[1], Some(&v[2]), &v[3])),
        vec![vec![300, 64], vec![64, 64], vec![64], vec![300, 64]],
    ));
    for width in [1, 3, 16, 35, 100] {
        let f: Operation = Box::new(|v| k::log_softmax(&v[0]));
        cases.push((format!("log_softmax over {width}"), f, vec![vec![5, width]]));
    }
    let conv =
        |kernel: usize, stride: usize| Conv2d { stride: (stride, stride), padding: (kernel / 2, kernel / 2) };
    for (size, c_in, c_out, kernel, stride) in [
        (3, 16, 16, 3, 1),
        (5, 32, 48, 3, 1),
        (8, 48, 16, 3, 1),
        (9, 16, 64, 3, 1),
        (8, 3, 20, 3, 1),
        (7, 24, 33, 3, 1),
        (6, 16, 40, 1, 1),
        (8, 16, 16, 3, 2),
        (8, 5, 7, 5, 1),
    ] {
        let how = conv(kernel, stride);
        let f: Operation =
            Box::new(move |v| k::conv2d(&v[0], &v[1], Some(&v[2]), how, Activation::LeakyRelu(0.2)));
        let dims = vec![vec![3, size, size, c_in], vec![c_out, kernel, kernel, c_in], vec![c_out]];
        cases.push((
            format!("conv2d, {size} px, {c_in} to {c_out}, kernel {kernel}, stride {stride}"),
            f,
            dims,
        ));
    }
    cases
}

/// The distance as a share of the norm.
fn distance(found: &Tensor, want: &Tensor) -> Result<f64> {
    assert_eq!(found.dims(), want.dims());
    let norm = |x: &Tensor| x.to_dtype(candle_core::DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>();
    Ok((norm(&(found - want)?)? / norm(want)?.max(1e-30)).sqrt())
}

/// One test, since the instruction set is the whole process's.
#[test]
fn every_instruction_set_gives_the_same() -> Result<()> {
    every_instruction_set_agrees_with_plain_code()?;
    every_instruction_set_keeps_small_differences_of_large_logits()
}

fn every_instruction_set_agrees_with_plain_code() -> Result<()> {
    for (name, f, dims) in cases() {
        let inputs: Vec<Tensor> =
            dims.iter().enumerate().map(|(i, dims)| numbers(dims, i + 1)).collect::<Result<_>>()?;
        simd::force(Level::Plain);
        let want = all(&f, &inputs)?;
        for level in [Level::Avx2, Level::Avx512, Level::Amx] {
            if simd::force(level) != level {
                continue;
            }
            for (i, (found, want)) in all(&f, &inputs)?.iter().zip(&want).enumerate() {
                let distance = distance(found, want)?;
                assert!(distance < TOLERANCE, "{name}, output {i} at {level:?}: {distance:e}");
            }
        }
    }
    Ok(())
}

/// The loss of logits that are large and near each other, which is small: of their differences alone.
fn every_instruction_set_keeps_small_differences_of_large_logits() -> Result<()> {
    let want = ((-8f64).exp() + (-9f64).exp()).ln_1p();
    for level in [Level::Plain, Level::Avx2, Level::Avx512] {
        simd::force(level);
        let logits = Tensor::new(&[[1e4f32, 9992.0, 9991.0]], &Device::Cpu)?;
        let one_hot = Tensor::new(&[[1f32, 0.0, 0.0]], &Device::Cpu)?;
        let loss = k::cross_entropy(&Var::constant(logits), &one_hot)?.into_value().to_scalar::<f32>()?;
        // f32 next to 1, as the sum of powers is.
        assert!((f64::from(loss) - want).abs() < 1.2e-7, "{level:?}: {loss} {want}");
    }
    Ok(())
}
