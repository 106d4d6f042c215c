//! A convolution's three products by cuDNN, channels last. What algorithm suits a product, and how much memory it works
//! in, is asked once; the memory is kept.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::cudnn::{
    ConvBackwardData, ConvBackwardFilter, ConvDescriptor, ConvForward, Cudnn, CudnnDataType, CudnnError,
    FilterDescriptor, TensorDescriptor, sys,
};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr};
use candle_core::cuda_backend::{CudaDType, DeviceId};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Error, Result, Storage, Tensor, WithDType, bail};
use half::bf16;

use super::Direction;
use crate::conv2d::Geometry;
use crate::precision::{Precision, current};

/// Elements of an operand at most: cuDNN counts in 32 bits with sign.
const LARGEST: usize = i32::MAX as usize;

/// What an algorithm was chosen for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Case {
    direction: Direction,
    x: [usize; 4],
    w: [usize; 4],
    how: [usize; 4],
    precision: u8,
}

#[derive(Clone, Copy)]
enum Algorithm {
    Output(sys::cudnnConvolutionFwdAlgo_t),
    Input(sys::cudnnConvolutionBwdDataAlgo_t),
    Weight(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// An algorithm and the bytes it works in.
#[derive(Clone, Copy)]
struct Choice {
    algorithm: Algorithm,
    bytes: usize,
}

/// cuDNN on one GPU.
struct Library {
    handle: Arc<Cudnn>,
    /// `None` where cuDNN has no algorithm for the case.
    choices: HashMap<Case, Option<Choice>>,
    workspace: CudaSlice<u8>,
}

thread_local! {
    // A handle belongs to one thread.
    static LIBRARIES: RefCell<HashMap<DeviceId, Library>> = RefCell::default();
}

/// See [`super::convolution`].
pub(super) fn convolution(
    direction: Direction,
    g: &Geometry,
    a: &Tensor,
    b: &Tensor,
) -> Result<Option<Tensor>> {
    let largest = [g.x_dims(), g.w_dims(), g.y_dims()].map(|dims| dims.iter().product::<usize>());
    if !a.device().is_cuda() || a.dtype() != DType::F32 || largest.iter().any(|&count| count > LARGEST) {
        return Ok(None);
    }
    let device = a.device().as_cuda_device()?;
    LIBRARIES.with_borrow_mut(|libraries| {
        if !libraries.contains_key(&device.id()) {
            let handle = Cudnn::new(device.cuda_stream()).map_err(Error::wrap)?;
            // SAFETY: working memory, which no algorithm reads before it writes.
            let workspace = unsafe { device.alloc::<u8>(1) }?;
            libraries.insert(device.id(), Library { handle, choices: HashMap::new(), workspace });
        }
        let Some(library) = libraries.get_mut(&device.id()) else { return Ok(None) };
        let (a, b) = (a.contiguous()?, b.contiguous()?);
        if current() == Precision::Bf16 {
            let (a, b) = (a.to_dtype(DType::BF16)?, b.to_dtype(DType::BF16)?);
            let found = library.run::<bf16>(device, direction, g, &a, &b)?;
            return found.map(|found| found.to_dtype(DType::F32)).transpose();
        }
        library.run::<f32>(device, direction, g, &a, &b)
    })
}

/// `[n, h, w, c]` in the order that cuDNN names dimensions, whatever their order in memory.
fn named(dims: [usize; 4]) -> [i32; 4] {
    [dims[0], dims[3], dims[1], dims[2]].map(|size| size as i32)
}

/// A convolution and its operands as cuDNN describes them.
struct Described<T> {
    conv: ConvDescriptor<f32>,
    x: TensorDescriptor<T>,
    w: FilterDescriptor<T>,
    y: TensorDescriptor<T>,
}

impl<T: CudnnDataType> Described<T> {
    fn new(handle: &Arc<Cudnn>, g: &Geometry) -> std::result::Result<Self, CudnnError> {
        let (format, conv) = (sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC, g.conv);
        let pair = |(rows, columns): (usize, usize)| [rows as i32, columns as i32];
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let mut conv = handle.create_conv2d::<f32>(pair(conv.padding), pair(conv.stride), [1, 1], mode)?;
        conv.set_math_type(match current() {
            Precision::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
            Precision::Tf32 | Precision::Bf16 => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
        })?;
        Ok(Self {
            conv,
            x: handle.create_4d_tensor(format, named(g.x_dims()))?,
            w: handle.create_4d_filter(format, named(g.w_dims()))?,
            y: handle.create_4d_tensor(format, named(g.y_dims()))?,
        })
    }

    fn output(&self) -> ConvForward<'_, T, f32, T> {
        ConvForward { conv: &self.conv, x: &self.x, w: &self.w, y: &self.y }
    }

    fn input(&self) -> ConvBackwardData<'_, T, f32, T> {
        ConvBackwardData { conv: &self.conv, dx: &self.x, w: &self.w, dy: &self.y }
    }

