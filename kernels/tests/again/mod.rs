//! Runs a test binary a second time, in a process of its own that forces the portable path.

use nestgen_kernels::portable;

/// Runs every other test of this binary on the portable path; does nothing in the process that it starts.
pub(crate) fn on_the_portable_path() {
    if portable::forced() {
        return;
    }
    let program = std::env::current_exe().unwrap();
    let run = std::process::Command::new(program).env(portable::VARIABLE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    assert!(said.contains("test result: ok"), "{said}");
}
