//! Runs the own kernels' source on the processor, launched by the same plans, and compares with the fast path.
//!
//! The host's C++ compiler makes a library of `cuda/emulation.cpp`; where there is none, these tests say that they were
//! skipped. What they cannot see: what the GPU's compiler and its hardware do. Where tests run on a GPU, the same tests
//! launch the kernels there.

use std::cell::Cell;
use std::ffi::CString;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::{DType, Device, Result, Tensor, bail};

use super::fused;
use super::plan::{Args, Plan};
use crate::gradcheck::{device, pattern};
use crate::{Activation, Adam, AdamConfig, Param, Samples, Var, portable};

/// f32 against f32: sums of some hundred terms of size 1 in another order, relative to the largest.
const TOLERANCE: f64 = 1e-5;
/// The same on a GPU, which has its own exponentials.
const TOLERANCE_ON_A_GPU: f64 = 1e-4;
/// Blocks and threads of an elementwise kernel here: threads are dear, and each takes several elements then.
const ELEMENTWISE: (u32, u32) = (3, 64);
/// Kernels of one warp a row, whose blocks have two rows here.
const OF_ROWS: [&str; 2] = ["softmax", "softmax_backward"];

/// Beginnings of the names of kernels whose blocks share memory, launched as on a GPU.
const OF_BLOCKS: [&str; 13] = [
    "column_sums",
    "weighted_column_sums",
    "centred_sums",
    "norm_sums",
    "layer_norm",
    "unit_vector",
    "inner_parts",
    "spectral_gradient",
    "adam",
    "lerp_towards",
    "attention",
    "change_images",
    "through_hidden",
];

type Emulate = unsafe extern "C" fn(*mut libc::c_void, u32, u32, u32, *const Args);

/// The loaded library, as the address that `dlopen` gave; `None` where it cannot be compiled.
fn library() -> Option<usize> {
    static LIBRARY: OnceLock<Option<usize>> = OnceLock::new();
    *LIBRARY.get_or_init(|| {
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("cuda/emulation.cpp");
        let file = std::env::temp_dir().join(format!("nestgen-emulation-{}.so", std::process::id()));
        let Ok(made) = Command::new("c++")
            .args(["-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-o"])
            .args([&file, &source])
            .status()
        else {
            return None;
        };
        assert!(made.success(), "the kernels' source does not compile for the processor");
        let path = CString::new(file.to_string_lossy().into_owned()).unwrap();
        // SAFETY: a library of plain functions, without constructors that do anything.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) } as usize;
        std::fs::remove_file(&file).unwrap();
        assert_ne!(library, 0, "the compiled kernels cannot be loaded");
        Some(library)
    })
}

fn symbol(name: &str) -> *mut libc::c_void {
    let name = CString::new(name).unwrap();
    // SAFETY: the library stays loaded.
    let found = unsafe { libc::dlsym(library().unwrap() as *mut libc::c_void, name.as_ptr()) };
    assert!(!found.is_null(), "{name:?} is not among the kernels");
    found
}

/// As [`super::launch::launch`], for tensors in the processor's memory, to which the results come back if tests run on a GPU.
pub(super) fn launch(plan: &Plan, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
    #[cfg(feature = "cuda")]
    if device().is_cuda() {
        let there = inputs.iter().map(|x| x.as_ref().map(|x| x.to_device(&device())).transpose());
        let found = super::launch::launch(plan, &there.collect::<Result<Vec<_>>>()?)?;
        return found.iter().map(|x| x.to_device(&Device::Cpu)).collect();
    }
    emulate(plan, inputs)
}

