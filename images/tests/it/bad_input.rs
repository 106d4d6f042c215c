//! Damaged and hostile input: each gives one clear error with the path and a hint, never a panic or a silent repair.

use std::path::Path;

use nestgen_images::{Error, ImageSet, Limits, OpenOptions};

use crate::make;

fn open(path: &Path) -> Result<ImageSet, Error> {
    ImageSet::open(path, &OpenOptions::default())
}

/// The message of reading the only image of a set made of `bytes`.
fn read_one(name: &str, bytes: &[u8]) -> Result<nestgen_images::RgbImage8, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), bytes).unwrap();
    let error = match open(dir.path()).unwrap().read_rgb(0) {
        Ok(image) => return Ok(image),
        Err(error) => error,
    };
    assert!(error.hint().is_some());
    let text = error.to_string();
    assert!(text.contains(name) && text.contains(&*dir.path().to_string_lossy()), "{text}");
    Err(text)
}

fn assert_clear(error: Error, path: &Path, words: &str) {
    let text = error.to_string();
    assert!(text.contains(words) && text.contains(&*path.to_string_lossy()), "{text}");
    assert!(error.hint().is_some() && !text.contains('\n'), "{text}");
}

#[test]
fn an_empty_folder_names_the_extensions() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("notes.txt"), "no").unwrap();
    let error = open(dir.path()).err().unwrap();
    let hint = error.hint().unwrap();
    assert!(hint.contains(".png") && hint.contains("CIFAR-10 the binary version"), "{hint}");
    assert_clear(error, dir.path(), "holds no images (1 other files)");
}

#[test]
fn missing_and_unreadable_paths_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("nowhere");
    assert_clear(open(&missing).err().unwrap(), &missing, "No such file");
    let file = dir.path().join("a.png");
    std::fs::write(&file, make::png(4, 4, 1)).unwrap();
    assert_clear(open(&file).err().unwrap(), &file, "single image");
    let below_a_file = file.join("b");
    assert_clear(open(&below_a_file).err().unwrap(), &below_a_file, "Not a directory");
}

#[cfg(unix)]
#[test]
fn a_broken_link_is_a_bad_image_and_a_loop_ends() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("gone.png", dir.path().join("link.png")).unwrap();
    std::os::unix::fs::symlink(dir.path(), dir.path().join("again")).unwrap();
    let set = open(dir.path()).unwrap();
    assert_eq!(set.len(), 1);
    assert!(set.read_rgb(0).unwrap_err().to_string().contains("link.png"));
}

#[test]
fn truncated_files_are_errors_at_any_length() {
    let jpeg = make::jpeg(64, 64, 1);
    let png = make::png(64, 64, 1);
    for percent in [1, 10, 50, 90, 99] {
        let jpeg_part = &jpeg[..jpeg.len() * percent / 100];
        let png_part = &png[..png.len() * percent / 100 - 12 * usize::from(percent == 99)];
        assert!(read_one("cut.jpg", jpeg_part).is_err(), "JPEG, {percent} %");
        assert!(read_one("cut.png", png_part).is_err(), "PNG, {percent} %");
    }
    assert!(read_one("half.jpg", &jpeg[..jpeg.len() / 2]).unwrap_err().contains("truncated"));
    assert!(read_one("half.png", &png[..png.len() / 2]).unwrap_err().contains("truncated"));
    assert!(read_one("whole.jpg", &jpeg).is_ok());
}

#[test]
fn flipped_bytes_never_panic() {
    for whole in [make::png(16, 16, 1), make::jpeg(16, 16, 1)] {
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            let _ = nestgen_images::decode::decode_rgb(&damaged, &Limits::default());
        }
    }
}

#[test]
fn a_header_that_claims_too_many_pixels_is_refused_unread() {
    let error = read_one("bomb.png", &make::png_bomb(30_000)).unwrap_err();
    assert!(error.contains("30000x30000") && error.contains("limit of 134 megapixels"), "{error}");
}

#[test]
fn text_and_empty_files_named_like_images_are_explained() {
    assert!(read_one("a.png", b"<html>not found</html>").unwrap_err().contains("first bytes"));
    assert!(read_one("a.png", b"").unwrap_err().contains("empty"));
}

