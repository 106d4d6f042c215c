//! `.npz` files of images, as numpy's `savez` lays them out.

use std::path::Path;

use nestgen_images::{ArrayWriter, ImageSet, OpenOptions};

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

fn open(path: &Path, split: Option<&str>) -> nestgen_images::Result<ImageSet> {
    ImageSet::open(path, &OpenOptions { split: split.map(str::to_owned), ..OpenOptions::default() })
}

fn all_pixels(set: &ImageSet) -> Vec<u8> {
    (0..set.len()).flat_map(|i| set.read_rgb(i).unwrap().data).collect()
}

#[test]
fn planes_and_grey_images_are_read_as_pixels_and_compression_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.npz");
    let planes: Vec<u8> = pixels()
        .chunks(24)
        .flat_map(|image| (0..3).flat_map(move |channel| image.iter().skip(channel).step_by(3).copied()))
        .collect();
    let grey: Vec<u8> = (0..24).collect();
    let as_rgb: Vec<u8> = grey.iter().flat_map(|&grey| [grey; 3]).collect();
    let expected = [
        (npy("|u1", "(3, 2, 4, 3)", &pixels()), pixels(), 3),
        (npy("|u1", "(3, 3, 2, 4)", &planes), pixels(), 3),
        (npy("|u1", "(3, 2, 4)", &grey), as_rgb.clone(), 1),
        (npy("|u1", "(3, 2, 4, 1)", &grey), as_rgb.clone(), 1),
        (npy("|u1", "(3, 1, 2, 4)", &grey), as_rgb, 1),
    ];
    for (array, pixels, channels) in &expected {
        for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
            std::fs::write(&path, npz(method, &[("images.npy", array)])).unwrap();
            // Without memory to unpack into, it is a temporary file.
            for spool_bytes in [1 << 20, 0] {
                let options = OpenOptions { spool_bytes, ..OpenOptions::default() };
                let set = ImageSet::open(&path, &options).unwrap();
                assert!(all_pixels(&set) == *pixels, "{channels} channels, {method}");
                let header = set.read_header(1).unwrap();
                assert_eq!((header.width, header.height, header.channels), (4, 2, *channels));
            }
        }
    }
}

#[test]
fn a_split_of_arrays_is_taken_by_name_or_the_first_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("medmnist.npz");
    let grey = |value: u8, count: usize| npy("|u1", &format!("({count}, 2, 2)"), &vec![value; 4 * count]);
    let labels = |labels: &[u8]| npy("|u1", &format!("({}, 1)", labels.len()), labels);
    let arrays = [
        ("test_images.npy", grey(3, 1)),
        ("test_labels.npy", labels(&[2])),
        ("train_images.npy", grey(1, 3)),
        ("train_labels.npy", labels(&[0, 1, 0])),
        ("val_images.npy", grey(2, 2)),
        ("val_labels.npy", labels(&[1, 1])),
    ];
    let arrays: Vec<(&str, &[u8])> = arrays.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
        std::fs::write(&path, npz(method, &arrays)).unwrap();
        for (split, name, greys, classes) in [
            (None, Some("train"), &[1, 1, 1][..], &[0, 1, 0][..]),
            (Some("val"), Some("val"), &[2, 2], &[1, 1]),
            (Some("test"), Some("test"), &[3], &[2]),
            (Some("all"), None, &[1, 1, 1, 2, 2, 3], &[0, 1, 0, 1, 1, 2]),
        ] {
            let set = open(&path, split).unwrap();
            assert_eq!(set.split(), name);
            let read: Vec<u8> = (0..set.len()).map(|i| set.read_rgb(i).unwrap().data[11]).collect();
            assert_eq!(read, greys);
            assert_eq!((0..set.len()).map(|i| set.label(i).unwrap()).collect::<Vec<_>>(), classes);
        }
        let error = open(&path, Some("dev")).err().unwrap().to_string();
        assert!(error.contains("has no split `dev` (it has: train, val, test)"), "{error}");
    }
    // Classes are those of all splits, of which one may have no images of some.
    assert_eq!(open(&path, Some("val")).unwrap().class_names().len(), 3);
    // As Keras has them; a part without classes has none at all.
    let keras = [("x_train.npy", grey(1, 2)), ("y_train.npy", labels(&[0, 1])), ("x_test.npy", grey(2, 1))];
    let keras: Vec<(&str, &[u8])> = keras.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    std::fs::write(&path, npz(zip::CompressionMethod::Deflated, &keras)).unwrap();
    assert_eq!(open(&path, None).unwrap().label(1), Some(1));
    let every = open(&path, Some("all")).unwrap();
    assert_eq!((every.len(), every.label(0)), (3, None));
    // The classes of another split are not read without end, whatever they claim to be.
    let arrays = [
        ("x_train.npy", grey(1, 2)),
        ("y_train.npy", labels(&[0, 1])),
        ("x_test.npy", grey(1, 1)),
        ("y_test.npy", npy("|u1", "(40000000,)", &vec![0; 40_000_000])),
    ];
    let arrays: Vec<(&str, &[u8])> = arrays.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    std::fs::write(&path, npz(zip::CompressionMethod::Deflated, &arrays)).unwrap();
    let error = open(&path, None).err().unwrap().to_string();
    assert!(error.contains("array `y_test`: 40000000 classes"), "{error}");
    // Labels of another kind are no classes.
    for labels in [npy("|u1", "(2, 3)", &[0, 1, 0, 1, 0, 0]), npy("<f4", "(2,)", &[0; 8])] {
        let arrays = [("x_train.npy", grey(1, 2)), ("y_train.npy", labels)];
        let arrays: Vec<(&str, &[u8])> = arrays.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        std::fs::write(&path, npz(zip::CompressionMethod::Stored, &arrays)).unwrap();
        let set = open(&path, None).unwrap();
        assert!(set.len() == 2 && set.label(0).is_none() && set.class_names().is_empty());
    }
    let both = [("x_train.npy", grey(1, 1)), ("x_test.npy", npy("|u1", "(1, 2, 2, 3)", &[0; 12]))];
    let both: Vec<(&str, &[u8])> = both.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    std::fs::write(&path, npz(zip::CompressionMethod::Stored, &both)).unwrap();
    let every = open(&path, Some("all")).unwrap();
    assert_eq!([0, 1].map(|i| every.read_header(i).unwrap().channels), [1, 3]);
    let mixed = [("x_train.npy", grey(1, 2)), ("x_test.npy", npy("|u1", "(1, 3, 2)", &[0; 6]))];
    let mixed: Vec<(&str, &[u8])> = mixed.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    std::fs::write(&path, npz(zip::CompressionMethod::Stored, &mixed)).unwrap();
    let error = open(&path, Some("all")).err().unwrap().to_string();
    assert!(error.contains("different sizes: (2, 2) and (2, 3) px"), "{error}");
}

