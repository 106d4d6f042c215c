//! From a list of file names to splits and classes; names are bytes, so that any file name works.
//!
//! 1. Folders common to all images are stripped (`cifar10/` in `cifar10/train/cat/1.jpg`).
//! 2. Where a first-level folder is then the training split by name (`train`, `training_set`, `train2017`) and another one another
//!    split (val, test, ...), or where all are splits, one split is taken: the one asked for, else the training split, else all. What lies
//!    beside them (`extra`, `unlabeled`, a loose picture) is passed over: a class called `train` has no split beside it. `all`
//!    keeps every image. Any other first-level folder can be asked for by name too. Names count in any case (`Train`), the exact
//!    one before others.
//! 3. Common folders are stripped again. If now every image lies in a first-level folder, these folders, in byte order,
//!    are the classes. Folders that are splits by name are never classes: of all splits together, the folders in them are.

#![expect(clippy::indexing_slicing, reason = "indices of the listing itself, and the length of a common part")]

/// The part of a listing that is used, and its labels.
#[derive(Debug, PartialEq)]
pub(crate) struct Layout {
    /// Indices into the listing, in its order.
    pub(crate) kept: Vec<usize>,
    /// Bytes stripped from the front of each kept name.
    pub(crate) stripped: usize,
    /// Class of each kept image.
    pub(crate) labels: Option<Vec<u32>>,
    /// Class names; empty when there are no labels.
    pub(crate) class_names: Vec<String>,
    /// Split that was chosen.
    pub(crate) split: Option<String>,
    /// An image that lies beside several folders, which are no classes because of it.
    pub(crate) loose: Option<usize>,
}

/// What training images are called: the first that is there is the default.
const TRAINING_NAMES: [&str; 2] = ["train", "training"];
/// Names of the split that choices are made on while training.
pub const VALIDATION_SPLITS: &[&str] = &["val", "valid", "validation", "dev"];
/// Names of the split that what was chosen is tested on.
pub const TEST_SPLITS: &[&str] = &["test", "testing", "eval"];
/// In the place of a split's name: every image.
pub const EVERY_SPLIT: &str = "all";

/// Classes that are known by their numbers; more are no classes of a data set.
pub(crate) const MOST_NUMBERED_CLASSES: u32 = 1 << 20;

/// Names for classes that are known by their numbers alone.
pub(crate) fn numbered_classes(labels: &[u32]) -> Vec<String> {
    let highest = labels.iter().max();
    highest.map_or_else(Vec::new, |&highest| (0..=highest).map(|class| class.to_string()).collect())
}

/// Whether a folder is called like the part of a set that is trained on.
pub fn is_training_split(folder: &str) -> bool {
    is_among(&TRAINING_NAMES, folder.as_bytes())
}

/// What is left of a split's name without what people add to it: `test_set`, `seg_train`, `val2017`, `train-images`.
fn bare(folder: &[u8]) -> Option<String> {
    const ADDED: [&str; 6] = ["set", "images", "imgs", "data", "split", "seg"];
    let text = std::str::from_utf8(folder).ok()?.to_lowercase();
    let text = text.strip_suffix("set").unwrap_or(&text);
    // A year.
    let digits = text.len() - text.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let text = if digits == 4 { text.get(..text.len() - digits)? } else { text };
    let words = text.split(['_', '-', ' ', '.']).filter(|word| !word.is_empty());
    let mut words = words.filter(|word| !ADDED.contains(word));
    let first = words.next()?.to_owned();
    words.next().is_none().then_some(first)
}

