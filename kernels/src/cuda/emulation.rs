//! Runs the own kernels' source on the processor, launched by the same plans, and compares with the fast path.
//!
//! The host's C++ compiler makes a library of `cuda/emulation.cpp`; where there is none, these tests say that they were
//! skipped. What they cannot see: what the GPU's compiler and its hardware do.

use std::ffi::CString;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::{DType, Result, Tensor, bail};

use super::fused;
use super::plan::{Args, Plan};
use crate::cpu::with_downloaded;
use crate::gradcheck::pattern;
use crate::{Activation, Var, portable};

/// f32 against f32: sums of some hundred terms of size 1 in another order, relative to the largest.
const TOLERANCE: f64 = 1e-5;
/// Blocks and threads of an elementwise kernel here: threads are dear, and each takes several elements then.
const ELEMENTWISE: (u32, u32) = (3, 64);
/// Kernels of one warp a row, whose blocks have two rows here.
const OF_ROWS: [&str; 4] = ["layer_norm", "layer_norm_backward", "softmax", "softmax_backward"];

/// Kernels whose blocks share memory, launched as on a GPU.
const OF_BLOCKS: [&str; 7] = [
    "column_sums",
    "weighted_column_sums",
    "centred_sums",
    "norm_sums",
    "attention",
    "attention_queries",
    "attention_keys",
];

type Emulate = unsafe extern "C" fn(*mut libc::c_void, u32, u32, u32, *const Args);

/// The loaded library, as the address that `dlopen` gave; `None` where it cannot be compiled.
fn library() -> Option<usize> {
    static LIBRARY: OnceLock<Option<usize>> = OnceLock::new();
    *LIBRARY.get_or_init(|| {
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("cuda/emulation.cpp");
        let file = std::env::temp_dir().join(format!("nestgen-emulation-{}.so", std::process::id()));
        let made = Command::new("c++")
            .args(["-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-o"])
            .args([&file, &source])
            .status();
        if !made.is_ok_and(|status| status.success()) {
            return None;
        }
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

/// As [`super::launch::launch`], for tensors in the processor's memory.
pub(super) fn launch(plan: &Plan, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
    // One block at a time: the emulation has one shared memory.
    static RUNNING: Mutex<()> = Mutex::new(());
    let _running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let data: Vec<Option<Vec<f32>>> = inputs
        .iter()
        .map(|x| x.as_ref().map(|x| with_downloaded::<f32, _>(x, |x| Ok(x.to_vec()))).transpose())
        .collect::<Result<_>>()?;
    let Some(first) = inputs.iter().flatten().next() else { bail!("{}: no operands", plan.kernel) };
    // What a kernel leaves unwritten is found as NaN.
    let mut outputs: Vec<Vec<f32>> =
        plan.outputs.iter().map(|dims| vec![f32::NAN; dims.iter().product()]).collect();
    let inputs: Vec<u64> = data.iter().map(|x| x.as_ref().map_or(0, |x| x.as_ptr() as u64)).collect();
    let written: Vec<u64> = outputs.iter_mut().map(|x| x.as_mut_ptr() as u64).collect();
    let args = plan.args(&inputs, &written);
    let (blocks, threads) = match plan.kernel {
        rows if OF_ROWS.contains(&rows) => (plan.sizes[0].div_ceil(2) as u32, 64),
        blocks if OF_BLOCKS.contains(&blocks) => (plan.grid.0, plan.block),
        _ => ELEMENTWISE,
    };
    // SAFETY: the signature is that of `emulate`, the kernel one of its source, and the operands have the plan's sizes.
    unsafe {
        let emulate: Emulate = std::mem::transmute(symbol("emulate"));
        emulate(symbol(plan.kernel), blocks, plan.grid.1, threads, &args);
    }
    let tensor =
        |(data, dims): (Vec<f32>, &Vec<usize>)| Tensor::from_vec(data, dims.as_slice(), first.device());
    outputs.into_iter().zip(&plan.outputs).map(tensor).collect()
}

/// Whether the kernels can be run here; says so where not.
#[allow(clippy::print_stderr)]
pub(super) fn can_run() -> bool {
    // Once is enough: nothing here takes a path.
    let again = portable::forced() || std::env::var_os(crate::gradcheck::DEVICE_VARIABLE).is_some();
    let can = !again && library().is_some();
    if !can && !again {
        eprintln!("skipped: no C++ compiler to run the CUDA kernels' source with");
    }
    can
}

pub(super) fn single(dims: &[usize], seed: u64) -> Result<Tensor> {
    pattern(dims, seed)?.to_device(&candle_core::Device::Cpu)?.to_dtype(DType::F32)
}

pub(super) fn close(what: &str, found: &Tensor, want: &Tensor) -> Result<()> {
    assert_eq!(found.dims(), want.dims(), "{what}");
    let (found, want) = (found.to_dtype(DType::F64)?, want.to_dtype(DType::F64)?);
    let size = want.abs()?.max_all()?.to_scalar::<f64>()?.max(1e-6);
    let worst = (found - want)?.abs()?.max_all()?.to_scalar::<f64>()?;
    assert!(worst <= TOLERANCE * size, "{what}: off by {worst} of {size}");
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
        let composed = portable::elementwise::activate(&wide, activation)?;
        close("activate", &fused::activate(&wide, kind)?, &composed)?;
        let composed = portable::elementwise::activate_backward(&wide, &g, activation)?;
        close("activate_backward", &fused::activate_backward(&wide, &g, kind)?, &composed)?;
    }
    close("lerp", &fused::lerp(&x, &g, 0.3)?, &portable::optim::lerp(&x, &g, 0.3)?)?;
    let square = x.sqr()?;
    let step = crate::optim::Step {
        fresh: 0.1,
        fresh_square: 0.01,
        rate: 0.02,
        root_correction: 3.0,
        eps: 1e-8,
        keep: 0.99,
    };
    let [p, mean, mean_square] = fused::adam(step, [&x, &g, &x, &square])?;
    let (composed, composed_mean, composed_square) = portable::optim::adam(step, &x, &g, &x, &square)?;
    close("adam", &p, &composed)?;
    close("adam's mean", &mean, &composed_mean)?;
    close("adam's square", &mean_square, &composed_square)
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
    ] {
        let g = crate::conv2d::Geometry::of(&x, &w, how)?;
        let x = single(&x, 1)?;
        close("columns", &fused::columns(&g, &x)?, &portable::conv2d::columns(&g, &x)?)?;
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
    for (rows, width) in [(3, 5), (9, 64), (17, 96)] {
        let (x, g) = (single(&[rows, width], 1)?, single(&[rows, width], 2)?);
        let (w, b) = (single(&[width], 3)?, single(&[width], 4)?);
        let leaf = Var::leaf(x.clone());
        let y = portable::norm::layer_norm(&leaf, &Var::constant(w.clone()), &Var::constant(b.clone()), 1e-6)?;
        let [value, normal, rstd] = fused::layer_norm(&x, &w, &b, 1e-6)?;
        close("layer_norm", &value, y.value())?;
        let gradients = crate::backward(crate::sum_all(&crate::mul(&y, &Var::constant(g.clone()))?)?)?;
        let Some(dx) = gradients.leaf(&leaf) else { bail!("layer_norm: no gradient") };
        close("layer_norm_backward", &fused::layer_norm_backward(&g, &normal, &w, &rstd)?, dx)?;
    }
    Ok(())
}
