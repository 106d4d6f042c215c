//! Writes one plain kind of HDF5 file from front to back: contiguous datasets in the root group, attributes on the group.
//!
//! The reading crate's public writer holds a dataset of more than one dimension in memory, so a pack larger than memory
//! needs this. Format: "HDF5 File Format Specification Version 3.0": superblock version 2, object headers version 2,
//! link messages in the header (no B-trees). The superblock is written last: a file that was cut short is not HDF5.

use std::io::{self, Seek, SeekFrom, Write};

use crate::source::HDF5_MAGIC;

/// What a dataset's elements are.
#[derive(Clone, Copy)]
pub(super) enum Element {
    U8,
    U32,
    /// UTF-8 of this many bytes, padded with zeros.
    Text(u32),
}

/// A file being written.
pub(super) struct Hdf5File<W: Write + Seek> {
    out: W,
    position: u64,
    links: Vec<Vec<u8>>,
}

const SUPERBLOCK_BYTES: u64 = 48;
/// Data start on a page, which keeps rows of 2^n bytes from straddling pages for no reason.
const DATA_START: u64 = 4096;
const UNDEFINED: u64 = u64::MAX;

impl<W: Write + Seek> Hdf5File<W> {
    pub(super) fn create(mut out: W) -> io::Result<Self> {
        out.write_all(&[0; DATA_START as usize])?;
        Ok(Hdf5File { out, position: DATA_START, links: Vec::new() })
    }

    /// Where the next bytes go; the address of a dataset whose data are written from here on.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Appends raw data.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.position += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Makes the `dims` elements that were written from `address` on a dataset of the root group.
    pub(super) fn dataset(
        &mut self,
        name: &str,
        element: Element,
        dims: &[u64],
        address: u64,
    ) -> io::Result<()> {
        let bytes = dims.iter().product::<u64>() * u64::from(element.size());
        let layout = [&[3, 1][..], &address.to_le_bytes(), &bytes.to_le_bytes()].concat();
        // Space allocated late, fill value written if set; none is set.
        let fill_value = vec![3, 0x0a];
        let messages = [(1, dataspace(Some(dims))), (3, element.datatype()), (5, fill_value), (8, layout)];
        let header = self.object_header(&messages)?;
        let link = [&[1, 0, name.len() as u8][..], name.as_bytes(), &header.to_le_bytes()].concat();
        self.links.push(link);
        Ok(())
    }

    /// Writes the root group with text attributes, then the superblock; gives the file back for syncing.
    pub(super) fn finish(mut self, attributes: &[(&str, &str)]) -> io::Result<W> {
        let link_info = [&[0, 0][..], &UNDEFINED.to_le_bytes(), &UNDEFINED.to_le_bytes()].concat();
        let mut messages = vec![(2, link_info), (10, vec![0, 0])];
        messages.extend(std::mem::take(&mut self.links).into_iter().map(|link| (6, link)));
        messages.extend(attributes.iter().map(|(name, text)| (12, attribute(name, text))));
        let root = self.object_header(&messages)?;
        let mut superblock = HDF5_MAGIC.to_vec();
        superblock.extend([2, 8, 8, 0]);
        for address in [0, UNDEFINED, self.position, root] {
            superblock.extend(address.to_le_bytes());
        }
        superblock.extend(lookup3(&superblock).to_le_bytes());
        debug_assert_eq!(superblock.len() as u64, SUPERBLOCK_BYTES);
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&superblock)?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Version 2 object header in one chunk; returns its address.
    fn object_header(&mut self, messages: &[(u8, Vec<u8>)]) -> io::Result<u64> {
        let padding = self.position.next_multiple_of(8) - self.position;
        self.write(&vec![0; padding as usize])?;
        let address = self.position;
        let body: Vec<u8> = messages
            .iter()
            .flat_map(|(kind, data)| {
                let size = (data.len() as u16).to_le_bytes();
                [&[*kind, size[0], size[1], 0][..], data].concat()
            })
            .collect();
        // Flags 2: the chunk's size takes four bytes; no times, no attribute limits.
        let mut header = [&b"OHDR\x02\x02"[..], &(body.len() as u32).to_le_bytes(), &body].concat();
        header.extend(lookup3(&header).to_le_bytes());
        self.write(&header)?;
        Ok(address)
    }
}

impl Element {
    fn size(self) -> u32 {
        match self {
            Element::U8 => 1,
            Element::U32 => 4,
            Element::Text(width) => width,
        }
    }

    fn datatype(self) -> Vec<u8> {
        let size = self.size().to_le_bytes();
        match self {
            // Class 0: fixed point, little-endian, unsigned, all bits used.
            Element::U8 | Element::U32 => {
                let bits = (self.size() as u16 * 8).to_le_bytes();
                [&[0x10, 0, 0, 0][..], &size, &[0, 0], &bits].concat()
            }
            // Class 3: string, null-padded (1), UTF-8 (1 << 4).
            Element::Text(_) => [&[0x13, 0x11, 0, 0][..], &size].concat(),
        }
    }
}

/// Version 2 dataspace; `None` is a scalar.
fn dataspace(dims: Option<&[u64]>) -> Vec<u8> {
    let kind = u8::from(dims.is_some());
    let dims = dims.unwrap_or_default();
    let mut message = vec![2, dims.len() as u8, 0, kind];
    message.extend(dims.iter().flat_map(|d| d.to_le_bytes()));
    message
}

/// Version 3 attribute holding one text.
fn attribute(name: &str, text: &str) -> Vec<u8> {
    let text = if text.is_empty() { "\0" } else { text };
    let (datatype, space) = (Element::Text(text.len() as u32).datatype(), dataspace(None));
    let size = |n: usize| (n as u16).to_le_bytes();
    let sizes = [size(name.len() + 1), size(datatype.len()), size(space.len())].concat();
    [&[3, 0][..], &sizes, &[1], name.as_bytes(), &[0], &datatype, &space, text.as_bytes()].concat()
}

/// The checksum of HDF5 metadata: Bob Jenkins' lookup3, `hashlittle` with initial value 0.
fn lookup3(bytes: &[u8]) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(bytes.len() as u32);
    let (mut a, mut b, mut c) = (start, start, start);
    let word = |block: &[u8], at: usize| {
        (0..4).fold(0_u32, |word, i| word | u32::from(block.get(at + i).copied().unwrap_or(0)) << (8 * i))
    };
    let mut rest = bytes;
    while let Some((_, after)) = rest.split_at_checked(12).filter(|(_, after)| !after.is_empty()) {
        a = a.wrapping_add(word(rest, 0));
        b = b.wrapping_add(word(rest, 4));
        c = c.wrapping_add(word(rest, 8));
        a = a.wrapping_sub(c) ^ c.rotate_left(4);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(6);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(8);
        b = b.wrapping_add(a);
        a = a.wrapping_sub(c) ^ c.rotate_left(16);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(19);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(4);
        b = b.wrapping_add(a);
        rest = after;
    }
    if rest.is_empty() {
        return c;
    }
    a = a.wrapping_add(word(rest, 0));
    b = b.wrapping_add(word(rest, 4));
    c = c.wrapping_add(word(rest, 8));
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference values from the self-test in Jenkins' lookup3.c.
    #[test]
    fn checksum_matches_the_published_values() {
        assert_eq!(lookup3(b""), 0xdead_beef);
        assert_eq!(lookup3(b"Four score and seven years ago"), 0x1777_0551);
    }
}
