//! Damaged weights, statistics and caches: see `mutation.rs`.

mod bombs;
#[path = "../../../images/tests/hostile/mutation.rs"]
mod mutation;
#[allow(dead_code)] // The other tests use the rest.
#[path = "../it/pytorch_files.rs"]
mod pytorch_files;

use std::io::Write;
use std::path::Path;

use mutation::{Effort, Target};
use nestgen_fid::cache::{self, Key};
use nestgen_fid::statistics::Moments;
use nestgen_fid::weights::{self, Array, StateDict};
use nestgen_fid::{Features, Protocol, Resize, npz};

#[global_allocator]
static ALLOCATOR: nestgen_kernels::alloc::CountingPeak = nestgen_kernels::alloc::CountingPeak;

const NO_CHECKSUMS: fn(&mut Vec<u8>) = |_| ();

/// Three tensors: enough for every opcode and every way of storing.
fn tensors() -> StateDict {
    let floats = |dims: &[usize]| {
        let count = dims.iter().product();
        Array::F32 { dims: dims.to_vec(), data: (0..count).map(|i| i as f32).collect() }
    };
    StateDict::from([
        ("a.conv.weight".to_owned(), floats(&[2, 3, 1, 2])),
        ("a.bn.bias".to_owned(), floats(&[3])),
        ("a.bn.num_batches_tracked".to_owned(), Array::I64 { dims: vec![], data: vec![7] }),
    ])
}

fn read_weights(path: &Path) {
    // Never the whole network, so always an error; what it costs to find that out is what matters.
    assert!(weights::load(path).is_err());
}

fn legacy_pth(effort: Effort) {
    let valid = vec![pytorch_files::legacy(&tensors())];
    Target { name: "legacy-pth", file: "a.pth", valid, repair: NO_CHECKSUMS }.survives(effort, read_weights);
}

fn zip_pth(effort: Effort) {
    let valid = vec![pytorch_files::zipped(&tensors())];
    Target { name: "zip-pth", file: "a.pth", valid, repair: NO_CHECKSUMS }.survives(effort, read_weights);
}

/// The pickle inside a zip, where no checksum of the zip hides the damage.
fn zipped_pickle(effort: Effort) {
    fn wrap(pickle: &mut Vec<u8>) {
        let files = [
            ("archive/data.pkl", pickle.as_slice()),
            ("archive/data/0", &[0; 48]),
            ("archive/data/1", &[1; 48]),
        ];
        *pickle = zip(&files, zip::CompressionMethod::Stored);
    }
    let valid = vec![pytorch_files::dictionary(&tensors())];
    Target { name: "zipped-pickle", file: "a.pth", valid, repair: wrap }.survives(effort, read_weights);
}

fn safetensors(effort: Effort) {
    let valid = vec![pytorch_files::safetensors_bytes(&tensors())];
    Target { name: "safetensors", file: "a.safetensors", valid, repair: NO_CHECKSUMS }
        .survives(effort, read_weights);
}

fn zip(files: &[(&str, &[u8])], method: zip::CompressionMethod) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in files {
        archive.start_file(*name, options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// A file of numpy's format with these header fields and this body.
fn npy(header: &str, body: &[u8]) -> Vec<u8> {
    let header = format!("{{{header}, }}\n");
    [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), body].concat()
}

fn statistics_zip(effort: Effort) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npz");
    let sigma = faer::mat![[2.0, 0.5], [0.5, 1.0]];
    let moments = Moments { num_images: Some(9), mu: vec![1.0, 2.0], sigma };
    let protocol = Protocol {
        features: "FID-2".into(),
        network_sha256: "ab".into(),
        dims: 2,
        resize: Some(Resize::Clean),
    };
    npz::write(&path, &npz::Statistics { moments, protocol: Some(protocol) }).unwrap();
    let valid = vec![std::fs::read(path).unwrap()];
    Target { name: "npz", file: "a.npz", valid, repair: NO_CHECKSUMS }
        .survives(effort, |path| drop(npz::read(path)));
}

/// The arrays inside an `.npz`, where no checksum of the zip hides the damage.
fn statistics_arrays(effort: Effort) {
    fn wrap(sigma: &mut Vec<u8>) {
        let mu = npy("'descr': '<f8', 'fortran_order': False, 'shape': (2,)", &[0; 16]);
        *sigma = zip(&[("mu.npy", &mu), ("sigma.npy", sigma)], zip::CompressionMethod::Deflated);
    }
    let identity: Vec<u8> = [1f64, 0.0, 0.0, 1.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let valid = vec![
        npy("'descr': '<f8', 'fortran_order': False, 'shape': (2, 2)", &identity),
        npy("'descr': '<f4', 'fortran_order': True, 'shape': (2, 2)", &[0; 16]),
    ];
    Target { name: "npy", file: "a.npz", valid, repair: wrap }.survives(effort, |path| drop(npz::read(path)));
}

fn feature_cache(effort: Effort) {
    let dir = tempfile::tempdir().unwrap();
    let key = Key { images: "a".into(), extractor: "b".into(), resize: "pytorch".into(), dims: 3 };
    let features = Features { dims: 3, data: vec![0.5, -1.0, 2.0, 4.0, 8.0, 16.0] };
    cache::store(dir.path(), &key, &features).unwrap();
    let path = key.path(dir.path());
    let valid = vec![std::fs::read(&path).unwrap()];
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    Target { name: "cache", file: &name, valid, repair: NO_CHECKSUMS }.survives(effort, |path| {
        let found = cache::load(path.parent().unwrap(), &key);
        assert!(found.is_none_or(|found| found == features), "damaged features were taken for whole ones");
    });
}

/// Each target as an ordinary test, and as a long one.
macro_rules! targets {
    ($($name:ident $cases:literal),* $(,)?) => {
        mod every_run {
            $(#[test]
            fn $name() {
                super::$name(super::Effort::Cases($cases));
            })*
        }
        mod long {
            $(#[test]
            #[ignore = "ten minutes; NESTGEN_HOSTILE_SECONDS changes that"]
            fn $name() {
                super::$name(super::Effort::Long);
            })*
        }
    };
}

targets! {
    legacy_pth 4000, zip_pth 2000, zipped_pickle 4000, safetensors 3000, statistics_zip 2000, statistics_arrays 3000,
    feature_cache 2000,
}
