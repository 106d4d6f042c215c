//! Images with classes: what is trained on and what is tested on.
//!
//! A source with splits keeps them; of any other, a fixed share of every class is held out. Both that choice and
//! the choice of a fraction of the training images depend on the set alone, not on the seed of a run: every run
//! trains and tests on the same images, and a smaller fraction is a part of every larger one.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;
use std::sync::Arc;

use nestgen_images::{ImageSet, OpenOptions, is_split_called};
use rayon::prelude::*;

use super::ImageData;
use crate::error::{Error, Result};
use crate::rng::Rng;

const CLASS_FOLDERS: &str = "put the images of each class in a folder of its own: set/cat/1.png";

/// Some or all images of a labelled set. Cloning shares them.
#[derive(Clone)]
pub struct LabelledImages {
    data: Arc<ImageData>,
    indices: Arc<Vec<u32>>,
}

impl LabelledImages {
    /// All images of a set.
    ///
    /// # Errors
    /// When it has no classes, or only one.
    pub fn all(data: Arc<ImageData>) -> Result<Self> {
        if !data.is_labelled() || data.class_names().len() < 2 {
            let (found, hint) = match (data.class_names(), data.loose()) {
                ([], Some(loose)) => (
                    format!("`{loose}` lies in no class folder"),
                    "move it into the folder of a class, or away",
                ),
                ([], None) => ("it has no classes, or a single one".to_owned(), CLASS_FOLDERS),
                ([only], _) => (format!("its only class is `{only}`"), CLASS_FOLDERS),
                (names, _) => (format!("{} class names, but no labels", names.len()), CLASS_FOLDERS),
            };
            return Err(Error::Usage {
                message: format!("`{}` cannot train or test a classifier: {found}", data.description()),
                hint: Some(hint.into()),
            });
        }
        let indices = Arc::new((0..data.len() as u32).collect());
        Ok(Self { data, indices })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The set they are of.
    pub fn data(&self) -> &Arc<ImageData> {
        &self.data
    }

    /// Their indices in the set, rising.
    pub fn indices(&self) -> &Arc<Vec<u32>> {
        &self.indices
    }

    /// Class of the image at place `i` among these.
    pub fn label(&self, i: usize) -> Option<u32> {
        self.data.label(*self.indices.get(i)? as usize)
    }

    /// How many of these images are, pixel for pixel, among `others`; `None` of a pack that is not in memory, which is not read for it.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn count_among(&self, others: &Self) -> Result<Option<usize>> {
        if self.data.is_streamed() || others.data.is_streamed() {
            return Ok(None);
        }
        let others: HashSet<u64> = others.hashes()?.into_iter().collect();
        Ok(Some(self.hashes()?.iter().filter(|hash| others.contains(hash)).count()))
    }

    /// A hash of each image's pixels.
    fn hashes(&self) -> Result<Vec<u64>> {
        let bytes = self.data.res() * self.data.res() * 3;
        let hash = |pixels: &mut Vec<u8>, &index: &u32| {
            self.data.read(index as usize, pixels)?;
            let mut hasher = DefaultHasher::new();
            hasher.write(pixels);
            Ok(hasher.finish())
        };
        self.indices.par_iter().map_init(|| vec![0; bytes], hash).collect()
    }

    /// Splits off `share` of every class, at least one image of each: what is left, and what was split off.
    ///
    /// # Errors
    /// When a class has fewer than two images.
    pub fn hold_out(&self, share: f64) -> Result<(Self, Self)> {
        let (mut kept, mut held) = (Vec::new(), Vec::new());
        for (class, mut images) in self.by_class("hold-out").into_iter().enumerate() {
            if images.len() < 2 {
                let name = self.data.class_names().get(class).map_or("", String::as_str);
                return Err(Error::Usage {
                    message: format!(
                        "`{}`: class `{name}` has {} images, too few to hold one out for testing",
                        self.data.description(),
                        images.len()
                    ),
                    hint: Some("add images, or lay the set out as train/<class> and test/<class>".into()),
                });
            }
            let count = ((images.len() as f64 * share).round() as usize).clamp(1, images.len() - 1);
            kept.extend(images.split_off(count));
            held.extend(images);
        }
        Ok((self.of(kept), self.of(held)))
    }

