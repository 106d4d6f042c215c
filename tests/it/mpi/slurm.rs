//! `scripts/slurm-train.sbatch` with stand-ins for Slurm's commands: `srun` is a script that starts two ranks by `mpirun`,
//! `scontrol` one that writes down what it is told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{alike, alone, ended, has_state, second_rank, settings, signal, wait_until};
use crate::bad_input::text;
use crate::score_space::images;

/// Options come first, then the program.
const SRUN: &str = "[ \"$1\" != --mpi=list ] || { printf 'MPI plugin types are...\\n\\tnone\\n\\tpmi2\\n\\tpmix\\n\\tpmix_v4\\n' >&2; exit; }
echo \"$*\" >>\"$(dirname \"$0\")/started\"
while [[ $1 == --* ]]; do shift; done
exec mpirun --allow-run-as-root --oversubscribe --bind-to none -n 2 \"$@\"";

/// A cluster of two nodes with one job.
struct Cluster(tempfile::TempDir);

impl Cluster {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, body) in [("srun", SRUN), ("scontrol", "echo \"$*\" >>\"$(dirname \"$0\")/told\"")] {
            let path = dir.path().join(name);
            fs::write(&path, format!("#!/usr/bin/env bash\n{body}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(dir)
    }

    fn outdir(&self) -> PathBuf {
        self.0.path().join("runs-7")
    }

    fn job(&self, args: &[&str]) -> Command {
        let mut command = alike(Command::new("bash"));
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/slurm-train.sbatch")).args(args);
        command.env("PATH", format!("{}:{}", self.0.path().display(), std::env::var("PATH").unwrap()));
        command.env("NESTGEN", env!("CARGO_BIN_EXE_nestgen"));
        command.env("SLURM_JOB_ID", "7").env("SLURM_SUBMIT_DIR", self.0.path());
        command
    }

    /// A job that ends well, and what was started for it.
    fn finish(&self, args: &[&str]) -> String {
        let output = self.job(args).output().unwrap();
        assert!(output.status.success(), "{}", errors(&output));
        self.read("started").lines().last().unwrap().to_owned()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap_or_default()
    }

    /// Stops a job of two ranks by a signal to one once it has a state; gives what was started for it.
    fn stop(&self, args: &[&str]) -> String {
        let mut job = self.job(args).spawn().unwrap();
        let (rank, rest) = second_rank(&mut job);
        wait_until(&mut job, || has_state(&self.outdir()));
        signal("-TERM", rank);
        let status = ended(&mut job);
        assert!(status.success(), "{}", rest.join().unwrap());
        assert_eq!(self.read("told"), "requeue 7\n");
        self.read("started").lines().last().unwrap().to_owned()
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_training_goes_on_in_the_next_job() {
    let _alone = alone();
    let cluster = Cluster::new();
    let args = [&["--preset", "demo64", "--kimg", "4", "--rank-timeout", "60"], &settings("")[..]].concat();
    let started = cluster.stop(&args);
    assert!(started.starts_with("--kill-on-bad-exit=1 --cpu-bind=none --mpi=pmix "), "{started}");
    assert!(started.contains(" train --outdir ") && started.contains(" --kimg 4 "), "{started}");
    let started = cluster.finish(&args);
    assert!(started.ends_with("/runs-7 --resume latest --rank-timeout 60"), "{started}");
    // It is done, and asks for no other job.
    assert_eq!(cluster.read("told"), "requeue 7\n");
}

#[test]
fn so_does_a_classifier() {
    let _alone = alone();
    let cluster = Cluster::new();
    let args: Vec<&str> = "classify train --model vit-xs --res 32 --epochs 40 --device=cpu --set model.dim=16 \
        --set model.heads=2 --set data.scenes=120 --set data.test_scenes=24 --set train.batch=12"
        .split_whitespace()
        .collect();
    assert!(cluster.stop(&args).contains(" classify train --outdir "));
    let started = cluster.finish(&args);
    assert!(started.ends_with("/runs-7 --resume latest --device=cpu"), "{started}");
    assert_eq!(cluster.read("told"), "requeue 7\n");
}

#[test]
fn studies_and_scores_run_too_and_other_verbs_do_not() {
    let _alone = alone();
    let cluster = Cluster::new();
    let arms = super::verbs::arms(cluster.0.path());
    let study = ["study", "accuracy", "--arms", &arms, "--epochs", "1", "--seeds", "1", "--allow-unfair"];
    let started = cluster.finish(&study);
    assert!(started.contains(" study accuracy --outdir ") && cluster.outdir().join("report.html").is_file());

    let [real, fake] = ["real", "fake"].map(|name| images(cluster.0.path(), name, 80));
    let args = ["fid", text(&real), text(&fake), "--features", "random-v1", "--metrics", "kid"];
    assert!(cluster.finish(&args).ends_with(&args.join(" ")));

    let refused = cluster.job(&["sample", "--outdir", "x"]).output().unwrap();
    assert!(!refused.status.success() && errors(&refused).contains("not sample"), "{}", errors(&refused));
    assert!(cluster.read("told").is_empty());
}

#[test]
fn a_node_has_as_many_ranks_as_gpus() {
    let _alone = alone();
    let cluster = Cluster::new();
    let args = ["fid", "nothing", "nothing"];
    let mut job = cluster.job(&args);
    let refused = job.env("SLURM_GPUS_ON_NODE", "4").env("SLURM_NTASKS_PER_NODE", "1").output().unwrap();
    assert!(!refused.status.success() && cluster.read("started").is_empty());
    let expected =
        "error: GPUs a node: 4, ranks a node: 1\nhint: sbatch --gpus-per-node 4 --ntasks-per-node 4\n";
    assert_eq!(errors(&refused), expected);
    let mut job = cluster.job(&args);
    job.env("SLURM_GPUS_ON_NODE", "4").env("SLURM_NTASKS_PER_NODE", "4").output().unwrap();
    let started = cluster.read("started");
    assert!(started.starts_with("--kill-on-bad-exit=1 --cpu-bind=none --gpu-bind=none "), "{started}");
}
