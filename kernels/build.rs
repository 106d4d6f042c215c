//! With the feature `cuda`, compiles the CUDA kernels to PTX, which the program carries and the driver compiles for its
//! GPU.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=cuda");
    for variable in ["CUDA_HOME", "CUDA_COMPUTE_CAP"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let nvcc = match std::env::var_os("CUDA_HOME") {
        Some(home) => Path::new(&home).join("bin/nvcc"),
        None => PathBuf::from("nvcc"),
    };
    let capability = std::env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80".into());
    let Some(folder) = std::env::var_os("OUT_DIR") else { panic!("cargo sets OUT_DIR") };
    let status = Command::new(&nvcc)
        .args(["--ptx", "-O3", "-std=c++17"])
        .arg(format!("-arch=compute_{capability}"))
        .arg("-o")
        .arg(Path::new(&folder).join("kernels.ptx"))
        .arg("cuda/kernels.cu")
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "`{}` did not compile cuda/kernels.cu: see docs/cuda.md, or use scripts/build-cuda.sh",
        nvcc.display()
    );
}
