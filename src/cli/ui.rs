//! Output: results to stdout, everything else to stderr, progress only where somebody looks.

use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub(crate) use nestgen::error::quoted;

/// Whether this process says nothing.
static MUTE: AtomicBool = AtomicBool::new(false);

/// Says nothing from now on but errors: of many processes that do one thing together, one speaks.
pub(crate) fn mute() {
    MUTE.store(true, Ordering::Relaxed);
}

/// Writes one line of results. A reader that has gone, as of `| head`, does not end the work.
///
/// # Errors
/// When stdout cannot be written to.
pub(crate) fn result_line(line: &str) -> std::io::Result<()> {
    if MUTE.load(Ordering::Relaxed) {
        return Ok(());
    }
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| {
            std::io::Error::new(error.kind(), format!("cannot write to standard output: {error}"))
        }),
    }
}

/// Writes one line about the work to stderr.
pub(crate) fn note(line: &str) {
    if MUTE.load(Ordering::Relaxed) {
        return;
    }
    tell(&format!("{line}\n"));
}

/// Writes to stderr in one piece: of several processes, or beside a launcher's own words, a message in pieces cannot be read.
pub(crate) fn tell(text: &str) {
    // A lost remark is no reason to stop.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Writes a warning to stderr.
pub(crate) fn warn(line: &str) {
    note(&format!("warning: {line}"));
}

/// A bar with a rate and the time left, on a terminal; silent elsewhere.
pub(crate) fn progress_bar(what: &str, total: u64) -> ProgressBar {
    if MUTE.load(Ordering::Relaxed) {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let template = "{msg} {bar:30} {human_pos}/{human_len} ({per_sec}, {eta} left)";
    // The template is a constant; a mistake in it shows in the first run and falls back to the plain bar.
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what.to_string());
    if std::io::stderr().is_terminal() {
        bar.enable_steady_tick(Duration::from_millis(250));
    }
    bar
}

/// Reads images below a bar: `read` is given what it tells how many are done, of how many.
pub(crate) fn reading_images<T>(read: impl FnOnce(&(dyn Fn(usize, usize) -> bool + Sync)) -> T) -> T {
    let bar = progress_bar("reading images", 0);
    let images = read(&|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        true
    });
    bar.finish_and_clear();
    images
}

/// Reads the name of a file that is to be written, of one of these kinds, or of any where none is named. Refused are `-`, for
/// here it would be a file of that name, and the endings of other files: a slip of the hand would replace images or settings.
pub(crate) fn file_to_write(endings: &'static [&'static str]) -> impl TypedValueParser<Value = PathBuf> {
    let is_known = |ending: &OsStr| endings.iter().any(|known| ending.eq_ignore_ascii_case(known));
    let refuse = move |path: PathBuf| match path.extension() {
        _ if path.as_os_str() == "-" => {
            Err("name a file; results are not written to standard output in its place".to_owned())
        }
        Some(ending) if !endings.is_empty() && !is_known(ending) => {
            Err(format!("name a file ending in .{}", endings.join(" or .")))
        }
        _ => Ok(path),
    };
    PathBufValueParser::new().try_map(refuse)
}

/// `4m05s`, `2h10m`, `12s`.
pub(crate) fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        _ => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations_are_short() {
        assert_eq!(super::duration(12.2), "12s");
        assert_eq!(super::duration(245.0), "4m05s");
        assert_eq!(super::duration(7800.0), "2h10m");
    }
}
