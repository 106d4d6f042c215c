//! How exactly matrix products multiply where the portable path makes them: on a GPU, or on the processor in tests.
//!
//! The setting concerns the products of linear layers, of [`crate::matmul`], of attention and of a convolution's columns,
//! in all directions. Parameters, optimizers, the sums inside of operations, statistics and losses stay f32; so do activations,
//! but in bf16 those between products are rounded too (`mixed.rs`). The processor's fast path always multiplies in f32.

use std::cell::Cell;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// What the factors of a product are rounded to; sums are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Precision {
    /// Nothing: 24 significant bits.
    #[default]
    F32 = 0,
    /// 11 significant bits, the range of f32, by the GPU's own units.
    Tf32 = 1,
    /// 8 significant bits, the range of f32. What lies between products is rounded to them too.
    Bf16 = 2,
}

impl Precision {
    /// `f32`, `tf32` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let known = [Self::F32, Self::Tf32, Self::Bf16];
        known.into_iter().find(|p| p.name() == text).ok_or_else(|| "expected f32, tf32 or bf16".into())
    }
}

/// The whole process's choice.
static CHOSEN: AtomicU8 = AtomicU8::new(Precision::F32 as u8);

thread_local! {
    /// What [`with`] says in this thread.
    static HERE: Cell<Option<Precision>> = const { Cell::new(None) };
}

/// Sets the precision of the whole process. The program does this once, before it computes.
pub fn choose(precision: Precision) {
    CHOSEN.store(precision as u8, Ordering::Relaxed);
}

/// The precision of products that this thread makes now.
pub fn current() -> Precision {
    HERE.get().unwrap_or(match CHOSEN.load(Ordering::Relaxed) {
        1 => Precision::Tf32,
        2 => Precision::Bf16,
        _ => Precision::F32,
    })
}

/// Runs `f` with another precision in this thread, and goes back to the one before even if `f` panics. What `f` records is
/// differentiated with the precision of the reverse pass's own time.
pub fn with<R>(precision: Precision, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Precision>);
    impl Drop for Restore {
        fn drop(&mut self) {
            HERE.set(self.0);
        }
    }
    let _restore = Restore(HERE.replace(Some(precision)));
    f()
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Result, Tensor};

    use super::*;
    use crate::gradcheck::pattern;
    use crate::{Activation, Conv2d, Var, portable};

    /// Agreement of bf16 with f32, as a share of the largest element.
    const ROUGH: f64 = 2e-2;
    /// Less than what rounding to 8 bits must do to these operands.
    const LEAST: f64 = 1e-4;

    type Operation = fn(&[Var]) -> Result<Var>;

    /// Value and gradients of an operation on f32 operands.
    fn all(f: Operation, inputs: &[Tensor], precision: Precision) -> Result<Vec<Tensor>> {
        with(precision, || {
            let leaves: Vec<Var> = inputs.iter().cloned().map(Var::leaf).collect();
            let y = f(&leaves)?;
            let weights = Var::constant(pattern(y.dims(), 9)?.to_dtype(DType::F32)?);
            let gradients = crate::backward(crate::sum_all(&crate::mul(&y, &weights)?)?)?;
            let mut all = vec![y.into_value()];
            all.extend(leaves.iter().filter_map(|leaf| gradients.leaf(leaf).cloned()));
            Ok(all)
        })
    }

    #[test]
    fn bf16_agrees_with_f32_to_its_rounding_and_no_better() -> Result<()> {
        if !portable::forced() && !crate::gradcheck::device().is_cuda() {
            return Ok(());
        }
        let operations: [(&str, Operation, &[&[usize]]); 5] = [
            ("linear", |v| crate::linear(&v[0], &v[1], None, Activation::None), &[&[9, 33], &[17, 33]]),
            ("matmul", |v| crate::matmul(&v[0], &v[1], true, false), &[&[3, 20, 7], &[3, 20, 11]]),
            (
                "conv2d",
                |v| crate::conv2d(&v[0], &v[1], None, Conv2d::same(3), Activation::None),
                &[&[2, 7, 6, 5], &[8, 3, 3, 5]],
            ),
            ("attention", |v| crate::attention(&v[0], 2), &[&[2, 2, 65, 48]]),
            (
                "multi_query_attention",
                |v| crate::multi_query_attention(&v[0], &v[1], 2),
                &[&[2, 1, 65, 16], &[2, 1, 65, 16]],
            ),
        ];
        for (name, f, dims) in operations {
            let inputs: Vec<Tensor> = dims
                .iter()
                .enumerate()
                .map(|(i, dims)| pattern(dims, i as u64)?.to_dtype(DType::F32))
                .collect::<Result<_>>()?;
            let (exact, rough) = (all(f, &inputs, Precision::F32)?, all(f, &inputs, Precision::Bf16)?);
            assert_eq!(exact.len(), inputs.len() + 1, "{name}");
            for (i, (exact, rough)) in exact.iter().zip(&rough).enumerate() {
                // Gradients of parameters and inputs have their type.
                assert!(i == 0 || rough.dtype() == DType::F32, "{name}, output {i}: {:?}", rough.dtype());
                let [exact, rough] = [exact, rough].map(|x| x.to_dtype(DType::F64));
                let (exact, rough) = (exact?, rough?);
                let largest = exact.abs()?.max_all()?.to_scalar::<f64>()?;
                let error = (exact - rough)?.abs()?.max_all()?.to_scalar::<f64>()? / largest;
                assert!((LEAST..ROUGH).contains(&error), "{name}, output {i}: {error:e} of the largest");
            }
        }
        Ok(())
    }

    #[test]
    fn a_precision_holds_where_it_is_set_and_no_longer() {
        assert_eq!(current(), Precision::F32);
        with(Precision::Bf16, || {
            assert_eq!(current(), Precision::Bf16);
            with(Precision::F32, || assert_eq!(current(), Precision::F32));
            assert_eq!(current(), Precision::Bf16);
            let other = std::thread::spawn(current).join();
            assert_eq!(other.ok(), Some(Precision::F32));
        });
        assert_eq!(current(), Precision::F32);
        assert_eq!("tf32".parse(), Ok(Precision::Tf32));
        assert!("fp16".parse::<Precision>().is_err());
    }
}
