//! What ranks make sure of before they begin: that the launcher connected all of them, that they have the same work, and how many
//! threads are theirs.

use std::fs;
use std::process::{Command, Output};

use super::{alone, finish, mpirun, run_folder, settings, train};
use crate::bad_input::text;
use crate::score_space::images;

fn refused(mut command: Command) -> String {
    let output: Output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

/// As Open MPI 5 under `srun --mpi=pmi2`: every process would train alone, all into one folder.
#[test]
fn processes_that_mpi_does_not_connect_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let begin = |variables: &[(&str, &str)]| {
        let mut command = train(1, dir.path(), &settings(""));
        command.envs(variables.iter().copied());
        refused(command)
    };
    let said = begin(&[("PMI_RANK", "0"), ("PMI_SIZE", "4")]);
    assert!(said.contains("4 processes were launched, but MPI connects 1 of them\nhint: "), "{said}");
    let said = begin(&[("SLURM_STEP_NUM_TASKS", "4")]);
    assert!(said.contains("4 processes were launched, but not for MPI\nhint: "), "{said}");
    assert!(said.contains("env -u SLURM_STEP_NUM_TASKS"), "{said}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn ranks_with_other_images_or_settings_are_refused_before_anything_is_written() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let nodes = ["a", "b"].map(|name| dir.path().join(name));
    nodes.iter().for_each(|node| fs::create_dir(node).unwrap());
    images(&nodes[0], "set", 48);
    images(&nodes[1], "set", 47);
    let outdir = dir.path().join("runs");
    let begin = |data: [&str; 2], kimg: [&str; 2]| {
        let mut command = mpirun();
        for (rank, node) in nodes.iter().enumerate() {
            command.args(if rank == 0 { &[][..] } else { &[":"] });
            command.args(["-n", "1", "--wdir", text(node), env!("CARGO_BIN_EXE_nestgen"), "train"]);
            command.args(settings("")).args([
                "--data",
                data[rank],
                "--kimg",
                kimg[rank],
                "--outdir",
                text(&outdir),
            ]);
        }
        refused(command)
    };
    let said = begin(["set", "set"], ["0.032", "0.032"]);
    assert!(
        said.contains("the set of images differs from rank 0's on rank 1 (") && said.contains("hint: "),
        "{said}"
    );
    let same = text(&nodes[0].join("set")).to_owned();
    let said = begin([&same, &same], ["0.032", "0.064"]);
    assert!(said.contains("the configuration differs from rank 0's on rank 1 ("), "{said}");
    assert!(!outdir.exists());
}

#[test]
fn ranks_share_the_cores_of_their_machine() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let mut command = train(2, dir.path(), &[&["--kimg", "0.016"], settings("").as_slice()].concat());
    command.env_remove("RAYON_NUM_THREADS");
    finish(command);
    let record = fs::read_to_string(run_folder(dir.path()).join("provenance.json")).unwrap();
    let threads = (std::thread::available_parallelism().unwrap().get() / 2).max(1);
    assert!(record.contains(&format!("cpu, {threads} thread")), "{record}");
}
