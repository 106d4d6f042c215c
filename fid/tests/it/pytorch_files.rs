//! Weight files as PyTorch and safetensors write them.

use std::io::Write;

use nestgen_fid::weights::{Array, StateDict};

/// Pickle opcodes as PyTorch writes them.
pub(crate) struct Pickle(pub(crate) Vec<u8>);

impl Pickle {
    pub(crate) fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    pub(crate) fn int(self, n: usize) -> Self {
        self.raw(b"J").raw(&(n as i32).to_le_bytes())
    }

    pub(crate) fn tuple(self, items: &[usize]) -> Self {
        items.iter().fold(self.raw(b"("), |pickle, &item| pickle.int(item)).raw(b"t")
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(b".").0
    }
}

/// The published file's strides: convolutions over height, width, in, out; matrices transposed.
fn published_strides(dims: &[usize]) -> Vec<usize> {
    match *dims {
        [o, i, _, w] => vec![1, o, w * i * o, i * o],
        [rows, _] => vec![1, rows],
        [_] => vec![1],
        _ => vec![],
    }
}

/// The storage of an array under some strides, as bytes.
fn storage(array: &Array, strides: &[usize]) -> Vec<u8> {
    let dims = array.dims();
    let place = |mut i: usize| {
        dims.iter().zip(strides).rev().fold(0, |at, (d, s)| {
            let step = i % d;
            i /= d;
            at + step * s
        })
    };
    match array {
        Array::F32 { data, .. } => {
            let mut bytes = vec![0; data.len() * 4];
            data.iter()
                .enumerate()
                .for_each(|(i, x)| bytes[place(i) * 4..][..4].copy_from_slice(&x.to_le_bytes()));
            bytes
        }
        Array::I64 { data, .. } => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

fn count(array: &Array) -> usize {
    array.dims().iter().product()
}

/// The dictionary's pickle: each tensor with the strides of the published file, its storage named by its number.
pub(crate) fn dictionary(tensors: &StateDict) -> Vec<u8> {
    let mut pickle = Pickle::new().raw(b"}(");
    for (number, (name, array)) in tensors.iter().enumerate() {
        let kind: &[u8] =
            if array.floats().is_empty() { b"ctorch\nLongStorage\n" } else { b"ctorch\nFloatStorage\n" };
        pickle = pickle.text(name).raw(b"ctorch._utils\n_rebuild_tensor_v2\n(((");
        pickle.0.pop();
        pickle = pickle.text("storage").raw(kind).text(&number.to_string()).text("cpu").int(count(array));
        pickle =
            pickle.raw(b"NtQK\x00").tuple(array.dims()).tuple(&published_strides(array.dims())).raw(b"\x89NtR");
    }
    pickle.raw(b"u").end()
}

pub(crate) fn legacy(tensors: &StateDict) -> Vec<u8> {
    let mut file =
        Pickle::new().raw(&[0x8a, 10]).raw(&0x1950_a86a_20f9_469c_fc6c_u128.to_le_bytes()[..10]).end();
    file.extend(Pickle::new().raw(b"M").raw(&1001u16.to_le_bytes()).end());
    file.extend(Pickle::new().raw(b"}(").text("little_endian").raw(b"\x88u").end());
    file.extend(dictionary(tensors));
    let keys = (0..tensors.len()).fold(Pickle::new().raw(b"]("), |pickle, key| pickle.text(&key.to_string()));
    file.extend(keys.raw(b"e").end());
    for array in tensors.values() {
        file.extend((count(array) as i64).to_le_bytes());
        file.extend(storage(array, &published_strides(array.dims())));
    }
    file
}

pub(crate) fn zipped(tensors: &StateDict) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut entry = |name: &str, bytes: &[u8]| {
        archive.start_file(format!("archive/{name}"), options).expect("an entry");
        archive.write_all(bytes).expect("written");
    };
    entry("data.pkl", &dictionary(tensors));
    entry("byteorder", b"little");
    for (number, array) in tensors.values().enumerate() {
        entry(&format!("data/{number}"), &storage(array, &published_strides(array.dims())));
    }
    archive.finish().expect("finished").into_inner()
}

pub(crate) fn safetensors_bytes(tensors: &StateDict) -> Vec<u8> {
    let contiguous = |array: &Array| {
        let mut strides = vec![1; array.dims().len()];
        (1..strides.len()).rev().for_each(|i| strides[i - 1] = strides[i] * array.dims()[i]);
        storage(array, &strides)
    };
    let bytes: Vec<(&String, &Array, Vec<u8>)> = tensors.iter().map(|(n, a)| (n, a, contiguous(a))).collect();
    let views = bytes.iter().map(|(name, array, bytes)| {
        let dtype = if array.floats().is_empty() { safetensors::Dtype::I64 } else { safetensors::Dtype::F32 };
        let view = safetensors::tensor::TensorView::new(dtype, array.dims().to_vec(), bytes).expect("whole");
        ((*name).clone(), view)
    });
    safetensors::serialize(views, None).expect("serialised")
}
