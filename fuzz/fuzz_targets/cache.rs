//! A feature cache.
#![no_main]

use nestgen_fid::cache::{self, Key};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let key = Key { images: "a".into(), extractor: "b".into(), resize: "pytorch".into(), dims: 3 };
    let path = key.path(folder.path());
    std::fs::create_dir_all(path.parent().expect("in the folder")).expect("a temporary folder");
    std::fs::write(&path, bytes).expect("a temporary file");
    let _ = cache::load(folder.path(), &key);
});
