//! A convolution's three products by cuDNN, channels last. What is fastest for a product is measured once: cuDNN's
//! algorithms that give the same bits every time, and gathered columns. The memory they work in is kept.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

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
use super::device::uncounted;
use crate::conv2d::Geometry;
use crate::mixed::convert;
use crate::precision::{Precision, current};

/// Elements of an operand at most: cuDNN counts in 32 bits with sign.
const LARGEST: usize = i32::MAX as usize;

/// Bytes that an algorithm may work in.
const MOST_WORKSPACE: usize = 1 << 30;

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

impl Algorithm {
    /// Those that give the same bits every time. FFT's rounding is left out, in f32 Winograd's too.
    fn all(direction: Direction) -> Vec<Self> {
        let mut found = Self::of(direction);
        if current() == Precision::F32 {
            found.pop();
        }
        found
    }

    /// All that might be taken, Winograd's last.
    fn of(direction: Direction) -> Vec<Self> {
        use sys::cudnnConvolutionBwdDataAlgo_t as Data;
        use sys::cudnnConvolutionBwdFilterAlgo_t as Filter;
        use sys::cudnnConvolutionFwdAlgo_t as Forward;
        match direction {
            Direction::Output => vec![
                Self::Output(Forward::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM),
                Self::Output(Forward::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM),
                Self::Output(Forward::CUDNN_CONVOLUTION_FWD_ALGO_GEMM),
                Self::Output(Forward::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD_NONFUSED),
            ],
            Direction::Input => vec![
                Self::Input(Data::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1),
                Self::Input(Data::CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD_NONFUSED),
            ],
            Direction::Weight => vec![
                Self::Weight(Filter::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1),
                Self::Weight(Filter::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD_NONFUSED),
            ],
        }
    }
}

/// cuDNN on one GPU.
struct Library {
    handle: Arc<Cudnn>,
    /// The fastest [`Prepared`]; `None` where columns are faster, or cuDNN has no algorithm.
    choices: HashMap<Case, Option<Box<dyn Any>>>,
    workspace: CudaSlice<u8>,
    /// Bytes of it that the chosen algorithms work in: those that were only tried may have needed more.
    needed: usize,
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
    columns: &dyn Fn() -> Result<Tensor>,
) -> Result<Tensor> {
    let largest = [g.x_dims(), g.w_dims(), g.y_dims()].map(|dims| dims.iter().product::<usize>());
    let types = [DType::F32, DType::BF16];
    if !a.device().is_cuda() || !types.contains(&a.dtype()) || largest.iter().any(|&count| count > LARGEST) {
        return columns();
    }
    let device = a.device().as_cuda_device()?;
    let found = LIBRARIES.with_borrow_mut(|libraries| {
        let library = match libraries.entry(device.id()) {
            Entry::Occupied(place) => place.into_mut(),
            Entry::Vacant(place) => {
                let handle = Cudnn::new(device.cuda_stream()).map_err(Error::wrap)?;
                // SAFETY: working memory, which no algorithm reads before it writes.
                let workspace = unsafe { device.alloc::<u8>(1) }?;
                place.insert(Library { handle, choices: HashMap::new(), workspace, needed: 1 })
            }
        };
        let (a, b) = (a.contiguous()?, b.contiguous()?);
        if current() == Precision::Bf16 {
            let (a, b) = (convert(&a, DType::BF16)?, convert(&b, DType::BF16)?);
            return library.run::<bf16>(device, direction, g, [&a, &b], columns);
        }
        library.run::<f32>(device, direction, g, [&a, &b], columns)
    })?;
    found.map_or_else(columns, Ok)
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
            Precision::Tf32 => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
            // Without it there are only slow kernels for bf16.
            Precision::Bf16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
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

    /// Bytes that an algorithm works in.
    fn bytes(&self, algorithm: Algorithm) -> std::result::Result<usize, CudnnError> {
        match algorithm {
            Algorithm::Output(how) => self.output().get_workspace_size(how),
            Algorithm::Input(how) => self.input().get_workspace_size(how),
            Algorithm::Weight(how) => self.weight().get_workspace_size(how),
        }
    }
}

/// A product by one of cuDNN's algorithms, to be launched any number of times.
struct Prepared<T> {
    described: Described<T>,
    algorithm: Algorithm,
    /// What it works in.
    bytes: usize,
}

