//! TensorBoard event files: scalars and images, written without TensorBoard.
//!
//! A file is a sequence of records `length u64 | masked crc32c(length) | bytes | masked crc32c(bytes)`, all
//! little-endian (tensorflow/core/lib/io/record_writer.h); the bytes are an `Event` protocol buffer
//! (tensorflow/core/util/event.proto), of which the handful of fields used here is encoded by hand.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// An open event file.
pub struct EventFile(File);

impl EventFile {
    /// Creates `events.out.tfevents.<seconds>.nestgen` in `dir`; never overwrites one.
    pub fn create(dir: &Path, wall_secs: f64) -> io::Result<Self> {
        let mut seconds = wall_secs as u64;
        let file = loop {
            let path = dir.join(format!("events.out.tfevents.{seconds:010}.nestgen"));
            match File::create_new(path) {
                // TensorBoard reads the files of a folder in order of their names.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => seconds += 1,
                other => break other?,
            }
        };
        let mut events = Self(file);
        let mut event = Message::default();
        event.double(1, wall_secs);
        event.bytes(3, b"brain.Event:2");
        events.record(&event.0)?;
        Ok(events)
    }

    /// Appends one value of each named series at `step` (thousands of images are a good step).
    pub fn scalars(&mut self, wall_secs: f64, step: u64, scalars: &[(&str, f64)]) -> io::Result<()> {
        let mut summary = Message::default();
        for (tag, value) in scalars {
            let mut entry = Message::default();
            entry.bytes(1, tag.as_bytes());
            entry.float(2, *value as f32);
            summary.bytes(1, &entry.0);
        }
        self.summary(wall_secs, step, &summary)
    }

    /// Appends an image that is encoded already (PNG).
    pub fn image(
        &mut self,
        wall_secs: f64,
        step: u64,
        tag: &str,
        size: [u32; 2],
        png: &[u8],
    ) -> io::Result<()> {
        /// RGB, in the `Image` message's count of channels.
        const COLORSPACE_RGB: u64 = 3;
        let [width, height] = size;
        let mut image = Message::default();
        image.varint(1, u64::from(height));
        image.varint(2, u64::from(width));
        image.varint(3, COLORSPACE_RGB);
        image.bytes(4, png);
        let mut entry = Message::default();
        entry.bytes(1, tag.as_bytes());
        entry.bytes(4, &image.0);
        let mut summary = Message::default();
        summary.bytes(1, &entry.0);
        self.summary(wall_secs, step, &summary)
    }

    fn summary(&mut self, wall_secs: f64, step: u64, summary: &Message) -> io::Result<()> {
        let mut event = Message::default();
        event.double(1, wall_secs);
        event.varint(2, step);
        event.bytes(5, &summary.0);
        self.record(&event.0)
    }

    fn record(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = (bytes.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(bytes.len() + 16);
        record.extend_from_slice(&length);
        record.extend_from_slice(&masked_crc(&length).to_le_bytes());
        record.extend_from_slice(bytes);
        record.extend_from_slice(&masked_crc(bytes).to_le_bytes());
        // One write a record: a run that is killed leaves at most one torn record, which readers skip.
        self.0.write_all(&record)
    }
}

/// A protocol buffer under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// Wire types: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
    fn key(&mut self, field: u64, wire_type: u64) {
        self.raw_varint(field << 3 | wire_type);
    }

    fn varint(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.raw_varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.raw_varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }
}

/// CRC-32C (Castagnoli), rotated and offset so that a checksum of data that holds checksums stays good.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0u32, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_match_rfc_3720() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn records_are_framed_as_readers_expect() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let mut events = EventFile::create(dir.path(), 1e9)?;
        events.scalars(1e9, 300, &[("Loss/G", 0.5)])?;
        events.image(1e9, 1, "Fakes", [40, 24], b"png")?;
        let path = dir.path().join("events.out.tfevents.1000000000.nestgen");
        let bytes = std::fs::read(path)?;
        let mut rest = bytes.as_slice();
        let mut records = Vec::new();
        while let Some((head, tail)) = rest.split_at_checked(12) {
            let length = u64::from_le_bytes(std::array::from_fn(|i| head[i]));
            assert_eq!(head[8..], masked_crc(&head[..8]).to_le_bytes());
            let (body, tail) = tail.split_at(length as usize);
            assert_eq!(tail[..4], masked_crc(body).to_le_bytes());
            records.push(body);
            rest = &tail[4..];
        }
        assert!(rest.is_empty());
        assert!(records[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        // step 300 as a varint, then summary { value { tag, simple_value } }.
        let expected = b"\x10\xac\x02\x2a\x0f\x0a\x0d\x0a\x06Loss/G\x15\x00\x00\x00\x3f";
        assert!(records[1].ends_with(expected), "{:x?}", records[1]);
        // summary { value { tag, image { height, width, colorspace, encoded } } } (summary.proto)
        let expected = b"\x2a\x16\x0a\x14\x0a\x05Fakes\x22\x0b\x08\x18\x10\x28\x18\x03\x22\x03png";
        assert!(records[2].ends_with(expected), "{:x?}", records[2]);
        // A second file in the same second gets a name of its own.
        EventFile::create(dir.path(), 1e9)?;
        assert_eq!(std::fs::read_dir(dir.path())?.count(), 2);
        Ok(())
    }
}
