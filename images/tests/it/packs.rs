//! Packs: what goes in comes out, from any source; damaged packs are errors; a failed pack leaves nothing behind.

use std::path::{Path, PathBuf};

use nestgen_images::{Error, ImageSet, OpenOptions, PackOptions, check, to_square, write_pack};

use crate::make;

fn open(path: &Path) -> ImageSet {
    ImageSet::open(path, &OpenOptions::default()).unwrap()
}

fn pack(set: &ImageSet, target: &Path, options: &PackOptions) -> Result<nestgen_images::PackSummary, Error> {
    write_pack(set, target, options, &|_, _| true)
}

fn labelled(dir: &Path) -> ImageSet {
    let root = dir.join("set");
    make::write_folder(
        &root,
        &[
            ("ant/1.png", make::png(40, 33, 1)),
            ("ant/2.png", make::png(16, 16, 2)),
            ("bee/3.jpg", make::jpeg(20, 31, 3)),
        ],
    );
    open(&root)
}

#[test]
fn a_set_of_which_nothing_can_be_packed_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let set = labelled(dir.path());
    std::fs::write(dir.path().join("set/bee/4.png"), &make::png(64, 64, 4)[..60]).unwrap();
    let set_with_cut = open(set.path());
    for res in [None, Some(8)] {
        let options = PackOptions { res, skip_bad: true, min_side: 50, ..Default::default() };
        let error = pack(&set_with_cut, &dir.path().join("p.h5"), &options).unwrap_err();
        let text = error.to_string();
        let says = "none of 4 images can be packed: 3 have a shorter side below 50 px (the largest has 33 px), 1 cannot be read";
        assert!(text.ends_with(says), "{text}");
        assert!(error.hint().unwrap().contains("--min-side 33"), "{error}");
        assert!(!dir.path().join("p.h5").exists());
    }
}

/// A committed file written by h5py; see `tests/fixtures/h5py_pack.py`.
fn h5py_fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Channels-last pixels of image `i` in the fixtures.
fn h5py_pixels(i: usize) -> Vec<u8> {
    let value = |y: usize, x: usize, c: usize| ((i * 31 + c * 50 + y * 7 + x) % 256) as u8;
    (0..6).flat_map(|y| (0..7).flat_map(move |x| (0..3).map(move |c| value(y, x, c)))).collect()
}

#[test]
fn a_pack_holds_the_resized_images_labels_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let set = labelled(dir.path());
    let target = dir.path().join("out.h5");
    let mut calls = Vec::new();
    let calls_cell = std::cell::RefCell::new(&mut calls);
    let options = PackOptions { res: Some(16), ..Default::default() };
    let summary = write_pack(&set, &target, &options, &|done, total| {
        calls_cell.borrow_mut().push((done, total));
        true
    })
    .unwrap();
    assert_eq!((summary.images, summary.res, summary.classes), (3, 16, 2));
    assert_eq!(calls, [(3, 3)]);
    let packed = open(&target);
    assert_eq!((packed.len(), packed.is_pack()), (3, true));
    assert_eq!(packed.class_names(), ["ant", "bee"]);
    for i in 0..3 {
        assert_eq!(packed.label(i), set.label(i));
        assert_eq!(packed.read_rgb(i).unwrap().data, to_square(&set.read_rgb(i).unwrap(), 16));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file stays");
    let again = dir.path().join("again.h5");
    pack(&set, &again, &options).unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), std::fs::read(&again).unwrap(), "packing is deterministic");
    assert_eq!(packed.digest().unwrap(), open(&again).digest().unwrap());
}

#[test]
fn without_a_resolution_sizes_must_agree() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.h5");
    let error = pack(&labelled(dir.path()), &target, &PackOptions::default()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("`ant/1.png` is 40x33 px"), "{text}");
    assert!(error.hint().unwrap().contains("--res"));
    assert!(!target.exists());
    make::write_folder(
        &dir.path().join("same"),
        &[("a.png", make::png(24, 24, 1)), ("b.png", make::png(24, 24, 2))],
    );
    assert_eq!(pack(&open(&dir.path().join("same")), &target, &PackOptions::default()).unwrap().res, 24);
}

