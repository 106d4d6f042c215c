//! Writes images row by row into an `.npz` that numpy reads: a zip with one stored file, `arr_0.npy`.
//!
//! How many images there are is known when the last one is written, and stands at the beginning of the file: the archive is
//! put together here, since libraries of archives do not go back to what they have written. All sizes are of 64 bits
//! (PKWARE's APPNOTE 6.3.10, sections 4.3 to 4.5).

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crc32fast::Hasher;

use crate::error::{Error, Result};
use crate::npy::npy_header;
use crate::whole_file::WholeFile;

const NAME: &[u8] = b"arr_0.npy";
/// Bytes of the header of `arr_0.npy`, whatever the number of images.
const NPY_BYTES: usize = 128;
/// A size or a place that is in the record of 64 bits.
const ELSEWHERE: [u8; 4] = [0xff; 4];
/// Version 4.5: sizes of 64 bits.
const VERSION: [u8; 2] = [45, 0];
/// Midnight of the first of January 1980, since the same images are to be the same file.
const TIME_AND_DATE: [u8; 4] = [0, 0, 0x21, 0];

/// An `.npz` that is being written; without [`ArrayWriter::finish`] there is none.
pub struct ArrayWriter {
    path: PathBuf,
    whole: WholeFile,
    file: BufWriter<File>,
    height: usize,
    width: usize,
    rows: Hasher,
    row_bytes: u64,
}

impl ArrayWriter {
    /// For images of `height` x `width` px at `path`, beside which the file lies until it is whole.
    ///
    /// # Errors
    /// When no file can be made there, or an image has no pixels.
    pub fn create(path: &Path, height: usize, width: usize) -> Result<Self> {
        if height == 0 || width == 0 {
            let reason = format!("images of {width}x{height} px");
            return Err(Error::io(path, io::Error::new(io::ErrorKind::InvalidInput, reason)));
        }
        let whole = WholeFile::beside(path)?;
        let file = whole.file().try_clone().map_err(|e| Error::io(path, e))?;
        let mut writer = ArrayWriter {
            path: path.to_owned(),
            whole,
            file: BufWriter::with_capacity(1 << 20, file),
            height,
            width,
            rows: Hasher::new(),
            row_bytes: 0,
        };
        writer.write_beginning().map_err(|e| Error::io(path, e))?;
        Ok(writer)
    }

    /// Adds images: the bytes of one or more, `[height, width, 3]` each.
    ///
    /// # Errors
    /// When they are no whole number of images, or the disk is full.
    pub fn push(&mut self, images: &[u8]) -> Result<()> {
        if !images.len().is_multiple_of(self.height * self.width * 3) {
            let reason = format!("{} bytes are no images of {}x{} px", images.len(), self.width, self.height);
            return Err(Error::io(&self.path, io::Error::new(io::ErrorKind::InvalidInput, reason)));
        }
        self.rows.update(images);
        self.row_bytes += images.len() as u64;
        self.file.write_all(images).map_err(|e| Error::io(&self.path, e))
    }

    /// Writes what is left and gives the file its name, which must be free.
    ///
    /// # Errors
    /// When the disk is full, or there is something of that name by now.
    pub fn finish(mut self) -> Result<()> {
        let written = self.write_end().and_then(|()| self.file.flush());
        written.map_err(|e| Error::io(&self.path, e))?;
        self.whole.keep_new(&self.path)
    }

    fn count(&self) -> usize {
        (self.row_bytes / (self.height * self.width * 3) as u64) as usize
    }

    /// The entry and the header of the array, with as many rows as there are.
    fn write_beginning(&mut self) -> io::Result<()> {
        let (npy, entry) = self.beginning();
        self.file.write_all(&[b"PK\x03\x04", &entry.common[..], NAME, &entry.sizes, &npy].concat())
    }

