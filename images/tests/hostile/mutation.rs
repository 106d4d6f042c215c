//! Damaged copies of a small valid file, the same ones every time, and what a reader must not do with them: panic,
//! take more memory than [`MAX_BYTES`], or take longer than [`MAX_TIME`].
//!
//! The kinds of damage are those of coverage-guided fuzzers (bits, runs, "interesting" integers over length fields,
//! cuts, repeats, splices of two files). `cargo test -- --ignored` runs each target for minutes instead of a number of
//! cases; `NESTGEN_HOSTILE_SECONDS` sets how many seconds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nestgen_kernels::alloc::{peak_bytes, restart_peak};

/// The most memory a file of less than a MiB may cost its reader.
pub(crate) const MAX_BYTES: usize = 1 << 30;
/// Milliseconds are usual; a busy machine is given a hundred times that.
const MAX_TIME: Duration = Duration::from_secs(20);

/// How long a target is tried.
#[derive(Clone, Copy)]
pub(crate) enum Effort {
    /// Every test run: this many damaged files.
    Cases(u64),
    /// The long variant.
    Long,
}

/// A target: valid files, and how they are read.
pub(crate) struct Target<'a> {
    /// Its name, which also decides the damage.
    pub(crate) name: &'a str,
    /// What the file is called while it is read.
    pub(crate) file: &'a str,
    /// Small valid files.
    pub(crate) valid: Vec<Vec<u8>>,
    /// Brings checksums up to date, so that damage gets past them; called for three of four files.
    pub(crate) repair: fn(&mut Vec<u8>),
}

/// Memory is counted for the whole process, so targets take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Nobody else counts memory while this is held.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Target<'_> {
    /// Reads damaged files.
    pub(crate) fn survives(&self, effort: Effort, read: impl Fn(&Path)) {
        let _alone = alone();
        self.leave_seeds();
        let start = Instant::now();
        let long = std::env::var("NESTGEN_HOSTILE_SECONDS").ok().and_then(|text| text.parse().ok());
        let long = Duration::from_secs(long.unwrap_or(600));
        // A file that ends the process (stack, memory) stays here, under a name that says which it was.
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{}", self.name));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(self.file);
        let mut case = 0;
        while match effort {
            Effort::Cases(cases) => case < cases,
            Effort::Long => start.elapsed() < long,
        } {
            let bytes = self.damaged(case);
            // A new file each time: some file systems flush a file that is cut and written again.
            let _ = std::fs::remove_file(&path);
            std::fs::write(&path, &bytes).unwrap();
            self.survives_one(case, &path, &read);
            case += 1;
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    /// Writes the valid files into the folder that `NESTGEN_SEEDS` names: where the fuzz targets begin.
    fn leave_seeds(&self) {
        let Some(folder) = std::env::var_os("NESTGEN_SEEDS").map(PathBuf::from) else { return };
        std::fs::create_dir_all(&folder).unwrap();
        for (i, bytes) in self.valid.iter().enumerate() {
            std::fs::write(folder.join(format!("{}-{i}", self.name)), bytes).unwrap();
        }
    }

    fn survives_one(&self, case: u64, path: &Path, read: &impl Fn(&Path)) {
        let before = restart_peak();
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| read(path)));
        let (time, bytes) = (start.elapsed(), peak_bytes().saturating_sub(before));
        let place = format!("{}, case {case}: {}", self.name, path.display());
        assert!(outcome.is_ok(), "{place}: the reader panicked");
        assert!(bytes <= MAX_BYTES, "{place}: the reader took {} MiB", bytes >> 20);
        assert!(time <= MAX_TIME, "{place}: the reader took {time:?}");
    }

    fn damaged(&self, case: u64) -> Vec<u8> {
        let seed = self.name.bytes().fold(case, |seed, b| Dice(seed ^ u64::from(b)).next());
        let mut dice = Dice(seed);
        let mut bytes = self.valid[dice.below(self.valid.len())].clone();
        let other = &self.valid[dice.below(self.valid.len())];
        for _ in 0..=dice.below(4) {
            damage(&mut bytes, other, &mut dice);
        }
        if dice.below(4) > 0 {
            (self.repair)(&mut bytes);
        }
        bytes
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `n` - 1; 0 where `n` is 0.
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn damage(bytes: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    // Padding is most of a tar or a pack, and damage to it says little: prefer a byte that is not zero.
    let at = (0..6).map(|_| dice.below(bytes.len())).find(|&at| bytes.get(at) != Some(&0));
    let at = at.unwrap_or_else(|| dice.below(bytes.len()));
    let run = at..(at + 1 + dice.below(16)).min(bytes.len());
    match dice.below(11) {
        0 | 1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
        2 => bytes[run].iter_mut().for_each(|byte| *byte = dice.next() as u8),
        3 => {
            let value = [0, 1, 0x7f, 0x80, 0xff, b'(', b'[', b'9'][dice.below(8)];
            bytes[run].fill(value);
        }
        4 | 5 => overwrite_number(bytes, at, dice),
        6 => bytes.truncate(at),
        7 => drop(bytes.drain(run)),
        8 => {
            let repeated = bytes[run.clone()].repeat(1 + dice.below(64));
            bytes.splice(run, repeated);
        }
        9 => {
            let from = dice.below(other.len());
            let to = (from + dice.below(64)).min(other.len());
            bytes.splice(run, other[from..to].iter().copied());
        }
        _ => change_digits(bytes, at, dice),
    }
}

/// Puts a number at which length fields break over 1, 2, 4 or 8 bytes.
fn overwrite_number(bytes: &mut [u8], at: usize, dice: &mut Dice) {
    let len = bytes.len() as u64;
    let near = [0, 1, len.saturating_sub(1), len, len + 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff];
    let large = [0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, 1 << 40, i64::MAX as u64, 1 << 63, u64::MAX];
    let all: Vec<u64> = near.into_iter().chain(large).collect();
    let value = all[dice.below(all.len())];
    let width = 1 << dice.below(4);
    let (little, big) = (value.to_le_bytes(), value.to_be_bytes());
    let number = if dice.below(2) == 0 { &little[..width] } else { &big[8 - width..] };
    for (byte, new) in bytes.iter_mut().skip(at).zip(number) {
        *byte = *new;
    }
}

/// Puts another number for the decimal or octal one that is next after `at`.
fn change_digits(bytes: &mut Vec<u8>, at: usize, dice: &mut Dice) {
    let Some(start) = (at..bytes.len()).find(|&i| bytes[i].is_ascii_digit()) else { return };
    let end = (start..bytes.len()).find(|&i| !bytes[i].is_ascii_digit()).unwrap_or(bytes.len());
    let numbers =
        ["0", "-1", "65536", "4294967296", "9223372036854775807", "18446744073709551615", "1e308", "nan"];
    bytes.splice(start..end, numbers[dice.below(numbers.len())].bytes());
}