fn emulate(plan: &Plan, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
    // One block at a time: the emulation has one shared memory.
    static RUNNING: Mutex<()> = Mutex::new(());
    let _running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let gap = GAP.get();
    let placed = |x: &Tensor| -> Result<Vec<u8>> { Ok([vec![0; gap], bytes(x)?].concat()) };
    let data: Vec<Option<Vec<u8>>> =
        inputs.iter().map(|x| x.as_ref().map(placed).transpose()).collect::<Result<_>>()?;
    let rough = inputs.iter().enumerate();
    let rough = rough.map(|(k, x)| u32::from(x.as_ref().is_some_and(|x| x.dtype() == DType::BF16)) << k).sum();
    let Some(first) = inputs.iter().flatten().next() else { bail!("{}: no operands", plan.kernel) };
    // What a kernel leaves unwritten is found as NaN.
    let size = |(k, dims): (usize, &Vec<usize>)| dims.iter().product::<usize>() * plan.dtype(k).size_in_bytes();
    let mut outputs: Vec<Vec<u8>> =
        plan.outputs.iter().enumerate().map(|output| vec![0xFF; gap + size(output)]).collect();
    let inputs: Vec<u64> = data.iter().map(|x| x.as_ref().map_or(0, |x| x[gap..].as_ptr() as u64)).collect();
    let written: Vec<u64> = outputs.iter_mut().map(|x| x[gap..].as_mut_ptr() as u64).collect();
    let args = plan.args(&inputs, rough, &written);
    let (blocks, threads) = match plan.kernel {
        rows if OF_ROWS.contains(&rows) => (plan.sizes[0].div_ceil(2) as u32, 64),
        blocks if OF_BLOCKS.iter().any(|name| blocks.starts_with(name)) => (plan.grid.0, plan.block),
        _ => ELEMENTWISE,
    };
    // SAFETY: the signature is that of `emulate`, the kernel one of its source, and the operands have the plan's sizes.
    unsafe {
        let emulate: Emulate = std::mem::transmute(symbol("emulate"));
        emulate(symbol(plan.kernel), blocks, plan.grid.1, threads, &args);
    }
    let tensor = |(k, (data, dims)): (usize, (Vec<u8>, &Vec<usize>))| {
        Tensor::from_raw_buffer(&data[gap..], plan.dtype(k), dims, first.device())
    };
    outputs.into_iter().zip(&plan.outputs).enumerate().map(tensor).collect()
}

/// The elements of a tensor as they lie in memory.
fn bytes(x: &Tensor) -> Result<Vec<u8>> {
    let x = x.flatten_all()?;
    Ok(match x.dtype() {
        DType::BF16 => x.to_vec1::<half::bf16>()?.into_iter().flat_map(half::bf16::to_ne_bytes).collect(),
        DType::U32 => x.to_vec1::<u32>()?.into_iter().flat_map(u32::to_ne_bytes).collect(),
        _ => x.to_vec1::<f32>()?.into_iter().flat_map(f32::to_ne_bytes).collect(),
    })
}

thread_local! {
    static PRETENDED: Cell<bool> = const { Cell::new(false) };
    /// Bytes in front of every operand, whose memory begins at a multiple of 16.
    static GAP: Cell<usize> = const { Cell::new(0) };
}

/// Runs `f` with operands at multiples of 4 bytes and no more, as parts of larger tensors may lie: kernels then take elements
/// one by one. Where tests run on a GPU this changes nothing.
fn unaligned<R>(f: impl FnOnce() -> R) -> R {
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            GAP.set(0);
        }
    }
    GAP.set(4);
    let _restore = Restore;
    f()
}

/// Whether this thread pretends that the processor is a GPU.
pub(crate) fn is_pretended() -> bool {
    PRETENDED.get()
}

/// Runs `f`, operations and their gradients on [`device`]: on a GPU, or as on one, with the own kernels emulated.
pub(crate) fn pretending<R>(f: impl FnOnce(&Device) -> R) -> R {
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            PRETENDED.set(false);
        }
    }
    PRETENDED.set(device().is_cpu());
    let _restore = Restore;
    f(&device())
}

/// Whether the kernels can be run here; says so where not.
#[allow(clippy::print_stderr)]
pub(crate) fn can_run() -> bool {
    // Once is enough: nothing here takes a path.
    if portable::forced() {
        return false;
    }
    let can = device().is_cuda() || library().is_some();
    if !can {
        eprintln!("skipped: no C++ compiler to run the CUDA kernels' source with");
    }
    can
}

pub(super) fn single(dims: &[usize], seed: u64) -> Result<Tensor> {
    pattern(dims, seed)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)
}