#[test]
fn a_bad_image_stops_a_pack_or_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("set");
    make::write_folder(
        &root,
        &[
            ("a.png", make::png(16, 16, 1)),
            ("b.png", make::png(16, 16, 1)[..40].to_vec()),
            ("c.png", make::png(1, 1, 1)),
        ],
    );
    let target = dir.path().join("out.h5");
    std::fs::write(&target, "precious").unwrap();
    let options = PackOptions { res: Some(16), ..Default::default() };
    let error = pack(&open(&root), &target, &options).unwrap_err();
    assert!(error.to_string().contains("b.png"), "{error}");
    assert_eq!(std::fs::read(&target).unwrap(), b"precious", "what was there before stays");
    let summary = pack(&open(&root), &target, &PackOptions { skip_bad: true, ..options }).unwrap();
    let reasons: Vec<String> = summary.skipped.iter().map(ToString::to_string).collect();
    assert_eq!(summary.images, 1);
    assert!(reasons[0].contains("b.png") && reasons[1].contains("1x1 px"), "{reasons:?}");
}

#[test]
fn stopping_and_unwritable_targets_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let set = labelled(dir.path());
    let target = dir.path().join("out.h5");
    let options = PackOptions { res: Some(16), ..Default::default() };
    let stopped = write_pack(&set, &target, &options, &|_, _| false).unwrap_err();
    assert!(matches!(stopped, Error::Stopped { .. }));
    let error = pack(&set, &dir.path().join("no/such/folder/out.h5"), &options).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("no/such/folder"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn cifar_batches_are_read_from_a_folder_and_an_archive() {
    let record = |label: u8, salt: u8| {
        [vec![label], vec![salt; 1024], vec![salt + 1; 1024], vec![salt + 2; 1024]].concat()
    };
    let files = [
        ("cifar/data_batch_1.bin", [record(3, 10), record(9, 20)].concat()),
        ("cifar/data_batch_2.bin", record(0, 30)),
        ("cifar/test_batch.bin", record(5, 40)),
    ];
    let dir = tempfile::tempdir().unwrap();
    make::write_folder(dir.path(), &files);
    let archive = dir.path().join("cifar-10-binary.tar.gz");
    std::fs::write(&archive, make::gz(&make::tar(&files))).unwrap();
    let set = open(&dir.path().join("cifar"));
    assert_eq!((set.len(), set.split()), (3, Some("train")));
    assert_eq!(set.name(2), "data_batch_2.bin/00000");
    assert_eq!((set.label(1), set.class_names()[9].as_str()), (Some(9), "truck"));
    let image = set.read_rgb(1).unwrap();
    assert_eq!((image.width, image.data.len(), &image.data[..6]), (32, 3072, &[20, 21, 22, 20, 21, 22][..]));
    assert_eq!(open(&archive).digest().unwrap(), set.digest().unwrap());
    let test =
        ImageSet::open(&archive, &OpenOptions { split: Some("test".into()), ..Default::default() }).unwrap();
    assert_eq!((test.len(), test.label(0)), (1, Some(5)));
    std::fs::write(dir.path().join("cifar/data_batch_2.bin"), [0; 3000]).unwrap();
    let error = ImageSet::open(&dir.path().join("cifar"), &OpenOptions::default()).err().unwrap();
    assert!(
        error.to_string().contains("data_batch_2.bin") && error.to_string().contains("3000 bytes"),
        "{error}"
    );
}

#[test]
fn h5py_chunked_gzip_files_are_packs() {
    let set = open(&h5py_fixture("h5py_gzip.h5"));
    assert_eq!((set.len(), set.class_names()), (5, &["ant".to_owned(), "bee".to_owned()][..]));
    for i in [4, 0, 1, 2, 3] {
        let image = set.read_rgb(i).unwrap();
        assert_eq!((image.width, image.height, set.label(i)), (7, 6, Some(i as u32 % 2)));
        assert_eq!(image.data, h5py_pixels(i), "image {i}");
    }
}

#[test]
fn chunks_need_not_be_compressed() {
    for name in ["h5py_plain.h5", "h5py_shuffle.h5"] {
        let set = open(&h5py_fixture(name));
        assert_eq!(set.len(), 5);
        (0..5).for_each(|i| assert_eq!(set.read_rgb(i).unwrap().data, h5py_pixels(i), "{name}, image {i}"));
    }
}

#[test]
fn h5py_files_with_split_images_and_checksums_are_packs_too() {
    let set = open(&h5py_fixture("h5py_auto.h5"));
    assert_eq!((set.len(), set.label(0)), (300, None));
    for i in (0..300).rev().step_by(7) {
        assert_eq!(set.read_rgb(i).unwrap().data, h5py_pixels(i), "image {i}");
    }
    assert!(set.digest().is_ok());
}

#[test]
fn labels_stay_with_their_images_where_others_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("set");
    let images = [
        ("ant/1.png", make::png(16, 16, 1)[..40].to_vec()),
        ("ant/2.png", make::png(16, 16, 2)),
        ("bee/3.png", make::png(16, 16, 3)),
        ("cow/4.png", make::png(16, 16, 4)),
        ("cow/5.png", make::png(16, 16, 5)),
    ];
    make::write_folder(&root, &images);
    let target = dir.path().join("out.h5");
    pack(&open(&root), &target, &PackOptions { skip_bad: true, ..Default::default() }).unwrap();
    let packed = open(&target);
    for (i, (label, salt)) in [(0, 2), (1, 3), (2, 4), (2, 5)].into_iter().enumerate() {
        assert_eq!(packed.label(i), Some(label));
        assert_eq!(packed.read_rgb(i).unwrap().data, make::picture(16, 16, salt).into_raw(), "image {i}");
    }
}

