//! The images that are explained, and where their objects are.

use std::path::{Path, PathBuf};

use nestgen::data::synthetic::BoundingBox;
use nestgen::error::{Error, Result};
use nestgen_images::{ImageSet, Limits, OpenOptions, RgbImage8, decode};

/// One image of the command line.
pub(super) struct Image {
    path: PathBuf,
    /// Its path, for people and for tables of boxes.
    pub(super) name: String,
}

impl Image {
    /// Decodes it under the usual limits.
    pub(super) fn read(&self) -> Result<RgbImage8> {
        let limits = Limits::default();
        let bytes = std::fs::read(&self.path).map_err(Error::io("read", &self.path))?;
        decode::decode_rgb(&bytes, &limits).map_err(|reason| Error::Usage {
            message: format!("`{}` is no usable image: {reason}", self.path.display()),
            hint: Some(
                "PNG, JPEG, WebP, BMP, GIF and TIFF are read, and folders of them; unpack an archive".into(),
            ),
        })
    }

    /// The name with the folder it is in.
    pub(super) fn short_name(&self) -> String {
        let file = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.folder().map_or_else(|| file.to_string(), |folder| format!("{folder}/{file}"))
    }

    /// The name without folder and ending.
    pub(super) fn stem(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The folder it is in, which may be its class.
    pub(super) fn folder(&self) -> Option<&str> {
        self.path.parent()?.file_name()?.to_str()
    }
}

/// Files as they are, folders with everything in them.
///
/// # Errors
/// A path that is not there; a folder without images.
pub(super) fn images(paths: &[PathBuf]) -> Result<Vec<Image>> {
    let mut images = Vec::new();
    let image = |path: PathBuf| Image { name: path.display().to_string(), path };
    for path in paths {
        if !path.is_dir() {
            std::fs::metadata(path).map_err(Error::io("read", path))?;
            images.push(image(path.clone()));
            continue;
        }
        let options = OpenOptions { split: Some("all".into()), ..OpenOptions::default() };
        let set = ImageSet::open(path, &options)?;
        images.extend((0..set.len()).map(|i| image(path.join(set.name(i).as_ref()))));
    }
    Ok(images)
}

/// A table of boxes by file.
pub(super) struct Boxes(Vec<(String, [f32; 4])>);

impl Boxes {
    /// Reads `file,left,top,right,bottom` with a header.
    ///
    /// # Errors
    /// The first line that is not five columns with numbers.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        // Names may hold other bytes; what is no table fails at its first line.
        let text = String::from_utf8_lossy(&bytes);
        let bad = |line: usize| Error::Usage {
            message: format!("`{}`, line {line}: expected file,left,top,right,bottom", path.display()),
            hint: Some("`nestgen data synth` writes such a table: objects.csv".into()),
        };
        let parse = |(i, line): (usize, &str)| {
            let (rest, bottom) = line.rsplit_once(',').ok_or_else(|| bad(i + 1))?;
            let mut columns: Vec<&str> = rest.rsplitn(4, ',').collect();
            columns.reverse();
            let [file, left, top, right] = columns[..] else { return Err(bad(i + 1)) };
            let number = |text: &str| text.trim().parse::<f32>().ok().filter(|x| x.is_finite());
            let corners = [left, top, right, bottom].map(number);
            match corners {
                [Some(a), Some(b), Some(c), Some(d)] if a < c && b < d => Ok((file.to_owned(), [a, b, c, d])),
                _ => Err(bad(i + 1)),
            }
        };
        let lines = text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty());
        Ok(Self(lines.map(parse).collect::<Result<_>>()?))
    }

    /// The box of an image of this size, as shares of its centre square; `None` where there is none, or it lies outside the square.
    pub(super) fn find(&self, name: &str, width: u32, height: u32) -> Option<BoundingBox> {
        let (_, [left, top, right, bottom]) = self.0.iter().find(|(file, _)| {
            name == file || name.strip_suffix(file.as_str()).is_some_and(|before| before.ends_with('/'))
        })?;
        let side = width.min(height) as f32;
        let (dx, dy) = ((width as f32 - side) / 2.0, (height as f32 - side) / 2.0);
        let share = |at: &f32, offset: f32| ((at - offset) / side).clamp(0.0, 1.0);
        let shown = BoundingBox {
            left: share(left, dx),
            top: share(top, dy),
            right: share(right, dx),
            bottom: share(bottom, dy),
        };
        (shown.left < shown.right && shown.top < shown.bottom).then_some(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_found_by_the_end_of_the_path_and_follow_the_crop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects.csv");
        std::fs::write(&path, "file,left,top,right,bottom\ncat/1.png,10,0,20,10\na,b.png,0,0,1,1\n").unwrap();
        let boxes = Boxes::read(&path).unwrap();
        let found = boxes.find("some/where/cat/1.png", 40, 20).unwrap();
        assert_eq!((found.left, found.top, found.right, found.bottom), (0.0, 0.0, 0.5, 0.5));
        // Cut away with the left of a wide picture.
        assert!(boxes.find("cat/1.png", 80, 20).is_none());
        assert!(boxes.find("bobcat/1.png", 40, 20).is_none() && boxes.find("a,b.png", 4, 4).is_some());
        std::fs::write(&path, "file,left,top,right,bottom\ncat/1.png,10,0,5,10\n").unwrap();
        assert!(Boxes::read(&path).err().unwrap().to_string().contains("line 2"));
    }
}
