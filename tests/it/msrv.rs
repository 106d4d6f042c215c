//! Nothing that is built asks for a newer compiler than `rust-version` says.

use std::process::Command;

use serde_json::Value;

/// Major and minor number of `1.89` or `1.89.0`.
fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn no_dependency_declares_a_newer_compiler() {
    let ours = version(env!("CARGO_PKG_RUST_VERSION"));
    // What was built for this test has been fetched, so nothing is asked of a network.
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform", &host]);
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let declared: Vec<_> = packages
        .iter()
        .filter_map(|package| Some((&package["name"], package["rust_version"].as_str()?)))
        .collect();
    assert!(declared.len() > 100, "only {} packages say what they need", declared.len());
    for (name, needed) in declared {
        assert!(version(needed) <= ours, "{name} needs Rust {needed}, and we promise {ours:?}");
    }
}
