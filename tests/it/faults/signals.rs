//! Signals: the first asks for a save, the second ends the program; what is on the disk is whole either way.

use super::*;

/// Starts a training, sends the signals, gives its exit code and its run.
fn signalled(dir: &Path, signals: &[&str]) -> (Option<i32>, PathBuf) {
    let mut child = tiny_training(dir, "1000").stderr(Stdio::null()).spawn().unwrap();
    let run = run_with_state(dir);
    for name in signals {
        if child.try_wait().unwrap().is_none() {
            signal(&child, name);
        }
    }
    (child.wait().unwrap().code(), run)
}

#[test]
fn one_signal_saves_and_ends_and_the_run_goes_on_from_there() {
    // The last is what a closed terminal sends.
    for name in ["INT", "TERM", "HUP"] {
        let dir = tempfile::tempdir().unwrap();
        let (code, run) = signalled(dir.path(), &[name]);
        // Not 0: a script must not take the run for done.
        assert_eq!(code, Some(130), "SIG{name}");
        let state = nestgen::train::state::list(&run).unwrap().pop().unwrap();
        let reached = nestgen::train::state::load(&state).unwrap().position.cur_nimg;
        let goal = (reached + 16) as f64 / 1e3;
        succeeded(&resumed(&run, &goal.to_string()).output().unwrap());
    }
}

#[test]
fn what_nohup_starts_outlives_its_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let plain = tiny_training(dir.path(), "1000");
    let mut command = Command::new("nohup");
    command.arg(plain.get_program()).args(plain.get_args()).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let run = run_with_state(dir.path());
    signal(&child, "HUP");
    let states = |run: &Path| nestgen::train::state::list(run).unwrap().pop();
    let then = states(&run);
    wait_for("another state", || (states(&run) != then).then_some(()));
    assert!(child.try_wait().unwrap().is_none(), "the run ended");
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn two_signals_end_it_at_once_and_leave_whole_states() {
    for name in ["INT", "TERM"] {
        let dir = tempfile::tempdir().unwrap();
        let (code, run) = signalled(dir.path(), &[name, name, name, name]);
        assert_eq!(code, Some(130), "SIG{name}");
        for state in nestgen::train::state::list(&run).unwrap() {
            nestgen::train::state::load(&state).unwrap();
        }
    }
}
