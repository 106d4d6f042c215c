//! Images as arrays in an `.npz`: of samplers of diffusion models (`np.savez(path, images, labels)`), of Keras, of MedMNIST.
//! Bytes `[N, H, W, 3]` or `[N, 3, H, W]`, or grey with one channel or none. Rows are read where they lie in the file; what
//! is compressed is unpacked once into a spool.

mod member;
mod writer;

use std::fs::File;
use std::path::Path;

pub use writer::ArrayWriter;

use crate::decode::{Limits, RgbImage8};
use crate::error::{Error, Result};
use crate::layout::{EVERY_SPLIT, is_split_called, numbered_classes};
use crate::source::{PositionedFile, RandomAccess, Spool, no_room, shown};
use member::{Member, Unpacking};

/// What the arrays of a set are called: its images, their classes, and the split that they are.
struct Names {
    images: &'static str,
    labels: &'static str,
    split: Option<&'static str>,
}

const fn names(images: &'static str, labels: &'static str, split: Option<&'static str>) -> Names {
    Names { images, labels, split }
}

/// Where one array is of no split, it is the set. Splits stand in the order in which they are taken.
const KNOWN: [Names; 7] = [
    names("arr_0", "arr_1", None),
    names("images", "labels", None),
    names("x_train", "y_train", Some("train")),
    names("x_test", "y_test", Some("test")),
    names("train_images", "train_labels", Some("train")),
    names("val_images", "val_labels", Some("val")),
    names("test_images", "test_labels", Some("test")),
];

const HINT: &str = "save uint8 images [N, H, W, 3], [N, 3, H, W] or grey [N, H, W] as `arr_0` or `images`, and classes [N], if there \
                    are any, as `arr_1` or `labels`";

/// An opened `.npz` of images.
pub(crate) struct Arrays {
    file: RandomAccess,
    /// What was compressed.
    unpacked: RandomAccess,
    /// All of one size.
    members: Vec<Member>,
    pub(crate) labels: Option<Vec<u32>>,
    /// Numbers only.
    pub(crate) class_names: Vec<String>,
    pub(crate) split: Option<String>,
}

/// Whether a file is an `.npz` with an array of images in it.
pub fn is_array_of_images(path: &Path) -> bool {
    // Opening a pipe would wait for a writer, perhaps for ever.
    let file = path.is_file().then(|| File::open(path).ok()).flatten();
    let archive = file.and_then(|file| zip::ZipArchive::new(file).ok());
    archive.is_some_and(|archive| !known(&archive.file_names().collect::<Vec<_>>()).is_empty())
}

/// The sets of arrays among the files of an archive: one of no split, or splits.
fn known(files: &[&str]) -> Vec<&'static Names> {
    let is_there = |names: &&Names| files.iter().any(|file| file.strip_suffix(".npy") == Some(names.images));
    let found: Vec<&Names> = KNOWN.iter().filter(is_there).collect();
    match found.first() {
        Some(&first) if first.split.is_none() => vec![first],
        _ => found,
    }
}

