//! A panic is a defect of this program: print what a bug report needs, exit with code 2.

use std::backtrace::Backtrace;

/// Replaces the standard panic message by a bug report block.
pub(crate) fn install() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(|| "an unknown place".to_string(), ToString::to_string);
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let message = text.or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        let command: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
        #[expect(clippy::print_stderr, reason = "the bug report")]
        {
            eprintln!("error: nestgen has a bug: {message} (at {place})");
            eprintln!("hint: please report it with the lines below; saved snapshots are whole");
            eprintln!("  version: {}", env!("CARGO_PKG_VERSION"));
            eprintln!("  command: {}", command.join(" "));
            eprintln!("  backtrace:\n{}", Backtrace::force_capture());
        }
        #[expect(clippy::exit, reason = "after a panic in any thread nothing of the run can be trusted")]
        std::process::exit(2);
    }));
}
