//! A `.pth` as PyTorch writes it since 1.6: a zip with `data.pkl` and one file for each storage.

use std::collections::HashMap;
use std::io::{Cursor, Read};

use super::StateDict;
use super::pickle::{Parsed, Pickles, Reader};
use super::rebuild;

/// Reads a whole archive.
pub(super) fn read(bytes: &[u8]) -> Parsed<StateDict> {
    let mut archive =
        zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| format!("damaged or cut-off zip file: {e}"))?;
    let pickle_name = archive.file_names().find(|name| name.ends_with("/data.pkl")).map(str::to_owned);
    let pickle_name = pickle_name.ok_or("a zip file, but not one of PyTorch's: it has no data.pkl")?;
    let folder = pickle_name.trim_end_matches("data.pkl").to_owned();
    if let Ok(order) = entry(&mut archive, &format!("{folder}byteorder"), 16)
        && order != b"little"
    {
        return Err("written on a big-endian machine".into());
    }
    let pickle = entry(&mut archive, &pickle_name, 1 << 24)?;
    let mut pickles = Pickles::default();
    let root = pickles.load(&mut Reader::new(&pickle))?;
    let described = rebuild::describe(&pickles, root)?;
    let mut storages = HashMap::new();
    // Stored, not packed, and none inside another: together they cannot be larger than the file they are in.
    let mut left = bytes.len() as u64;
    for description in described.values() {
        if !storages.contains_key(&description.storage) {
            let name = format!("{folder}data/{}", description.storage);
            let storage = entry(&mut archive, &name, left)?;
            left -= storage.len() as u64;
            storages.insert(description.storage.clone(), storage);
        }
    }
    rebuild::gather(&described, |description| {
        let bytes = storages.get(&description.storage).ok_or("its storage is missing")?;
        if bytes.len() < description.count.saturating_mul(description.element.bytes()) {
            return Err(format!(
                "its storage has {} bytes, {} elements announced",
                bytes.len(),
                description.count
            ));
        }
        Ok(bytes)
    })
}

fn entry(archive: &mut zip::ZipArchive<Cursor<&[u8]>>, name: &str, limit: u64) -> Parsed<Vec<u8>> {
    let file = archive.by_name(name).map_err(|e| format!("{name}: {e}"))?;
    let mut data = Vec::new();
    file.take(limit + 1).read_to_end(&mut data).map_err(|e| format!("{name}: {e}"))?;
    if data.len() as u64 > limit {
        return Err(format!("{name} is larger than {limit} bytes"));
    }
    Ok(data)
}