    /// The directory of one entry, then the beginning once more.
    fn write_end(&mut self) -> io::Result<()> {
        let (_, entry) = self.beginning();
        // No comment, first disk, attributes of no system, at the beginning of the file.
        let rest = [0; 14];
        let directory = [b"PK\x01\x02", &VERSION[..], &entry.common, &rest, NAME, &entry.sizes].concat();
        let at = self.file.stream_position()?;
        let end = at + directory.len() as u64;
        let long = [
            b"PK\x06\x06",
            &44u64.to_le_bytes()[..],
            &VERSION,
            &VERSION,
            &[0; 8],
            &1u64.to_le_bytes(),
            &1u64.to_le_bytes(),
            &(directory.len() as u64).to_le_bytes(),
            &at.to_le_bytes(),
        ];
        let locator = [b"PK\x06\x07", &[0; 4][..], &end.to_le_bytes(), &1u32.to_le_bytes()];
        let short = [b"PK\x05\x06", &[0; 4][..], &[1, 0, 1, 0], &ELSEWHERE, &ELSEWHERE, &[0; 2]];
        self.file.write_all(&[directory, long.concat(), locator.concat(), short.concat()].concat())?;
        self.file.seek(SeekFrom::Start(0))?;
        self.write_beginning()
    }

    fn beginning(&self) -> (Vec<u8>, Entry) {
        let npy = npy_header("|u1", &[self.count(), self.height, self.width, 3], NPY_BYTES);
        let mut checksum = Hasher::new();
        checksum.update(&npy);
        checksum.combine(&self.rows);
        let entry = Entry::new(checksum.finalize(), npy.len() as u64 + self.row_bytes);
        (npy, entry)
    }
}

/// What stands of the array both before it and in the directory.
struct Entry {
    /// Version to lengths of name and further fields.
    common: Vec<u8>,
    /// The field of sizes of 64 bits.
    sizes: Vec<u8>,
}

impl Entry {
    fn new(checksum: u32, bytes: u64) -> Self {
        let sizes = [&[1, 0, 16, 0][..], &bytes.to_le_bytes(), &bytes.to_le_bytes()].concat();
        // Neither flags nor compression.
        let method = [0; 4];
        let lengths = [(NAME.len() as u16).to_le_bytes(), (sizes.len() as u16).to_le_bytes()].concat();
        let checksum = checksum.to_le_bytes();
        let common =
            [&VERSION[..], &method, &TIME_AND_DATE, &checksum, &ELSEWHERE, &ELSEWHERE, &lengths].concat();
        Self { common, sizes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands of the array in its own header is what the directory says: readers of streams have nothing else.
    #[test]
    fn both_headers_have_the_checksum_and_sizes_of_64_bits() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.npz");
        let mut writer = ArrayWriter::create(&path, 1, 2).expect("created");
        for image in [[1u8; 6], [7; 6]] {
            writer.push(&image).expect("pushed");
        }
        writer.finish().expect("finished");
        let file = std::fs::read(&path).expect("read");
        let (header, rest) = file.split_at(30 + NAME.len() + 20);
        let (array, directory) = rest.split_at(NPY_BYTES + 12);
        let bytes = (array.len() as u64).to_le_bytes();
        // Signature, version 45, no flags, stored, time and date; checksum; sizes elsewhere; lengths of name and field; these.
        let begins =
            [b"PK\x03\x04", &[45, 0, 0, 0, 0, 0, 0, 0, 33, 0][..], &crc32fast::hash(array).to_le_bytes()]
                .concat();
        let ends = [&[255; 8][..], &[9, 0, 20, 0], b"arr_0.npy", &[1, 0, 16, 0], &bytes, &bytes].concat();
        assert_eq!(header, [&begins[..], &ends].concat());
        // The same in the directory, behind the version that made it.
        assert!(directory.starts_with(&[b"PK\x01\x02", &[45, 0][..], &begins[4..], &ends[..12]].concat()));
        assert_eq!(
            Entry::new(0, 5 << 30).sizes,
            [&[1, 0, 16, 0][..], &[0, 0, 0, 64, 1, 0, 0, 0].repeat(2)].concat()
        );
    }

    #[test]
    fn what_got_the_name_meanwhile_stays() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.npz");
        let mut writer = ArrayWriter::create(&path, 1, 1).expect("created");
        writer.push(&[0; 3]).expect("pushed");
        std::fs::write(&path, "another's").expect("written");
        assert!(writer.finish().is_err() && std::fs::read(&path).expect("read") == b"another's");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
        assert!(ArrayWriter::create(&path, 0, 4).is_err());
    }
}