/// Lays out `names` (sorted by bytes, `/`-separated). `Err` holds the first-level folders when `split` is not among them.
pub(crate) fn layout(names: &[&[u8]], split: Option<&str>) -> Result<Layout, Vec<String>> {
    let all: Vec<usize> = (0..names.len()).collect();
    let outer = common_folders(names, &all);
    let mut chosen = None;
    let mut kept = all;
    match split {
        Some(EVERY_SPLIT) => {}
        Some(wanted) => {
            let inside = kept.iter().filter_map(|&i| first_folder(names[i], outer));
            if let Some(folder) = named(inside, wanted) {
                chosen = Some(folder);
                kept.retain(|&i| first_folder(names[i], outer) == chosen);
            } else {
                chosen = named(last_folder(names, outer).into_iter(), wanted);
                if chosen.is_none() {
                    return Err(some_folders(names, &kept, outer).iter().map(|f| text(f)).collect());
                }
            }
        }
        None => {
            let folders = some_folders(names, &kept, outer);
            let is_training = |folder: &&[u8]| is_among(&TRAINING_NAMES, folder);
            if has_splits(names, outer) {
                let exact = TRAINING_NAMES.iter().find_map(|name| named(folders.iter().copied(), name));
                chosen = exact.or_else(|| folders.iter().copied().find(|folder| is_training(folder)));
            }
            if chosen.is_some() {
                kept.retain(|&i| first_folder(names[i], outer) == chosen);
            }
        }
    }
    let stripped = common_folders(names, &kept);
    let (labels, class_names, loose) = if split == Some(EVERY_SPLIT) && has_splits(names, outer) {
        let inside: Vec<&[u8]> = names.iter().map(|name| below_first_folder(name, outer)).collect();
        classes(&inside, &kept, common_folders(&inside, &kept))
    } else {
        classes(names, &kept, stripped)
    };
    Ok(Layout { kept, stripped, labels, class_names, split: chosen.map(text), loose })
}

/// Labels of the kept images and the names of their classes; none, and the first image that lies outside, where not all lie in
/// folders.
fn classes(names: &[&[u8]], kept: &[usize], stripped: usize) -> (Option<Vec<u32>>, Vec<String>, Option<usize>) {
    let folders = some_folders(names, kept, stripped);
    let loose = kept.iter().copied().find(|&i| first_folder(names[i], stripped).is_none());
    if loose.is_some() || folders.iter().all(is_split) {
        return (None, Vec::new(), loose.filter(|_| folders.len() > 1));
    }
    let label = |&i: &usize| {
        let class = first_folder(names[i], stripped).unwrap_or_default();
        folders.binary_search(&class).unwrap_or_default() as u32
    };
    (Some(kept.iter().map(label).collect()), folders.iter().map(|c| text(c)).collect(), None)
}

/// Whether first-level folders are splits: a training split beside another one, or nothing but splits.
fn has_splits(names: &[&[u8]], outer: usize) -> bool {
    let all: Vec<usize> = (0..names.len()).collect();
    let folders = some_folders(names, &all, outer);
    let is_training = |folder: &&[u8]| is_among(&TRAINING_NAMES, folder);
    let is_other = |folder: &&[u8]| is_split(folder) && !is_training(folder);
    let loose = names.iter().any(|name| first_folder(name, outer).is_none());
    (folders.iter().any(is_training) && folders.iter().any(is_other))
        || (!loose && folders.iter().all(is_split))
}

/// A name without its first-level folder; what lies in none stays as it is.
fn below_first_folder(name: &[u8], outer: usize) -> &[u8] {
    let folder = first_folder(name, outer).map_or(0, |folder| folder.len() + 1);
    name.get(outer + folder..).unwrap_or_default()
}

fn is_split(folder: &&[u8]) -> bool {
    [&TRAINING_NAMES, VALIDATION_SPLITS, TEST_SPLITS].iter().any(|names| is_among(names, folder))
}

fn is_among(names: &[&str], folder: &[u8]) -> bool {
    bare(folder).is_some_and(|bare| names.contains(&bare.as_str()))
}

/// Whether a folder is the split `name`, in any case and with what people add to it.
pub fn is_split_called(folder: &str, name: &str) -> bool {
    named(std::iter::once(folder.as_bytes()), name).is_some()
}

/// The folder called `name`: exactly so, or else in another case, or else with what people add to it.
fn named<'a>(folders: impl Iterator<Item = &'a [u8]> + Clone, name: &str) -> Option<&'a [u8]> {
    let exact = folders.clone().find(|folder| *folder == name.as_bytes());
    let cased = || folders.clone().find(|folder| folder.eq_ignore_ascii_case(name.as_bytes()));
    let is_split_of_name = |folder: &&[u8]| is_split(folder) && bare(folder).is_some_and(|bare| bare == name);
    exact.or_else(cased).or_else(|| folders.clone().find(is_split_of_name))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Length of the longest prefix of whole folders shared by all kept names.
fn common_folders(names: &[&[u8]], kept: &[usize]) -> usize {
    let Some(&first) = kept.first() else { return 0 };
    let mut common = names[first];
    for &i in kept {
        let same = common.iter().zip(names[i]).take_while(|(a, b)| a == b).count();
        common = &common[..same];
    }
    common.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1)
}

