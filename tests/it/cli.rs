//! Runs the real binary.

use std::process::{Command, Output};

/// Runs `nestgen` with `args`.
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
    assert!(String::from_utf8_lossy(&out.stderr).contains("train"));
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
fn the_baseline_is_trained_as_any_other_generator() {
    let dir = tempfile::tempdir().unwrap();
    let outdir = dir.path().join("runs").display().to_string();
    let args = "train --arch sagan --match flops --res 32 --kimg 0.016 --batch 8 --tick 0.008 --set data.scenes=16 --set model.dims=[32,16,16] \
        --set discriminator.channels=[4,4,4,4] --outdir";
    let args: Vec<&str> = args.split_whitespace().chain([outdir.as_str()]).collect();
    let printed = nestgen(&[&args[..], &["-n"]].concat());
    let text = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(printed.status.success() && text.contains("kind = \"sagan\""), "{text}");
    let out = nestgen(&args);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let run = dir.path().join("runs/00000-scenes-demo64_sagan");
    assert!(run.join("network-snapshot-000000.safetensors").exists());
    // A run has its generator; a configuration of one may be named, too.
    let config = run.join("config.toml").display().to_string();
    assert!(nestgen(&["train", "--config", &config, "--arch", "sagan", "-n"]).status.success());
    let other = nestgen(&["train", "--config", &config, "--arch", "nest", "-n"]);
    assert!(String::from_utf8_lossy(&other.stderr).contains("--arch nest: the generator of"));
    let resumed = nestgen(&["train", "--resume", "latest", "--arch", "sagan", "--outdir", &outdir]);
    assert_eq!(resumed.status.code(), Some(1));
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
        assert!(!std::path::Path::new("nowhere").exists());
    }
}
