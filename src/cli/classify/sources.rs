//! The images that are explained, and where their objects are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use nestgen::data::synthetic::BoundingBox;
use nestgen::error::{Error, Result};
use nestgen::train::files::{lies_in, same_place};
use nestgen_images::{EVERY_SPLIT, ImageSet, Limits, OpenOptions, RgbImage8, decode};

/// Bytes of a file's name that a figure's name keeps: the longest names of files leave no room for more.
const LONGEST_STEM: usize = 100;

/// One image of the command line.
pub(super) struct Image {
    path: PathBuf,
    /// What its set says that it shows.
    class: Option<String>,
    /// Its path, for people and for tables of boxes.
    pub(super) name: String,
}

impl Image {
    /// A file that nobody says more of.
    pub(super) fn at(path: PathBuf) -> Self {
        Self { name: path.display().to_string(), path, class: None }
    }

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

    /// The name without folder and ending, as far as there is room for it.
    pub(super) fn stem(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let end = (0..=LONGEST_STEM).rfind(|&end| stem.is_char_boundary(end)).unwrap_or(0);
        stem[..end].to_owned()
    }

    /// What it may show, the likeliest first: what its set says, the folder it is in.
    pub(super) fn classes(&self) -> impl Iterator<Item = &str> {
        self.class.as_deref().into_iter().chain(self.folder())
    }

    fn folder(&self) -> Option<&str> {
        self.path.parent()?.file_name()?.to_str()
    }
}

/// Files as they are, folders with everything in them.
///
/// # Errors
/// A path that is not there; a folder without images.
pub(super) fn images(paths: &[PathBuf]) -> Result<Vec<Image>> {
    let mut images = Vec::new();
    for path in paths {
        if !path.is_dir() {
            std::fs::metadata(path).map_err(Error::io("read", path))?;
            images.push(Image::at(path.clone()));
            continue;
        }
        let options = OpenOptions { split: Some(EVERY_SPLIT.into()), ..OpenOptions::default() };
        let set = ImageSet::open(path, &options)?;
        let class = |i| set.class_names().get(set.label(i)? as usize).cloned();
        let file = |i| set.file(i).map_or_else(|| path.join(set.name(i).as_ref()), Path::to_path_buf);
        images.extend((0..set.len()).map(|i| Image { class: class(i), ..Image::at(file(i)) }));
    }
    Ok(images)
}

/// Refuses to write figures among the images that they explain: the next reading would take them for some, and the folders for
/// no classes.
pub(super) fn refuse_among(outdir: &Path, sources: &[PathBuf]) -> Result<()> {
    for source in sources {
        let beside = source.is_file() && source.parent().is_some_and(|folder| same_place(outdir, folder));
        if beside || lies_in(outdir, source)? {
            let (outdir, source) = (outdir.display(), source.display());
            return Err(Error::Usage {
                message: format!("`{outdir}` lies in the folder of the images, `{source}`"),
                hint: Some("figures would be read as images later: name another --outdir".into()),
            });
        }
    }
    Ok(())
}

/// A table of boxes by file.
pub(super) struct Boxes(HashMap<String, [f32; 4]>);

