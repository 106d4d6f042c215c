//! Runs the real binary.

use std::process::{Command, Output};

/// Runs `nestgen` with `args` in the temporary folder of the test.
pub(crate) fn nestgen(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nestgen")).args(args).output().expect("the binary runs")
}

#[test]
fn help_goes_to_stdout_and_succeeds() {
    let out = nestgen(&["--help"]);
    assert!(out.status.success());
    assert!(String::from_utf8_lossy(&out.stdout).contains("Usage: nestgen"));
}

#[test]
fn an_unknown_verb_is_exit_code_1() {
    let out = nestgen(&["trian"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("train") || out.stdout.is_empty());
}

#[test]
fn verbs_of_one_process_refuse_to_be_launched_as_several() {
    for variable in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nestgen"));
        command.args(["classify", "eval"]).env(variable, "2");
        let out = command.output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1));
        assert!(
            stderr.starts_with("error: 2 processes were launched") && stderr.contains("hint: "),
            "{stderr}"
        );
    }
}

#[test]
fn the_processor_multiplies_in_f32() {
    for precision in ["bf16", "tf32"] {
        let arguments =
            ["train", "--kimg", "1", "--device", "cpu", "--precision", precision, "--outdir", "nowhere"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_nestgen"));
        let refused = command.args(arguments).env("NESTGEN_PORTABLE", "0").output().expect("the binary runs");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains(precision) && said.contains("f32") && said.contains("hint: "), "{said}");
    }
}

#[test]
#[cfg(not(feature = "cuda"))]
fn a_gpu_is_refused_by_a_program_without_cuda() {
    for verb in [
        &["train", "--kimg", "1"][..],
        &["classify", "train"],
        &["study", "convergence", "--kimg", "1", "--allow-unfair"],
    ] {
        let refused = nestgen(&[verb, &["--device", "cuda", "--outdir", "nowhere"]].concat());
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("built without CUDA") && said.contains("hint: "), "{said}");
        assert!(!std::path::Path::new("nowhere").join("00000").exists());
    }
}
