//! What the fuzz targets share: files made of the fuzzer's bytes.

use std::io::Write;
use std::path::Path;

use nestgen_images::{ImageSet, OpenOptions};

/// Calls `read` with a file of that name and these bytes.
pub fn with_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a temporary file");
    read(&path);
}

/// Opens a set, reads its first images, and all of a small one through its digest.
pub fn read_set(path: &Path) {
    let Ok(set) = ImageSet::open(path, &OpenOptions::default()) else { return };
    for i in 0..set.len().min(8) {
        let _ = (set.name(i).len(), set.label(i), set.read_header(i), set.read_rgb(i));
    }
    if set.len() < 1000 {
        let _ = set.digest();
    }
}

/// A zip with these files, without compression.
pub fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in files {
        archive.start_file(*name, options).expect("in memory");
        archive.write_all(bytes).expect("in memory");
    }
    archive.finish().expect("in memory").into_inner()
}
