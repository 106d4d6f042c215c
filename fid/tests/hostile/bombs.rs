//! Small files that once cost, or would cost, gigabytes: each is refused within [`MAX_BYTES`].

use nestgen_kernels::alloc::{peak_bytes, restart_peak};

use super::mutation::{MAX_BYTES, alone};
use super::*;

/// Loads weights and gives the reason why they are refused.
fn refused(bytes: &[u8], says: &str) {
    let _alone = alone();
    assert!(bytes.len() < 1 << 20, "{} bytes are no small file", bytes.len());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let before = restart_peak();
    let error = weights::load(file.path()).expect_err(says).to_string();
    let taken = peak_bytes() - before;
    assert!(error.contains(says) && error.len() < 1000, "{} bytes of message: {error:.500}", error.len());
    assert!(taken < MAX_BYTES, "{} MiB", taken >> 20);
}

/// A dictionary pickle in a zip of PyTorch's kind.
fn pth(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    zip(&[("a/data.pkl", pickle), ("a/data/0", storage)], zip::CompressionMethod::Deflated)
}

const STORAGE: &[u8] = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ";

#[test]
fn one_long_tuple_named_by_many_calls() {
    // 50,000 numbers in a tuple, memo 1; then 100,000 times: the constructor, the tuple, call.
    let mut pickle = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x02(".to_vec();
    pickle.extend(b"K\x01".repeat(50_000));
    pickle.extend(b"tq\x01");
    pickle.extend(b"h\x02h\x01R".repeat(100_000));
    pickle.push(b'.');
    refused(&pth(&pickle, &[]), "a call with 50000 arguments");
}

#[test]
fn a_shape_of_many_dimensions_in_many_tensors() {
    let mut pickle = b"\x80\x02(".to_vec();
    pickle.extend(b"K\x01".repeat(30_000));
    pickle.extend(b"tq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02(");
    pickle.extend(STORAGE);
    pickle.extend(b"K\x00h\x01h\x01tRq\x03}(");
    for i in 0..40_000 {
        pickle.extend(b"X\x05\0\0\0");
        pickle.extend(format!("{i:05}").bytes());
        pickle.extend(b"h\x03");
    }
    pickle.extend(b"u.");
    refused(&pth(&pickle, &[0; 4]), "30000 dimensions");
}

#[test]
fn large_tensors_from_one_number() {
    // Strides of 0 show the one number of the storage 2^26 times, in each of a hundred tensors.
    let mut pickle = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
    pickle.extend(STORAGE);
    pickle.extend(b"K\x00J\x00\x00\x00\x04\x85K\x00\x85tRq\x03}(");
    for i in 0..100 {
        pickle.extend(b"X\x02\0\0\0");
        pickle.extend(format!("{i:02}").bytes());
        pickle.extend(b"h\x03");
    }
    pickle.extend(b"u.");
    refused(&pth(&pickle, &[0; 4]), "too large");
}

#[test]
fn statistics_that_unpack_to_gigabytes() {
    let _alone = alone();
    let mu = npy("'descr': '<f8', 'fortran_order': False, 'shape': (2,)", &[0; 16]);
    let zeros = vec![0; 300 << 20];
    let sigma = npy("'descr': '<f8', 'fortran_order': False, 'shape': (2, 2)", &zeros);
    drop(zeros);
    let bytes = zip(&[("mu.npy", &mu), ("sigma.npy", &sigma)], zip::CompressionMethod::Deflated);
    drop(sigma);
    assert!(bytes.len() < 1 << 20);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let before = restart_peak();
    let error = npz::read(file.path()).expect_err("a bomb").to_string();
    assert!(error.contains("for shape [2, 2]"), "{error}");
    assert!(peak_bytes() - before < MAX_BYTES, "{} MiB", (peak_bytes() - before) >> 20);
}

#[test]
fn messages_do_not_repeat_a_hostile_file() {
    let mut pickle = b"\x80\x02}(X\x01\0\0\0a(".to_vec();
    pickle.extend(b"K\x01".repeat(200_000));
    pickle.extend(b"tu.");
    refused(&pth(&pickle, &[]), "is not a tensor");
    let mut pickle = b"\x80\x02(".to_vec();
    pickle.extend(b"K\x01".repeat(200_000));
    pickle.extend(b"t.");
    refused(&pth(&pickle, &[]), "found a tuple of 200000");
}
