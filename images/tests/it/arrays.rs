//! `.npz` files of images, as numpy's `savez` lays them out.

use nestgen_images::{ImageSet, OpenOptions};

use super::make::{npy, npz};

/// Three images of 2 rows and 4 columns.
fn pixels() -> Vec<u8> {
    (0..3 * 2 * 4 * 3).map(|i| (i * 3) as u8).collect()
}

#[test]
fn images_and_classes_are_those_of_the_arrays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("samples.npz");
    let images = npy("|u1", "(3, 2, 4, 3)", &pixels());
    let labels =
        npy("<i8", "(3,)", &[2u64, 0, 1].iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<_>>());
    let stored = zip::CompressionMethod::Stored;
    std::fs::write(&path, npz(stored, &[("arr_0.npy", &images), ("arr_1.npy", &labels)])).unwrap();
    let set = ImageSet::open(&path, &OpenOptions::default()).unwrap();
    assert_eq!((set.len(), set.class_names()), (3, &["0", "1", "2"].map(str::to_owned)[..]));
    assert_eq!((0..3).map(|i| set.label(i).unwrap()).collect::<Vec<_>>(), [2, 0, 1]);
    for i in 0..3 {
        let image = set.read_rgb(i).unwrap();
        assert_eq!((image.width, image.height), (4, 2));
        assert_eq!(image.data, pixels()[i * 24..(i + 1) * 24]);
    }
    assert!(set.read_rgb(3).is_err());
    // Labels count.
    let unlabelled = dir.path().join("unlabelled.npz");
    std::fs::write(&unlabelled, npz(stored, &[("arr_0.npy", &images)])).unwrap();
    let other = ImageSet::open(&unlabelled, &OpenOptions::default()).unwrap();
    assert!(other.label(0).is_none() && other.class_names().is_empty());
    assert_ne!(other.digest().unwrap(), set.digest().unwrap());
    let test = OpenOptions { split: Some("test".into()), ..OpenOptions::default() };
    assert!(ImageSet::open(&path, &test).is_err());
}

#[test]
fn other_arrays_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.npz");
    let good = npy("|u1", "(3, 2, 4, 3)", &pixels());
    let stored = zip::CompressionMethod::Stored;
    let refused = |method, arrays: &[(&str, &[u8])], says: &str| {
        std::fs::write(&path, npz(method, arrays)).unwrap();
        let error = ImageSet::open(&path, &OpenOptions::default()).err().unwrap().to_string();
        assert!(error.contains("x.npz") && error.contains(says), "{says}: {error}");
    };
    refused(stored, &[("mu.npy", &npy("<f8", "(1,)", &[0; 8]))], "array `arr_0`: there is none");
    refused(zip::CompressionMethod::Deflated, &[("arr_0.npy", &good)], "it is compressed");
    refused(
        stored,
        &[("arr_0.npy", &npy("|u1", "(3, 3, 2, 4)", &pixels()))],
        "shape [3, 3, 2, 4], expected [N, H, W, 3]",
    );
    refused(stored, &[("arr_0.npy", &npy("<f4", "(3, 2, 4, 3)", &[0; 72 * 4]))], "elements <f4");
    refused(stored, &[("arr_0.npy", &good[..good.len() - 1])], "cut off or damaged");
    let at = good.windows(5).position(|text| text == b"False").unwrap();
    let fortran = [&good[..at], b"True ", &good[at + 5..]].concat();
    refused(stored, &[("arr_0.npy", &fortran)], "in Fortran's order");
    refused(stored, &[("arr_0.npy", &npy("|u1", "(0, 2, 4, 3)", &[]))], "of no images");
    // Nothing in them, whatever their number is.
    for shape in ["(3, 0, 4, 3)", "(1000000000000, 0, 4, 3)", "(18446744073709551615, 0, 0, 3)"] {
        refused(stored, &[("arr_0.npy", &npy("|u1", shape, &[]))], "of no images");
    }
    refused(stored, &[("arr_0.npy", b"text")], "not in numpy's format");
    let labels = |descr: &str, shape: &str, body: &[u8]| npy(descr, shape, body);
    for (bytes, says) in [
        (labels("<i8", "(2,)", &[0; 16]), "shape [2], expected [3]"),
        (labels("<f8", "(3,)", &[0; 24]), "elements <f8, expected whole numbers"),
        (labels("<i8", "(3,)", &[255; 24]), "is no class"),
        (labels("<i8", "(3,)", &[0; 23]), "cut off or damaged"),
    ] {
        refused(stored, &[("arr_0.npy", &good), ("arr_1.npy", &bytes)], says);
    }
}
