//! Drawn images as PNG files in a folder that holds no others.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use nestgen::error::Error;
use nestgen::train::files::Pending;
use nestgen::train::grid::Picture;
use nestgen_images::is_image_name;
use rayon::prelude::*;

use crate::cli::ui;

/// How long finished images may wait for the sync that gives them their names.
const SYNC_EVERY: Duration = Duration::from_secs(10);

/// A batch's files: name and PNG of each.
pub(super) type Files = Vec<(String, Vec<u8>)>;

/// Refuses a folder with files that drawing `seeds` does not write: a score of the folder would count them as samples of
/// this network.
pub(super) fn refuse_other_files(outdir: &Path, seeds: &HashSet<u64>) -> Result<(), Error> {
    let entries = match fs::read_dir(outdir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io("read", outdir))?,
    };
    let is_ours = |name: &str| {
        let seed = name.strip_prefix("seed").and_then(|rest| rest.strip_suffix(".png")?.parse().ok());
        seed.is_some_and(|seed| seeds.contains(&seed) && file_name(seed) == name)
    };
    let mut others = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("read", outdir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Hidden files, such as those that a killed process leaves, and what is no image count nowhere.
        let counts = entry.path().is_dir() && !name.starts_with('.') || is_image_name(name.as_bytes());
        if counts && !is_ours(&name) {
            others.push(name);
        }
    }
    let Some(first) = others.iter().min() else { return Ok(()) };
    let (files, place) = (if others.len() == 1 { "file" } else { "files" }, outdir.display());
    Err(Error::usage(
        format!(
            "`{place}` holds {} other {files} (`{first}`), which would count as samples of this network",
            others.len()
        ),
        "give another --outdir, or remove them; to add seeds of the same network, name those that are there as well: --seeds 0-199",
    ))
}

/// Names what an earlier call has left where this one, told to stop, has drawn nothing.
pub(super) fn warn_of_older(outdir: &Path, not_drawn: &[u64]) {
    let left = not_drawn.iter().filter(|&&seed| outdir.join(file_name(seed)).is_file()).count();
    if left > 0 {
        let outdir = outdir.display();
        ui::warn(&format!(
            "images of an earlier call, perhaps of another network, are still in `{outdir}`: {left}"
        ));
    }
}

fn file_name(seed: u64) -> String {
    format!("seed{seed:06}.png")
}

/// The PNG of every image, made on all threads. This thread is one of the pool's, so it encodes
/// itself: while it waited for a thread that waits for the pool, neither would go on.
pub(super) fn encode(seeds: &[u64], images: &Tensor) -> nestgen::error::Result<Files> {
    let one = |(i, seed): (usize, &u64)| {
        let name = file_name(*seed);
        let png = Picture::grid(&images.narrow(0, i, 1)?, 1)?.png().map_err(Error::io("encode", &name))?;
        Ok((name, png))
    };
    seeds.par_iter().enumerate().map(one).collect()
}

/// Writes the files of each batch, and now and then syncs them and gives them their names.
pub(super) fn write(pending: &Pending, batches: Receiver<Files>) -> nestgen::error::Result<()> {
    let mut synced = Instant::now();
    for files in batches {
        for (name, png) in &files {
            pending.write(name, png)?;
        }
        if synced.elapsed() > SYNC_EVERY {
            pending.commit()?;
            synced = Instant::now();
        }
    }
    pending.commit()
}
