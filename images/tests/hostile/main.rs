//! Damaged images, archives and packs: see `mutation.rs`.

#[allow(dead_code)] // The other tests use the rest.
#[path = "../it/make.rs"]
mod make;
mod mutation;
mod repair;

use std::path::Path;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{DynamicImage, ImageEncoder, ImageFormat};
use libjpeg_turbo_rs::{Encoder, PixelFormat, Subsampling};
use mutation::{Effort, Target};
use nestgen_images::{ImageSet, Limits, OpenOptions, PackOptions, decode, write_pack};

#[global_allocator]
static ALLOCATOR: nestgen_kernels::alloc::CountingPeak = nestgen_kernels::alloc::CountingPeak;

const NO_CHECKSUMS: fn(&mut Vec<u8>) = |_| ();

/// Reads an image as a set would.
fn decode_file(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    let _ = decode::read_header(&bytes, &Limits::default());
    if let Ok(image) = decode::decode_rgb(&bytes, &Limits::default()) {
        assert_eq!(image.data.len(), image.width as usize * image.height as usize * 3);
    }
}

/// Opens a set and reads the first images of it, and all of a small one through its digest.
fn read_set(path: &Path) {
    let Ok(set) = ImageSet::open(path, &OpenOptions::default()) else { return };
    for i in 0..set.len().min(8) {
        let _ = (set.name(i).len(), set.label(i), set.read_header(i), set.read_rgb(i));
    }
    if set.len() < 1000 {
        let _ = set.digest();
    }
}

fn png(effort: Effort) {
    let picture = || DynamicImage::from(make::picture(9, 7, 3));
    let mut valid: Vec<Vec<u8>> = [
        picture(),
        picture().into_rgba8().into(),
        picture().into_luma8().into(),
        picture().into_rgba16().into(),
        picture().into_luma16().into(),
    ]
    .iter()
    .map(|image| make::encode(image, ImageFormat::Png))
    .collect();
    let mut stored = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut stored, CompressionType::Uncompressed, FilterType::Paeth);
    encoder.write_image(picture().as_bytes(), 9, 7, image::ExtendedColorType::Rgb8).unwrap();
    valid.push(stored);
    Target { name: "png", file: "a.png", valid, repair: repair::png }.survives(effort, decode_file);
}

fn jpeg(effort: Effort) {
    let picture = make::picture(25, 19, 3);
    let grey = DynamicImage::from(picture.clone()).into_luma8();
    let rgb = || Encoder::new(picture.as_raw(), 25, 19, PixelFormat::Rgb);
    let inks: Vec<u8> = picture.as_raw().chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 7]).collect();
    let valid = vec![
        rgb().subsampling(Subsampling::S444),
        rgb().subsampling(Subsampling::S420),
        rgb().subsampling(Subsampling::S422).restart_blocks(2),
        rgb().subsampling(Subsampling::S420).progressive(true),
        rgb().subsampling(Subsampling::S444).progressive(true),
        rgb().optimize_huffman(true).comment("a comment"),
        rgb().arithmetic(true),
        Encoder::new(grey.as_raw(), 25, 19, PixelFormat::Grayscale),
        Encoder::new(grey.as_raw(), 25, 19, PixelFormat::Grayscale).progressive(true),
        Encoder::new(&inks, 25, 19, PixelFormat::Cmyk),
    ];
    let valid = valid.into_iter().map(|encoder| encoder.encode().unwrap()).collect();
    Target { name: "jpeg", file: "a.jpg", valid, repair: NO_CHECKSUMS }.survives(effort, decode_file);
}

fn other_formats(effort: Effort) {
    let picture = DynamicImage::from(make::picture(9, 7, 3));
    for (name, format) in [
        ("webp", ImageFormat::WebP),
        ("bmp", ImageFormat::Bmp),
        ("gif", ImageFormat::Gif),
        ("tiff", ImageFormat::Tiff),
    ] {
        let valid = [picture.clone(), picture.to_rgba8().into()]
            .iter()
            .map(|image| make::encode(image, format))
            .collect();
        Target { name, file: "a.img", valid, repair: NO_CHECKSUMS }.survives(effort, decode_file);
    }
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("train/ant/a.png", make::png(5, 4, 1)),
        ("train/bee/b.png", make::png(5, 4, 2)),
        ("test/ant/c.png", make::png(5, 4, 3)),
        ("notes.txt", b"no image".to_vec()),
    ]
}

