//! Data-parallel training under a real `mpirun`: what one process computes, resumable on any number of ranks, and an
//! end with a name where a rank dies or hangs. The other verbs are in `verbs`.

mod launching;
mod slurm;
mod verbs;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use candle_core::{DType, Tensor};
use nestgen::train::resume_point::resume_point;
use nestgen::train::state;

/// Relative distance of two runs' weights after 20 steps: rounding, as sums are made in another order.
const TOLERANCE: f64 = 1e-5;
/// 16 images a step, and everything in use that looks at more than one image; 20 steps move the weights by 1.4% of
/// their length. Adam's epsilon is far above the rounding of gradients: with a tiny one, a gradient that is zero but for
/// rounding moves its weight by a whole step.
const TINY: &str = "model.resolution=32 model.z_dim=8 model.dims=[16,8,8] model.depths=[1,0,0] \
    discriminator.resolution=32 discriminator.channels=[4,8,8,8] discriminator.minibatch_stddev=true \
    data.scenes=64 data.mirror=true train.batch=16 train.tick_kimg=0.064 train.image_ticks=2 train.snap_ticks=1 \
    train.keep_states=99 train.grid=[2,2] train.augment.kind=adaptive train.augment.adjust_kimg=1 \
    train.schedule.kind=constant train.clip_norm=1 train.penalty.lecam=0 train.penalty.r1_gamma=0.1 \
    train.penalty.interval=4 train.loss=relativistic train.generator.eps=0.01 train.discriminator.eps=0.01";
/// Long enough for a loaded machine, short enough to end a test that hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// One `mpirun` at a time: ranks of several would wait for each other's cores.
fn alone() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::new(());
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `nestgen` on so many ranks; one is a process without `mpirun`.
fn nestgen(ranks: usize) -> Command {
    let binary = env!("CARGO_BIN_EXE_nestgen");
    if ranks == 1 {
        return alike(Command::new(binary));
    }
    let mut command = mpirun();
    command.args(["-n", &ranks.to_string(), binary]);
    command
}

fn mpirun() -> Command {
    let mut command = Command::new("mpirun");
    command.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]);
    alike(command)
}