impl Arrays {
    /// Reads the headers of the arrays of a split, and the classes where there are some; unpacks what is compressed, in memory
    /// up to `spool_bytes`.
    pub(crate) fn open(path: &Path, limits: &Limits, spool_bytes: usize, split: Option<&str>) -> Result<Self> {
        let bad = |reason: String| Error::NotAnImageSet { path: path.to_owned(), reason, hint: HINT };
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let cursor = file.try_clone().and_then(PositionedFile::new).map_err(|e| Error::io(path, e))?;
        let mut archive = zip::ZipArchive::new(cursor).map_err(|e| Error::archive(path, e))?;
        let files: Vec<&str> = archive.file_names().collect();
        let found = known(&files);
        if found.is_empty() {
            return Err(bad(format!("no array of images ({})", told(&files))));
        }
        let (chosen, split) = choose(&found, split, path)?;
        let file_bytes = file.metadata().map_err(|e| Error::io(path, e))?.len();
        let mut unpacking = Unpacking {
            path,
            file_bytes,
            limits,
            left: limits.max_unpacked_bytes,
            spool: Spool::new(spool_bytes),
            spooled: 0,
        };
        let mut members: Vec<Member> = Vec::new();
        let mut labels = Some(Vec::new());
        for names in &chosen {
            let member = unpacking.member(&mut archive, names.images)?;
            if let Some(first) = members.first().filter(|first| first.size() != member.size()) {
                return Err(bad(format!(
                    "arrays of different sizes: {:?} and {:?} px (width, height)",
                    first.size(),
                    member.size()
                )));
            }
            let own = unpacking.labels(&mut archive, names.labels, Some(member.count))?;
            labels = labels.zip(own).map(|(mut all, own)| {
                all.extend(own);
                all
            });
            members.push(member);
        }
        let mut classes = labels.as_deref().and_then(|labels| labels.iter().max().copied());
        // Those of the other splits are classes as well, though this one may have no image of them.
        if classes.is_some() {
            let is_other = |names: &&&Names| !chosen.iter().any(|chosen| chosen.images == names.images);
            for names in found.iter().filter(is_other) {
                let labels = unpacking.labels(&mut archive, names.labels, None)?;
                classes = classes.max(labels.and_then(|labels| labels.into_iter().max()));
            }
        }
        let unpacked = unpacking.spool.finish().map_err(|e| no_room(path, &e))?;
        let class_names = classes.map_or_else(Vec::new, |highest| numbered_classes(&[highest]));
        Ok(Self { file: RandomAccess::File(file), unpacked, members, labels, class_names, split })
    }

    pub(crate) fn len(&self) -> usize {
        self.members.iter().map(|member| member.count).sum()
    }

    /// Width and height, px.
    pub(crate) fn size(&self) -> (u32, u32) {
        self.members.first().map_or((0, 0), Member::size)
    }

    /// Channels of image `i` as stored, 1 or 3.
    pub(crate) fn channels(&self, i: usize) -> u8 {
        self.member_of(i).map_or(0, |(member, _)| member.channels as u8)
    }

    /// Image `i`, or why it cannot be read.
    pub(crate) fn read_rgb(&self, i: usize) -> std::result::Result<RgbImage8, String> {
        let Some((member, row)) = self.member_of(i) else {
            return Err(format!("there are {} images", self.len()));
        };
        let bytes = if member.in_spool { &self.unpacked } else { &self.file };
        member.read_rgb(bytes, row).map_err(|e| e.to_string())
    }

    /// The array that image `i` is in, and its row there.
    fn member_of(&self, mut i: usize) -> Option<(&Member, usize)> {
        for member in &self.members {
            if i < member.count {
                return Some((member, i));
            }
            i -= member.count;
        }
        None
    }
}

/// What an archive has, for people.
fn told(files: &[&str]) -> String {
    const MOST: usize = 10;
    let key = |name: &&str| shown(name.strip_suffix(".npy").unwrap_or(name).as_bytes());
    let keys: Vec<String> = files.iter().take(MOST).map(key).collect();
    match (files.len(), keys.join(", ")) {
        (0, _) => "it is empty".into(),
        (..=MOST, keys) => format!("it has: {keys}"),
        (_, keys) => format!("it has: {keys}, …"),
    }
}

/// The arrays of the split that was asked for, and its name; without a wish, those of the first split.
fn choose(
    found: &[&'static Names],
    wanted: Option<&str>,
    path: &Path,
) -> Result<(Vec<&'static Names>, Option<String>)> {
    let called = |wanted: &str| {
        found.iter().find(|names| names.split.is_some_and(|split| is_split_called(split, wanted)))
    };
    let chosen = match wanted {
        Some(EVERY_SPLIT) => return Ok((found.to_vec(), None)),
        Some(wanted) => called(wanted).copied(),
        None => found.first().copied(),
    };
    match chosen {
        Some(names) => Ok((vec![names], names.split.map(str::to_owned))),
        None => Err(Error::NoSuchSplit {
            path: path.to_owned(),
            split: wanted.unwrap_or_default().to_owned(),
            found: found.iter().filter_map(|names| names.split).map(str::to_owned).collect(),
        }),
    }
}