/// Seconds that `f` takes when everything it needs has been loaded; `None` when it fails.
fn seconds(device: &CudaDevice, f: &mut dyn FnMut() -> Result<Tensor>) -> Option<f64> {
    let mut once = || -> Option<f64> {
        let start = Instant::now();
        f().ok()?;
        device.cuda_stream().synchronize().ok()?;
        Some(start.elapsed().as_secs_f64())
    };
    once()?;
    Some(once()?.min(once()?))
}

impl Library {
    /// The product by cuDNN; `None` where columns are to make it.
    fn run<T: CudnnDataType + DeviceRepr + CudaDType + WithDType>(
        &mut self,
        device: &CudaDevice,
        direction: Direction,
        g: &Geometry,
        operands: [&Tensor; 2],
        columns: &dyn Fn() -> Result<Tensor>,
    ) -> Result<Option<Tensor>> {
        let ((stride_y, stride_x), (pad_y, pad_x)) = (g.conv.stride, g.conv.padding);
        let case = Case {
            direction,
            x: g.x_dims(),
            w: g.w_dims(),
            how: [stride_y, stride_x, pad_y, pad_x],
            precision: current() as u8,
        };
        let Self { handle, choices, workspace, needed } = self;
        let choice = match choices.entry(case) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let best = uncounted(operands[0].device(), || {
                    let mut best = (seconds(device, &mut || columns()).unwrap_or(f64::INFINITY), None);
                    for algorithm in Algorithm::all(direction) {
                        let Ok(prepared) = Prepared::<T>::new(handle, g, algorithm) else { continue };
                        let time = seconds(device, &mut || prepared.launch(device, g, operands, workspace));
                        if let Some(time) = time.filter(|time| *time < best.0) {
                            best = (time, Some(prepared));
                        }
                    }
                    *needed = (*needed).max(best.1.as_ref().map_or(0, |prepared: &Prepared<T>| prepared.bytes));
                    // SAFETY: as where it is made. Where there is no room beside the larger one, that stays.
                    let less = (workspace.len() > *needed).then(|| unsafe { device.alloc::<u8>(*needed) });
                    if let Some(Ok(less)) = less {
                        *workspace = less;
                    }
                    best.1
                })?;
                place.insert(best.map(|prepared| Box::new(prepared) as Box<dyn Any>))
            }
        };
        let prepared = choice.as_ref().and_then(|choice| choice.downcast_ref::<Prepared<T>>());
        prepared.map(|prepared| prepared.launch(device, g, operands, workspace)).transpose()
    }
}

impl<T: CudnnDataType + DeviceRepr + CudaDType + WithDType> Prepared<T> {
    /// Fails where cuDNN has no such algorithm for the product, or one that wants too much memory.
    fn new(handle: &Arc<Cudnn>, g: &Geometry, algorithm: Algorithm) -> Result<Self> {
        let described = Described::<T>::new(handle, g).map_err(Error::wrap)?;
        let bytes = described.bytes(algorithm).map_err(Error::wrap)?;
        if bytes > MOST_WORKSPACE {
            bail!("cuDNN: an algorithm wants {bytes} bytes to work in");
        }
        Ok(Self { described, algorithm, bytes })
    }

    fn launch(
        &self,
        device: &CudaDevice,
        g: &Geometry,
        [a, b]: [&Tensor; 2],
        workspace: &mut CudaSlice<u8>,
    ) -> Result<Tensor> {
        if workspace.len() < self.bytes {
            // SAFETY: as above; the old memory is freed in the stream's order, after those who work in it.
            *workspace = unsafe { device.alloc::<u8>(self.bytes) }?;
        }
        let dims = match self.algorithm {
            Algorithm::Output(_) => g.y_dims(),
            Algorithm::Input(_) => g.x_dims(),
            Algorithm::Weight(_) => g.w_dims(),
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
            let (one, zero) = (T::from_f64(1.0), T::from_f64(0.0));
            let (memory, described) = (Some(workspace), &self.described);
            // SAFETY: the operands are contiguous, of the described shapes and type, and on the handle's GPU.
            let launched = unsafe {
                match self.algorithm {
                    Algorithm::Output(how) => {
                        described.output().launch(how, memory, (one, zero), &a, &b, &mut found)
                    }
                    Algorithm::Input(how) => {
                        described.input().launch(how, memory, (one, zero), &mut found, &b, &a)
                    }
                    Algorithm::Weight(how) => {
                        described.weight().launch(how, memory, (one, zero), &a, &mut found, &b)
                    }
                }
            };
            launched.map_err(Error::wrap)?;
        }
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(found, device.clone()));
        Ok(Tensor::from_storage(storage, &dims[..], BackpropOp::none(), false))
    }
}
