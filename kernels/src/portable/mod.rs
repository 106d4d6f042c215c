//! Every kernel a second time, as a composition of candle tensor operations: what runs where a tensor is not in the
//! processor's memory.
//!
//! The rest of this crate decides *what* is computed and how it is differentiated; a file here only says how one
//! value is made on any device. The compositions are chosen for what candle does well on CUDA: matrix products,
//! contiguous elementwise passes, reductions over the last dimension. What is slow or wrong there is not used: its
//! convolutions, pools and upsampling, scatter-add, sums over leading dimensions, its reverse pass.
//!
//! The path runs on the processor too, which is how it is tested without a GPU: [`force`], or the environment
//! variable `NESTGEN_PORTABLE=1`, sends everything through it, and [`crate::cpu::with_slice`] then refuses to hand
//! out elements, so that no kernel of the fast path can be left on the way unnoticed. The elements of tensors are
//! then read through [`crate::cpu::with_downloaded`] alone, at the edges of the program.

pub(crate) mod attention;
pub(crate) mod augment;
pub(crate) mod conv2d;
pub(crate) mod elementwise;
pub(crate) mod feed_forward;
pub(crate) mod layout;
pub(crate) mod linear;
pub(crate) mod norm;
pub(crate) mod optim;
pub(crate) mod pool;
pub(crate) mod reduce;
pub(crate) mod samples;
pub(crate) mod softmax;

use std::sync::atomic::{AtomicU8, Ordering};

use candle_core::Tensor;

/// The environment variable that forces the portable path when it is `1`.
pub const VARIABLE: &str = "NESTGEN_PORTABLE";

const NOT_LOOKED_YET: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

static FORCED: AtomicU8 = AtomicU8::new(NOT_LOOKED_YET);

/// Whether the portable path is forced for tensors in the processor's memory.
pub fn forced() -> bool {
    match FORCED.load(Ordering::Relaxed) {
        ON => true,
        OFF => false,
        _ => {
            force(std::env::var_os(VARIABLE).is_some_and(|value| value == "1"));
            forced()
        }
    }
}

/// Forces the portable path, or stops forcing it, in the whole process. For tests: call it between operations, and
/// in a process of its own (a graph is walked on the path it was recorded on).
pub fn force(on: bool) {
    FORCED.store(if on { ON } else { OFF }, Ordering::Relaxed);
}

/// Whether an operation on `x` takes the portable path.
#[inline]
pub fn takes(x: &Tensor) -> bool {
    #[cfg(test)]
    if crate::cuda::emulation::is_pretended() {
        return true;
    }
    !x.device().is_cpu() || forced()
}

#[cfg(test)]
#[path = "../../tests/again/mod.rs"]
mod again;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_of_this_crate_passes_on_the_portable_path() {
        again::on_the_portable_path();
    }

    #[test]
    fn every_test_of_this_crate_passes_on_a_gpu() {
        again::on_the_gpu();
    }

    #[test]
    fn slices_are_refused_while_the_path_is_forced() {
        if forced() {
            let x = Tensor::new(&[1f32], &crate::gradcheck::device()).unwrap();
            let error = crate::cpu::with_slice::<f32, _>(&x, |_| Ok(())).unwrap_err().to_string();
            assert!(error.contains("portable"), "{error}");
            assert_eq!(crate::cpu::with_downloaded::<f32, _>(&x, |x| Ok(x[0])).unwrap(), 1.0);
        }
    }
}
