//! Weight files: the three containers give the same bits; damaged, foreign and hostile files are refused.

use std::io::Write;
use std::path::Path;

use nestgen_fid::formula::state_dict;
use nestgen_fid::weights::{Array, StateDict, load};

/// Pickle opcodes as PyTorch writes them.
struct Pickle(Vec<u8>);

impl Pickle {
    fn new() -> Self {
        Self(vec![0x80, 2])
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    fn int(self, n: usize) -> Self {
        self.raw(b"J").raw(&(n as i32).to_le_bytes())
    }

    fn tuple(self, items: &[usize]) -> Self {
        items.iter().fold(self.raw(b"("), |pickle, &item| pickle.int(item)).raw(b"t")
    }

    fn end(self) -> Vec<u8> {
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
fn dictionary(tensors: &StateDict) -> Vec<u8> {
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

fn legacy(tensors: &StateDict) -> Vec<u8> {
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

fn zipped(tensors: &StateDict) -> Vec<u8> {
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

fn safetensors_bytes(tensors: &StateDict) -> Vec<u8> {
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

fn load_bytes(bytes: &[u8]) -> nestgen_fid::Result<StateDict> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("written");
    load(file.path()).map(|weights| weights.tensors)
}

#[test]
fn the_three_containers_give_the_same_bits_and_damage_is_refused() {
    let tensors = state_dict();
    let published = legacy(&tensors);
    assert!(load_bytes(&published).expect("legacy") == tensors, "legacy .pth");
    assert!(load_bytes(&zipped(&tensors)).expect("zip") == tensors, "zip .pth");
    assert!(load_bytes(&safetensors_bytes(&tensors)).expect("safetensors") == tensors, "safetensors");
    // Cut anywhere, in the pickles or in the data.
    for part in [1, 40, 5_000, 70_000, 120_000, published.len() / 2, published.len() - 1] {
        let error = load_bytes(&published[..part]).expect_err("cut off").to_string();
        assert!(error.contains("cut off") || error.contains("neither"), "{part} bytes: {error}");
    }
}

#[test]
fn other_tensors_are_refused_by_name() {
    let mut missing = state_dict();
    missing.remove("Mixed_6c.branch_pool.bn.bias");
    let mut reshaped = state_dict();
    reshaped.insert("fc.bias".into(), Array::F32 { dims: vec![1000], data: vec![0.0; 1000] });
    let mut extra = state_dict();
    extra.insert("AuxLogits.fc.bias".into(), Array::F32 { dims: vec![1], data: vec![0.0] });
    let mut broken = state_dict();
    broken.insert("fc.bias".into(), Array::F32 { dims: vec![1008], data: vec![f32::NAN; 1008] });
    let cases = [
        (missing, "`Mixed_6c.branch_pool.bn.bias` is missing (565 tensors found, 566 expected)"),
        (reshaped, "`fc.bias` has shape [1000], expected [1008]"),
        (extra, "`AuxLogits.fc.bias` does not belong"),
        (broken, "`fc.bias` holds NaN at element 0"),
    ];
    for (tensors, reason) in cases {
        let error = load_bytes(&safetensors_bytes(&tensors)).expect_err(reason);
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("95628359")));
    }
}

#[test]
fn a_pickle_that_wants_to_run_code_is_refused() {
    let start = Pickle::new().raw(&[0x8a, 10]).raw(&0x1950_a86a_20f9_469c_fc6c_u128.to_le_bytes()[..10]).end();
    let header =
        [start, Pickle::new().raw(b"M").raw(&1001u16.to_le_bytes()).end(), Pickle::new().raw(b"}").end()]
            .concat();
    let hostile: [(&[u8], &str); 4] = [
        (b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R.", "refused: the file wants to run `os.system`"),
        (b"ctorch\nFloatStorage\n)R.", "refused: a call of"),
        (b"h\x07.", "memo 7 was never set"),
        (b"\x93.", "opcode 0x93"),
    ];
    for (pickle, reason) in hostile {
        let error =
            load_bytes(&[header.as_slice(), &[0x80, 2], pickle].concat()).expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn strides_that_leave_the_storage_are_refused() {
    let mut tensors = StateDict::new();
    tensors.insert("x".into(), Array::F32 { dims: vec![4], data: vec![1.0; 4] });
    let bytes = legacy(&tensors);
    // The tensor's shape (4,) is written as an int: make it 5.
    let at = bytes.windows(8).position(|w| w == b"(J\x04\0\0\0t(").expect("the shape");
    let mut larger = bytes.clone();
    larger[at + 2] = 5;
    let error = load_bytes(&larger).expect_err("out of the storage").to_string();
    assert!(error.contains("reach past its 4 elements"), "{error}");
}

#[test]
fn files_that_are_no_weights_say_what_they_are() {
    for (bytes, reason) in [
        (b"".as_slice(), "empty"),
        (b"<html>not found</html>", "web page"),
        (b"PK\x03\x04 and nothing else", "zip"),
        (b"some text", "neither a PyTorch file nor safetensors"),
    ] {
        let error = load_bytes(bytes).expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(load(Path::new("no/such/file.pth")).expect_err("absent").to_string().contains("no/such/file.pth"));
}