#[test]
fn a_tiny_image_is_an_image() {
    assert_eq!(read_one("dot.png", &make::png(1, 1, 5)).unwrap().data.len(), 3);
}

#[test]
fn damaged_archives_are_named() {
    let files = [("a/1.png", make::png(32, 32, 1)), ("a/2.png", make::png(32, 32, 2))];
    let dir = tempfile::tempdir().unwrap();
    let zip = make::zip(&files);
    let tar = make::tar(&files);
    let tgz = make::gz(&tar);
    let cases = [
        ("cut.zip", zip[..zip.len() / 2].to_vec()),
        ("cut.tar", tar[..tar.len() / 3].to_vec()),
        ("cut.tar.gz", tgz[..tgz.len() / 2].to_vec()),
        ("noise.zip", vec![7; 1000]),
        ("noise.tar.gz", vec![7; 1000]),
    ];
    for (name, bytes) in cases {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        assert_clear(open(&path).err().unwrap_or_else(|| panic!("{name} opened")), &path, "archive");
    }
}

#[test]
fn a_flipped_byte_inside_a_zip_entry_fails_its_checksum() {
    let dir = tempfile::tempdir().unwrap();
    let mut zip =
        make::zip(&[("1.bmp", make::encode(&make::picture(32, 32, 1).into(), image::ImageFormat::Bmp))]);
    let middle = zip.len() / 2;
    zip[middle] ^= 0x55;
    let path = dir.path().join("a.zip");
    std::fs::write(&path, zip).unwrap();
    assert!(open(&path).and_then(|set| set.read_rgb(0)).is_err());
}

#[test]
fn unpacking_bombs_stop_at_the_limits() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { max_file_bytes: 10_000, max_unpacked_bytes: 50_000, ..Default::default() };
    let options = OpenOptions { limits, ..Default::default() };
    let files = [("zeros.png", vec![0; 1_000_000])];

    let zip = dir.path().join("a.zip");
    std::fs::write(&zip, make::zip(&files)).unwrap();
    let set = ImageSet::open(&zip, &options).unwrap();
    assert_clear(set.read_rgb(0).unwrap_err(), &zip, "above the limit of 10000");

    let tgz = dir.path().join("a.tar.gz");
    std::fs::write(&tgz, make::gz(&make::tar(&files))).unwrap();
    let error = ImageSet::open(&tgz, &options).err().unwrap();
    assert_clear(error, &tgz, "unpacks to more than 50000 bytes");
}

/// Windows PowerShell writes its own separator.
#[test]
fn a_zip_with_backslashes_has_folders() {
    let names = ["set/test/cat/1.png", "set/test/dog/1.png", "set/train/cat/2.png", "set/train/dog/3.png"];
    let files = names.map(|name| (name, make::png(8, 8, 1)));
    let mut bytes = make::zip(&files);
    for name in names {
        let places: Vec<usize> = bytes
            .windows(name.len())
            .enumerate()
            .filter_map(|(at, window)| (window == name.as_bytes()).then_some(at))
            .collect();
        for at in places {
            bytes[at..at + name.len()].copy_from_slice(name.replace('/', "\\").as_bytes());
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.zip");
    std::fs::write(&path, bytes).unwrap();
    let set = open(&path).unwrap();
    assert_eq!((set.len(), set.split(), set.class_names().len()), (2, Some("train"), 2));
    assert!(set.read_rgb(1).is_ok());
}

#[test]
fn a_tar_that_is_cut_between_files_is_no_smaller_set() {
    let files =
        [("a/1.png", make::png(8, 8, 1)), ("a/2.png", make::png(8, 8, 2)), ("notes.mat", vec![7; 3000])];
    let whole = make::tar(&files);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.tar");
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(open(&path).unwrap().len(), 2);
    // At every unit of the format, in what is wanted and in what is not.
    for end in (512..whole.len() - 1024).step_by(512) {
        std::fs::write(&path, &whole[..end]).unwrap();
        assert!(open(&path).is_err(), "cut to {end} of {}", whole.len());
    }
}
