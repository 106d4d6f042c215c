//! Raw access to CPU tensors: slices in, vectors out, without copies.

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, bail};

/// The element types that kernels are written for: f32 to train, f64 to check gradients.
pub trait Element:
    candle_core::WithDType + Default + std::ops::AddAssign + std::ops::MulAssign + std::ops::Neg<Output = Self>
{
    /// The elements of a CPU storage of this type.
    fn of(storage: &CpuStorage) -> Option<&[Self]>;
    /// Converts a constant.
    fn lit(x: f64) -> Self;
    /// `self * a + b`, rounded once where the processor has a fused instruction.
    fn fma(self, a: Self, b: Self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// The larger of two numbers.
    fn maximum(self, other: Self) -> Self;
}

macro_rules! element {
    ($ty:ty, $variant:ident) => {
        impl Element for $ty {
            #[inline(always)]
            fn of(storage: &CpuStorage) -> Option<&[Self]> {
                match storage {
                    CpuStorage::$variant(data) => Some(data),
                    _ => None,
                }
            }
            #[inline(always)]
            fn lit(x: f64) -> Self {
                x as $ty
            }
            #[inline(always)]
            fn fma(self, a: Self, b: Self) -> Self {
                self.mul_add(a, b)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                <$ty>::sqrt(self)
            }
            #[inline(always)]
            fn maximum(self, other: Self) -> Self {
                if self > other { self } else { other }
            }
        }
    };
}
element!(f32, F32);
element!(f64, F64);

/// Runs `f` on the elements of a contiguous CPU tensor: for kernels. The edges of a program, where tensors may be on
/// another device, call [`with_downloaded`].
///
/// # Errors
/// When the tensor is elsewhere, of another type, or not contiguous; always while [`crate::portable::forced`].
pub fn with_slice<T: Element, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    if crate::portable::forced() {
        bail!("a kernel asked for the elements of a tensor while the portable path is forced");
    }
    slice_of(tensor, f)
}

/// Runs `f` on the elements of a tensor of any layout on any device, brought into the processor's memory if they are
/// elsewhere (which waits for the device).
///
/// # Errors
/// When the tensor is of another type, or cannot be brought here.
pub fn with_downloaded<T: Element, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    slice_of(&tensor.to_device(&Device::Cpu)?.contiguous()?, f)
}

fn slice_of<T: Element, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("expected a CPU tensor") };
    let Some(data) = T::of(storage) else {
        bail!("expected a tensor of {:?}, got {:?}", T::DTYPE, tensor.dtype())
    };
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("expected a contiguous tensor, got strides {:?} for {:?}", layout.stride(), layout.dims())
    };
    f(&data[start..end])
}

/// A vector whose contents are not set yet: for outputs that a kernel writes completely.
///
/// Saves a pass over memory (and its page faults) for each output.
pub(crate) fn uninit<T: Element>(len: usize) -> Vec<T> {
    let mut data = Vec::with_capacity(len);
    // SAFETY: the capacity is `len`; `Element` is only f32 and f64, which have nothing to drop. Every kernel writes each element
    // before it is read (their tests compare with references). Until then the elements are not initialised, which `set_len`
    // asks for, and kernels hold `&mut [T]` of them, of which the language has not settled whether it may be: a known risk. Vectors
    // of `MaybeUninit` would go through every kernel, and zeroed ones cost the pass that this saves, as the allocator
    // keeps pages (`alloc`).
    #[allow(clippy::uninit_vec)]
    unsafe {
        data.set_len(len);
    }
    data
}

/// Calls the f32 or f64 instance of a generic expression, by the element type of a tensor.
macro_rules! by_dtype {
    ($name:expr, $tensor:expr, $T:ident => $body:expr) => {
        match $tensor.dtype() {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            other => Err($crate::cpu::unsupported($name, other)),
        }
    };
}
pub(crate) use by_dtype;

/// The error of an operation given an element type that it has no kernel for.
pub(crate) fn unsupported(name: &str, dtype: DType) -> candle_core::Error {
    candle_core::Error::Msg(format!("{name}: no kernel for {dtype:?} (f32 and f64 have one)"))
}
