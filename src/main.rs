//! The `nestgen` program: parse, run a verb, print an error once, choose the exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    nestgen_kernels::alloc::keep_pages();
    cli::panic_hook::install();
    cli::main()
}
