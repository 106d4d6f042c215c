//! Runs a test binary a second time, in a process of its own: on the portable path, or on a GPU.

use std::process::Command;

use nestgen_kernels::{gradcheck, portable};

/// Whether this is such a process.
fn is_again() -> bool {
    portable::forced() || std::env::var_os(gradcheck::DEVICE_VARIABLE).is_some()
}

fn run(variable: &str, value: &str) {
    let program = std::env::current_exe().unwrap();
    let run = Command::new(program).env(variable, value).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    assert!(said.contains("test result: ok"), "{said}");
}

/// Runs every other test of this binary on the portable path.
pub(crate) fn on_the_portable_path() {
    if !is_again() {
        run(portable::VARIABLE, "1");
    }
}

/// Runs every other test of this binary on the first GPU; says so where there is none.
#[allow(clippy::print_stderr)]
pub(crate) fn on_the_gpu() {
    #[cfg(feature = "cuda")]
    let count = nestgen_kernels::cuda::count();
    #[cfg(not(feature = "cuda"))]
    let count = 0;
    if is_again() {
    } else if count > 0 {
        run(gradcheck::DEVICE_VARIABLE, "cuda");
    } else {
        eprintln!("skipped: no GPU, or a build without the feature cuda");
    }
}