/// One thread a rank, and its output kept.
fn alike(mut command: Command) -> Command {
    command.env("RAYON_NUM_THREADS", "1");
    // Containers often forbid reading another process's memory; Open MPI then copies twice, but says so at length.
    command.env("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `nestgen train` on so many ranks.
fn train(ranks: usize, outdir: &Path, args: &[&str]) -> Command {
    let mut command = nestgen(ranks);
    command.arg("train").args(args).arg("--outdir").arg(outdir);
    command
}

/// The arguments of a new run under [`TINY`] and `more`.
fn settings(more: &'static str) -> Vec<&'static str> {
    TINY.split_whitespace().chain(more.split_whitespace()).flat_map(|setting| ["--set", setting]).collect()
}

fn finish(mut command: Command) -> Output {
    let output = command.output().expect("mpirun is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn run_folder(outdir: &Path) -> PathBuf {
    let folders: Vec<_> = std::fs::read_dir(outdir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    folders[0].clone()
}

/// The newest state of the run: of each network all numbers, one after the other.
fn weights(run: &Path) -> (u64, BTreeMap<&'static str, Vec<f64>>) {
    let state = state::load(&state::list(run).unwrap().pop().unwrap()).unwrap();
    let numbers = |tensor: &Tensor| -> Vec<f64> {
        tensor.to_dtype(DType::F64).and_then(|tensor| tensor.flatten_all()?.to_vec1()).unwrap()
    };
    let parts = ["generator", "discriminator", "generator-ema"].into_iter();
    // A file keeps its tensors in no order.
    let named = |part| state.tensors[part].iter().cloned().collect::<BTreeMap<String, Tensor>>();
    let all = |part| named(part).values().flat_map(numbers).collect();
    (state.position.cur_nimg, parts.map(|part| (part, all(part))).collect())
}

/// `|a - b| / |b|` of the network that differs most.
fn distance(a: &Path, b: &Path) -> f64 {
    let ((a_nimg, a), (b_nimg, b)) = (weights(a), weights(b));
    assert_eq!((a_nimg, b_nimg), (320, 320));
    let length = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let of = |part| {
        let (a, b): (&Vec<f64>, &Vec<f64>) = (&a[part], &b[part]);
        assert_eq!(a.len(), b.len());
        length(&mut a.iter().zip(b).map(|(a, b)| a - b)) / length(&mut b.iter().copied())
    };
    ["generator", "discriminator", "generator-ema"].into_iter().map(of).fold(0.0, f64::max)
}

fn compare_with_one_rank(more: &'static str, sizes: &[usize]) {
    let dir = tempfile::tempdir().unwrap();
    let run = |ranks: usize| {
        let outdir = dir.path().join(ranks.to_string());
        let args = [&["--kimg", "0.32"], settings(more).as_slice()].concat();
        let output = finish(train(ranks, &outdir, &args));
        // One rank speaks.
        assert_eq!(String::from_utf8_lossy(&output.stdout).matches("done: ").count(), 1);
        run_folder(&outdir)
    };
    let one = run(1);
    for &ranks in sizes {
        let distance = distance(&run(ranks), &one);
        assert!(distance < TOLERANCE, "{ranks} ranks, {more}: {distance:.2e}");
    }
}

#[test]
fn ranks_train_what_one_process_trains() {
    let _alone = alone();
    compare_with_one_rank("", &[2, 4]);
}

#[test]
fn a_batch_in_parts_is_shared_out_too() {
    let _alone = alone();
    compare_with_one_rank("train.accumulate=2 train.d_steps=2 train.loss=hinge", &[2]);
}

/// LeCam's kinks and a clipped gradient together make even two runs of one process part whose epsilons differ by a
/// millionth: not beside each other, then, and with steps that are smaller still.
#[test]
fn lecam_sees_the_averages_of_all_ranks() {
    let _alone = alone();
    let lecam = "train.clip_norm=0 train.penalty.lecam=0.01 train.penalty.lecam_start_kimg=0 \
        train.generator.eps=0.1 train.discriminator.eps=0.1";
    compare_with_one_rank(lecam, &[2]);
}

/// SAGAN's generator: batch norm by the statistics of all ranks, in forward and backward. It amplifies rounding more than
/// the other one: at the usual epsilon here, two runs of one process part by 1.5e-4 whose epsilons differ by 1e-5 of it.
#[test]
fn batch_norm_sees_the_images_of_all_ranks() {
    let _alone = alone();
    let sagan = "model={kind=\"sagan\",resolution=32,z_dim=8,width=8,attention=true} \
        train.generator.eps=0.3 train.discriminator.eps=0.3";
    compare_with_one_rank(sagan, &[2, 4]);
}

#[test]
fn a_state_of_two_ranks_goes_on_in_one_process_and_on_four() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (one, many) = (dir.path().join("one"), dir.path().join("many"));
    finish(train(1, &one, &[&["--kimg", "0.32"], settings("").as_slice()].concat()));
    finish(train(2, &many, &[&["--kimg", "0.128"], settings("").as_slice()].concat()));
    let run = run_folder(&many);
    for (ranks, kimg) in [(1, "0.224"), (4, "0.32")] {
        finish(train(ranks, &many, &["--kimg", kimg, "--resume", run.to_str().unwrap()]));
    }
    let distance = distance(&run, &run_folder(&one));
    assert!(distance < TOLERANCE, "{distance:.2e}");
}

#[test]
fn a_batch_that_cannot_be_shared_out_is_refused_in_one_line() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let args = settings("train.batch=6");
    let output = train(4, dir.path(), &args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert_eq!(text.matches("6 images cannot be shared out evenly among 4 ranks").count(), 1, "{text}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Whether a run in `outdir` has saved a state; it may be about to replace it.
fn has_state(outdir: &Path) -> bool {
    let runs = std::fs::read_dir(outdir).into_iter().flatten();
    runs.flatten().any(|run| state::list(&run.path()).is_ok_and(|states| !states.is_empty()))
}

/// The process number of rank 1 of a job of two ranks, and what the job says until it ends.
fn second_rank(job: &mut Child) -> (u32, std::thread::JoinHandle<String>) {
    let mut stderr = BufReader::new(job.stderr.take().unwrap());
    let mut seen = String::new();
    let number = loop {
        let mut line = String::new();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "the job ended: {seen}");
        seen += &line;
        if line.starts_with("2 ranks: ") {
            break line.trim().rsplit(' ').next().unwrap().parse().unwrap();
        }
    };
    let rest = std::thread::spawn(move || {
        stderr.read_to_string(&mut seen).unwrap();
        seen
    });
    (number, rest)
}

/// Waits while a job is under way, until it has come so far.
fn wait_until(job: &mut Child, so_far: impl Fn() -> bool) {
    let start = Instant::now();
    while !so_far() {
        assert!(start.elapsed() < PATIENCE && job.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
}

/// Waits for a job that ends by itself.
fn ended(job: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = job.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > PATIENCE {
            job.kill().unwrap();
            panic!("the job hangs");
        }
        std::thread::yield_now();
    }
}

fn signal(signal: &str, process: u32) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}

/// Sends a signal to one rank; the job ends by itself, and its last state goes on in one process.
fn ends_and_resumes(kind: &str, more: &[&str], expected: &str) {
    let dir = tempfile::tempdir().unwrap();
    let args = [&["--kimg", "1000"], more, settings("").as_slice()].concat();
    let mut job = train(2, dir.path(), &args).spawn().expect("mpirun is installed");
    let (victim, rest) = second_rank(&mut job);
    wait_until(&mut job, || has_state(dir.path()));
    signal(kind, victim);
    let status = ended(&mut job);
    let said = rest.join().unwrap();
    assert!(!status.success() && said.contains(expected), "{said}");
    let run = run_folder(dir.path());
    // Brings a state back that was about to be replaced.
    resume_point(dir.path(), run.to_str().unwrap()).unwrap();
    let nimg = state::load(&state::list(&run).unwrap().pop().unwrap()).unwrap().position.cur_nimg;
    let kimg = ((nimg + 32) as f64 / 1e3).to_string();
    finish(train(1, dir.path(), &["--kimg", &kimg, "--resume", run.to_str().unwrap()]));
}

#[test]
fn a_rank_that_is_killed_ends_the_job_with_its_name_and_a_state() {
    let _alone = alone();
    ends_and_resumes("-KILL", &[], "rank 1");
}

#[test]
fn a_rank_that_hangs_ends_the_job_with_its_name_and_a_state() {
    let _alone = alone();
    ends_and_resumes("-STOP", &["--rank-timeout", "3"], "no answer within 3 s from rank 1 (");
}
