//! The event files of whole runs, read back: what TensorBoard shows is what `stats.jsonl` and the pictures say.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::classify;
use super::train::{tiny, train};

/// What an event says of one tag.
#[derive(Debug)]
enum Said {
    Scalar(f32),
    Image { size: [u64; 2], png: Vec<u8> },
}

/// The fields of a protocol buffer: their numbers, and what they hold (numbers as eight bytes).
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                found.push((key >> 3, varint(&mut bytes).to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        found.push((key >> 3, bytes[..length].to_vec()));
        bytes = &bytes[length..];
    }
    found
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// The only field of this number, empty where there is none: what is zero need not be written.
fn one(fields: &[(u64, Vec<u8>)], wanted: u64) -> Vec<u8> {
    let mut found = fields.iter().filter(|(field, _)| *field == wanted);
    let value = found.next().map_or_else(Vec::new, |(_, value)| value.clone());
    assert!(found.next().is_none());
    value
}

/// Steps, tags and what is said of them, in the order of the file (record_writer.h, event.proto, summary.proto).
fn events(file: &Path) -> Vec<(u64, String, Said)> {
    let bytes = std::fs::read(file).unwrap();
    let (mut rest, mut said) = (bytes.as_slice(), Vec::new());
    while !rest.is_empty() {
        let length = number(&rest[..8]) as usize;
        let event = fields(&rest[12..12 + length]);
        rest = &rest[16 + length..];
        let step = one(&event, 2);
        for (_, entry) in fields(&one(&event, 5)) {
            let entry = fields(&entry);
            let tag = String::from_utf8(one(&entry, 1)).unwrap();
            let (scalar, image) = (one(&entry, 2), one(&entry, 4));
            let what = if image.is_empty() {
                Said::Scalar(f32::from_le_bytes(scalar.try_into().unwrap()))
            } else {
                let image = fields(&image);
                Said::Image { size: [number(&one(&image, 2)), number(&one(&image, 1))], png: one(&image, 4) }
            };
            said.push((number(&step), tag, what));
        }
    }
    said
}

fn event_file(run: &Path) -> PathBuf {
    let files = std::fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path());
    let mut events = files.filter(|path| path.to_string_lossy().contains("tfevents"));
    let file = events.next().unwrap();
    assert!(events.next().is_none());
    file
}

/// Every number of `stats.jsonl` is there once, in its order, and nothing else.
fn assert_scalars_are_the_statistics(
    run: &Path,
    said: &[(u64, String, Said)],
    step_of: &dyn Fn(&Value) -> u64,
) {
    let text = std::fs::read_to_string(run.join("stats.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() > 1);
    let mut expected = Vec::new();
    for line in &lines {
        for (key, value) in line.as_object().unwrap().iter().filter(|(key, _)| *key != "timestamp") {
            expected.push((step_of(line), key.clone(), value["mean"].as_f64().unwrap() as f32));
        }
    }
    let scalars = said.iter().filter_map(|(step, tag, what)| match what {
        Said::Scalar(value) => Some((*step, tag.clone(), *value)),
        Said::Image { .. } => None,
    });
    let mut scalars: Vec<_> = scalars.collect();
    scalars.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    expected.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    assert_eq!(scalars, expected);
}

#[test]
fn a_generators_run_shows_its_statistics_its_scores_and_its_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let more = ["train.kimg=3.0", "train.tick_kimg=1.0", "train.image_ticks=2", "train.batch=50"];
    let scored = ["data.scenes=100", "eval.every_kimg=2.0", "eval.images=100", "eval.features=scenes-v1"];
    let (run, _) = train(&tiny(&[&more[..], &scored].concat()), dir.path(), None, None).unwrap();
    let said = events(&event_file(&run));
    assert_scalars_are_the_statistics(&run, &said, &|line| {
        line["Progress/kimg"]["mean"].as_f64().unwrap() as u64
    });
    let scores = said.iter().filter(|(_, tag, _)| tag.starts_with("Metrics/kid100"));
    assert_eq!(scores.map(|(step, ..)| *step).collect::<Vec<_>>(), [2, 3]);
    let pictures: Vec<_> = said
        .iter()
        .filter_map(|(step, tag, what)| match what {
            Said::Image { size, png } => Some((*step, tag.as_str(), *size, png)),
            Said::Scalar(_) => None,
        })
        .collect();
    assert_eq!(pictures.len(), 2);
    for ((step, tag, size, png), kimg) in pictures.into_iter().zip([2, 3]) {
        assert_eq!((step, tag, size), (kimg, "Fakes", [64, 64]));
        let name = format!("fakes{kimg:06}.png");
        assert!(std::fs::read(run.join(&name)).unwrap() == *png, "{name}");
    }
}

#[test]
fn so_does_a_classifiers_run() {
    let dir = tempfile::tempdir().unwrap();
    let (run, _) = classify::train(&classify::tiny(&[]), dir.path(), None, None).unwrap();
    let said = events(&event_file(&run));
    assert_scalars_are_the_statistics(&run, &said, &|line| {
        line["Progress/epoch"]["mean"].as_f64().unwrap() as u64
    });
    assert_eq!(said.iter().filter(|(_, tag, _)| tag == "Accuracy/top1").count(), 3);
}
