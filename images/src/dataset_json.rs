//! `dataset.json` beside the images, in which NVIDIA's `dataset_tool.py` notes their classes: `{"labels": [["00000/img00000000.png",
//! 6], …]}`, or `null` where there are none, in a folder that all images are in. Folders of such a set are places to store files
//! in, and no classes.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::{IgnoredAny, SeqAccess, Visitor};

use crate::error::{Error, Result};
use crate::layout::{MOST_NUMBERED_CLASSES, numbered_classes};
use crate::source::{Entry, Source, base_name};

/// The classes that a `dataset.json` lists.
pub(crate) struct Listed {
    /// The folder that it lies in, with its `/`: names are relative to it.
    folder: Vec<u8>,
    /// Class by name; `None` where the images have no classes.
    classes: Option<HashMap<Vec<u8>, u32>>,
}

#[derive(Deserialize)]
struct Json {
    /// Not left out, though it may be `null`.
    #[serde(deserialize_with = "Option::deserialize")]
    labels: Option<Vec<(String, Label)>>,
}

/// A class's number; what else a generator may be told of an image is none.
struct Label(Option<u32>);

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(LabelVisitor)
    }
}

/// Keeps nothing of what it passes over, whose size others choose.
struct LabelVisitor;

impl<'de> Visitor<'de> for LabelVisitor {
    type Value = Label;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a class's number or numbers")
    }

    fn visit_u64<E>(self, number: u64) -> std::result::Result<Label, E> {
        Ok(Label(u32::try_from(number).ok().filter(|&class| class < MOST_NUMBERED_CLASSES)))
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<Label, E> {
        Ok(Label(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> std::result::Result<Label, A::Error> {
        while numbers.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Label(None))
    }
}

/// Whether a file may be such a list.
pub(crate) fn is_dataset_json(name: &[u8]) -> bool {
    base_name(name) == b"dataset.json"
}

impl Listed {
    /// The list among `files` that is meant for the `kept` images: it lies in a folder that all of them are in, the innermost such.
    /// A file with other things in it is no list.
    pub(crate) fn of(source: &mut Source, files: Vec<Entry>, kept: &[usize]) -> Result<Option<Self>> {
        let is_of_all = |file: &Entry| {
            let mut names = kept.iter().filter_map(|&at| source.entries.get(at));
            names.all(|entry| entry.name.starts_with(folder_of(&file.name)))
        };
        let lists = files.into_iter().filter(|file| is_dataset_json(&file.name) && is_of_all(file));
        let Some(list) = lists.max_by_key(|file| file.name.len()) else { return Ok(None) };
        let folder = folder_of(&list.name).to_vec();
        source.entries.push(list);
        let bytes = source.read(source.entries.len() - 1);
        source.entries.pop();
        let bytes = bytes?;
        let json: Json = match serde_json::from_slice(&bytes) {
            Ok(json) => json,
            // Begun as the tool begins it, and then no JSON: without it folders would become classes, without a word.
            Err(error) if !error.is_data() && bytes.starts_with(b"{\"labels\"") => {
                return Err(damaged(source, &error.to_string()));
            }
            Err(_) => return Ok(None),
        };
        let class = |(name, label): (String, Label)| Some((name.replace('\\', "/").into_bytes(), label.0?));
        Ok(Some(Self {
            folder,
            classes: json.labels.and_then(|labels| labels.into_iter().map(class).collect()),
        }))
    }

    /// The classes of images and what they are called; `None` where they have none.
    ///
    /// # Errors
    /// The name of an image that is not listed.
    pub(crate) fn labels<'a>(
        &self,
        names: impl Iterator<Item = &'a [u8]>,
    ) -> std::result::Result<Option<(Vec<u32>, Vec<String>)>, &'a [u8]> {
        let Some(classes) = &self.classes else { return Ok(None) };
        let class = |name: &'a [u8]| {
            name.strip_prefix(self.folder.as_slice()).and_then(|name| classes.get(name)).copied().ok_or(name)
        };
        let labels: Vec<u32> = names.map(class).collect::<std::result::Result<_, _>>()?;
        let class_names = numbered_classes(&labels);
        Ok(Some((labels, class_names)))
    }
}

/// The folder that a file is in, with its `/`.
fn folder_of(name: &[u8]) -> &[u8] {
    name.get(..name.len() - base_name(name).len()).unwrap_or_default()
}

fn damaged(source: &Source, reason: &str) -> Error {
    Error::NotAnImageSet {
        path: source.path().to_owned(),
        reason: format!("`dataset.json` is damaged: {reason}"),
        hint: "copy it again; without it folders are the classes",
    }
}

/// An image that the list does not have.
pub(crate) fn unlisted(source: &Source, name: &[u8]) -> Error {
    Error::BadImage {
        path: source.path().to_owned(),
        name: crate::source::shown(name),
        reason: "`dataset.json` does not list it: give it a class there, or remove that file".into(),
    }
}
