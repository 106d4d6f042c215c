//! Replays what coverage-guided fuzzing begins with and leaves, without a fuzzer: `fuzz/found/<target>.zip` holds valid
//! files, small inputs that a fuzzing run kept, and every input that once was a finding.

#[allow(unreachable_pub)] // To the fuzz targets it is part of a library.
#[path = "../../fuzz/src/readers.rs"]
mod readers;

use std::io::Read;
use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant};

use nestgen_kernels::alloc::{peak_bytes, restart_peak};

#[global_allocator]
static ALLOCATOR: nestgen_kernels::alloc::CountingPeak = nestgen_kernels::alloc::CountingPeak;

/// The most memory a file of less than a MiB may cost its reader.
const MAX_BYTES: usize = 1 << 30;
/// Milliseconds are usual; a busy machine is given a hundred times that.
const MAX_TIME: Duration = Duration::from_secs(20);

/// The inputs of a target, by name.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/found/{target}.zip"));
    let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut archive = zip::ZipArchive::new(file).unwrap();
    let count = archive.len();
    let read = |index| {
        let mut entry = archive.by_index(index).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.name().to_owned(), bytes)
    };
    (0..count).map(read).collect()
}

fn replay(target: &str, read: fn(&[u8])) {
    let inputs = inputs(target);
    assert!(!inputs.is_empty(), "no inputs for {target}");
    for (name, bytes) in inputs {
        let (before, start) = (restart_peak(), Instant::now());
        let outcome = catch_unwind(|| read(&bytes));
        let (taken, time) = (peak_bytes().saturating_sub(before), start.elapsed());
        assert!(outcome.is_ok(), "{target}, {name}: the reader panicked");
        assert!(taken <= MAX_BYTES, "{target}, {name}: the reader took {} MiB", taken >> 20);
        assert!(time <= MAX_TIME, "{target}, {name}: the reader took {time:?}");
    }
}

// One test: memory is counted for the whole process.
#[test]
fn what_fuzzing_found_is_read_without_harm() {
    for (target, read) in readers::READERS {
        replay(target, read);
    }
}

/// Read as far as a reader goes it takes seconds only, which the replay allows; a training would read every row.
#[test]
fn a_pack_whose_chunk_is_larger_than_its_images_is_not_opened() {
    let inputs = inputs("pack");
    let (_, bytes) = inputs.iter().find(|(name, _)| name == "finding-chunk-larger-than-its-images").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.h5");
    std::fs::write(&path, bytes).unwrap();
    let error = nestgen_images::ImageSet::open(&path, &Default::default()).err().expect("an error").to_string();
    assert!(error.contains("larger than the images"), "{error}");
}

#[test]
fn every_fuzz_target_has_its_reader() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut targets: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    targets.sort();
    let mut readers = readers::READERS.map(|(target, _)| target);
    readers.sort_unstable();
    assert_eq!(targets, readers);
}
