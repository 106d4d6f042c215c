//! One array of an `.npz`: its header, where its rows lie, and a row as a picture.

use std::io::{self, Read};
use std::path::Path;

use super::HINT;
use crate::decode::{Limits, RgbImage8};
use crate::error::{Error, Result};
use crate::layout::MOST_NUMBERED_CLASSES;
use crate::npy::{NPY_HEADER_BYTES, NpyHeader};
use crate::source::{PositionedFile, RandomAccess, Spool, no_room};

/// More classes than any set of arrays has: what is compressed may claim any number.
const MOST_LABELS: usize = 1 << 25;

type Archive = zip::ZipArchive<PositionedFile>;

/// An array of images.
pub(super) struct Member {
    /// Whether its rows are in the spool, or in the file itself.
    pub(super) in_spool: bool,
    /// Where the first of them is.
    first: u64,
    pub(super) count: usize,
    height: usize,
    width: usize,
    /// 1 or 3.
    pub(super) channels: usize,
    /// Whether the channels of an image come one after another, and not those of a pixel.
    planar: bool,
}

/// What opening an archive of arrays goes on with from one to the next.
pub(super) struct Unpacking<'a> {
    pub(super) path: &'a Path,
    pub(super) file_bytes: u64,
    pub(super) limits: &'a Limits,
    /// Bytes that may still be unpacked.
    pub(super) left: u64,
    pub(super) spool: Spool,
    /// Bytes in the spool.
    pub(super) spooled: u64,
}

impl Unpacking<'_> {
    fn bad(&self, key: &str, reason: impl std::fmt::Display) -> Error {
        Error::NotAnImageSet {
            path: self.path.to_owned(),
            reason: format!("array `{key}`: {reason}"),
            hint: HINT,
        }
    }

    /// The array of images `key`, which is there.
    pub(super) fn member(&mut self, archive: &mut Archive, key: &str) -> Result<Member> {
        let mut entry = archive.by_name(&format!("{key}.npy")).map_err(|e| self.bad(key, e))?;
        let (header, head) = read_header(&mut entry).map_err(|reason| self.bad(key, reason))?;
        let mut member = Member::of(&header).map_err(|reason| self.bad(key, reason))?;
        let size = entry.size();
        let body = header.count().map_or(u64::MAX, |bytes| bytes as u64);
        if body.checked_add(header.len as u64) != Some(size) {
            return Err(self.bad(key, format!("{size} bytes for shape {:?}: cut off or damaged", header.shape)));
        }
        if (member.height as u64).saturating_mul(member.width as u64) > self.limits.max_pixels {
            let (width, height) = member.size();
            return Err(
                self.bad(key, format!("{width}x{height} px are more than {} pixels", self.limits.max_pixels))
            );
        }
        if entry.compression() == zip::CompressionMethod::Stored {
            let start = entry.data_start().ok_or_else(|| self.bad(key, "it has no place in the file"))?;
            if start.checked_add(size).is_none_or(|end| end > self.file_bytes) {
                return Err(self.bad(key, "it reaches beyond the end of the file"));
            }
            member.first = start + header.len as u64;
            return Ok(member);
        }
        if body > self.left {
            let limit_bytes = self.limits.max_unpacked_bytes;
            return Err(Error::ArchiveTooLarge { path: self.path.to_owned(), limit_bytes });
        }
        self.left -= body;
        member.in_spool = true;
        member.first = self.spooled;
        self.spooled += body;
        self.unpack(head.get(header.len..).unwrap_or_default().chain(entry), body, key)?;
        Ok(member)
    }

    /// Puts the `body` bytes of an array into the spool, and reads on to the end, where the checksum is.
    fn unpack(&mut self, mut reader: impl Read, body: u64, key: &str) -> Result<()> {
        let mut buffer = vec![0; 1 << 16];
        let mut unpacked = 0;
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) if unpacked == body => return Ok(()),
                Ok(0) => return Err(self.bad(key, "it ends before its last image: cut off or damaged")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.bad(key, error)),
            };
            unpacked += count as u64;
            if unpacked > body {
                return Err(self.bad(key, "it unpacks to more than it should: damaged"));
            }
            self.spool.push(buffer.get(..count).unwrap_or_default()).map_err(|e| no_room(self.path, &e))?;
        }
    }

    /// The classes of `count` images, or of any number, where there is an array of them. Labels of another kind, as several
    /// of an image, are no classes.
    pub(super) fn labels(
        &self,
        archive: &mut Archive,
        key: &str,
        count: Option<usize>,
    ) -> Result<Option<Vec<u32>>> {
        match archive.by_name(&format!("{key}.npy")) {
            Err(zip::result::ZipError::FileNotFound) => Ok(None),
            Err(error) => Err(self.bad(key, error)),
            Ok(entry) => read_labels(entry, count).map_err(|reason| self.bad(key, reason)),
        }
    }
}

