//! The project's side of `benches/peers`: one process that does one case at a time, told by JSON lines.
//!
//! Commands, beside those that `interleave.py` documents:
//!
//! - `{"cmd": "make", "case": NAME, "batch": N, "file": FILE}` writes weights and inputs, drawn from a fixed seed, in
//!   PyTorch's names and layouts, so that every contestant starts from the same numbers, and answers with the
//!   models' configurations;
//! - `{"cmd": "latents", "count": N, "z_dim": N, "file": FILE}` writes the latents of `nestgen sample`;
//! - `{"cmd": "flops"}` counts the floating-point operations of a pass;
//! - `{"cmd": "peak"}` measures the fastest f32 matrix product;
//! - `{"cmd": "profile", "count": N}` runs N passes back to back, to be looked at from outside.
//!
//! `peer_worker [DEVICE [PRECISION]]`, as `--device` and `--precision` have them: cases run there, and a pass ends when the
//! device is done.

mod adversarial;
mod case;
mod classifier;
mod gan;
mod inception;
mod place;

use std::io::{BufRead, Write};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use nestgen::train::fakes::seed_latent;
use nestgen_kernels::{Var, matmul, no_grad};
use serde_json::{Value, json};

use case::{Case, Tensors, config, load, make, prepare, save};

/// That of the program.
#[global_allocator]
static ALLOCATOR: nestgen_kernels::alloc::Counting = nestgen_kernels::alloc::Counting;

fn main() -> Result<()> {
    nestgen_kernels::alloc::keep_pages();
    nestgen_kernels::threads::join_pool(None);
    place::choose(std::env::args().skip(1))?;
    let mut case: Option<Box<dyn Case>> = None;
    for line in std::io::stdin().lock().lines() {
        let message: Value = serde_json::from_str(&line?)?;
        let answer = answer(&message, &mut case).unwrap_or_else(|error| json!({"error": format!("{error:#}")}));
        writeln!(std::io::stdout(), "{answer}")?;
    }
    Ok(())
}

fn answer(message: &Value, case: &mut Option<Box<dyn Case>>) -> Result<Value> {
    let text = |key: &str| message[key].as_str().with_context(|| format!("no `{key}` in {message}"));
    let number = |key: &str| message[key].as_u64().with_context(|| format!("no `{key}` in {message}"));
    let current = |case: &mut Option<Box<dyn Case>>| case.take().context("nothing is prepared");
    match text("cmd")? {
        "make" => {
            save(text("file")?, make(text("case")?, number("batch")? as usize)?)?;
            return Ok(json!({"config": config(text("case")?)?}));
        }
        "prepare" => *case = Some(prepare(text("case")?, load(text("file")?)?)?),
        "dump" => {
            let mut done = current(case)?;
            save(text("file")?, done.dump()?)?;
            *case = Some(done);
        }
        "run" => {
            let mut done = current(case)?;
            let (start, passes) = (Instant::now(), number("passes")?);
            for _ in 0..passes {
                done.run()?;
            }
            place::device().synchronize()?;
            let seconds = start.elapsed().as_secs_f64() / passes as f64;
            *case = Some(done);
            return Ok(json!({"seconds": seconds}));
        }
        "profile" => {
            let mut done = current(case)?;
            for _ in 0..number("count")? {
                done.run()?;
            }
            place::device().synchronize()?;
            *case = Some(done);
        }
        "latents" => {
            save(text("file")?, latents(number("count")?, number("z_dim")? as usize)?)?;
        }
        "forget_peak" => place::forget_peak()?,
        "memory" => return Ok(json!({"peak_mib": place::peak_mib()?})),
        "flops" => return Ok(json!({"flops": case.as_ref().context("nothing is prepared")?.flops()})),
        "peak" => return Ok(json!({"gflops": matmul_peak()?})),
        other => bail!("unknown command `{other}`"),
    }
    Ok(json!({"ok": true}))
}

/// What `nestgen sample` draws for seeds 0 to `count`, so that another program can draw the same.
fn latents(count: u64, z_dim: usize) -> Result<Tensors> {
    let rows: Vec<f32> = (0..count).flat_map(|seed| seed_latent(seed, z_dim)).collect();
    Ok(Tensors::from([("z".into(), Tensor::from_vec(rows, (count as usize, z_dim), &Device::Cpu)?)]))
}

/// GFLOP/s of the best of several products of 2048x2048 matrices: what the ratios to "peak" are relative to.
fn matmul_peak() -> Result<f64> {
    const SIDE: usize = 2048;
    const TRIES: usize = 8;
    let a = Var::constant(Tensor::rand(-1f32, 1.0, (SIDE, SIDE), &Device::Cpu)?.to_device(&place::device())?);
    no_grad(|| matmul(&a, &a, false, false))?;
    place::device().synchronize()?;
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        let start = Instant::now();
        no_grad(|| matmul(&a, &a, false, false))?;
        place::device().synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (SIDE as f64).powi(3) / best / 1e9)
}
