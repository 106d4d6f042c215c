//! Every reader of files, as a function of bytes. The fuzz targets call these, and `tests/fuzz_corpus` replays what
//! fuzzing has found through the same functions, without a fuzzer.

use std::path::Path;

use candle_core::{DType, Device};
use nestgen::config::{self, classify};
use nestgen::models::Generator;
use nestgen::nn::Builder;
use nestgen::study::arms::{self, Kept};
use nestgen::study::axis::Axis;
use nestgen::study::comparison::{self, Question};
use nestgen::study::plan::Plan;
use nestgen::study::run::Run;
use nestgen::study::{protocol, report, table};
use nestgen::train::tensors::file_sha256;
use nestgen::train::{resume_point, state, stats};
use nestgen_fid::cache::{self, Key};
use nestgen_images::{ImageSet, Limits, OpenOptions, decode};
use zip::CompressionMethod::{self, Deflated, Stored};

/// A reader: what the fuzz target is called, and what it does with bytes.
pub type Reader = (&'static str, fn(&[u8]));

/// All readers.
pub const READERS: [Reader; 14] = [
    ("image", image),
    ("archive", archive),
    ("pack", pack),
    ("arrays", arrays),
    ("listed", listed),
    ("weights", weights),
    ("pickle", pickle),
    ("statistics", statistics),
    ("npy", npy),
    ("cache", feature_cache),
    ("snapshot", snapshot),
    ("state", training_state),
    ("run", run_folder),
    ("config", configuration),
];

/// One encoded image: PNG, JPEG, WebP, BMP, GIF, TIFF.
pub fn image(bytes: &[u8]) {
    let _ = decode::read_header(bytes, &Limits::default());
    if let Ok(image) = decode::decode_rgb(bytes, &Limits::default()) {
        assert_eq!(image.data.len(), image.width as usize * image.height as usize * 3);
    }
}

/// A zip, tar or tar.gz of images; its first bytes say which.
pub fn archive(bytes: &[u8]) {
    let name = match bytes {
        [b'P', b'K', ..] => "a.zip",
        [0x1f, 0x8b, ..] => "a.tar.gz",
        _ => "a.tar",
    };
    with_file(name, bytes, read_set);
}

/// An HDF5 pack.
pub fn pack(bytes: &[u8]) {
    with_file("a.h5", bytes, read_set);
}

/// Images in an `.npz`: the array of pixels, and the array of classes of an image of 1 px; as they are and compressed.
pub fn arrays(array: &[u8]) {
    for method in [Stored, Deflated] {
        for files in [&[("x_train.npy", array)][..], &[("arr_0.npy", ONE_PIXEL), ("arr_1.npy", array)]] {
            with_file("a.npz", &zip(method, files), read_set);
        }
    }
}

/// A black pixel in numpy's format.
const ONE_PIXEL: &[u8] =
    b"\x93NUMPY\x01\x00\x4c\x00{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 1, 3), }          \n\0\0\0";

/// A `dataset.json` beside two images, in an archive and in a folder of it.
pub fn listed(json: &[u8]) {
    for name in ["dataset.json", "a/dataset.json"] {
        with_file("a.zip", &zip(Stored, &[(name, json), ("a/0.bmp", BMP), ("a/1.bmp", BMP)]), read_set);
    }
}

/// A white pixel as a bitmap.
const BMP: &[u8] =
    b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0\0\0\0\0\x04\0\0\0\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\0";

/// Weights: both formats of `.pth`, and safetensors.
pub fn weights(bytes: &[u8]) {
    with_file("a.weights", bytes, |path| drop(nestgen_fid::weights::load(path)));
}

/// The pickle inside a zipped `.pth`.
pub fn pickle(pickle: &[u8]) {
    let files = [("archive/data.pkl", pickle), ("archive/data/0", &[0; 48]), ("archive/data/1", &[1; 48])];
    with_file("a.pth", &zip(Stored, &files), |path| drop(nestgen_fid::weights::load(path)));
}

/// Statistics in an `.npz`.
pub fn statistics(bytes: &[u8]) {
    with_file("a.npz", bytes, |path| drop(nestgen_fid::npz::read(path)));
}

/// An array inside an `.npz`: as the covariance, which is looked at most, and as the mean.
pub fn npy(array: &[u8]) {
    for files in [[("mu.npy", MU), ("sigma.npy", array)], [("mu.npy", array), ("sigma.npy", array)]] {
        with_file("a.npz", &zip(Stored, &files), |path| drop(nestgen_fid::npz::read(path)));
    }
}

/// Two means in numpy's format.
const MU: &[u8] = b"\x93NUMPY\x01\x00\x3c\x00{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }  \n\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// A feature cache.
pub fn feature_cache(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let key = Key { images: "a".into(), extractor: "b".into(), resize: "pytorch".into(), dims: 3 };
    std::fs::write(key.path(folder.path()), bytes).expect("a temporary file");
    if let Some(features) = cache::load(folder.path(), &key) {
        assert_eq!(features.data.len() % 3, 0);
    }
}

/// A snapshot of a generator, and a trained classifier: read, built and filled.
pub fn snapshot(bytes: &[u8]) {
    with_file("a.safetensors", bytes, |path| {
        let _ = read_generator(path);
        let _ = classify::read_trained(path);
    });
}

/// What `nestgen sample` does with a snapshot.
fn read_generator(path: &Path) -> Result<Generator, Box<dyn std::error::Error>> {
    let snapshot = nestgen::sample::read_snapshot(path)?;
    let config = config::parse("fuzzed", &snapshot.config)?;
    let builder =
        Builder::blank_for(snapshot.tensors.iter().map(|(_, tensor)| tensor), DType::F32, &Device::Cpu);
    let generator = Generator::build(&config.model, &builder)?;
    generator.params().load(&snapshot.tensors.into_iter().collect())?;
    Ok(generator)
}

/// A training state in a run folder: lines for the manifest, the position, the configuration, and the file of every
/// network's tensors; see [`parts`]. Once beside a manifest with right checksums, once with these lines alone.
pub fn training_state(bytes: &[u8]) {
    let [lines, position, config, tensors] = parts(bytes);
    let run = tempfile::tempdir().expect("a temporary folder");
    let folder = run.path().join("training-state-000001");
    std::fs::create_dir(&folder).expect("a temporary folder");
    let mut manifest = Vec::new();
    let mut add = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("a temporary file");
        let sum = file_sha256(&path).expect("it is there");
        manifest.extend(format!("\"{name}\" = \"{sum}\"\n").bytes());
    };
    add("position.toml", position);
    add("config.toml", config);
    for name in state::TENSOR_FILES {
        add(&format!("{name}.safetensors"), tensors);
    }
    manifest.extend(lines);
    for manifest in [&manifest, lines] {
        std::fs::write(folder.join("manifest.toml"), manifest).expect("a temporary file");
        if let Ok(point) = resume_point::resume_point(run.path(), "latest") {
            assert!(point.states.iter().all(|state| state.starts_with(run.path())));
        }
        for path in state::list(run.path()).expect("a folder that can be listed") {
            let _ = state::load(&path);
        }
    }
}