/// BigGAN-PyTorch and StudioGAN write such files.
#[test]
fn images_may_be_called_imgs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ILSVRC.hdf5");
    let mut bytes = std::fs::read(h5py_fixture("h5py_gzip.h5")).unwrap();
    let at = bytes.windows(6).position(|window| window == b"images").unwrap();
    bytes[at..at + 6].copy_from_slice(b"imgs\0\0");
    std::fs::write(&path, bytes).unwrap();
    let set = open(&path);
    assert_eq!((set.len(), set.label(1)), (5, Some(1)));
    assert_eq!(set.read_rgb(3).unwrap().data, h5py_pixels(3));
}

#[test]
fn damaged_packs_are_errors_and_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let ours = dir.path().join("ours.h5");
    let root = dir.path().join("set");
    make::write_folder(&root, &[("a/1.png", make::png(8, 8, 1)), ("b/2.png", make::png(8, 8, 2))]);
    pack(&open(&root), &ours, &PackOptions::default()).unwrap();
    let damaged = dir.path().join("damaged.h5");
    for source in [ours, h5py_fixture("h5py_gzip.h5"), h5py_fixture("h5py_auto.h5")] {
        let whole = std::fs::read(&source).unwrap();
        let read_all = |bytes: &[u8]| -> Result<(), Error> {
            std::fs::write(&damaged, bytes).unwrap();
            let set = ImageSet::open(&damaged, &OpenOptions::default())?;
            (0..set.len().min(5)).try_for_each(|i| set.read_rgb(i).map(drop))
        };
        read_all(&whole).unwrap();
        for cut in (1..whole.len()).step_by(whole.len() / 40) {
            let error = read_all(&whole[..cut]).expect_err("a truncated pack must not read");
            assert!(error.to_string().contains("damaged.h5") && error.hint().is_some(), "{error}");
        }
        for at in (0..whole.len()).step_by(whole.len() / 100) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x41;
            let _ = read_all(&flipped);
        }
    }
}

#[test]
fn a_pack_of_other_things_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.h5");
    let mut builder = hdf5::FileBuilder::new();
    builder.create_dataset("pictures").with_u8_data(&[1, 2, 3]);
    builder.write(&path).unwrap();
    let error = ImageSet::open(&path, &OpenOptions::default()).err().unwrap();
    assert!(error.to_string().contains("no dataset `images`, but `pictures`"), "{error}");
}

#[test]
fn check_lists_every_bad_file_and_duplicates() {
    let dir = tempfile::tempdir().unwrap();
    make::write_folder(
        dir.path(),
        &[
            ("ok/1.png", make::png(8, 8, 1)),
            ("ok/2.bmp", make::encode(&make::picture(8, 8, 1).into(), image::ImageFormat::Bmp)),
            ("bad/cut.png", make::png(8, 8, 1)[..50].to_vec()),
            ("bad/cut.jpg", make::jpeg(9, 9, 1)[..300].to_vec()),
            ("bad/bomb.png", make::png_bomb(30_000)),
        ],
    );
    let set = open(dir.path());
    let report = check(&set, &|_, _| true);
    let bad: Vec<String> = report.bad.iter().map(ToString::to_string).collect();
    assert_eq!(bad.len(), 3);
    assert!(bad[0].contains("bomb.png") && bad[1].contains("cut.jpg") && bad[2].contains("cut.png"), "{bad:?}");
    assert_eq!(report.duplicates, [[3, 4]]);
    assert_eq!(
        (report.images, report.sizes.get(&(8, 8)), report.formats.get(&(3, 8))),
        (5, Some(&2), Some(&2))
    );
}
