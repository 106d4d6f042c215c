//! Weight files of the FID network: found, read without running any code in them, and checked before use.
//!
//! Three containers are understood: the published file (PyTorch's format before 1.6, tensors with permuted strides),
//! a `.pth` as newer PyTorch writes it (a zip), and `.safetensors`. All 566 tensors must be there with their shapes.

// Reads what may be hostile: nothing in it may end the program.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod legacy;
mod pickle;
mod rebuild;
mod safetensors_file;
mod zip_file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nestgen_images::hex;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Name of the published file.
pub const PUBLISHED_NAME: &str = "pt_inception-2015-12-05-6726825d.pth";
/// SHA-256 of the published file.
pub const PUBLISHED_SHA256: &str = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2";
/// Size of the published file.
pub const PUBLISHED_BYTES: u64 = 95_628_359;
/// The environment variable that may name the file.
pub const ENVIRONMENT: &str = "NESTGEN_INCEPTION";

/// No weight file of this network is larger.
const MAX_BYTES: u64 = 1 << 30;

/// A named tensor of a weight file, contiguous.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Weights.
    F32 {
        /// The shape.
        dims: Vec<usize>,
        /// The values, row-major.
        data: Vec<f32>,
    },
    /// Counters.
    I64 {
        /// The shape.
        dims: Vec<usize>,
        /// The values, row-major.
        data: Vec<i64>,
    },
}

impl Array {
    /// The shape.
    pub fn dims(&self) -> &[usize] {
        match self {
            Array::F32 { dims, .. } | Array::I64 { dims, .. } => dims,
        }
    }

    /// The values of a float tensor; empty for counters.
    pub fn floats(&self) -> &[f32] {
        match self {
            Array::F32 { data, .. } => data,
            Array::I64 { .. } => &[],
        }
    }
}

/// Tensors by name.
pub type StateDict = BTreeMap<String, Array>;

/// A weight file, read and checked.
#[derive(Debug)]
pub struct Weights {
    /// The tensors.
    pub tensors: StateDict,
    /// SHA-256 of the file.
    pub sha256: String,
}

impl Weights {
    /// Whether this is the file that defines FID.
    pub fn is_published(&self) -> bool {
        self.sha256 == PUBLISHED_SHA256
    }
}

/// The first weight file that exists of: `given`, the environment variable, PyTorch's download cache.
///
/// # Errors
/// [`Error::NoWeights`] with the places tried, when there is none; a path that was given but is not there is an
/// error of its own.
pub fn find(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        std::fs::metadata(path).map_err(Error::io(path))?;
        return Ok(path.to_path_buf());
    }
    if let Some(path) = std::env::var_os(ENVIRONMENT).filter(|path| !path.is_empty()).map(PathBuf::from) {
        return match std::fs::metadata(&path) {
            Ok(_) => Ok(path),
            Err(error) => {
                let reason = format!("{ENVIRONMENT} names this file, which cannot be read: {error}");
                Err(Error::Weights { path, reason })
            }
        };
    }
    let mut looked = format!("{ENVIRONMENT} (not set)");
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home).map(|cache| cache.join("torch"));
    if let Some(torch) = std::env::var_os("TORCH_HOME").map(PathBuf::from).or(cache) {
        let path = torch.join("hub").join("checkpoints").join(PUBLISHED_NAME);
        if path.is_file() {
            return Ok(path);
        }
        looked.push_str(&format!(", {}", path.display()));
    }
    Err(Error::NoWeights { looked })
}

/// Reads and checks a weight file.
///
/// # Errors
/// With the reason, when the file cannot be read, is truncated, is of another kind, or holds other tensors.
pub fn load(path: &Path) -> Result<Weights> {
    let meta = std::fs::metadata(path).map_err(Error::io(path))?;
    let (size, wrong) = (meta.len(), |reason: String| Error::Weights { path: path.to_owned(), reason });
    // Opening a pipe would wait for a writer, perhaps for ever.
    if !meta.is_file() {
        return Err(wrong("it is no file".into()));
    }
    if size > MAX_BYTES {
        return Err(wrong(format!("{size} bytes is more than any file of this network")));
    }
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let tensors =
        parse(&bytes).and_then(|tensors| matches_network(&tensors).map(|()| tensors)).map_err(|reason| {
            let short =
                (1..PUBLISHED_BYTES).contains(&size) && path.file_name().is_some_and(|n| n == PUBLISHED_NAME);
            let note = if short {
                format!(" (the file has {size} of {PUBLISHED_BYTES} bytes: the download was cut off)")
            } else {
                String::new()
            };
            wrong(format!("{reason}{note}"))
        })?;
    let sha256 = hex(&Sha256::digest(&bytes));
    Ok(Weights { tensors, sha256 })
}

/// Reads a container by its first bytes.
fn parse(bytes: &[u8]) -> std::result::Result<StateDict, String> {
    match bytes {
        [] => Err("the file is empty".into()),
        [b'P', b'K', 3, 4, ..] => zip_file::read(bytes),
        // PROTO 2, LONG1 of ten bytes: PyTorch's old magic number.
        [0x80, 2, 0x8a, 10, ..] => legacy::read(bytes),
        [_, _, _, _, _, _, _, _, b'{', ..] => safetensors_file::read(bytes),
        [b'<', ..] => Err("this is a web page, not weights".into()),
        _ => Err("neither a PyTorch file nor safetensors".into()),
    }
}

/// Checks names, shapes and values.
///
/// # Errors
/// The first difference from the network.
pub(crate) fn check(tensors: &StateDict) -> Result<()> {
    matches_network(tensors).map_err(|reason| Error::Weights { path: PathBuf::from("(in memory)"), reason })
}

fn matches_network(tensors: &StateDict) -> std::result::Result<(), String> {
    let expected = crate::inception::tensor_shapes();
    for (name, dims) in &expected {
        let array = tensors.get(name).ok_or_else(|| {
            format!("tensor `{name}` is missing ({} tensors found, {} expected)", tensors.len(), expected.len())
        })?;
        if array.dims() != dims {
            return Err(format!("tensor `{name}` has shape {:?}, expected {dims:?}", array.dims()));
        }
        let counter = name.ends_with("num_batches_tracked");
        if counter != matches!(array, Array::I64 { .. }) {
            return Err(format!("tensor `{name}` has the wrong element type"));
        }
        if let Some((at, x)) = array.floats().iter().enumerate().find(|(_, x)| !x.is_finite()) {
            return Err(format!("tensor `{name}` holds {x} at element {at}"));
        }
    }
    match tensors.keys().find(|name| expected.iter().all(|(known, _)| known != *name)) {
        Some(extra) => Err(format!("tensor `{extra}` does not belong to this network")),
        None => Ok(()),
    }
}
