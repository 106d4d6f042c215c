//! A panic is a defect of this program: print what a bug report needs, exit with code 2.

use std::backtrace::Backtrace;
use std::ffi::OsString;
use std::fmt::{self, Display, Formatter};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a bug report needs to say.
struct BugReport {
    message: String,
    place: String,
    thread: String,
    command: String,
    backtrace: String,
}

/// Replaces the standard panic message by a bug report, in every thread.
pub(crate) fn install() {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    std::panic::set_hook(Box::new(|info| {
        if REPORTED.swap(true, Ordering::SeqCst) {
            // Another thread is writing the report and then ends the process: one report is what can be read.
            loop {
                std::thread::park();
            }
        }
        let report = BugReport::of(info, std::env::args_os(), &Backtrace::force_capture());
        // Where stderr is closed there is nobody to tell, and a panic within a panic would lose the exit code.
        super::ui::tell(&report.to_string());
        #[expect(clippy::exit, reason = "after a panic in any thread nothing of the run can be trusted")]
        std::process::exit(2);
    }));
}

impl BugReport {
    fn of(info: &PanicHookInfo, command: impl Iterator<Item = OsString>, backtrace: &Backtrace) -> Self {
        let (payload, formatted) = (info.payload(), info.payload().downcast_ref::<String>());
        let message = payload.downcast_ref::<&str>().copied().or(formatted.map(String::as_str));
        let words: Vec<String> = command.map(|word| word.to_string_lossy().into_owned()).collect();
        Self {
            message: message.unwrap_or("no message").to_owned(),
            place: info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string),
            thread: std::thread::current().name().unwrap_or("without a name").to_owned(),
            command: words.join(" "),
            backtrace: backtrace.to_string(),
        }
    }
}

impl Display for BugReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let commit = match env!("NESTGEN_COMMIT") {
            "" => "unknown (not built from a repository)",
            commit => commit,
        };
        writeln!(f, "error: nestgen has a bug: {} (at {})", self.message.replace('\n', " "), self.place)?;
        writeln!(f, "hint: please report it with the lines below; what was saved before is whole")?;
        writeln!(f, "  version: {}", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "  commit: {commit}")?;
        writeln!(f, "  command: {}", self.command)?;
        writeln!(f, "  thread: {}", self.thread)?;
        writeln!(f, "  backtrace:\n{}", self.backtrace)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    /// Set for the child process alone; without it the tests that panic do nothing.
    const CHILD: &str = "NESTGEN_TEST_PANICS";

    /// Runs one test of this file in a process of its own, with the hook.
    fn child(test: &str) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let name = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
        command.args([&name, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, "1");
        command.output().unwrap()
    }

    fn is_child() -> bool {
        std::env::var_os(CHILD).is_some()
    }

    fn reported(output: &Output, message: &str) {
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert_eq!(text.matches("nestgen has a bug").count(), 1, "{text}");
        let parts = [message, "panic_hook.rs", "hint: ", env!("CARGO_PKG_VERSION"), "commit: ", "--exact"];
        for part in parts.into_iter().chain(["backtrace:", "thread: "]) {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
    }

    #[test]
    fn panics_in_a_thread_of_the_pool() {
        if is_child() {
            super::install();
            rayon::join(|| rayon::scope(|scope| scope.spawn(|_| panic!("a worker\ndid this"))), || ());
        }
    }

    #[test]
    fn panics_in_many_threads() {
        if is_child() {
            super::install();
            let barrier = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        barrier.wait();
                        panic!("one of eight");
                    });
                }
            });
        }
    }

    #[test]
    fn a_panic_anywhere_is_one_bug_report_and_exit_code_2() {
        reported(&child("panics_in_a_thread_of_the_pool"), "bug: a worker did this (at ");
        reported(&child("panics_in_many_threads"), "bug: one of eight (at ");
    }
}
