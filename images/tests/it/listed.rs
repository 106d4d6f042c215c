//! `dataset.json`, in which NVIDIA's `dataset_tool.py` notes classes.

use nestgen_images::{ImageSet, OpenOptions};

use super::make;

/// Two images in two folders that are no classes, and a list.
fn set(prefix: &str, json: &str) -> Result<ImageSet, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.zip");
    let name = |name: &str| format!("{prefix}{name}");
    let names = [name("00000/img0.png"), name("00001/img1.png"), name("dataset.json")];
    let bytes = [make::png(4, 4, 1), make::png(4, 4, 2), json.as_bytes().to_vec()];
    let files: Vec<(&str, Vec<u8>)> = names.iter().map(String::as_str).zip(bytes).collect();
    std::fs::write(&path, make::zip(&files)).unwrap();
    let set = ImageSet::open(&path, &OpenOptions::default()).map_err(|error| error.to_string())?;
    assert_eq!(set.len(), 2);
    // While the file is there.
    set.digest().unwrap();
    Ok(set)
}

#[test]
fn classes_are_those_of_the_list() {
    for prefix in ["", "cifar/"] {
        let set = set(prefix, r#"{"labels": [["00001/img1.png", 2], ["00000/img0.png", 6]]}"#).unwrap();
        assert_eq!((set.label(0), set.label(1), set.class_names().len()), (Some(6), Some(2), 7));
    }
    // An unlabelled set has folders too, and what is no class number makes no classes.
    for json in [r#"{"labels": null}"#, r#"{"labels": [["00000/img0.png", [0.5]], ["00001/img1.png", [0.1]]]}"#]
    {
        let set = set("", json).unwrap();
        assert!(set.label(0).is_none() && set.class_names().is_empty(), "{json}");
    }
    // Another file of that name says nothing of classes.
    for json in [r#"{"name": "mine"}"#, "no JSON", r#"{"labels": 3}"#, r#"{"labels": ["cat", "dog"]}"#] {
        assert_eq!(set("", json).unwrap().class_names(), ["00000", "00001"]);
    }
    for cut in [r#"{"labels": [["00000/img0.png", 1], ["000"#, "{\"labels\": [[\0\0\0"] {
        let error = set("", cut).err().unwrap();
        assert!(error.contains("`dataset.json` is damaged"), "{error}");
    }
    let error = set("", r#"{"labels": [["00000/img0.png", 1]]}"#).err().unwrap();
    assert!(error.contains("00001/img1.png") && error.contains("does not list it"), "{error}");
}

#[test]
fn a_list_is_of_the_images_around_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.zip");
    let list = |class: u32| format!(r#"{{"labels": [["0/a.png", {class}], ["1/b.png", 0]]}}"#).into_bytes();
    let mut files = vec![("cat/meta/dataset.json", br#"{"labels": null}"#.to_vec())];
    for name in ["train/0/a.png", "train/1/b.png", "test/0/a.png", "test/1/b.png"] {
        files.push((name, make::png(4, 4, 1)));
    }
    files.extend([("train/dataset.json", list(4)), ("test/dataset.json", list(5))]);
    std::fs::write(&path, make::zip(&files)).unwrap();
    for (split, class) in [("train", 4), ("test", 5)] {
        let options = OpenOptions { split: Some(split.into()), ..OpenOptions::default() };
        let set = ImageSet::open(&path, &options).unwrap();
        assert_eq!((set.label(0), set.label(1)), (Some(class), Some(0)), "{split}");
    }
}

#[test]
fn a_sets_identity_has_its_classes() {
    let digest = |json: &str| set("", json).unwrap().digest().unwrap();
    let one = digest(r#"{"labels": [["00000/img0.png", 0], ["00001/img1.png", 1]]}"#);
    assert_ne!(one, digest(r#"{"labels": [["00000/img0.png", 1], ["00001/img1.png", 0]]}"#));
    assert_eq!(one, digest(r#"{"labels": [["00001/img1.png", 1], ["00000/img0.png", 0]]}"#));
}