    fn weight(&self) -> ConvBackwardFilter<'_, T, f32, T> {
        ConvBackwardFilter { conv: &self.conv, x: &self.x, dw: &self.w, dy: &self.y }
    }

    /// What cuDNN recommends.
    fn choose(&self, direction: Direction) -> std::result::Result<Choice, CudnnError> {
        Ok(match direction {
            Direction::Output => {
                let algorithm = self.output().pick_algorithm()?;
                let bytes = self.output().get_workspace_size(algorithm)?;
                Choice { algorithm: Algorithm::Output(algorithm), bytes }
            }
            Direction::Input => {
                let algorithm = self.input().pick_algorithm()?;
                let bytes = self.input().get_workspace_size(algorithm)?;
                Choice { algorithm: Algorithm::Input(algorithm), bytes }
            }
            Direction::Weight => {
                let algorithm = self.weight().pick_algorithm()?;
                let bytes = self.weight().get_workspace_size(algorithm)?;
                Choice { algorithm: Algorithm::Weight(algorithm), bytes }
            }
        })
    }
}

impl Library {
    fn run<T: CudnnDataType + DeviceRepr + CudaDType + WithDType>(
        &mut self,
        device: &CudaDevice,
        direction: Direction,
        g: &Geometry,
        a: &Tensor,
        b: &Tensor,
    ) -> Result<Option<Tensor>> {
        let described = Described::<T>::new(&self.handle, g).map_err(Error::wrap)?;
        let ((stride_y, stride_x), (pad_y, pad_x)) = (g.conv.stride, g.conv.padding);
        let case = Case {
            direction,
            x: g.x_dims(),
            w: g.w_dims(),
            how: [stride_y, stride_x, pad_y, pad_x],
            precision: current() as u8,
        };
        let choice = self.choices.entry(case).or_insert_with(|| described.choose(direction).ok());
        let Some(Choice { algorithm, bytes }) = *choice else { return Ok(None) };
        if self.workspace.len() < bytes {
            // SAFETY: as above; the old memory is freed in the stream's order, after those who work in it.
            self.workspace = unsafe { device.alloc::<u8>(bytes) }?;
        }
        let dims = match direction {
            Direction::Output => g.y_dims(),
            Direction::Input => g.x_dims(),
            Direction::Weight => g.w_dims(),
        };
        // SAFETY: cuDNN writes the whole result.
        let mut found = unsafe { device.alloc::<T>(dims.iter().product()) }?;
        {
            let ((a, a_layout), (b, b_layout)) = (a.storage_and_layout(), b.storage_and_layout());
            let (Storage::Cuda(a), Storage::Cuda(b)) = (&*a, &*b) else {
                bail!("cuDNN: an operand is on no GPU")
            };
            let (Some((a0, a1)), Some((b0, b1))) =
                (a_layout.contiguous_offsets(), b_layout.contiguous_offsets())
            else {
                bail!("cuDNN: an operand is not contiguous")
            };
            let (a, b) = (a.as_cuda_slice::<T>()?.slice(a0..a1), b.as_cuda_slice::<T>()?.slice(b0..b1));
            let scales = (T::from_f64(1.0), T::from_f64(0.0));
            let memory = Some(&mut self.workspace);
            // SAFETY: the operands are contiguous, of the described shapes and type, and on the handle's GPU.
            let launched = unsafe {
                match algorithm {
                    Algorithm::Output(how) => {
                        described.output().launch(how, memory, scales, &a, &b, &mut found)
                    }
                    Algorithm::Input(how) => described.input().launch(how, memory, scales, &mut found, &b, &a),
                    Algorithm::Weight(how) => {
                        described.weight().launch(how, memory, scales, &a, &mut found, &b)
                    }
                }
            };
            launched.map_err(Error::wrap)?;
        }
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(found, device.clone()));
        Ok(Some(Tensor::from_storage(storage, &dims[..], BackpropOp::none(), false)))
    }
}
