//! Named tensors in a `.safetensors` file that proves itself on load.
//!
//! The format is that of <https://github.com/huggingface/safetensors>: a length, a JSON header with names, types,
//! shapes and places, then the numbers. Written as a stream, so saving needs no second copy of the network in
//! memory. The header's metadata holds the SHA-256 of everything after the header (`data_sha256`), which the
//! format itself lacks: a truncated or altered file is refused, never half-loaded.

// Reads what may be hostile: nothing in it may end the program.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use nestgen_images::hex;
use nestgen_kernels::cpu::with_downloaded;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The metadata of a file: text by key.
pub type Metadata = BTreeMap<String, String>;

/// Tensors in the order of their file.
pub type NamedTensors = Vec<(String, Tensor)>;

const DIGEST: &str = "data_sha256";

/// Writes f32, f64 and i64 tensors with metadata.
pub fn write(file: &mut dyn Write, metadata: &Metadata, tensors: &[(String, Tensor)]) -> io::Result<()> {
    let mut digest = Sha256::new();
    for (_, tensor) in tensors {
        with_bytes(tensor, |bytes| {
            digest.update(bytes);
            Ok(())
        })?;
    }
    let mut metadata = metadata.clone();
    metadata.insert(DIGEST.into(), hex(&digest.finalize()));
    let mut header = serde_json::Map::from_iter([("__metadata__".into(), serde_json::json!(metadata))]);
    let mut start = 0;
    for (name, tensor) in tensors {
        let dtype = match tensor.dtype() {
            DType::F32 => "F32",
            DType::F64 => "F64",
            DType::I64 => "I64",
            other => return Err(io::Error::other(format!("{name}: tensors of {other:?} are not written"))),
        };
        let end = start + tensor.elem_count() * tensor.dtype().size_in_bytes();
        let entry = serde_json::json!({ "dtype": dtype, "shape": tensor.dims(), "data_offsets": [start, end] });
        if header.insert(name.clone(), entry).is_some() {
            return Err(io::Error::other(format!("two tensors are named {name}")));
        }
        start = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    // Eight-byte alignment of the numbers, as the format asks for.
    header.resize(header.len().next_multiple_of(8), b' ');
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    tensors.iter().try_for_each(|(_, tensor)| with_bytes(tensor, |bytes| file.write_all(bytes)))
}

/// Reads a file written by [`write()`] and checks its digest.
///
/// # Errors
/// When the file cannot be read, is not of this format, is cut short, or its numbers are not those that were
/// written.
pub fn read(path: &Path) -> Result<(Metadata, NamedTensors)> {
    // Opening a pipe would wait for a writer, perhaps for ever.
    let there = std::fs::metadata(path).map_err(Error::io("read", path))?;
    if !there.is_file() {
        let what = if there.is_dir() { "it is a folder" } else { "it is no file" };
        let hint = Some("name a .safetensors file".into());
        return Err(Error::Checkpoint { path: path.to_path_buf(), reason: what.into(), hint });
    }
    parse(path, &std::fs::read(path).map_err(Error::io("read", path))?)
}

fn damaged(path: &Path, reason: String) -> Error {
    Error::Checkpoint {
        path: path.to_path_buf(),
        reason,
        hint: Some("the file is damaged or of another kind: take another copy of it, or an older file".into()),
    }
}

/// [`read`] of the bytes of a file; `path` is for messages.
///
/// # Errors
/// As [`read`], but for those of reading.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<(Metadata, NamedTensors)> {
    let bad = |reason: String| damaged(path, reason);
    let not_ours = |error| match saved_by_python(bytes) {
        Some(kind) => Error::Checkpoint {
            path: path.to_path_buf(),
            reason: format!("it is {kind}"),
            hint: Some(READ.into()),
        },
        None => bad(format!("not a whole safetensors file ({error})")),
    };
    let (header_len, header) = SafeTensors::read_metadata(bytes).map_err(not_ours)?;
    let metadata: Metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    if let Some(expected) = metadata.get(DIGEST) {
        let data = bytes.get(header_len + 8..).unwrap_or_default();
        if &hex(&Sha256::digest(data)) != expected {
            return Err(bad("its numbers do not match its checksum".into()));
        }
    }
    let file = SafeTensors::deserialize(bytes).map_err(not_ours)?;
    let mut tensors = Vec::with_capacity(file.len());
    for (name, view) in file.iter() {
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            Dtype::I64 => DType::I64,
            other => return Err(bad(format!("tensor `{name}` is {other:?}, expected F32, F64 or I64"))),
        };
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
        tensors.push((name.to_owned(), tensor));
    }
    Ok((metadata, tensors))
}

/// What is read in the place of Python's files.
const READ: &str = "only .safetensors are read: a network-snapshot-* or model_best of our runs, timm's weights of \
    classifiers, and DINOv2's";

