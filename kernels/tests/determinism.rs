//! Bit-for-bit promises. Alone in their process: tests that force an instruction set would change the rounding in
//! the middle of these.

use candle_core::{DType, Result, Tensor};
use nestgen_kernels as k;
use nestgen_kernels::{Activation, Conv2d, Var};

/// An image's result is the same alone, in a batch and on any number of threads, to the bit. On a GPU, libraries choose
/// another algorithm for another batch.
#[test]
fn convolutions_do_not_depend_on_the_batch_or_the_threads() -> Result<()> {
    if !k::gradcheck::device().is_cpu() {
        return Ok(());
    }
    let p = |dims: &[usize], seed| k::gradcheck::pattern(dims, seed)?.to_dtype(DType::F32).map(Var::constant);
    let cases: [([usize; 4], [usize; 4], Conv2d); 5] = [
        ([7, 20, 18, 32], [48, 3, 3, 32], Conv2d::same(3)),
        ([7, 6, 5, 20], [33, 3, 3, 20], Conv2d::same(3)),
        ([7, 9, 9, 24], [40, 1, 1, 24], Conv2d::same(1)),
        ([7, 11, 12, 8], [16, 1, 7, 8], Conv2d { stride: (1, 1), padding: (0, 3) }),
        ([7, 11, 12, 8], [16, 3, 3, 8], Conv2d { stride: (2, 2), padding: (0, 0) }),
    ];
    for (x, w, how) in cases {
        let (x, w) = (p(&x, 1)?, p(&w, 2)?);
        let run = |x: &Var, threads: usize| -> Result<Vec<f32>> {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .map_err(candle_core::Error::wrap)?;
            let (x, w) = (x.value().clone(), w.value().clone());
            let y = pool.install(|| -> Result<Tensor> {
                let (x, w) = (Var::constant(x), Var::constant(w));
                Ok(k::conv2d(&x, &w, None, how, Activation::Relu)?.into_value())
            })?;
            y.flatten_all()?.to_vec1()
        };
        let together = run(&x, 1)?;
        assert_eq!(together, run(&x, 3)?, "threads: {how:?}");
        let each = together.len() / 7;
        for i in [0, 3, 6] {
            let alone = run(&k::narrow(&x, 0, i, 1)?, 2)?;
            assert_eq!(alone, together[i * each..(i + 1) * each], "image {i}: {how:?}");
        }
    }
    Ok(())
}