pub(super) fn close(what: &str, found: &Tensor, want: &Tensor) -> Result<()> {
    assert_eq!(found.dims(), want.dims(), "{what}");
    let [found, want] = [found, want].map(|x| x.to_device(&Device::Cpu)?.to_dtype(DType::F64));
    let (found, want) = (found?, want?);
    let tolerance = if device().is_cuda() { TOLERANCE_ON_A_GPU } else { TOLERANCE };
    let size = want.abs()?.max_all()?.to_scalar::<f64>()?.max(1e-6);
    let worst = (found - want)?.abs()?.max_all()?.to_scalar::<f64>()?;
    assert!(worst <= tolerance * size, "{what}: off by {worst} of {size}");
    Ok(())
}

#[test]
fn elementwise_kernels_agree_with_the_compositions() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let (x, g, b) = (single(&[7, 5, 61], 1)?, single(&[7, 5, 61], 2)?, single(&[61], 3)?);
    for slope in [0.0, 0.2, 1.0] {
        let composed = portable::elementwise::leak(&x.broadcast_add(&b)?, slope)?;
        close("bias_leak", &fused::bias_leak(&x, Some(&b), slope)?, &composed)?;
        close("leak", &fused::bias_leak(&x, None, slope)?, &portable::elementwise::leak(&x, slope)?)?;
        let composed = portable::elementwise::leak_backward(&g, &x, slope)?;
        close("leak_backward", &fused::leak_backward(&g, &x, slope)?, &composed)?;
    }
    let wide = (&x * 6.0)?;
    for activation in [Activation::GeluErf, Activation::GeluTanh, Activation::Silu, Activation::Tanh] {
        let Some(kind) = fused::smooth_kind(activation) else { bail!("{activation:?} has no kernel") };
        for b in [None, Some(&b)] {
            let composed = portable::elementwise::activate(&wide, b, activation)?;
            close("activate", &fused::activate(&wide, b, kind, DType::F32)?, &composed)?;
            let composed = portable::elementwise::activate_backward(&wide, b, &g, activation)?;
            close("activate_backward", &fused::activate_backward(&wide, b, &g, kind)?, &composed)?;
        }
    }
    close("bias_residual", &fused::bias_residual(&x, Some(&b), &g)?, &(&x.broadcast_add(&b)? + &g)?)?;
    close("add", &fused::add(&x, &g)?, &(&x + &g)?)?;
    close("blend", &fused::blend(&x, 0.9, &g, 0.3)?, &((&x * 0.9)? + (&g * 0.3)?)?)?;
    let factors = single(&[7], 4)?;
    let composed = x.broadcast_mul(&factors.reshape((7, 1, 1))?)?;
    close("scale_samples", &fused::scale_samples(&x, &factors)?, &composed)?;
    for (x, g) in [(x, g), (single(&[7, 3, 16], 5)?, single(&[7, 3, 16], 6)?)] {
        let (samples, to) = (Samples::new(&[0, 2, 5], 7, &Device::Cpu)?, DType::F32);
        let taken = portable::samples::take(&x, &samples, 0.7, to)?;
        close("take_samples", &fused::take_samples(&x, &samples, 0.7, to)?, &taken)?;
        for x in [None, Some(&g)] {
            let composed = portable::samples::put(x, &taken, &samples, 1.3, to)?;
            close("add_samples", &fused::add_samples(x, &taken, &samples, 1.3, to)?, &composed)?;
        }
    }
    Ok(())
}

#[test]
fn conversions_round_to_the_nearest_as_candle_does() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let odd =
        [0.0f32, -0.0, 1.0, 1.00390625, 1.01171875, -3.3e38, 1e-40, f32::INFINITY, f32::NAN, 3.402_823_5e38];
    let numbers = (0..2003).map(|i| odd.get(i).copied().unwrap_or(((i * 7919) as f32).sin() * 3.0));
    let x = Tensor::from_iter(numbers, &Device::Cpu)?;
    let bits = |x: &Tensor| -> Result<Vec<u16>> {
        Ok(x.to_vec1::<half::bf16>()?
            .into_iter()
            .map(|x| if x.is_nan() { 0x7FC0 } else { x.to_bits() })
            .collect())
    };
    let found = fused::convert(&x, DType::BF16)?;
    assert_eq!(bits(&found)?, bits(&x.to_dtype(DType::BF16)?)?);
    let back = fused::convert(&found, DType::F32)?.to_dtype(DType::BF16)?;
    assert_eq!(bits(&back)?, bits(&found)?);
    Ok(())
}

