//! Ctrl-C and SIGTERM: the first asks for an orderly end, the second ends the program at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    ctrlc::set_handler(move || {
        if raised.swap(true, Ordering::SeqCst) {
            #[expect(
                clippy::exit,
                reason = "the user asked twice; every file is written under a temporary name"
            )]
            std::process::exit(130);
        }
        super::ui::note(&format!("\n{words} (again to stop at once)"));
    })?;
    Ok(flag)
}
