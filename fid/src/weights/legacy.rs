//! PyTorch's file format before version 1.6, in which the FID weights are published: five pickles (magic number,
//! protocol, system, the dictionary, the storage keys), then for each key a count and the raw elements.

use std::collections::HashMap;

use super::StateDict;
use super::pickle::{Parsed, Pickles, Reader, Value};
use super::rebuild::{self, Element};

const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const PROTOCOL: i128 = 1001;

/// Reads a whole file.
pub(super) fn read(bytes: &[u8]) -> Parsed<StateDict> {
    let mut reader = Reader::new(bytes);
    let mut pickles = Pickles::default();
    for (what, expected) in [("magic number", MAGIC), ("protocol", PROTOCOL)] {
        let id = pickles.load(&mut reader)?;
        if !matches!(pickles.get(id), Value::Int(found) if *found == expected) {
            return Err(format!("not a PyTorch file: its {what} is {}", pickles.get(id)));
        }
    }
    let system = pickles.load(&mut reader)?;
    for &(key, value) in pickles.dict(system)? {
        if pickles.text(key)? == "little_endian" && !matches!(pickles.get(value), Value::Bool(true)) {
            return Err("written on a big-endian machine".into());
        }
    }
    let root = pickles.load(&mut reader)?;
    let described = rebuild::describe(&pickles, root)?;
    let keys = pickles.load(&mut reader)?;
    let Value::List(keys) = pickles.get(keys) else { return Err("no list of storages".into()) };
    let elements: HashMap<&str, Element> =
        described.values().map(|d| (d.storage.as_str(), d.element)).collect();
    let mut storages = HashMap::new();
    for (number, &key) in keys.iter().enumerate() {
        let key = pickles.text(key)?;
        let element = elements.get(key).ok_or_else(|| format!("storage {key} belongs to no tensor"))?;
        let place = |reason| format!("storage {} of {}: {reason}", number + 1, keys.len());
        let count = i64::from_le_bytes(reader.array().map_err(place)?);
        let count = usize::try_from(count).map_err(|_| place(format!("{count} elements")))?;
        let len = count.checked_mul(element.bytes()).ok_or_else(|| place(format!("{count} elements")))?;
        storages.insert(key, reader.take(len).map_err(place)?);
    }
    if reader.remaining() > 0 {
        return Err(format!("{} bytes follow the last storage", reader.remaining()));
    }
    rebuild::gather(&described, |description| {
        let bytes = storages.get(description.storage.as_str()).copied();
        let bytes = bytes.ok_or_else(|| format!("its storage {} is missing", description.storage))?;
        if bytes.len() != description.count.saturating_mul(description.element.bytes()) {
            return Err(format!(
                "its storage has {} bytes, {} elements announced",
                bytes.len(),
                description.count
            ));
        }
        Ok(bytes)
    })
}