impl Member {
    /// An array with this header; where it begins is not known yet.
    fn of(header: &NpyHeader) -> std::result::Result<Self, String> {
        let shape = &header.shape;
        let (count, height, width, channels, planar) = match *shape.as_slice() {
            [count, height, width, channels @ (1 | 3)] => (count, height, width, channels, false),
            [count, channels @ (1 | 3), height, width] => (count, height, width, channels, true),
            [count, height, width] => (count, height, width, 1, false),
            _ => return Err(format!("shape {shape:?}, expected [N, H, W, 3], [N, 3, H, W] or grey [N, H, W]")),
        };
        if count == 0 || height == 0 || width == 0 {
            return Err(format!("shape {shape:?} of no images"));
        }
        if header.descr != "|u1" {
            return Err(format!("elements {}, expected |u1 (uint8)", header.descr));
        }
        if header.fortran_order {
            return Err("in Fortran's order; pass `np.ascontiguousarray` of it".into());
        }
        Ok(Member { in_spool: false, first: 0, count, height, width, channels, planar })
    }

    /// Width and height, px.
    pub(super) fn size(&self) -> (u32, u32) {
        (self.width as u32, self.height as u32)
    }

    /// Row `i` of `bytes`, the file or the spool.
    pub(super) fn read_rgb(&self, bytes: &RandomAccess, i: usize) -> io::Result<RgbImage8> {
        let pixels = self.height * self.width;
        let row_bytes = pixels * self.channels;
        let mut row = vec![0; row_bytes];
        bytes.read_exact_at(&mut row, self.first + i as u64 * row_bytes as u64)?;
        let data = match (self.channels, self.planar) {
            (1, _) => row.iter().flat_map(|&grey| [grey; 3]).collect(),
            (_, false) => row,
            (_, true) => (0..pixels).flat_map(|at| row.iter().skip(at).step_by(pixels).copied()).collect(),
        };
        let (width, height) = self.size();
        Ok(RgbImage8 { width, height, data })
    }
}

/// The header, and the beginning of the array that it is in.
fn read_header(entry: &mut impl Read) -> std::result::Result<(NpyHeader, Vec<u8>), String> {
    let mut head = Vec::new();
    entry.take(NPY_HEADER_BYTES as u64).read_to_end(&mut head).map_err(|e| e.to_string())?;
    Ok((NpyHeader::parse(&head)?, head))
}

/// Whole numbers of up to 8 bytes, one for each image: `[N]` or `[N, 1]`; `None` where it is an array of another kind.
fn read_labels<R: Read>(
    mut entry: zip::read::ZipFile<'_, R>,
    images: Option<usize>,
) -> std::result::Result<Option<Vec<u32>>, String> {
    let size = entry.size();
    let (header, head) = read_header(&mut entry)?;
    let &([count] | [count, 1]) = header.shape.as_slice() else { return Ok(None) };
    if let Some(images) = images.filter(|images| *images != count) {
        return Err(format!("shape {:?}, expected [{images}]: the class of each image", header.shape));
    }
    if count > MOST_LABELS {
        return Err(format!("{count} classes, and more than {MOST_LABELS} are not read"));
    }
    let width = match header.descr.as_str() {
        "|u1" | "|i1" => 1,
        "<u2" | "<i2" => 2,
        "<u4" | "<i4" => 4,
        "<u8" | "<i8" => 8,
        _ => return Ok(None),
    };
    let cut_off = || format!("{size} bytes for {count} numbers: cut off or damaged");
    let body = (count as u64).saturating_mul(width as u64);
    if body.checked_add(header.len as u64) != Some(size) {
        return Err(cut_off());
    }
    let mut bytes = Vec::new();
    let rest = head.get(header.len..).unwrap_or_default().chain(entry);
    rest.take(body.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 != body {
        return Err(cut_off());
    }
    let signed = header.descr.contains('i');
    let labels = bytes.chunks_exact(width).map(|bytes| {
        let negative = signed && bytes.last().is_some_and(|&byte| byte >= 0x80);
        // The bytes that are not there are those of its sign.
        let begun = if negative { -1 } else { 0 };
        let number = bytes.iter().rev().fold(begun, |number: i128, &byte| number << 8 | i128::from(byte));
        match u32::try_from(number) {
            Ok(label) if label < MOST_NUMBERED_CLASSES => Ok(label),
            _ => Err(format!("{number} is no class")),
        }
    });
    labels.collect::<std::result::Result<_, _>>().map(Some)
}
