//! Bit-for-bit promises. Alone in their process: tests that force an instruction set would change the rounding in
//! the middle of these.

use candle_core::{DType, Result, Tensor};
use nestgen_kernels as k;
use nestgen_kernels::{Activation, Conv2d, Var};

/// An image's result and its gradient are the same alone, in a batch and on any number of threads, to the bit; the gradient
/// of the weights is the same on any number of threads. On a GPU, libraries choose
/// another algorithm for another batch.
#[test]
fn convolutions_do_not_depend_on_the_batch_or_the_threads() -> Result<()> {
    if !k::gradcheck::device().is_cpu() {
        return Ok(());
    }
    let p = |dims: &[usize], seed| k::gradcheck::pattern(dims, seed)?.to_dtype(DType::F32).map(Var::constant);
    let cases: [([usize; 4], [usize; 4], Conv2d); 6] = [
        ([7, 20, 18, 32], [48, 3, 3, 32], Conv2d::same(3)),
        ([7, 6, 5, 20], [33, 3, 3, 20], Conv2d::same(3)),
        ([7, 9, 9, 24], [40, 1, 1, 24], Conv2d::same(1)),
        ([7, 11, 12, 8], [16, 1, 7, 8], Conv2d { stride: (1, 1), padding: (0, 3) }),
        ([7, 11, 12, 8], [16, 3, 3, 8], Conv2d { stride: (2, 2), padding: (0, 0) }),
        ([7, 11, 12, 3], [16, 3, 3, 3], Conv2d::same(3)),
    ];
    for (x, w, how) in cases {
        let (x, w) = (p(&x, 1)?, p(&w, 2)?);
        // The value, and the gradients of x and w.
        let run = |x: &Var, threads: usize| -> Result<[Vec<f32>; 3]> {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .map_err(candle_core::Error::wrap)?;
            let (x, w) = (x.value().clone(), w.value().clone());
            pool.install(|| {
                let (x, w) = (Var::leaf(x), Var::leaf(w));
                let y = k::conv2d(&x, &w, None, how, Activation::Relu)?;
                let value = y.value().clone();
                let found = k::backward(k::sum_all(&k::square(&y)?)?)?;
                let of = |leaf| found.leaf(leaf).ok_or_else(|| candle_core::Error::msg("no gradient"));
                let numbers = |x: &Tensor| x.flatten_all()?.to_vec1();
                Ok([numbers(&value)?, numbers(of(&x)?)?, numbers(of(&w)?)?])
            })
        };
        let together = run(&x, 1)?;
        assert_eq!(together, run(&x, 3)?, "threads: {how:?}");
        for i in [0, 3, 6] {
            let alone = run(&k::narrow(&x, 0, i, 1)?, 2)?;
            // The gradient of w is a sum over images.
            for (alone, together) in alone.iter().zip(&together).take(2) {
                assert_eq!(*alone, together[i * alone.len()..(i + 1) * alone.len()], "image {i}: {how:?}");
            }
        }
    }
    Ok(())
}
