//! What a set is known by: digests that see every byte, the split that a pack or CIFAR-10's records are, and choices that stay the
//! same from version to version.

use std::path::{Path, PathBuf};

use nestgen_images::{Error, ImageSet, OpenOptions, PackOptions, write_pack};

use crate::make;

fn open(path: &Path, split: Option<&str>) -> Result<ImageSet, Error> {
    ImageSet::open(path, &OpenOptions { split: split.map(str::to_owned), ..Default::default() })
}

fn digest(path: &Path) -> String {
    open(path, None).unwrap().digest().unwrap()
}

/// An HDF5 file of 600 images of 2x2 px, channels last, more than are hashed at a time.
fn h5(path: &Path, pixels: &[u8], labels: &[i64]) -> String {
    let mut builder = hdf5::FileBuilder::new();
    builder.create_dataset("images").with_u8_data(pixels).with_shape(&[600, 2, 2, 3]);
    builder.create_dataset("labels").with_i64_data(labels);
    builder.write(path).unwrap();
    digest(path)
}

#[test]
fn a_packs_digest_sees_every_pixel_and_label() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.h5");
    let pixels: Vec<u8> = (0..600 * 12).map(|i| (i * 7 % 251) as u8).collect();
    let labels: Vec<i64> = (0..600).map(|i| i % 4).collect();
    let whole = h5(&path, &pixels, &labels);
    assert_eq!(open(&path, None).unwrap().class_names(), ["0", "1", "2", "3"], "classes without names");
    for at in [0, pixels.len() - 1] {
        let mut other = pixels.clone();
        other[at] ^= 1;
        assert_ne!(h5(&path, &other, &labels), whole, "byte {at}");
    }
    let mut other = labels.clone();
    other[599] = 0;
    assert_ne!(h5(&path, &pixels, &other), whole);
    assert_eq!(h5(&path, &pixels, &labels), whole);
}

#[test]
fn a_packs_digest_does_not_depend_on_the_order_of_its_channels() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (dir.path().join("ours.h5"), dir.path().join("theirs.h5"));
    let root = dir.path().join("set");
    make::write_folder(&root, &[("a/1.png", make::png(8, 8, 1)), ("b/2.png", make::png(8, 8, 2))]);
    write_pack(&open(&root, None).unwrap(), &ours, &PackOptions::default(), &|_, _| true).unwrap();
    let pixels = [make::picture(8, 8, 1).into_raw(), make::picture(8, 8, 2).into_raw()].concat();
    let mut builder = hdf5::FileBuilder::new();
    builder.create_dataset("images").with_u8_data(&pixels).with_shape(&[2, 8, 8, 3]);
    builder.create_dataset("labels").with_i64_data(&[0, 1]);
    builder.write(&theirs).unwrap();
    assert_eq!(digest(&ours), digest(&theirs));
}

/// A folder of CIFAR-10's records, one in each of the files.
fn cifar(dir: &Path, files: &[&str], last: u8) -> PathBuf {
    let root = dir.join("cifar");
    let mut record = vec![3; 3073];
    record[3072] = last;
    let files: Vec<(&str, Vec<u8>)> = files.iter().map(|name| (*name, record.clone())).collect();
    make::write_folder(&root, &files);
    root
}

#[test]
fn the_digest_of_records_sees_their_last_byte() {
    let dir = tempfile::tempdir().unwrap();
    let one = digest(&cifar(dir.path(), &["data_batch_1.bin"], 1));
    assert_ne!(digest(&cifar(dir.path(), &["data_batch_1.bin"], 2)), one);
    assert_eq!(digest(&cifar(dir.path(), &["data_batch_1.bin"], 1)), one);
}

#[test]
fn records_have_the_splits_that_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let root = cifar(dir.path(), &["test_batch.bin"], 1);
    assert_eq!(open(&root, None).unwrap().split(), Some("test"));
    let error = open(&root, Some("train")).err().unwrap().to_string();
    assert!(error.ends_with("has no split `train` (it has: test)"), "{error}");
    cifar(dir.path(), &["data_batch_1.bin", "data_batch_2.bin"], 1);
    for (split, count, called) in
        [("all", 3, None), ("train", 2, Some("train")), ("Test", 1, Some("test")), ("test", 1, Some("test"))]
    {
        let set = open(&root, Some(split)).unwrap();
        assert_eq!((set.len(), set.split()), (count, called), "{split}");
    }
    // A picture among them is not the set.
    make::write_folder(&root, &[("preview.png", make::png(8, 8, 1))]);
    let error = open(&root, None).err().unwrap();
    let text = error.to_string();
    assert!(text.contains("images (`preview.png`)") && text.contains("records (`data_batch_1.bin`)"), "{text}");
    assert!(error.hint().is_some());
}

#[test]
fn a_set_without_splits_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (root, pack) = (dir.path().join("set"), dir.path().join("set.h5"));
    make::write_folder(&root, &[("1.png", make::png(8, 8, 1))]);
    write_pack(&open(&root, None).unwrap(), &pack, &PackOptions::default(), &|_, _| true).unwrap();
    for path in [root, pack] {
        let error = open(&path, Some("test")).err().unwrap();
        assert!(error.to_string().ends_with("has no split `test` (it has none)"), "{error}");
        assert!(error.hint().unwrap().starts_with("leave the split out"));
    }
}

#[test]
fn a_pack_knows_the_split_that_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (root, pack) = (dir.path().join("set"), dir.path().join("test.h5"));
    make::write_folder(&root, &[("train/1.png", make::png(8, 8, 1)), ("test/2.png", make::png(8, 8, 2))]);
    write_pack(&open(&root, Some("test")).unwrap(), &pack, &PackOptions::default(), &|_, _| true).unwrap();
    for split in [None, Some("test"), Some("Test"), Some("all")] {
        let set = open(&pack, split).unwrap();
        assert_eq!((set.split(), set.len()), (Some("test"), 1), "{split:?}");
        assert_eq!(set.read_rgb(0).unwrap().data, make::picture(8, 8, 2).into_raw());
    }
    match open(&pack, Some("train")) {
        Err(Error::NoSuchSplit { split, found, .. }) => {
            assert_eq!((split.as_str(), &found[..]), ("train", &["test".to_owned()][..]));
        }
        _ => panic!("the pack has no split `train`"),
    }
}

/// Recorded figures: who resumes a run or compares two wants the same images in every version.
#[test]
fn the_images_that_are_drawn_stay_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..10).map(|i| format!("{i}.png")).collect();
    let files: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (name.as_str(), make::png(4, 4, 1))).collect();
    make::write_folder(dir.path(), &files);
    assert_eq!(open(dir.path(), None).unwrap().choose(3), [2, 4, 6]);
}

#[test]
fn what_a_killed_packing_left_is_removed_and_what_another_writes_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("set");
    make::write_folder(&root, &[("1.png", make::png(8, 8, 1))]);
    let (held, left) = (dir.path().join(".whole-a.tmp"), dir.path().join(".whole-b.tmp"));
    let lock = std::fs::File::create(&held).unwrap();
    lock.try_lock().unwrap();
    std::fs::write(&left, "left").unwrap();
    let target = dir.path().join("a.h5");
    write_pack(&open(&root, None).unwrap(), &target, &PackOptions::default(), &|_, _| true).unwrap();
    assert!(held.exists() && !left.exists());
}