/// In one test, and so with one library: compiling it takes most of the time.
#[test]
fn kernels_agree_with_the_compositions_on_unaligned_operands() -> Result<()> {
    use super::images_tests as images;
    unaligned(|| {
        elementwise_kernels_agree_with_the_compositions()?;
        columns_are_what_the_outputs_of_a_convolution_see()?;
        sums_of_columns_and_rows_agree_with_the_compositions()?;
        layer_norm_agrees_with_the_composition()?;
        images::resampling_agrees_with_the_compositions()?;
        images::maxima_and_their_gradients_agree_with_the_compositions()?;
        images::regrouping_moves_every_number_where_the_compositions_move_it()?;
        images::batch_norm_agrees_with_the_composition()?;
        super::operations_tests::check_operations(&[
            "attention behind a product",
            "feed_forward in whole eights",
        ])
    })
}

/// All parameters in one launch: pieces of several lengths, one of them longer than a piece.
#[test]
fn the_optimizer_gives_the_same_together_as_one_by_one() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let run = |device: &Device| -> Result<Vec<Tensor>> {
        let dims: [&[usize]; 4] = [&[3], &[130, 131], &[1], &[7, 5]];
        let make = |seed: usize| -> Result<Vec<Param>> {
            let param = |(i, dims): (usize, &&[usize])| {
                Ok(Param::new(format!("p{i}"), single(dims, (seed + i) as u64)?.to_device(device)?))
            };
            dims.iter().enumerate().map(param).collect()
        };
        let (params, averages) = (make(1)?, make(11)?);
        let config = AdamConfig { lr: 1e-2, beta1: 0.5, beta2: 0.9, eps: 1e-8, weight_decay: 0.1 };
        let mut adam = Adam::new(&params, config)?.without_decay(|name| name == "p3");
        for _ in 0..3 {
            let mut loss = Var::constant(single(&[1], 1)?.reshape(())?.to_device(device)?);
            for param in &params {
                loss = crate::add(&loss, &crate::sum_all(&crate::square(&param.var())?)?)?;
            }
            adam.step(&crate::backward(loss)?, 0.05)?;
            let pairs: Vec<_> = averages.iter().cloned().zip(params.iter().cloned()).collect();
            crate::ema_update(&pairs, 0.7)?;
        }
        // A part of a larger tensor would be downloaded and saved with the rest of it.
        for param in params.iter().chain(&averages) {
            assert_eq!(param.value().layout().start_offset(), 0, "{}", param.name());
        }
        let state = adam.state()?.into_iter().skip(1).map(|(_, x)| x);
        Ok(params.iter().chain(&averages).map(Param::value).chain(state).collect())
    };
    for (found, want) in pretending(run)?.iter().zip(&run(&Device::Cpu)?) {
        close("the optimizer", found, want)?;
    }
    Ok(())
}

#[test]
fn the_optimizer_refuses_numbers_that_are_not_f32() -> Result<()> {
    pretending(|device| {
        let param = |dtype| -> Result<Param> {
            Ok(Param::new("p", single(&[3], 1)?.to_dtype(dtype)?.to_device(device)?))
        };
        for (average, source) in [(DType::F32, DType::BF16), (DType::BF16, DType::BF16)] {
            let pair = (param(average)?, param(source)?);
            let refused = crate::ema_update(&[pair], 0.9).unwrap_err().to_string();
            assert!(refused.contains("in f32"), "{refused}");
        }
        Ok(())
    })
}

#[test]
fn columns_are_what_the_outputs_of_a_convolution_see() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let conv = |stride, padding| crate::Conv2d { stride, padding };
    for (x, w, how) in [
        ([2, 5, 4, 3], [2, 3, 3, 3], crate::Conv2d::same(3)),
        ([1, 6, 7, 2], [3, 3, 3, 2], conv((2, 2), (1, 1))),
        ([2, 4, 5, 2], [2, 1, 5, 2], conv((1, 1), (0, 2))),
        ([1, 6, 3, 2], [2, 4, 2, 2], conv((2, 1), (1, 0))),
        ([1, 3, 3, 1], [1, 1, 1, 1], conv((1, 2), (1, 2))),
        ([2, 4, 3, 16], [2, 3, 3, 16], crate::Conv2d::same(3)),
    ] {
        let g = crate::conv2d::Geometry::of(&x, &w, how)?;
        let x = single(&x, 1)?;
        let want = portable::conv2d::columns(&g, &x)?;
        let wide = want.pad_with_zeros(1, 0, g.depth().next_multiple_of(8) - g.depth())?;
        let found = fused::columns(&g, &x)?;
        close("columns", &found, &wide)?;
        close("rows cut off", &fused::resize_rows(&found, g.depth())?, &want)?;
        close("rows with zeros", &fused::resize_rows(&want, found.dim(1)?)?, &wide)?;
    }
    Ok(())
}

