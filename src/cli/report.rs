//! How an error reaches the user: one line that says what and where, one that says what to do.

use std::error::Error as _;
use std::process::ExitCode;
use std::time::Duration;

use super::ui;

/// What to do where a GPU's memory is too small.
const OUT_OF_GPU_MEMORY: &str = "the GPU's memory is full: a smaller --batch, --set train.accumulate=N to take a batch in N parts, \
    --precision bf16, or more GPUs; `nvidia-smi` names what else is on it";

/// What Rust says of text that is no number, and what it means.
const NO_NUMBERS: [(&str, &str); 5] = [
    ("invalid digit found in string", "not a whole number, 0 or more"),
    ("cannot parse integer from empty string", "not a whole number, 0 or more"),
    ("number too large to fit in target type", "too large"),
    ("invalid float literal", "not a number"),
    ("cannot parse float from empty string", "not a number"),
];

/// Prints clap's own message: help and version to stdout with exit code 0, mistakes with exit code 1.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    match error.source().map(ToString::to_string).and_then(|cause| in_words(&cause)) {
        Some((told, words)) => {
            ui::tell(&error.render().to_string().replace(told, words));
        }
        // Nothing sensible is left to do when the terminal is gone.
        None => drop(error.print()),
    }
    if error.use_stderr() { ExitCode::from(1) } else { ExitCode::SUCCESS }
}

fn in_words(cause: &str) -> Option<(&'static str, &'static str)> {
    NO_NUMBERS.into_iter().find(|(told, _)| *told == cause)
}

/// Prints an error and its hint; says which exit code fits.
pub(super) fn failure(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let hint = hint(error).map_or_else(String::new, |hint| format!("hint: {hint}\n"));
    // Where stderr is closed there is nobody to tell, and the exit code still has to be right.
    ui::tell(&format!("error: {}\n{hint}", one_line(error)));
    ExitCode::from(if is_defect(error) { 2 } else { 1 })
}

/// Prints the error of one of many ranks, which is named; gives the exit code.
pub(super) fn failure_of_rank(rank: usize, size: usize, error: anyhow::Error) -> u8 {
    // Where all ranks meet the same error, one line is enough: the first one's, or else the lowest one's.
    if rank > 0 {
        std::thread::sleep(Duration::from_millis(2000 + 100 * rank as u64));
    }
    let code = if is_defect(&error) { 2 } else { 1 };
    failure(&error.context(format!("rank {rank} of {size}")));
    code
}

/// The chain of causes, each said once: many errors repeat their cause in their own text.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for text in error.chain().map(|cause| printable(&cause.to_string())) {
        if !line.contains(&text) {
            let joint = if line.is_empty() { "" } else { ": " };
            line = line + joint + &text;
        }
    }
    line
}

/// Text for one line of a terminal: names of files may hold line ends and escape sequences.
fn printable(text: &str) -> String {
    let escaped = |c: char| match c {
        '\n' => " ".to_owned(),
        c if c.is_control() => c.escape_default().collect(),
        c => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

fn hint(error: &anyhow::Error) -> Option<String> {
    error
        .chain()
        .find_map(|cause| {
            let own = cause.downcast_ref::<nestgen::error::Error>().and_then(nestgen::error::Error::hint);
            own.or_else(|| cause.downcast_ref::<nestgen_images::Error>()?.hint())
                .or_else(|| cause.downcast_ref::<nestgen_fid::Error>()?.hint())
        })
        .or_else(|| is_out_of_gpu_memory(error).then(|| OUT_OF_GPU_MEMORY.to_owned()))
}

/// Whether the GPU's memory was too small: how the driver, cuBLAS and cuDNN say so comes as the text of a tensor's error.
fn is_out_of_gpu_memory(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let text = cause.to_string();
        ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"]
            .iter()
            .any(|code| text.contains(code))
    })
}

/// A failed tensor operation is never the user's doing: configurations are validated before they run. How much memory a GPU has left
/// is not known then.
fn is_defect(error: &anyhow::Error) -> bool {
    !is_out_of_gpu_memory(error)
        && error.chain().any(|cause| {
            cause.is::<candle_core::Error>()
                || matches!(cause.downcast_ref(), Some(nestgen::error::Error::Tensor(_)))
        })
}

/// `nestgen ... | head` ends early, and that is fine. A pipe that was named as an output is not: what was asked for is lost.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    });
    broken && !error.chain().any(|cause| cause.is::<nestgen::error::Error>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor_error(text: &str) -> anyhow::Error {
        anyhow::Error::from(nestgen::error::Error::Tensor(candle_core::Error::Msg(text.into())))
            .context("training")
    }

    #[test]
    fn a_full_gpu_is_no_defect_and_has_a_way_out() {
        let full = tensor_error("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
        assert!(!is_defect(&full) && hint(&full).unwrap().contains("--batch"));
        let defect = tensor_error("shape mismatch in add");
        assert!(is_defect(&defect) && hint(&defect).is_none());
    }
}
