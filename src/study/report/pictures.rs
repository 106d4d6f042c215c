//! Pictures of run folders, made small enough to travel inside a page.

use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use rayon::prelude::*;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::study::run::Run;

/// Pictures of an arm on the slider; more are thinned out evenly over their order.
const MAX_STEPS: usize = 16;
/// Wider pictures are scaled down to this.
const MAX_WIDTH: u32 = 640;
/// Pictures of generated images are soft: this quality is hard to tell from the original.
const JPEG_QUALITY: u8 = 88;

/// A picture in a page.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Embedded {
    /// Thousands of images at which it was drawn, if it belongs to a time.
    pub(super) kimg: Option<f64>,
    /// `data:image/jpeg;base64,...`
    pub(super) uri: String,
    /// Width and height in pixels, as embedded.
    pub(super) size: (u32, u32),
}

/// The sample grids of a run, kimg rising; the same latents in all of them.
///
/// # Errors
/// When a picture cannot be read.
pub(super) fn grids(run: &Run) -> Result<Vec<Embedded>> {
    let mut found: Vec<(f64, PathBuf)> = Vec::new();
    for path in pngs(&run.path, "fakes")? {
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        match name.strip_prefix("fakes").map(|rest| (rest == "_init", rest.parse::<f64>())) {
            Some((true, _)) => found.push((0.0, path)),
            Some((false, Ok(kimg))) => found.push((kimg, path)),
            _ => {}
        }
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Two pictures of the same kimg (the initial one and one early in the first thousand): the later one shows more.
    found.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            std::mem::swap(&mut later.1, &mut earlier.1);
        }
        same
    });
    let last = found.len().saturating_sub(1);
    let kept = spread(found.len(), MAX_STEPS).into_iter().filter_map(|i| found.get(i.min(last)));
    kept.collect::<Vec<_>>().par_iter().map(|(kimg, path)| embed(path, Some(*kimg))).collect()
}

/// The real images of a run as they are, not as its discriminator saw them.
///
/// # Errors
/// When the picture cannot be read.
pub(super) fn reals(run: &Run) -> Result<Vec<Embedded>> {
    let path = run.path.join("reals.png");
    path.is_file().then(|| embed(&path, None)).into_iter().collect()
}

/// The other pictures of a run whose names begin with `prefix`: interpolations, nearest neighbours.
///
/// # Errors
/// When a picture cannot be read.
pub(super) fn named(run: &Run, prefix: &str) -> Result<Vec<Embedded>> {
    let mut paths = pngs(&run.path, prefix)?;
    paths.sort();
    // The newest of a series says the most; they are numbered by kimg.
    paths.last().map(|path| embed(path, None)).into_iter().collect()
}

/// At most `most` indices below `count`, evenly spread, the ends among them.
fn spread(count: usize, most: usize) -> Vec<usize> {
    if count <= most {
        return (0..count).collect();
    }
    (0..most).map(|i| (i * (count - 1) + (most - 1) / 2) / (most - 1)).collect()
}

fn pngs(dir: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(Error::io("read", dir))?;
    let paths = entries.map(|entry| Ok(entry.map_err(Error::io("read", dir))?.path()));
    let paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    let fits = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with(prefix) && name.ends_with(".png")
    };
    Ok(paths.into_iter().filter(fits).collect())
}

/// A picture as a data URI: scaled down if it is wide, as JPEG.
fn embed(path: &Path, kimg: Option<f64>) -> Result<Embedded> {
    let unreadable = |error: image::ImageError| Error::Usage {
        message: format!("`{}` is not a readable picture: {error}", path.display()),
        hint: Some("remove it; the report is made from what is there".into()),
    };
    let mut picture = image::open(path).map_err(unreadable)?.into_rgb8();
    let (width, height) = picture.dimensions();
    if width > MAX_WIDTH {
        let scaled = (u64::from(height) * u64::from(MAX_WIDTH) / u64::from(width)).max(1) as u32;
        picture = image::imageops::resize(&picture, MAX_WIDTH, scaled, FilterType::CatmullRom);
    }
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY).encode_image(&picture).map_err(unreadable)?;
    Ok(Embedded { kimg, uri: format!("data:image/jpeg;base64,{}", base64(&bytes)), size: picture.dimensions() })
}

/// RFC 4648 base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = (0..3).fold(0u32, |word, i| word << 8 | u32::from(chunk.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_images_are_shown_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.toml"), "[train]\nseed = 0\nbatch = 4\n").unwrap();
        for (name, colour) in [("reals.png", [255, 0, 0]), ("reals_augmented.png", [0, 0, 255])] {
            image::RgbImage::from_pixel(8, 8, image::Rgb(colour)).save(dir.path().join(name)).unwrap();
        }
        let shown = reals(&Run::read(dir.path()).unwrap()).unwrap();
        let alone = |name| embed(&dir.path().join(name), None).unwrap().uri;
        assert_eq!(shown.len(), 1);
        assert_eq!(shown[0].uri, alone("reals.png"));
        assert_ne!(shown[0].uri, alone("reals_augmented.png"));
    }

    #[test]
    fn base64_follows_the_rfc() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in cases {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn thinning_keeps_both_ends() {
        assert_eq!(spread(3, 5), [0, 1, 2]);
        assert_eq!(spread(9, 3), [0, 4, 8]);
        let kept = spread(100, 16);
        assert_eq!((kept.len(), kept[0], kept[15]), (16, 0, 99));
        assert!(kept.windows(2).all(|w| w[0] < w[1]));
    }
}
