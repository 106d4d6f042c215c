//! Weight files: the three containers give the same bits; damaged, foreign and hostile files are refused.

use std::path::Path;

use nestgen_fid::formula::state_dict;
use nestgen_fid::weights::{Array, StateDict, load};

use crate::pytorch_files::{Pickle, legacy, safetensors_bytes, zipped};

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
