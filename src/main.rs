//! The `nestgen` program: parse, run a verb, print an error once, choose the exit code.

#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: nestgen_kernels::alloc::Counting = nestgen_kernels::alloc::Counting;

fn main() -> ExitCode {
    nestgen_kernels::alloc::keep_pages();
    cli::panic_hook::install();
    nestgen_kernels::threads::join_pool(cli::threads::of_rank());
    cli::main()
}