fn first_folder(name: &[u8], stripped: usize) -> Option<&[u8]> {
    let rest = name.get(stripped..)?;
    rest.iter().position(|&b| b == b'/').and_then(|slash| rest.get(..slash))
}

fn last_folder<'a>(names: &[&'a [u8]], stripped: usize) -> Option<&'a [u8]> {
    let prefix = names.first()?.get(..stripped.checked_sub(1)?)?;
    prefix.rsplit(|&b| b == b'/').next()
}

/// Sorted first-level folders, whatever lies beside them.
fn some_folders<'a>(names: &[&'a [u8]], kept: &[usize], stripped: usize) -> Vec<&'a [u8]> {
    let mut folders: Vec<&[u8]> = kept.iter().filter_map(|&i| first_folder(names[i], stripped)).collect();
    folders.sort_unstable();
    folders.dedup();
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lay(names: &[&str], split: Option<&str>) -> Result<Layout, Vec<String>> {
        let names: Vec<&[u8]> = names.iter().map(|n| n.as_bytes()).collect();
        layout(&names, split)
    }

    #[test]
    fn flat_folders_have_no_classes() {
        let flat = lay(&["set/images/a.png", "set/images/b.png"], None).unwrap();
        assert_eq!(flat.labels, None);
        assert_eq!(flat.stripped, "set/images/".len());
        let loose = lay(&["a.png", "cats/b.png"], None).unwrap();
        assert_eq!((loose.labels, loose.class_names.len()), (None, 0));
    }

    #[test]
    fn class_folders_become_labels_in_byte_order() {
        let set = lay(&["Zebra/1.png", "ant/1.png", "ant/deep/2.png"], None).unwrap();
        assert_eq!(set.class_names, ["Zebra", "ant"]);
        assert_eq!(set.labels, Some(vec![0, 1, 1]));
    }

    #[test]
    fn the_train_split_is_the_default() {
        let names = ["c/test/a/1.png", "c/test/b/1.png", "c/train/a/2.png", "c/train/b/3.png"];
        let train = lay(&names, None).unwrap();
        assert_eq!((train.kept, train.labels), (vec![2, 3], Some(vec![0, 1])));
        assert_eq!(train.split.as_deref(), Some("train"));
        assert_eq!(lay(&names, Some("test")).unwrap().kept, [0, 1]);
        assert_eq!(lay(&names, Some("all")).unwrap().kept.len(), 4);
        assert_eq!(lay(&names, Some("vla")).unwrap_err(), ["test", "train"]);
    }

    #[test]
    fn splits_are_known_in_any_case() {
        let names = ["c/Testing/a/1.png", "c/Testing/b/1.png", "c/Training/a/2.png", "c/Training/b/3.png"];
        let train = lay(&names, None).unwrap();
        assert_eq!((train.kept, train.class_names), (vec![2, 3], vec!["a".into(), "b".into()]));
        assert_eq!(train.split.as_deref(), Some("Training"));
        let test = lay(&names, Some("testing")).unwrap();
        assert_eq!((test.kept, test.split.as_deref()), (vec![0, 1], Some("Testing")));
        let upper = lay(&["TEST/a/1.png", "Train/a/1.png", "VAL/a/1.png"], None).unwrap();
        assert_eq!((upper.kept, upper.split.as_deref()), (vec![1], Some("Train")));
        // The exact name comes before others, and no split becomes a class.
        let both = lay(&["Train/1.png", "train/2.png", "training/3.png"], None).unwrap();
        assert_eq!((both.kept, both.split.as_deref()), (vec![1], Some("train")));
        assert_eq!(lay(&["Test/1.png", "Val/2.png"], None).unwrap().labels, None);
        assert_eq!(lay(&["c/Train/a/2.png", "c/Train/b/3.png"], Some("train")).unwrap().kept.len(), 2);
    }

    #[test]
    fn splits_are_no_classes_whatever_lies_beside_them() {
        let names = [
            "readme.png",
            "s/extra/a/1.png",
            "s/test/a/1.png",
            "s/test/b/1.png",
            "s/train/a/2.png",
            "s/train/b/3.png",
        ];
        let train = lay(&names[1..], None).unwrap();
        assert_eq!((train.kept, train.split.as_deref()), (vec![3, 4], Some("train")));
        assert_eq!(train.class_names, ["a", "b"]);
        let loose = ["logo.png", "test/a/1.png", "train/a/2.png", "train/b/3.png"];
        assert_eq!(lay(&loose, None).unwrap().kept, [2, 3]);
        assert_eq!(lay(&loose, Some("vla")).unwrap_err(), ["test", "train"]);
        assert_eq!(lay(&["logo.png", "train/a/2.png"], None).unwrap().kept.len(), 2);
        // Things that are called like a split, and a set of nothing but test images.
        let things = lay(&["bus/1.png", "train/1.png"], None).unwrap();
        assert_eq!((things.class_names, things.split), (vec!["bus".to_owned(), "train".into()], None));
        assert_eq!(lay(&["bus/1.png", "test/1.png"], None).unwrap().class_names.len(), 2);
    }

    #[test]
    fn splits_are_known_with_what_people_add_to_their_names() {
        for (train, other, wanted) in [
            ("training_set", "test_set", "test"),
            ("seg_train", "seg_test", "test"),
            ("train2017", "val2017", "val"),
            ("train", "dev", "dev"),
            ("Train-Images", "Validation Images", "validation"),
            ("trainset", "testset", "test"),
        ] {
            let names = [
                format!("{other}/a/1.png"),
                format!("{other}/b/1.png"),
                format!("{train}/a/2.png"),
                format!("{train}/b/3.png"),
            ];
            let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
            names.sort_unstable();
            let (whole, part) = (lay(&names, None).unwrap(), lay(&names, Some(wanted)).unwrap());
            assert_eq!(
                (whole.class_names, whole.split.as_deref()),
                (vec!["a".into(), "b".into()], Some(train))
            );
            assert_eq!((part.kept.len(), part.split.as_deref()), (2, Some(other)));
            assert!(is_training_split(train) && !is_training_split(other));
        }
        // Classes stay classes.
        for [a, b] in
            [["train1", "train2"], ["set", "images"], ["test_tube", "train_station"], ["data", "dev_kit"]]
        {
            let names = [format!("{a}/1.png"), format!("{b}/1.png")];
            let found = lay(&[&names[0], &names[1]], None).unwrap();
            assert_eq!(found.class_names.len(), 2, "{a}, {b}");
        }
    }

    #[test]
    fn of_all_splits_together_the_folders_in_them_are_the_classes() {
        let names =
            ["s/extra/a/1.png", "s/test/a/1.png", "s/test/b/2.png", "s/train/a/3.png", "s/train/b/4.png"];
        for names in [&names[..], &names[1..], &names[2..]] {
            let all = lay(names, Some("all")).unwrap();
            assert_eq!((all.class_names, all.split), (vec!["a".to_owned(), "b".into()], None));
            assert_eq!(all.labels.unwrap(), [0, 0, 1, 0, 1][5 - names.len()..]);
        }
        let deep = ["test/images/b/1.png", "train/images/a/2.png", "train/images/b/3.png"];
        assert_eq!(lay(&deep, Some("all")).unwrap().labels, Some(vec![1, 0, 1]));
        // Splits without classes have none together.
        let mixed = lay(&["test/1.png", "train/a/2.png", "train/b/3.png"], Some("all")).unwrap();
        assert_eq!((mixed.labels, mixed.loose), (None, Some(0)));
        assert_eq!(lay(&["test/1.png", "train/2.png"], Some("all")).unwrap().labels, None);
        // A class called `train` has no split beside it.
        let things = lay(&["bus/1.png", "train/1.png"], Some("all")).unwrap();
        assert_eq!(things.class_names, ["bus", "train"]);
    }

    #[test]
    fn an_image_beside_the_folders_is_named() {
        let mix = lay(&["mix/cat/1.png", "mix/dog/1.png", "mix/overview.png"], None).unwrap();
        assert_eq!((mix.labels, mix.loose), (None, Some(2)));
        assert_eq!(lay(&["mix/cat/1.png", "mix/overview.png"], None).unwrap().loose, None);
        assert_eq!(lay(&["mix/1.png", "mix/2.png"], None).unwrap().loose, None);
    }

    #[test]
    fn a_split_already_in_the_common_path_can_be_named() {
        assert_eq!(lay(&["c/train/a/2.png", "c/train/b/3.png"], Some("train")).unwrap().kept.len(), 2);
    }
}
