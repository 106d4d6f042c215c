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
    for name in ["INT", "TERM"] {
        let dir = tempfile::tempdir().unwrap();
        let (code, run) = signalled(dir.path(), &[name]);
        assert_eq!(code, Some(0), "SIG{name}");
        let state = nestgen::train::state::list(&run).unwrap().pop().unwrap();
        let reached = nestgen::train::state::load(&state).unwrap().position.cur_nimg;
        let goal = (reached + 16) as f64 / 1e3;
        succeeded(&resumed(&run, &goal.to_string()).output().unwrap());
    }
}

#[test]
fn two_signals_end_it_at_once_and_leave_whole_states() {
    for name in ["INT", "TERM"] {
        let dir = tempfile::tempdir().unwrap();
        let (code, run) = signalled(dir.path(), &[name, name, name, name]);
        // 130 when the second came before the save was done.
        assert!([Some(130), Some(0)].contains(&code), "SIG{name}: {code:?}");
        for state in nestgen::train::state::list(&run).unwrap() {
            nestgen::train::state::load(&state).unwrap();
        }
    }
}
