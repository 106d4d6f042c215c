//! Faults, each against the real binary: other processes, full and read-only disks, signals, kills, odd sources, too
//! little memory.

mod disks;
mod kills;
mod memory;
mod processes;
mod signals;
mod sources;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::bad_input::text;

/// A few thousand weights, 4 images a step, a state every 16 images.
const TINY: &str = "model.resolution=32 model.z_dim=8 model.dims=[16,8,8] model.depths=[1,0,0] \
    discriminator.resolution=32 discriminator.channels=[4,8,8,8] data.scenes=32 train.batch=4 \
    train.tick_kimg=0.016 train.image_ticks=2 train.snap_ticks=1 train.grid=[2,2] \
    train.schedule.kind=constant";

/// Longer than anything here takes, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nestgen"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The arguments of a training of `kimg`, in a new folder in `outdir`.
fn tiny_training(outdir: &Path, kimg: &str) -> Command {
    let mut command = binary();
    command.arg("train").args(["--kimg", kimg]).arg("--outdir").arg(outdir);
    command.args(TINY.split_whitespace().flat_map(|setting| ["--set", setting]));
    command
}

/// The arguments of going on in `run` up to `kimg`.
fn resumed(run: &Path, kimg: &str) -> Command {
    let mut command = binary();
    command.arg("train").arg("--resume").arg(run).args(["--kimg", kimg]);
    command
}

/// Waits until `ready` gives something.
fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = ready() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The only run in `outdir`, once it has a training state.
fn run_with_state(outdir: &Path) -> PathBuf {
    wait_for("a training state", || {
        let run = std::fs::read_dir(outdir).ok()?.next()?.ok()?.path();
        let is_state = |name: &str| name.starts_with("training-state-");
        std::fs::read_dir(&run).ok()?.flatten().find(|e| is_state(&e.file_name().to_string_lossy()))?;
        Some(run)
    })
}

/// Checks that a command failed as a user's mistake: exit code 1, one line of error with these words, a hint.
fn failed(output: &Output, says: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    for word in says {
        assert!(errors[0].contains(word), "`{word}` is not in: {}", errors[0]);
    }
    assert!(stderr.lines().any(|line| line.starts_with("hint: ")), "no hint: {stderr}");
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// Sends a signal by its name.
pub(crate) fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    succeeded(&Command::new("kill").args([&format!("-{name}"), &pid]).output().unwrap());
}

/// `count` different small PNGs in a folder.
fn images(folder: &Path, count: u32) {
    std::fs::create_dir_all(folder).unwrap();
    for i in 0..count {
        let image =
            image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([(x * 9 + i) as u8, (y * 7) as u8, i as u8]));
        image.save(folder.join(format!("{i:04}.png"))).unwrap();
    }
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
