//! The `nestgen` program: parse, run a verb, print an error once, choose the exit code.

mod cli;

use std::process::ExitCode;

/// Buffers of tens of MiB come and go thousands of times a minute; see `nestgen_kernels::alloc`.
fn main() -> ExitCode {
    cli::panic_hook::install();
    cli::main()
}
