//! tar.gz: gzip allows no random reads, so the wanted files are unpacked once into a spool, in memory up to a budget and
//! beyond it in an unnamed temporary file. It is read to its end, where the checksum is.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;

use super::spool::{Spool, no_room};
use super::tar_archive::{BLOCK, CUT_OFF, walk_entries};
use super::{OtherFiles, Source, Storage};
use crate::decode::Limits;
use crate::error::{Error, Result};

pub(super) fn unpack(path: &Path, limits: Limits, spool_bytes: usize) -> Result<Source> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut spool = Spool::new(spool_bytes);
    let mut spooled: u64 = 0;
    let mut spool_error: Option<Error> = None;
    let mut other_files = OtherFiles::default();
    // The limit holds for everything that comes out of gzip, wanted or not, so that a bomb ends early.
    let limited = Members::new(BufReader::new(file)).take(limits.max_unpacked_bytes);
    let allowance = Cell::new(u64::MAX);
    let mut archive = tar::Archive::new(Allowed { reader: limited, allowance: &allowance, zeros: 0 });
    let walk = walk_entries(
        archive.entries().map_err(|e| Error::archive(path, e))?,
        Some(&allowance),
        &mut other_files,
        |entry| {
            let offset = spooled;
            let size = copy_into(entry, &mut spool, path, &mut spool_error)?;
            spooled += size;
            if size != entry.size() {
                return Err("it ends in the middle of a file".to_owned());
            }
            Ok((offset, size))
        },
    );
    allowance.set(u64::MAX);
    let mut rest = archive.into_inner();
    let entries = walk.and_then(|entries| rest.end().map(|()| entries));
    let exhausted = rest.reader.limit() == 0;
    if let Some(error) = spool_error {
        return Err(error);
    }
    if exhausted {
        return Err(Error::ArchiveTooLarge { path: path.to_owned(), limit_bytes: limits.max_unpacked_bytes });
    }
    let entries = entries.map_err(|reason| Error::archive(path, reason))?;
    let storage = Storage::Spans(spool.finish().map_err(|e| no_room(path, &e))?);
    Ok(Source { path: path.to_owned(), storage, limits, entries, other_files })
}

/// What the members of a gzip file hold, one after another: there may be many, and zeros after the last.
struct Members<R> {
    /// `None` only while one follows another.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Members<R> {
    fn new(file: R) -> Self {
        Members { member: Some(GzDecoder::new(file)) }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(mut member) = self.member.take() {
            let count = member.read(buffer);
            if !matches!(count, Ok(0)) || buffer.is_empty() {
                self.member = Some(member);
                return count;
            }
            let mut file = member.into_inner();
            if !skip_zeros(&mut file)? {
                return Ok(0);
            }
            self.member = Some(GzDecoder::new(file));
        }
        Ok(0)
    }
}

/// Whether anything but zeros is left; what is left begins with it then.
fn skip_zeros(file: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let bytes = match file.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            bytes => bytes?,
        };
        let (all, other) = (bytes.len(), bytes.iter().position(|&byte| byte != 0));
        file.consume(other.unwrap_or(all));
        if all == 0 || other.is_some() {
            return Ok(all > 0);
        }
    }
}

/// A reader that stops with an error where its allowance ends.
struct Allowed<'a, R> {
    reader: R,
    allowance: &'a Cell<u64>,
    /// How many bytes of zero were read last.
    zeros: usize,
}

impl<R: Read> Allowed<'_, R> {
    /// Reads what is left, and tells whether a block of zeros was the last.
    fn end(&mut self) -> std::result::Result<(), String> {
        io::copy(self, &mut io::sink()).map_err(|e| e.to_string())?;
        if self.zeros < BLOCK { Err(CUT_OFF.to_owned()) } else { Ok(()) }
    }
}

impl<R: Read> Read for Allowed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.allowance.get();
        if left == 0 {
            return Err(io::Error::other("a header or name of more than a MiB"));
        }
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.reader.read(buffer.get_mut(..most).unwrap_or_default())?;
        self.allowance.set(left - count as u64);
        let read = buffer.get(..count).unwrap_or_default();
        match read.iter().rposition(|&byte| byte != 0) {
            Some(last) => self.zeros = count - 1 - last,
            None => self.zeros = self.zeros.saturating_add(count),
        }
        Ok(count)
    }
}

fn copy_into(
    reader: &mut impl Read,
    spool: &mut Spool,
    path: &Path,
    spool_error: &mut Option<Error>,
) -> std::result::Result<u64, String> {
    let mut buffer = [0; 1 << 15];
    let mut total = 0;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.to_string()),
        };
        total += count as u64;
        if let Err(error) = spool.push(buffer.get(..count).unwrap_or_default()) {
            *spool_error = Some(no_room(path, &error));
            return Err(String::new());
        }
    }
}
