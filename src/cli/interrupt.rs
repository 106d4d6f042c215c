//! Ctrl-C and SIGTERM: the first asks for a save, the second ends the program at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that the first signal raises. Long work looks at it between steps.
///
/// # Errors
/// When the handler cannot be installed.
pub(crate) fn flag() -> anyhow::Result<Arc<AtomicBool>> {
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
        super::ui::note("\nstopping after this step and saving (again to stop at once)");
    })?;
    Ok(flag)
}