/// A run folder, read as `nestgen compare` reads it: configuration, ticks, scores, provenance; see [`parts`].
pub fn run_folder(bytes: &[u8]) {
    let files: [&[u8]; 4] = parts(bytes);
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in ["config.toml", "stats.jsonl", "metric-kid.jsonl", "provenance.json"].iter().zip(files)
    {
        if !bytes.is_empty() {
            std::fs::write(folder.path().join(name), bytes).expect("a temporary file");
        }
    }
    let _ = compare(folder.path());
    let _ = stats::rewind_lines(&folder.path().join("stats.jsonl"), 1.0);
}

/// What `nestgen compare` does with one run.
fn compare(run: &Path) -> nestgen::error::Result<()> {
    let Kept { lost, notes, .. } = arms::without_diverged(vec![Run::read(run)?])?;
    let runs = [Run::read(run)?];
    let metric = protocol::usual_metric(&runs)?;
    let arms = arms::group(&runs)?;
    let question = |axis| Question { metric: &metric, axis, threshold: None, notes: &notes, lost: &lost };
    for axis in Axis::ALL {
        if let Ok(compared) = comparison::compare(&runs, &arms, &question(axis)) {
            let _ = (table::markdown(&compared, &arms), report::figure::svg(&compared));
        }
    }
    let _ = table::csv(&runs, &arms, &metric);
    report::html(&runs, &arms, &question(Axis::Kimg)).map(drop)
}

/// A configuration of a training, of a classifier, of a study.
pub fn configuration(bytes: &[u8]) {
    with_file("study.toml", bytes, |path| {
        if let Ok(config) = config::load(config::Source::File(path), &[]) {
            assert_eq!(config::parse("again", &config.to_toml()).expect("its own text"), config);
        }
        if let Ok(config) = classify::ClassifyRunConfig::read(path, &[]) {
            let again = classify::ClassifyRunConfig::parse("again", &config.to_toml());
            assert_eq!(again.expect("its own text"), config);
        }
        let plan = Plan { seeds: vec![0], ..Plan::default() };
        let _ = plan.open(path.parent().expect("in a folder"));
    });
}

/// Calls `read` with a file of that name and these bytes.
fn with_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a temporary file");
    read(&path);
}

/// Opens a set, reads its first images, and all of a small one through its digest.
fn read_set(path: &Path) {
    let Ok(set) = ImageSet::open(path, &OpenOptions::default()) else { return };
    for i in 0..set.len().min(8) {
        let _ = (set.name(i).len(), set.label(i), set.read_header(i), set.read_rgb(i));
    }
    if set.len() < 1000 {
        let _ = set.digest();
    }
}

/// Several files from one string of bytes: [`BETWEEN`] them; the last one takes the rest.
fn parts<const N: usize>(bytes: &[u8]) -> [&[u8]; N] {
    let mut rest = bytes;
    std::array::from_fn(|i| {
        let cut = rest.windows(BETWEEN.len()).position(|window| window == BETWEEN).filter(|_| i + 1 < N);
        let (part, next) = match cut {
            Some(at) => (&rest[..at], &rest[at + BETWEEN.len()..]),
            None => (rest, &[][..]),
        };
        rest = next;
        part
    })
}

/// What separates the files of [`parts`].
const BETWEEN: &[u8] = b"\n%%%%\n";

/// A zip with these files.
fn zip(method: CompressionMethod, files: &[(&str, &[u8])]) -> Vec<u8> {
    use std::io::Write;
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in files {
        archive.start_file(*name, options).expect("in memory");
        archive.write_all(bytes).expect("in memory");
    }
    archive.finish().expect("in memory").into_inner()
}
