//! `dataset.json` beside the images, in which NVIDIA's `dataset_tool.py` notes their classes: `{"labels": [["00000/img00000000.png",
//! 6], …]}`, or `null` where there are none. Folders of such a set are places to store files in, and no classes.

use std::collections::HashMap;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::source::{Source, base_name};

/// The classes that a `dataset.json` lists.
pub(crate) struct Listed {
    /// The folder that it lies in, with its `/`: names are relative to it.
    folder: Vec<u8>,
    /// Class by name; `None` where the images have no classes.
    classes: Option<HashMap<Vec<u8>, u32>>,
}

#[derive(Deserialize)]
struct Json {
    labels: Option<Vec<(String, Label)>>,
}

/// Classes are numbers; what else a generator may be told of an image is none of ours.
#[derive(Deserialize)]
#[serde(untagged)]
enum Label {
    Class(u32),
    Other(serde::de::IgnoredAny),
}

/// More classes than there are in any data set here.
const MOST_CLASSES: u32 = 1 << 20;

/// Whether a file may be such a list.
pub(crate) fn is_dataset_json(name: &[u8]) -> bool {
    base_name(name) == b"dataset.json"
}

impl Listed {
    /// Reads the first list among the entries of `source`; `None` without one. A file of that name with other things in it is none.
    pub(crate) fn read(source: &Source) -> Result<Option<Self>> {
        let Some(at) = source.entries.iter().position(|entry| is_dataset_json(&entry.name)) else {
            return Ok(None);
        };
        let bytes = source.read(at)?;
        let is_list = |value: &serde_json::Value| value.get("labels").is_some();
        if !serde_json::from_slice::<serde_json::Value>(&bytes).is_ok_and(|value| is_list(&value)) {
            return Ok(None);
        }
        let json: Json = serde_json::from_slice(&bytes).map_err(|error| source.bad(at, error.to_string()))?;
        let class = |(name, label): (String, Label)| match label {
            Label::Class(class) if class < MOST_CLASSES => Some((name.replace('\\', "/").into_bytes(), class)),
            _ => None,
        };
        let name = source.entries.get(at).map(|entry| entry.name.as_slice()).unwrap_or_default();
        let folder = name.get(..name.len() - base_name(name).len()).unwrap_or_default().to_vec();
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
        let highest = labels.iter().copied().max().unwrap_or(0);
        Ok(Some((labels, (0..=highest).map(|class| class.to_string()).collect())))
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
