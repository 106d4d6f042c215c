//! Two processes at once: on one run folder, on one feature cache.

use super::*;

#[test]
fn a_run_folder_belongs_to_one_process_and_a_dead_one_holds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = tiny_training(dir.path(), "1000").stderr(Stdio::null()).spawn().unwrap();
    let run = run_with_state(dir.path());
    let second = resumed(&run, "1000").output().unwrap();
    assert!(first.try_wait().unwrap().is_none(), "the first run ended");
    failed(&second, &["another process works in", text(&run)]);
    assert_eq!(names(dir.path()).len(), 1, "a second folder was made");
    // A process that was killed cannot tidy up: its lock must be gone with it.
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(run.join("lock").exists());
    let state = nestgen::train::state::list(&run).unwrap().pop().unwrap();
    let reached = nestgen::train::state::load(&state).unwrap().position.cur_nimg;
    let goal = (reached + 16) as f64 / 1e3;
    succeeded(&resumed(&run, &goal.to_string()).output().unwrap());
}

#[test]
fn two_scores_with_one_cache_agree() {
    let dir = tempfile::tempdir().unwrap();
    let (real, fake, cache) = (dir.path().join("real"), dir.path().join("fake"), dir.path().join("cache"));
    images(&real, 12);
    images(&fake, 9);
    let score = || {
        let mut command = binary();
        command
            .arg("fid")
            .args([&real, &fake])
            .args(["--features", "random-v1", "--json", "--cache"])
            .arg(&cache);
        command
    };
    let children: Vec<Child> = (0..2).map(|_| score().spawn().unwrap()).collect();
    let outputs: Vec<Output> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    outputs.iter().for_each(succeeded);
    let scores: Vec<serde_json::Value> = outputs
        .iter()
        .chain([&score().output().unwrap()])
        .map(|output| serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["scores"].clone())
        .collect();
    assert!(!scores[0].is_null() && scores[0] == scores[1] && scores[0] == scores[2], "{scores:?}");
    let left = names(&cache);
    assert!(left.len() == 2 && left.iter().all(|name| name.ends_with(".h5")), "{left:?}");
}