fn zip_archive(effort: Effort) {
    let listed = [
        files(),
        vec![("dataset.json", br#"{"labels": [["train/ant/a.png", 1], ["train/bee/b.png", 0]]}"#.to_vec())],
    ];
    let valid = vec![make::zip(&files()), make::zip(&files()[..1]), make::zip(&listed.concat())];
    Target { name: "zip", file: "a.zip", valid, repair: NO_CHECKSUMS }.survives(effort, read_set);
}

fn arrays(effort: Effort) {
    let images = make::npy("|u1", "(3, 2, 4, 3)", &[7; 72]);
    let labels = make::npy("<i4", "(3,)", &[0; 12]);
    let stored = zip::CompressionMethod::Stored;
    let valid = vec![
        make::npz(stored, &[("arr_0.npy", &images)]),
        make::npz(stored, &[("arr_0.npy", &images), ("arr_1.npy", &labels)]),
        make::npz(zip::CompressionMethod::Deflated, &[("x_train.npy", &images), ("y_train.npy", &labels)]),
    ];
    Target { name: "arrays", file: "a.npz", valid, repair: NO_CHECKSUMS }.survives(effort, read_set);
}

fn tar_archive(effort: Effort) {
    let long_name = format!("{}/x.png", "y".repeat(120));
    let valid = vec![make::tar(&files()), make::tar(&[(&long_name, make::png(4, 4, 1))])];
    Target { name: "tar", file: "a.tar", valid, repair: repair::tar }.survives(effort, read_set);
}

fn tar_gz_archive(effort: Effort) {
    let valid = vec![make::gz(&make::tar(&files()))];
    Target { name: "tar-gz", file: "a.tar.gz", valid, repair: repair::gzip_of_tar }.survives(effort, read_set);
}

fn cifar(effort: Effort) {
    let record: Vec<u8> = (0..3073).map(|i| (i % 7) as u8).collect();
    let valid = vec![make::tar(&[
        ("data_batch_1.bin", record.repeat(2)),
        ("test_batch.bin", record),
        ("batches.meta.txt", (0..10).map(|i| format!("class{i}\n")).collect::<String>().into_bytes()),
    ])];
    Target { name: "cifar", file: "a.tar", valid, repair: repair::tar }.survives(effort, read_set);
}

fn pack(effort: Effort) {
    let dir = tempfile::tempdir().unwrap();
    make::write_folder(&dir.path().join("set"), &files()[..3]);
    let options = OpenOptions { split: Some("train".into()), ..Default::default() };
    let set = ImageSet::open(&dir.path().join("set"), &options).unwrap();
    let target = dir.path().join("a.h5");
    let packing = PackOptions { res: Some(4), min_side: 1, ..Default::default() };
    write_pack(&set, &target, &packing, &|_, _| true).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut valid = vec![std::fs::read(target).unwrap()];
    // Our packs begin with a page of zeros: damage belongs where there is something.
    for name in ["h5py_gzip.h5", "h5py_auto.h5"] {
        valid.push(std::fs::read(fixtures.join(name)).unwrap());
    }
    Target { name: "hdf5", file: "a.h5", valid, repair: repair::hdf5 }.survives(effort, read_set);
}

/// Each target as an ordinary test, and as a long one.
macro_rules! targets {
    ($($name:ident $cases:literal),* $(,)?) => {
        mod every_run {
            $(#[test]
            fn $name() {
                super::$name(super::Effort::Cases($cases));
            })*
        }
        mod long {
            $(#[test]
            #[ignore = "ten minutes; NESTGEN_HOSTILE_SECONDS changes that"]
            fn $name() {
                super::$name(super::Effort::Long);
            })*
        }
    };
}

targets! {
    png 3000, jpeg 3000, other_formats 1000, zip_archive 2000, tar_archive 2000, tar_gz_archive 1000, cifar 1000,
    pack 2000, arrays 2000,
}

#[test]
fn repaired_files_are_whole_again() {
    let mut png = make::png(9, 7, 3);
    png[30] ^= 1;
    repair::png(&mut png);
    assert_eq!(png, make::png(9, 7, 3), "the checksum of IHDR");
    let (mut tar, mut whole) = (make::tar(&files()), make::tar(&files()));
    tar[150] ^= 1;
    repair::tar(&mut tar);
    repair::tar(&mut whole);
    assert_eq!(tar, whole, "the checksum of the first header");
}
