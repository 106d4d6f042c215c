//! Brings the checksums of damaged files up to date: damage must reach the code behind them.

// One type of function for all formats; some of them change the length.
#![allow(clippy::ptr_arg)]

use std::io::Read;

/// CRC-32 of every chunk of a PNG.
pub(crate) fn png(bytes: &mut Vec<u8>) {
    let mut at = 8;
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let Some(end) = at.checked_add(8 + length).filter(|end| end + 4 <= bytes.len()) else { return };
        let checksum = crc32fast::hash(&bytes[at + 4..end]);
        bytes[end..end + 4].copy_from_slice(&checksum.to_be_bytes());
        at = end + 4;
    }
}

/// The sum of every header of a tar, as far as sizes lead from one to the next.
pub(crate) fn tar(bytes: &mut Vec<u8>) {
    const BLOCK: usize = 512;
    let mut at = 0;
    while let Some(header) = bytes.get_mut(at..at + BLOCK) {
        let octal = String::from_utf8_lossy(&header[124..136]).into_owned();
        let size = usize::from_str_radix(octal.trim_matches(['\0', ' ']), 8).unwrap_or(0);
        if header.iter().any(|&byte| byte != 0) {
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let Some(next) = size.checked_next_multiple_of(BLOCK).and_then(|size| at.checked_add(BLOCK + size))
        else {
            return;
        };
        at = next;
    }
}

/// Takes what can still be unpacked, damages nothing more, and packs it again with right checksums.
pub(crate) fn gzip_of_tar(bytes: &mut Vec<u8>) {
    let mut unpacked = Vec::new();
    let _ = flate2::read::GzDecoder::new(bytes.as_slice()).take(1 << 20).read_to_end(&mut unpacked);
    if let Some(at) = unpacked.len().checked_sub(1).map(|last| bytes.len() * 7919 % (last + 1)) {
        unpacked[at] ^= 1 << (bytes.len() % 8);
    }
    tar(&mut unpacked);
    *bytes = super::make::gz(&unpacked);
}

/// Checksums of the superblock and of object headers of one chunk, version 2: those that our packs have. Files of
/// h5py's default format have none.
pub(crate) fn hdf5(bytes: &mut Vec<u8>) {
    const SUPERBLOCK: usize = 44;
    if bytes.len() > SUPERBLOCK + 4 && bytes[8] >= 2 {
        put(bytes, 0, SUPERBLOCK);
    }
    let mut from = 0;
    while let Some(at) = bytes[from..].windows(4).position(|window| window == b"OHDR").map(|at| from + at) {
        let size = bytes.get(at + 6..at + 10).map(|size| u32::from_le_bytes(size.try_into().unwrap()) as usize);
        let end = size.and_then(|size| (at + 10).checked_add(size));
        if let Some(end) = end.filter(|end| end + 4 <= bytes.len()) {
            put(bytes, at, end);
        }
        from = at + 4;
    }
}

fn put(bytes: &mut [u8], start: usize, end: usize) {
    let checksum = lookup3(&bytes[start..end]);
    bytes[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// Bob Jenkins' lookup3 `hashlittle` with initial value 0, which HDF5 uses.
fn lookup3(bytes: &[u8]) -> u32 {
    let word = |block: &[u8], at: usize| {
        (0..4).fold(0, |word, i| word | u32::from(block.get(at + i).copied().unwrap_or(0)) << (8 * i))
    };
    let start = 0xdead_beef_u32.wrapping_add(bytes.len() as u32);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut rest = bytes;
    while rest.len() > 12 {
        let (block, tail) = rest.split_at(12);
        (a, b, c) =
            (a.wrapping_add(word(block, 0)), b.wrapping_add(word(block, 4)), c.wrapping_add(word(block, 8)));
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
        rest = tail;
    }
    if rest.is_empty() {
        return c;
    }
    (a, b, c) = (a.wrapping_add(word(rest, 0)), b.wrapping_add(word(rest, 4)), c.wrapping_add(word(rest, 8)));
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}
