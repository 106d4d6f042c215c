//! The same files give the same set from a folder, a zip, a tar and a tar.gz; pixels become RGB by the stated rule.

use std::path::Path;

use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgba, RgbaImage};
use nestgen_images::{ImageSet, OpenOptions};

use crate::make;

fn open(path: &Path) -> ImageSet {
    ImageSet::open(path, &OpenOptions::default()).unwrap()
}

fn labelled_files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("set/README.txt", b"about".to_vec()),
        ("set/test/ant/9.png", make::png(8, 8, 9)),
        ("set/train/bee/1.png", make::png(9, 7, 1)),
        ("set/train/ant/2.JPG", make::jpeg(16, 16, 2)),
        ("set/train/ant/.hidden.png", make::png(8, 8, 3)),
    ]
}

#[test]
fn folder_zip_tar_and_gzip_agree() {
    let files = labelled_files();
    let dir = tempfile::tempdir().unwrap();
    make::write_folder(&dir.path().join("folder"), &files);
    std::fs::write(dir.path().join("a.zip"), make::zip(&files)).unwrap();
    std::fs::write(dir.path().join("a.tar"), make::tar(&files)).unwrap();
    std::fs::write(dir.path().join("a.tar.gz"), make::gz(&make::tar(&files))).unwrap();

    let folder = open(&dir.path().join("folder"));
    assert_eq!(folder.len(), 2);
    assert_eq!(folder.split(), Some("train"));
    assert_eq!(folder.class_names(), ["ant", "bee"]);
    assert_eq!((folder.name(0), folder.label(0)), ("set/train/ant/2.JPG".into(), Some(0)));
    assert_eq!(folder.read_rgb(1).unwrap().data, make::picture(9, 7, 1).into_raw());
    for name in ["a.zip", "a.tar", "a.tar.gz"] {
        let other = open(&dir.path().join(name));
        assert_eq!(other.digest().unwrap(), folder.digest().unwrap(), "{name}");
        assert_eq!(other.class_names(), folder.class_names(), "{name}");
        for i in 0..2 {
            assert_eq!(other.name(i), folder.name(i), "{name}");
            assert_eq!(other.label(i), folder.label(i), "{name}");
            assert_eq!(other.read_rgb(i).unwrap(), folder.read_rgb(i).unwrap(), "{name}");
        }
    }
}

#[test]
fn a_gzip_beyond_the_memory_budget_goes_to_a_temporary_file() {
    let files = labelled_files();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tgz");
    std::fs::write(&path, make::gz(&make::tar(&files))).unwrap();
    let spooled = ImageSet::open(&path, &OpenOptions { spool_bytes: 100, ..Default::default() }).unwrap();
    assert_eq!(spooled.digest().unwrap(), open(&path).digest().unwrap());
}

#[test]
fn the_digest_sees_names_and_bytes() {
    let digest = |files: &[(&str, Vec<u8>)]| {
        let dir = tempfile::tempdir().unwrap();
        make::write_folder(dir.path(), files);
        open(dir.path()).digest().unwrap()
    };
    let base = digest(&[("a.png", make::png(4, 4, 1)), ("b.png", make::png(4, 4, 2))]);
    assert_ne!(base, digest(&[("a.png", make::png(4, 4, 1)), ("c.png", make::png(4, 4, 2))]));
    assert_ne!(base, digest(&[("a.png", make::png(4, 4, 1)), ("b.png", make::png(4, 4, 3))]));
}

#[test]
fn other_pixel_formats_become_rgb_by_the_stated_rule() {
    let dir = tempfile::tempdir().unwrap();
    let grey = GrayImage::from_fn(5, 4, |x, y| Luma([(x * 40 + y) as u8]));
    let alpha = RgbaImage::from_fn(4, 1, |x, _| Rgba([200, 0, 100, (x * 85) as u8]));
    let deep = image::ImageBuffer::from_fn(3, 1, |x, _| image::Rgb([x as u16 * 30000, 128, 129]));
    let rgb = |bytes: &[u8]| {
        std::fs::write(dir.path().join("a.png"), bytes).unwrap();
        open(dir.path()).read_rgb(0).unwrap().data
    };
    let from_grey = rgb(&make::encode(&DynamicImage::ImageLuma8(grey.clone()), ImageFormat::Png));
    assert_eq!(from_grey, grey.into_raw().iter().flat_map(|&v| [v; 3]).collect::<Vec<_>>());
    let over_white = rgb(&make::encode(&DynamicImage::ImageRgba8(alpha), ImageFormat::Png));
    assert_eq!(over_white, [255, 255, 255, 237, 170, 203, 218, 85, 152, 200, 0, 100]);
    let from_16_bit = rgb(&make::encode(&DynamicImage::ImageRgb16(deep), ImageFormat::Png));
    assert_eq!(from_16_bit, [0, 0, 1, 117, 0, 1, 233, 0, 1]);
}

#[test]
fn non_utf8_names_are_read_like_any_other() {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let name = std::ffi::OsStr::from_bytes(b"caf\xe9.png");
        std::fs::write(dir.path().join(name), make::png(6, 6, 1)).unwrap();
        let set = open(dir.path());
        assert_eq!(set.name(0), "caf\u{fffd}.png");
        assert_eq!(set.read_rgb(0).unwrap().data, make::picture(6, 6, 1).into_raw());
    }
}

#[test]
fn names_that_climb_out_of_an_archive_are_only_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.zip");
    std::fs::write(&path, make::zip(&[("../../evil.png", make::png(4, 4, 1)), ("x.png", make::png(4, 4, 2))]))
        .unwrap();
    let set = open(&path);
    assert_eq!(set.name(0), "../../evil.png");
    assert!(set.read_rgb(0).is_ok());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// JPEG with every sampling of chroma, three components that are colours by one sign or another, CMYK with black ink, a palette with a transparent entry, one bit, grey with alpha, lossless WebP with alpha: as Pillow
/// shows them over white. `formats/make.py` wrote the files and the expected pixels.
#[test]
fn stored_formats_agree_with_pillow() {
    // Only CMYK goes through a decoder that rounds the inverse transform differently, by a level or two.
    const CMYK_TOLERANCE: u8 = 3;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
    let set = open(&folder);
    assert_eq!(set.len(), 14);
    for i in 0..set.len() {
        let name = set.name(i).into_owned();
        let expected = std::fs::read(folder.join(format!("{name}.rgb"))).unwrap();
        let pixels = set.read_rgb(i).unwrap().data;
        let worst = pixels.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        let allowed = if name == "cmyk.jpg" { CMYK_TOLERANCE } else { 0 };
        assert!(pixels.len() == expected.len() && worst <= allowed, "{name}: {worst}");
    }
}