impl Boxes {
    /// Reads `file,left,top,right,bottom` under a header that says so, an image a line.
    ///
    /// # Errors
    /// Another header: widths in the place of right edges would be taken for them. The first line that is not five columns with
    /// numbers, or of a file that has a box already.
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
                [Some(a), Some(b), Some(c), Some(d)] if a < c && b < d => Ok((unquoted(file), [a, b, c, d])),
                _ => Err(bad(i + 1)),
            }
        };
        let mut lines = text.trim_start_matches('\u{feff}').lines().enumerate();
        let header = lines.next().map(|(_, line)| line.to_lowercase().replace([' ', '"'], ""));
        if header.as_deref().map(str::trim_end) != Some("file,left,top,right,bottom") {
            return Err(bad(1));
        }
        let mut boxes = HashMap::new();
        for line in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let (file, corners) = parse(line)?;
            if boxes.insert(file.clone(), corners).is_some() {
                return Err(Error::Usage {
                    message: format!("`{}`, line {}: `{file}` has a box already", path.display(), line.0 + 1),
                    hint: Some("give one box an image: that of the object it is named for".into()),
                });
            }
        }
        Ok(Self(boxes))
    }

    /// Whether there is a box for the image of this name.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.corners(name).is_some()
    }

    /// Of the longest end of the path that the table has.
    fn corners(&self, name: &str) -> Option<[f32; 4]> {
        let ends = name.match_indices('/').map(|(slash, _)| &name[slash + 1..]);
        std::iter::once(name).chain(ends).find_map(|end| self.0.get(end).copied())
    }

    /// The box of an image of this size, as shares of its centre square; `None` where there is none, or it lies outside the square.
    pub(super) fn find(&self, name: &str, width: u32, height: u32) -> Option<BoundingBox> {
        let [left, top, right, bottom] = self.corners(name)?;
        let side = width.min(height);
        // Whole pixels, as the crop has them.
        let (dx, dy) = (((width - side) / 2) as f32, ((height - side) / 2) as f32);
        let share = |at: f32, offset: f32| ((at - offset) / side as f32).clamp(0.0, 1.0);
        let shown = BoundingBox {
            left: share(left, dx),
            top: share(top, dy),
            right: share(right, dx),
            bottom: share(bottom, dy),
        };
        (shown.left < shown.right && shown.top < shown.bottom).then_some(shown)
    }
}

/// A name as CSV writes it: in quotes, inner ones doubled, where it holds what would end it.
fn unquoted(name: &str) -> String {
    let inner = name.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.map_or_else(|| name.to_owned(), |inner| inner.replace("\"\"", "\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_names_leave_room_for_what_is_added() {
        for letter in ["a", "\u{4e2d}"] {
            let path = PathBuf::from(format!("{}.png", letter.repeat(250 / letter.len())));
            let stem = Image { name: String::new(), path, class: None }.stem();
            assert!((97..=100).contains(&stem.len()), "{} bytes", stem.len());
        }
        assert_eq!(Image { name: String::new(), path: "b/a.png".into(), class: None }.stem(), "a");
    }

    #[test]
    fn boxes_are_found_by_the_end_of_the_path_and_follow_the_crop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects.csv");
        let table =
            "file,left,top,right,bottom\ncat/1.png,10,0,20,10\na,b.png,0,0,1,1\n\"c,\"\"d.png\",0,0,1,1\n";
        std::fs::write(&path, table).unwrap();
        let boxes = Boxes::read(&path).unwrap();
        let found = boxes.find("some/where/cat/1.png", 40, 20).unwrap();
        assert_eq!((found.left, found.top, found.right, found.bottom), (0.0, 0.0, 0.5, 0.5));
        // Cut away with the left of a wide picture.
        assert!(boxes.find("cat/1.png", 80, 20).is_none());
        assert!(boxes.find("bobcat/1.png", 40, 20).is_none() && boxes.find("a,b.png", 4, 4).is_some());
        assert!(boxes.knows("c,\"d.png") && !boxes.knows("d.png"));
        // Of 301 px, the crop begins at 100.
        std::fs::write(&path, "\u{feff}file, left, top, right, bottom\r\n1.png,150,0,200,50\r\n").unwrap();
        let found = Boxes::read(&path).unwrap().find("1.png", 301, 100).unwrap();
        assert_eq!((found.left, found.right), (0.5, 1.0));
        for (table, says) in [
            ("file,left,top,right,bottom\ncat/1.png,10,0,5,10\n", "line 2"),
            ("file,x,y,width,height\n1.png,150,20,190,60\n", "line 1"),
            ("1.png,150,20,190,60\n", "line 1"),
            ("file,left,top,right,bottom\n1.png,0,0,1,1\n1.png,0,0,2,2\n", "line 3: `1.png` has a box already"),
        ] {
            std::fs::write(&path, table).unwrap();
            let error = Boxes::read(&path).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