    /// `fraction` of every class, at least one image of each.
    #[must_use]
    pub fn fraction(&self, fraction: f64) -> Self {
        if fraction >= 1.0 {
            self.clone()
        } else {
            self.share(|of_class| (of_class as f64 * fraction).round() as usize)
        }
    }

    /// At most `count` images, the same share of every class, at least one of each.
    #[must_use]
    pub fn at_most(&self, count: usize) -> Self {
        if count >= self.len() { self.clone() } else { self.share(|of_class| of_class * count / self.len()) }
    }

    /// Of every class as many as `count(len)` says, at least one.
    fn share(&self, count: impl Fn(usize) -> usize) -> Self {
        let classes = self.by_class("fraction").into_iter();
        let some = classes.flat_map(|mut images| {
            images.truncate(count(images.len()).max(1));
            images
        });
        self.of(some.collect())
    }

    fn of(&self, mut indices: Vec<u32>) -> Self {
        indices.sort_unstable();
        Self { data: self.data.clone(), indices: Arc::new(indices) }
    }

    /// The images of each class in an order drawn for `purpose`.
    fn by_class(&self, purpose: &str) -> Vec<Vec<u32>> {
        let mut classes = vec![Vec::new(); self.data.class_names().len()];
        for &index in self.indices.iter() {
            if let Some(class) =
                self.data.label(index as usize).and_then(|label| classes.get_mut(label as usize))
            {
                class.push(index);
            }
        }
        let stream = Rng::new(0).split(purpose);
        for (class, images) in classes.iter_mut().enumerate() {
            stream.at(class as u64).shuffle(images);
        }
        classes
    }
}

