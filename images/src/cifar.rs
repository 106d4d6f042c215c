//! The binary version of CIFAR-10 (Krizhevsky 2009): files `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin` of
//! 3073-byte records: label, then 32x32 red, green and blue planes; `batches.meta.txt` holds the class names.

use crate::decode::RgbImage8;
use crate::error::{Error, Result};
use crate::layout::{EVERY_SPLIT, is_split_called};
use crate::source::{Source, base_name};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const RECORD: usize = 1 + 3 * PLANE;
const CLASSES: usize = 10;
const CLASS_NAMES: [&str; CLASSES] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// The batches of one split, in memory (150 MB for all of the training images).
pub(crate) struct Cifar {
    /// File name and records.
    batches: Vec<(String, Vec<u8>)>,
    pub(crate) labels: Vec<u32>,
    pub(crate) class_names: Vec<String>,
    pub(crate) split: Option<String>,
}

impl Cifar {
    /// Reads the batches of a split (`train` unless told otherwise); `None` if the source holds no such files.
    pub(crate) fn open(source: &Source, split: Option<&str>) -> Result<Option<Cifar>> {
        let file_name = |i: usize| source.entries.get(i).map_or(&b""[..], |e| base_name(&e.name));
        let is_batch = |i: &usize| file_name(*i).ends_with(b".bin");
        let is_test = |i: &usize| file_name(*i) == b"test_batch.bin";
        let all: Vec<usize> = (0..source.entries.len()).filter(is_batch).collect();
        if all.is_empty() {
            return Ok(None);
        }
        let (test, train): (Vec<usize>, Vec<usize>) = all.iter().partition(|i| is_test(i));
        let mut found = vec![("train", train), ("test", test)];
        found.retain(|(_, batches)| !batches.is_empty());
        let chosen = match split {
            None => found.first(),
            Some(wanted) => found.iter().find(|(name, _)| is_split_called(name, wanted)),
        };
        let (split, chosen) = match (split, chosen) {
            (Some(EVERY_SPLIT), _) => (None, all),
            (_, Some((name, batches))) => (Some((*name).to_owned()), batches.clone()),
            (split, None) => {
                let found = found.iter().map(|(name, _)| (*name).to_owned()).collect();
                let split = split.unwrap_or_default().to_owned();
                return Err(Error::NoSuchSplit { path: source.path().to_owned(), split, found });
            }
        };
        let mut cifar =
            Cifar { batches: Vec::new(), labels: Vec::new(), class_names: class_names(source)?, split };
        for i in chosen {
            let bytes = source.read(i)?;
            if bytes.is_empty() || bytes.len() % RECORD != 0 {
                return Err(source.bad(i, format!("{} bytes are not whole records of {RECORD}", bytes.len())));
            }
            for &[label, ..] in bytes.as_chunks::<RECORD>().0 {
                if usize::from(label) >= CLASSES {
                    return Err(source.bad(i, format!("a record has label {label}, above {}", CLASSES - 1)));
                }
                cifar.labels.push(u32::from(label));
            }
            cifar.batches.push((String::from_utf8_lossy(file_name(i)).into_owned(), bytes));
        }
        Ok(Some(cifar))
    }

    pub(crate) fn name(&self, i: usize) -> String {
        self.find(i).map_or(String::new(), |(batch, record, _)| format!("{batch}/{record:05}"))
    }

    /// The 3073 bytes of record `i`.
    pub(crate) fn record(&self, i: usize) -> Option<&[u8]> {
        self.find(i).map(|(_, _, bytes)| bytes)
    }

    pub(crate) fn read_rgb(&self, i: usize) -> Option<RgbImage8> {
        let (_, planes) = self.record(i)?.split_first()?;
        let (red, rest) = planes.split_at_checked(PLANE)?;
        let (green, blue) = rest.split_at_checked(PLANE)?;
        let pixels = red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]);
        let side = SIDE as u32;
        Some(RgbImage8 { width: side, height: side, data: pixels.collect() })
    }

    fn find(&self, mut i: usize) -> Option<(&str, usize, &[u8])> {
        for (name, bytes) in &self.batches {
            let records = bytes.len() / RECORD;
            if i < records {
                return Some((name, i, bytes.get(i * RECORD..(i + 1) * RECORD)?));
            }
            i -= records;
        }
        None
    }
}

fn class_names(source: &Source) -> Result<Vec<String>> {
    let meta = source.entries.iter().position(|e| base_name(&e.name) == b"batches.meta.txt");
    let Some(meta) = meta else { return Ok(CLASS_NAMES.map(str::to_owned).to_vec()) };
    let text = String::from_utf8_lossy(&source.read(meta)?).into_owned();
    let names: Vec<String> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
    if names.len() == CLASSES {
        Ok(names)
    } else {
        Err(source.bad(meta, format!("{} class names instead of {CLASSES}", names.len())))
    }
}
