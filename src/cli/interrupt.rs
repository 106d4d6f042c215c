//! Ctrl-C, SIGTERM and a terminal that hangs up: the first asks for an orderly end, the second ends the program at once.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nestgen::ranks::Ranks;
use nestgen::train::resources::kernel_field;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What shells say of a program that Ctrl-C has ended.
const INTERRUPTED: u8 = 130;

/// A flag that the first signal raises. Training looks at it between steps, and saves.
///
/// # Errors
/// When the handler cannot be installed.
pub(crate) fn flag() -> anyhow::Result<Arc<AtomicBool>> {
    flag_saying("stopping after this step and saving")
}

/// A flag that the first signal raises, for work that saves nothing to go on from: `words` tell what becomes of it.
///
/// # Errors
/// When the handler cannot be installed.
pub(crate) fn flag_saying(words: &'static str) -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = flag.clone();
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal)))?;
    let listen = move || {
        for _ in signals.forever() {
            if raised.swap(true, Ordering::SeqCst) {
                #[expect(
                    clippy::exit,
                    reason = "the user asked twice; every file is written under a temporary name"
                )]
                std::process::exit(INTERRUPTED.into());
            }
            super::ui::note(&format!("\n{words} (again to stop at once)"));
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(listen)?;
    Ok(flag)
}

/// Whether the program was started to live through a signal, as `nohup` and shells do for what runs in the background.
fn is_ignored(signal: i32) -> bool {
    let mask = kernel_field("/proc/self/status", "SigIgn");
    mask.and_then(|mask| u64::from_str_radix(&mask, 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The exit code of work that was told to stop and can go on, so that no script takes it for done. Of several ranks it is 0: a
/// launcher ends the others when one fails, perhaps while it is saving.
pub(crate) fn exit_code(ranks: &Ranks) -> ExitCode {
    if ranks.size() > 1 { ExitCode::SUCCESS } else { ExitCode::from(INTERRUPTED) }
}