/// What PyTorch and StyleGAN save, by its first bytes; nothing else of it is looked at.
fn saved_by_python(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        // A zip whose first entry is `<name>/data.pkl`.
        [b'P', b'K', 3, 4, rest @ ..] => {
            let name = rest.get(26..)?.get(..usize::from(*rest.get(22)?))?;
            name.ends_with(b"data.pkl").then_some("a PyTorch file (.pt, .pth)")
        }
        // Protocols that have a mark; in a file of ours these bytes are the header's length, and its text begins at byte 8.
        [0x80, 2..=5, _, _, _, _, _, _, eighth, ..] if *eighth != b'{' => {
            Some("a Python pickle (.pkl, .pth), as PyTorch and StyleGAN save networks")
        }
        _ => None,
    }
}

/// The SHA-256 of a whole file, as 64 hexadecimal digits.
pub fn file_sha256(path: &Path) -> io::Result<String> {
    let mut digest = Sha256::new();
    io::copy(&mut std::fs::File::open(path)?, &mut digest)?;
    Ok(hex(&digest.finalize()))
}

/// The SHA-256 of bytes, as 64 hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Hands over the little-endian bytes of a tensor, a piece at a time.
fn with_bytes(tensor: &Tensor, mut f: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    const PIECE: usize = 1 << 16;
    let mut bytes = Vec::with_capacity(PIECE * 8);
    let mut failed = Ok(());
    let walked = tensor.to_device(&Device::Cpu).and_then(|tensor| tensor.contiguous()).and_then(|tensor| {
        /// The pieces of one element type.
        macro_rules! pieces {
            ($data:expr) => {
                $data.chunks(PIECE).try_for_each(|piece| {
                    bytes.clear();
                    bytes.extend(piece.iter().flat_map(|x| x.to_le_bytes()));
                    f(&bytes)
                })
            };
        }
        match tensor.dtype() {
            DType::I64 => failed = pieces!(tensor.flatten_all()?.to_vec1::<i64>()?),
            DType::F64 => with_downloaded::<f64, _>(&tensor, |data| {
                failed = pieces!(data);
                Ok(())
            })?,
            _ => with_downloaded::<f32, _>(&tensor, |data| {
                failed = pieces!(data);
                Ok(())
            })?,
        }
        Ok(())
    });
    walked.map_err(io::Error::other)?;
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> NamedTensors {
        let a = Tensor::new(&[[1f32, f32::MIN_POSITIVE], [-0.0, 3.5]], &Device::Cpu).unwrap();
        let b = Tensor::new(0.1f64, &Device::Cpu).unwrap();
        vec![("a.weight".into(), a), ("step".into(), b)]
    }

    fn saved(dir: &Path) -> std::path::PathBuf {
        let path = dir.join("x.safetensors");
        let mut bytes = Vec::new();
        write(&mut bytes, &Metadata::from([("config".into(), "[train]\n".into())]), &sample()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (metadata, mut tensors) = read(&saved(dir.path())).unwrap();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(metadata["config"], "[train]\n");
        assert_eq!(tensors[0].1.to_vec2::<f32>().unwrap(), [[1f32, f32::MIN_POSITIVE], [-0.0, 3.5]]);
        assert_eq!(tensors[1].1.to_scalar::<f64>().unwrap(), 0.1);
    }

    #[test]
    fn damage_is_refused_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = saved(dir.path());
        let whole = std::fs::read(&path).unwrap();
        for len in [0, 4, 8, 40, whole.len() - 1] {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(matches!(read(&path), Err(Error::Checkpoint { .. })), "cut to {len}");
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        std::fs::write(&path, flipped).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("checksum"));
    }

    #[test]
    fn files_of_pytorch_are_known_by_their_first_bytes() {
        let zip = |name: &str| {
            let mut bytes = vec![b'P', b'K', 3, 4];
            bytes.resize(30, 0);
            bytes[26] = name.len() as u8;
            [&bytes, name.as_bytes(), &[0; 40]].concat()
        };
        let says = |bytes: &[u8]| parse(Path::new("x"), bytes).unwrap_err().to_string();
        assert!(says(&zip("archive/data.pkl")).contains("PyTorch file"));
        assert!(says(&zip("a.png")).contains("not a whole safetensors file"));
        assert!(says(b"\x80\x02}q\x00(X\x04\x00\x00\x00more").contains("Python pickle"));
        // A damaged file of ours whose header has 640 bytes.
        assert!(says(b"\x80\x02\0\0\0\0\0\0{\"a\": 1").contains("not a whole safetensors file"));
        assert!(says(b"PK\x03\x04").contains("not a whole safetensors file"));
    }
}