#[test]
fn sums_of_columns_and_rows_agree_with_the_compositions() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    for (rows, width) in [(1, 1), (4, 3), (130, 3), (700, 33), (96, 64), (5, 200)] {
        let (x, y) = (single(&[rows, width], 1)?, single(&[rows, width], 2)?);
        close("column_sums", &fused::column_sums(&x, None)?, &x.sum(0)?)?;
        close("weighted_column_sums", &fused::column_sums(&x, Some(&y))?, &(&x * &y)?.sum(0)?)?;
    }
    for (rows, width) in [(1, 2), (130, 3), (70, 40)] {
        let x = single(&[rows, width], 1)?;
        let [rounded, sums] = fused::rounded_with_sums(&x)?;
        close("column_sums_and_rounded", &sums, &x.sum(0)?)?;
        close("column_sums_and_rounded's numbers", &rounded, &x.to_dtype(DType::BF16)?)?;
    }
    for (rows, width) in [(600, 5), (300, 36), (7, 64)] {
        let x = single(&[rows, width], 1)?;
        let found = fused::one(&Plan::sums_of_chunks((rows, rows), width), &[Some(&x)])?;
        close("column_sums_of_chunks", &found.reshape(width)?, &x.sum(0)?)?;
    }
    for dims in [[1, 1, 1], [3, 5, 7], [2, 130, 33]] {
        let x = single(&dims, 1)?;
        close("middle_sums", &fused::middle_sums(&x, dims[0], dims[2])?, &x.sum(1)?)?;
    }
    for (rows, width) in [(1, 1), (4, 3), (7, 33), (3, 200)] {
        let (x, y) = (single(&[rows, width], 1)?, single(&[rows, width], 2)?);
        let composed = portable::softmax::softmax(&(&x * 0.7)?)?;
        let p = fused::softmax(&x, 0.7)?;
        close("softmax", &p, &composed)?;
        let composed = (portable::softmax::softmax_backward(&p, &y)? * 0.7)?;
        close("softmax_backward", &fused::softmax_backward(&p, &y, 0.7)?, &composed)?;
    }
    Ok(())
}

#[test]
fn layer_norm_agrees_with_the_composition() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    for (rows, width) in [(3, 5), (9, 64), (35, 96), (2, 130), (70, 256), (3, 400), (11, 771)] {
        let (x, g) = (single(&[rows, width], 1)?, single(&[rows, width], 2)?);
        let (w, b) = (single(&[width], 3)?, single(&[width], 4)?);
        let leaf = Var::leaf(x.clone());
        let y = portable::norm::layer_norm(&leaf, &Var::constant(w.clone()), &Var::constant(b.clone()), 1e-6)?;
        let [value, statistics] = fused::layer_norm(&x, &w, &b, 1e-6, DType::F32)?;
        close("layer_norm", &value, y.value())?;
        let gradients = crate::backward(crate::sum_all(&crate::mul(&y, &Var::constant(g.clone()))?)?)?;
        let Some(dx) = gradients.leaf(&leaf) else { bail!("layer_norm: no gradient") };
        let normal = y.value().broadcast_sub(&b)?.broadcast_div(&w)?;
        let [found, dw, db] = fused::layer_norm_backward(&g, &x, &w, &statistics, None)?;
        close("layer_norm_backward", &found, dx)?;
        let [found, ..] = fused::layer_norm_backward(&g, &x, &w, &statistics, Some(&x))?;
        close("layer_norm_backward and another gradient", &found, &(dx + &x)?)?;
        close("the gradient of its offset", &db, &g.sum(0)?)?;
        close("the gradient of its gain", &dw, &(&g * normal)?.sum(0)?)?;
    }
    Ok(())
}
