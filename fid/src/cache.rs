//! Features kept on disk: one HDF5 file for each (images, network, resize rule, tap), named by a hash of all four.
//!
//! A file is written under a temporary name and renamed, so that two processes that share the folder see either no
//! file or a whole one; when both compute the same features, the later rename wins and changes nothing. Every file
//! carries a hash of its contents; one that does not match is computed again.

// Reads what may be hostile: nothing in it may end the program.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::{Path, PathBuf};

use hdf5::{AttrValue, File, FileBuilder};
use nestgen_images::hex;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::features::Features;
use crate::files::write_atomic;

/// Raised when the same files give other pixels or other features: 2 since JPEG is decoded to libjpeg-turbo's bits, 3 since the transforms of convolutions
/// are those of training, 4 since JPEG's three components are colours by libjpeg's rule.
const GENERATION: u32 = 4;

/// What features depend on.
#[derive(Clone, Debug)]
pub struct Key {
    /// SHA-256 of the images, [`nestgen_images::ImageSet::digest`].
    pub images: String,
    /// SHA-256 of the network.
    pub extractor: String,
    /// The resize rule's name.
    pub resize: String,
    /// Number of features.
    pub dims: usize,
}

impl Key {
    /// The file of these features in a folder.
    pub fn path(&self, folder: &Path) -> PathBuf {
        let text = format!("{GENERATION}/{}/{}/{}/{}", self.images, self.extractor, self.resize, self.dims);
        folder.join(format!("features-{}.h5", &hex(&Sha256::digest(text))[..32]))
    }
}

/// The features of `key`, if the folder has them whole.
pub fn load(folder: &Path, key: &Key) -> Option<Features> {
    let bytes = std::fs::read(key.path(folder)).ok()?;
    let file = File::from_bytes(bytes).ok()?;
    let dataset = file.dataset("features").ok()?;
    let shape = dataset.shape().ok()?;
    let data: Vec<f32> = dataset.read_f32().ok()?;
    let &[images, dims] = shape.as_slice() else { return None };
    let attributes = file.root().attrs().ok()?;
    let Some(AttrValue::String(hash) | AttrValue::AsciiString(hash)) = attributes.get("sha256") else {
        return None;
    };
    let whole =
        dims as usize == key.dims && data.len() == (images * dims) as usize && *hash == content_hash(&data);
    whole.then_some(Features { dims: key.dims, data })
}

/// Keeps features.
///
/// # Errors
/// When the folder cannot be made or written.
pub fn store(folder: &Path, key: &Key, features: &Features) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let path = key.path(folder);
    let mut builder = FileBuilder::new();
    let shape = [features.len() as u64, features.dims as u64];
    builder.create_dataset("features").with_f32_data(&features.data).with_shape(&shape);
    let attributes = [
        ("sha256", content_hash(&features.data)),
        ("images", key.images.clone()),
        ("extractor", key.extractor.clone()),
        ("resize", key.resize.clone()),
    ];
    for (name, value) in attributes {
        builder.set_attr(name, AttrValue::AsciiString(value));
    }
    let failed = |e: hdf5::Error| Error::Cache { path: path.clone(), reason: e.to_string() };
    let bytes = builder.finish().map_err(failed)?;
    write_atomic(&path, &bytes)
}

fn content_hash(data: &[f32]) -> String {
    let mut hash = Sha256::new();
    for chunk in data.chunks(1 << 16) {
        let bytes: Vec<u8> = chunk.iter().flat_map(|x| x.to_le_bytes()).collect();
        hash.update(&bytes);
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(dims: usize) -> Key {
        Key { images: "a1".into(), extractor: "b2".into(), resize: "pytorch".into(), dims }
    }

    #[test]
    fn features_come_back_and_damage_is_noticed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let features = Features { dims: 3, data: vec![0.5, -1.0, 2.0, 4.0, 8.0, 16.0] };
        assert!(load(folder.path(), &key(3)).is_none());
        store(folder.path(), &key(3), &features).expect("stored");
        assert_eq!(load(folder.path(), &key(3)), Some(features));
        assert!(load(folder.path(), &key(4)).is_none(), "another key");
        let path = key(3).path(folder.path());
        let bytes = std::fs::read(&path).expect("read");
        // Every cut and every flipped byte of the data must be seen as damage, never as other features.
        let data = bytes.windows(4).position(|w| w == 16f32.to_le_bytes()).expect("the data");
        let mut damaged = bytes.clone();
        damaged[data] ^= 1;
        for bad in [&bytes[..bytes.len() / 2], &damaged, b"text"] {
            std::fs::write(&path, bad).expect("written");
            assert!(load(folder.path(), &key(3)).is_none());
        }
    }

    #[test]
    fn features_of_another_set_network_rule_or_layer_are_others() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        store(folder.path(), &key(3), &Features { dims: 3, data: vec![0.5, -1.0, 2.0] }).expect("stored");
        for other in [
            Key { images: "a2".into(), ..key(3) },
            Key { extractor: "b3".into(), ..key(3) },
            Key { resize: "tf1".into(), ..key(3) },
            key(4),
        ] {
            assert_ne!(other.path(folder.path()), key(3).path(folder.path()), "{other:?}");
            assert!(load(folder.path(), &other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn writers_at_the_same_time_leave_one_whole_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let features = Features { dims: 50, data: (0..5000).map(|i| i as f32).collect() };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        store(folder.path(), &key(50), &features).expect("stored");
                        assert_eq!(load(folder.path(), &key(50)).as_ref(), Some(&features));
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1, "no temporary files stay");
    }
}
