//! `kill -9` at random moments: what is left is whole, resumes, and ends with the weights of a run left in peace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use candle_core::{DType, Tensor};
use nestgen::rng::Rng;
use nestgen::train::resume_point::resume_point;
use nestgen::train::state;

/// Times the run is killed; more often where the machine is too slow to have trained on anything by then.
const KILLS: u64 = 30;
/// Images from one training state to the next.
const INTERVAL: u64 = 16;
/// A few thousand weights, 4 images a step, every part of the state in use. No schedule that depends on the run's
/// length, which only the end of the test decides.
const TINY: &str = "model.resolution=32 model.z_dim=8 model.dims=[16,8,8] model.depths=[1,0,0] \
    discriminator.resolution=32 discriminator.channels=[4,8,8,8] data.scenes=32 train.batch=4 \
    train.tick_kimg=0.016 train.image_ticks=2 train.snap_ticks=1 train.grid=[2,2] train.augment.kind=adaptive \
    train.schedule.kind=constant train.penalty.lecam=0.01 train.penalty.r1_gamma=0.1 train.penalty.interval=4";

/// Starts the real binary on its way to `kimg`.
fn start(outdir: &Path, resume: Option<&Path>, kimg: f64) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nestgen"));
    command.arg("train").args(["--kimg", &kimg.to_string()]).arg("--outdir").arg(outdir);
    match resume {
        Some(run) => command.arg("--resume").arg(run),
        None => command.args(TINY.split_whitespace().flat_map(|setting| ["--set", setting])),
    };
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary runs")
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The only run folder in `outdir`, once there is one.
fn run_folder(outdir: &Path) -> Option<PathBuf> {
    let folders: Vec<_> = std::fs::read_dir(outdir).ok()?.map(|entry| entry.unwrap().path()).collect();
    assert!(folders.len() <= 1, "{folders:?}");
    folders.into_iter().next()
}

/// The newest state, if there is one: whole, or this fails.
fn newest_state(run: &Path) -> Option<state::SavedState> {
    let newest = state::list(run).unwrap().pop()?;
    Some(state::load(&newest).unwrap())
}

/// Images at the ticks that were written down whole.
fn ticks(run: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(run.join("stats.jsonl")).unwrap_or_default();
    let kimg =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["Progress/kimg"]["mean"].as_f64();
    text.lines().filter_map(kimg).map(|kimg| (kimg * 1e3).round() as u64).collect()
}

/// Every number of the newest state as bits, by name.
fn tensors(run: &Path) -> BTreeMap<String, Vec<u64>> {
    let state = newest_state(run).unwrap();
    // f64 holds every f32, and the optimizers' counts of steps, exactly.
    let bits = |tensor: &Tensor| -> Vec<u64> {
        let numbers = tensor.to_dtype(DType::F64).and_then(|tensor| tensor.flatten_all()?.to_vec1::<f64>());
        numbers.unwrap().into_iter().map(f64::to_bits).collect()
    };
    let named = state.tensors.iter().flat_map(|(part, tensors)| {
        tensors.iter().map(move |(name, tensor)| (format!("{part}/{name}"), bits(tensor)))
    });
    named.collect()
}

#[test]
fn killed_thirty_times_it_loses_one_interval_at_most_and_not_a_bit_of_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let (outdir, peace) = (dir.path().join("killed"), dir.path().join("peace"));
    let mut delays = Rng::new(7);
    let (mut reached, mut kill) = (0, 0);
    while kill < KILLS || reached <= INTERVAL && kill < 4 * KILLS {
        kill += 1;
        // A run killed before its first state has nothing to resume from. A state that was put aside to be replaced comes back.
        let resumable = run_folder(&outdir).filter(|run| resume_point(&outdir, run.to_str().unwrap()).is_ok());
        if resumable.is_none() && outdir.exists() {
            std::fs::remove_dir_all(&outdir).unwrap();
        }
        let mut child = start(&outdir, resumable.as_deref(), 1000.0);
        // From the first milliseconds of a process to several intervals of training.
        std::thread::sleep(Duration::from_millis(20 + (delays.uniform() * 500.0) as u64));
        assert!(child.try_wait().unwrap().is_none(), "kill {kill}: the run ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        let run = run_folder(&outdir).filter(|run| resume_point(&outdir, run.to_str().unwrap()).is_ok());
        assert!(run.is_some() || reached == 0, "kill {kill}: no state is left of {reached} images");
        if let Some(run) = run {
            let now = newest_state(&run).unwrap().position.cur_nimg;
            assert!(now >= reached, "kill {kill}: back from {reached} to {now} images");
            let trained = ticks(&run).last().copied().unwrap_or(0);
            assert!(trained <= now + INTERVAL, "kill {kill}: {trained} images were trained on, {now} are left");
            reached = now;
        }
    }
    assert!(reached > INTERVAL, "only {reached} images were reached");
    let kimg = (reached + INTERVAL) as f64 / 1e3;
    let run = run_folder(&outdir).unwrap();
    finish(start(&outdir, Some(&run), kimg));
    finish(start(&peace, None, kimg));
    let in_peace = run_folder(&peace).unwrap();
    assert_eq!(ticks(&run), ticks(&in_peace), "each tick is written down once");
    let (killed, whole) = (tensors(&run), tensors(&in_peace));
    assert!(killed.keys().eq(whole.keys()));
    let other: Vec<_> =
        killed.iter().filter(|(name, bits)| whole[*name] != **bits).map(|(name, _)| name).collect();
    assert!(other.is_empty(), "after {reached} images and {kill} kills these differ: {other:?}");
}