#[test]
fn what_is_written_row_by_row_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("samples.npz");
    let mut writer = ArrayWriter::create(&path, 2, 4).unwrap();
    writer.push(&pixels()[..24]).unwrap();
    writer.push(&pixels()[24..]).unwrap();
    assert!(writer.push(&[0; 23]).is_err());
    assert!(!path.exists(), "nothing is there before the end");
    writer.finish().unwrap();
    let set = open(&path, None).unwrap();
    assert!(set.len() == 3 && all_pixels(&set) == pixels());
    // The library's reader checks sizes and the checksum; without the directory's records of 64 bits nothing would be found.
    let mut archive = zip::ZipArchive::new(std::fs::File::open(&path).unwrap()).unwrap();
    assert_eq!(archive.len(), 1);
    let mut array = Vec::new();
    std::io::Read::read_to_end(&mut archive.by_name("arr_0.npy").unwrap(), &mut array).unwrap();
    assert!(array.len() == 128 + 72 && array.ends_with(&pixels()));
    // What is given up leaves nothing.
    let mut writer = ArrayWriter::create(&dir.path().join("other.npz"), 2, 4).unwrap();
    writer.push(&pixels()).unwrap();
    drop(writer);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
#[ignore = "writes 4.4 GB"]
fn an_array_beyond_4_gib_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.npz");
    let mut writer = ArrayWriter::create(&path, 1024, 1024).unwrap();
    for i in 0..1400 {
        writer.push(&vec![(i % 251) as u8; 3 << 20]).unwrap();
    }
    writer.finish().unwrap();
    let set = open(&path, None).unwrap();
    assert_eq!(set.len(), 1400);
    for i in [0, 1365, 1399] {
        assert!(set.read_rgb(i).unwrap().data.iter().all(|&byte| usize::from(byte) == i % 251), "image {i}");
    }
    let mut archive = zip::ZipArchive::new(std::fs::File::open(&path).unwrap()).unwrap();
    let mut array = archive.by_name("arr_0.npy").unwrap();
    // To the end, where the checksum is.
    assert_eq!(std::io::copy(&mut array, &mut std::io::sink()).unwrap(), 128 + 1400 * (3 << 20));
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
    refused(stored, &[("mu.npy", &npy("<f8", "(1,)", &[0; 8]))], "no array of images (it has: mu)");
    refused(stored, &[], "no array of images (it is empty)");
    let names: Vec<String> = (0..12).map(|i| format!("\u{1b}[31m{i}")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    refused(stored, &many, r"\u{1b}[31m9, …)");
    for shape in ["(3, 2, 4, 4)", "(72,)", "(3, 2, 4, 3, 1)"] {
        refused(stored, &[("arr_0.npy", &npy("|u1", shape, &pixels()))], "expected [N, H, W, 3]");
    }
    let deflated = zip::CompressionMethod::Deflated;
    refused(deflated, &[("arr_0.npy", &good[..good.len() - 1])], "cut off or damaged");
    let whole = npz(deflated, &[("arr_0.npy", &good)]);
    let limited = nestgen_images::Limits { max_unpacked_bytes: 71, ..nestgen_images::Limits::default() };
    std::fs::write(&path, whole).unwrap();
    let limited = OpenOptions { limits: limited, ..OpenOptions::default() };
    let error = ImageSet::open(&path, &limited).err().unwrap().to_string();
    assert!(error.contains("unpacks to more than 71 bytes"), "{error}");
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
        (labels("<i8", "(3,)", &[255; 24]), "-1 is no class"),
        (labels("|i1", "(3,)", &[0, 1, 254]), "-2 is no class"),
        (labels("<u4", "(3,)", &[0xff; 12]), "4294967295 is no class"),
        (labels("<i8", "(3,)", &[0; 23]), "cut off or damaged"),
    ] {
        refused(stored, &[("arr_0.npy", &good), ("arr_1.npy", &bytes)], says);
    }
}
