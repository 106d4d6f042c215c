//! SAGAN as published, with the discriminator of its own paper: trained, interrupted, resumed, drawn.

use std::path::Path;

use nestgen::config::{RunConfig, Source, load};

use super::train::{statistics, tiny, train};

/// Both networks SAGAN's, 32 px; the rest of the run as in [`tiny`].
fn sagan(dir: &Path, attention: bool) -> RunConfig {
    let config = tiny(&["train.penalty.interval=2"]).to_toml();
    let (before, rest) = config.split_once("[model]").unwrap();
    let (_, rest) = rest.split_once("[discriminator]").unwrap();
    let (_, rest) = rest.split_once("\n[").unwrap();
    let networks = format!(
        "[model]\nkind = \"sagan\"\nresolution = 32\nz_dim = 8\nwidth = 8\nattention = {attention}\n\
         [discriminator]\nkind = \"sagan\"\nresolution = 32\nwidth = 8\nattention = {attention}\n"
    );
    let path = dir.join(format!("sagan-{attention}.toml"));
    std::fs::write(&path, format!("{before}{networks}[{rest}")).unwrap();
    load(Source::File(&path), &[]).unwrap()
}

/// Its spectral norms' vectors and batch-norm statistics are saved and averaged like everything else.
#[test]
fn both_networks_of_the_paper_train_and_resume_to_the_bit() {
    for attention in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let config = sagan(dir.path(), attention);
        let (whole, _) = train(&config, &dir.path().join("whole"), None, None).unwrap();
        let parts = dir.path().join("parts");
        train(&config, &parts, None, Some(6)).unwrap();
        let (parts, _) = train(&config, &parts, Some("latest"), None).unwrap();
        let lines = statistics(&whole);
        assert_eq!(lines.len(), 4);
        assert_eq!(lines, statistics(&parts), "attention {attention}");
        let loss = |line: usize| lines[line]["Loss/D"]["mean"].as_f64().unwrap();
        assert!(loss(0).is_finite() && loss(0) != loss(3));
        for name in ["network-snapshot-000000.safetensors", "fakes000000.png"] {
            let [one, other] = [&whole, &parts].map(|run| std::fs::read(run.join(name)).unwrap());
            assert!(one == other, "{name}, attention {attention}");
        }
    }
}