/// Those of these splits that the source at `path` has. It is opened once: an archive may have to be unpacked for it.
///
/// # Errors
/// What opening the source can meet.
pub fn splits_called(path: &Path, names: &[&'static str]) -> Result<Vec<&'static str>> {
    // No split has this name: the error lists those that there are, whatever kind of source it is.
    let found = match open_split(path, "") {
        Ok(_) => return Ok(Vec::new()),
        Err(nestgen_images::Error::NoSuchSplit { found, .. }) => found,
        Err(error) => return Err(error.into()),
    };
    let is_there = |name: &&&'static str| found.iter().any(|folder| is_split_called(folder, name));
    Ok(names.iter().filter(is_there).copied().collect())
}

fn open_split(path: &Path, split: &str) -> nestgen_images::Result<ImageSet> {
    ImageSet::open(path, &OpenOptions { split: Some(split.into()), ..OpenOptions::default() })
}

/// The first of these splits that the source at `path` has with labels; `None` where it has none.
///
/// # Errors
/// What opening the source can meet; such a split of a single class.
pub fn labelled_split(path: &Path, names: &[&'static str]) -> Result<Option<&'static str>> {
    for name in splits_called(path, names)? {
        let set = open_split(path, name)?;
        if !set.class_names().is_empty() {
            return Ok(Some(name));
        }
        refuse_single_class(path, name, &set)?;
    }
    Ok(None)
}

/// Refuses a split whose images all lie in the folder of one class: a common folder is no class, and the split would pass for one
/// without labels.
fn refuse_single_class(path: &Path, split: &str, set: &ImageSet) -> Result<()> {
    let whole = ImageSet::open(path, &OpenOptions::default())?;
    let is_in = |i: usize, class: &String| {
        let name = set.name(i);
        let mut folders = name.split('/').skip_while(|folder| !is_split_called(folder, split)).skip(1);
        folders.any(|folder| folder == class)
    };
    match whole.class_names().iter().find(|class| (0..set.len()).all(|i| is_in(i, class))) {
        None => Ok(()),
        Some(only) => Err(Error::Usage {
            message: format!(
                "`{}`: {} has {} classes and {split} has only `{only}`",
                path.display(),
                whole.split().unwrap_or("the set"),
                whole.class_names().len()
            ),
            hint: Some("give every class a folder of the same name in both".into()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenes(count: usize) -> LabelledImages {
        LabelledImages::all(Arc::new(ImageData::synthetic(0, count, 8, &|_, _| true).unwrap())).unwrap()
    }

    fn of_class(images: &LabelledImages, class: u32) -> usize {
        (0..images.len()).filter(|&i| images.label(i) == Some(class)).count()
    }

    #[test]
    fn held_out_images_are_a_fixed_share_of_every_class() {
        let (kept, held) = scenes(120).hold_out(0.2).unwrap();
        assert_eq!((kept.len(), held.len()), (96, 24));
        assert!((0..12).all(|class| of_class(&kept, class) == 8 && of_class(&held, class) == 2));
        let mut all = [kept.indices().as_slice(), held.indices().as_slice()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..120).collect::<Vec<_>>());
        assert_eq!(scenes(120).hold_out(0.2).unwrap().1.indices(), held.indices());
        assert!(scenes(13).hold_out(0.2).err().unwrap().to_string().contains("`boat` has 1 images"));
    }

    #[test]
    fn smaller_fractions_are_parts_of_larger_ones() {
        let all = scenes(240);
        let (small, large) = (all.fraction(0.1), all.fraction(0.5));
        assert_eq!((small.len(), large.len(), all.fraction(1.0).len()), (24, 120, 240));
        assert!(small.indices().iter().all(|index| large.indices().contains(index)));
        assert!((0..12).all(|class| of_class(&small, class) == 2));
        assert_eq!((all.at_most(60).len(), all.at_most(1000).len()), (60, 240));
        // Twenty of each class: 1.66 of them are one.
        assert_eq!((all.at_most(20).len(), all.at_most(5).len()), (12, 12));
    }

    /// Recorded figures: who resumes a run or compares two wants the same images in every version.
    #[test]
    fn the_images_that_are_drawn_stay_the_same() {
        let labels = (0..20).map(|i| i % 2).collect();
        let names = vec!["even".into(), "odd".into()];
        let data = ImageData::from_pixels(1, vec![0; 60], Some(labels), names, String::new(), String::new());
        let images = LabelledImages::all(Arc::new(data.unwrap())).unwrap();
        assert_eq!(**images.hold_out(0.2).unwrap().1.indices(), [1, 5, 12, 16]);
        assert_eq!(**images.fraction(0.3).indices(), [2, 5, 8, 9, 12, 17]);
        // A tenth of 24 of each class are two.
        assert_eq!(scenes(288).hold_out(0.1).unwrap().1.len(), 24);
    }

    #[test]
    fn images_that_are_in_both_parts_are_counted() {
        let set = |values: &[u8]| {
            let labels = (0..values.len() as u32).map(|i| i % 2).collect();
            let pixels = values.iter().flat_map(|&value| [value, 0, value]).collect();
            let names = vec!["even".into(), "odd".into()];
            let data = ImageData::from_pixels(1, pixels, Some(labels), names, String::new(), String::new());
            LabelledImages::all(Arc::new(data.unwrap())).unwrap()
        };
        let (train, test) = (set(&[1, 2, 3, 4]), set(&[9, 3, 1, 3, 8]));
        assert_eq!(test.count_among(&train).unwrap(), Some(3));
        assert_eq!(train.count_among(&test).unwrap(), Some(2));
        assert_eq!(set(&[5, 6]).count_among(&train).unwrap(), Some(0));
    }

    #[test]
    fn unlabelled_sets_are_refused() {
        let data = ImageData::from_pixels(2, vec![0; 24], None, vec![], "flat".into(), String::new()).unwrap();
        let error = LabelledImages::all(Arc::new(data)).err().unwrap();
        assert!(error.to_string().contains("`flat`") && error.hint().unwrap().contains("set/cat"), "{error}");
    }
}
