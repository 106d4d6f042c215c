//! Products of matrices on a GPU, through cuBLAS: of bf16, added up in f32 and given in bf16 or f32, or of f32, whose factors
//! the units may round to TF32 where that is the precision. candle has one setting of that for all threads.

use std::ffi::{c_int, c_longlong, c_void};

use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::cuda_backend::cudarc::driver::DevicePtrMut;
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType, Result, Storage, Tensor, bail};
use half::bf16;

use super::launch::address;
use crate::precision::{Precision, current};

/// Sizes of a stack of products `[m, k] x [k, n]`.
pub(crate) type Sizes = (usize, usize, usize, usize);

/// The products of contiguous stacks of bf16 or f32, `a` and `b` stored transposed where `transposed` says so; f32 if `wide`.
pub(crate) fn product(
    a: &Tensor,
    b: &Tensor,
    transposed: (bool, bool),
    (batch, m, n, k): Sizes,
    wide: bool,
) -> Result<Tensor> {
    if a.dtype() != b.dtype() || !matches!(a.dtype(), DType::BF16 | DType::F32) {
        bail!("gemm: expected factors of bf16 or f32, got {:?} and {:?}", a.dtype(), b.dtype());
    }
    let wide = wide || a.dtype() == DType::F32;
    if [m, n, k, batch].iter().any(|&size| size > c_int::MAX as usize) {
        bail!("gemm: {batch} products of {m}x{k} by {k}x{n} are too large for cuBLAS");
    }
    let device = a.device().as_cuda_device()?;
    let (count, stream) = (batch * m * n, device.cuda_stream());
    // SAFETY: the product writes every element.
    let storage = unsafe {
        if wide {
            let mut out = device.alloc::<f32>(count)?;
            let to = out.device_ptr_mut(&stream).0;
            run(a, b, transposed, (batch, m, n, k), to, sys::cudaDataType_t::CUDA_R_32F)?;
            CudaStorage::wrap_cuda_slice(out, device.clone())
        } else {
            let mut out = device.alloc::<bf16>(count)?;
            let to = out.device_ptr_mut(&stream).0;
            run(a, b, transposed, (batch, m, n, k), to, sys::cudaDataType_t::CUDA_R_16BF)?;
            CudaStorage::wrap_cuda_slice(out, device.clone())
        }
    };
    Ok(Tensor::from_storage(Storage::Cuda(storage), (batch, m, n), BackpropOp::none(), false))
}

/// Queues the product; `to` is memory for its result of type `to_type`.
///
/// # Safety
/// The operands and `to` must be on one GPU and as large as the sizes say.
unsafe fn run(
    a: &Tensor,
    b: &Tensor,
    (trans_a, trans_b): (bool, bool),
    (batch, m, n, k): Sizes,
    to: u64,
    to_type: sys::cudaDataType_t,
) -> Result<()> {
    let blas = a.device().as_cuda_device()?.cublas_handle();
    let operation = |transposed: bool| match transposed {
        true => sys::cublasOperation_t::CUBLAS_OP_T,
        false => sys::cublasOperation_t::CUBLAS_OP_N,
    };
    let (one, zero) = (1f32, 0f32);
    let factors = match a.dtype() {
        DType::F32 => sys::cudaDataType_t::CUDA_R_32F,
        _ => sys::cudaDataType_t::CUDA_R_16BF,
    };
    let how = match (a.dtype(), current()) {
        (DType::F32, Precision::Tf32) => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
        _ => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
    };
    // cuBLAS counts in columns: a matrix of rows is its transpose there, and (a b)^T = b^T a^T.
    let (ld_b, ld_a) = (if trans_b { k } else { n }, if trans_a { m } else { k });
    // SAFETY: by this function's contract; leading dimensions are those of contiguous matrices.
    unsafe {
        result::gemm_strided_batched_ex(
            *blas.handle(),
            operation(trans_b),
            operation(trans_a),
            n as c_int,
            m as c_int,
            k as c_int,
            (&raw const one).cast::<c_void>(),
            address(b)? as *const c_void,
            factors,
            ld_b as c_int,
            (k * n) as c_longlong,
            address(a)? as *const c_void,
            factors,
            ld_a as c_int,
            (m * k) as c_longlong,
            (&raw const zero).cast::<c_void>(),
            to as *mut c_void,
            to_type,
            n as c_int,
            (m * n) as c_longlong,
            batch as c_int,
            how,
            // The one for tensor units, which need no leave since Ampere, by the manual lets f32 be rounded to f16 as well.
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .map_err(candle_core::Error::wrap)
}
