//! Rows of a chunked dataset, as h5py writes them with `chunks=` or `compression="gzip"`.
//!
//! Where each chunk holds whole images and is stored plain or with deflate and shuffle (which changes nothing for bytes),
//! the chunk index is read once and chunks are then read where they lie: the library's own window reads walk the whole
//! index each time, half a second for a 10 GB pack of one-image chunks. Other layouts and filters go through the library.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use hdf5::Dataset;

use crate::source::read_exact_at;

type Outcome<T> = std::result::Result<T, String>;

pub(super) struct ChunkedRows {
    count: usize,
    row_bytes: usize,
    /// Rows read at a time, a whole chunk where it is not too large.
    block_rows: usize,
    blocks: Blocks,
    /// The block read last: neighbouring rows come from the same chunk.
    last: Mutex<Option<(usize, Arc<Vec<u8>>)>>,
}

enum Blocks {
    /// The chunks there are, by ascending block, and the filters to undo, in order of writing.
    Direct {
        file: File,
        spans: Vec<Span>,
        filters: Vec<u16>,
    },
    Library(Dataset),
}

#[derive(Clone, Copy)]
struct Span {
    block: usize,
    address: u64,
    stored_bytes: u32,
    /// Filters that were left out for this chunk.
    skipped: u32,
}

const DEFLATE: u16 = 1;
const SHUFFLE: u16 = 2;
/// Larger blocks are read in parts.
const MAX_BLOCK_BYTES: usize = 256 << 20;

impl ChunkedRows {
    /// `shape` is that of `images`, already found sane: `shape[0]` rows of `row_bytes`.
    pub(super) fn open(path: &Path, images: Dataset, shape: &[u64], row_bytes: usize) -> Outcome<ChunkedRows> {
        let count = shape.first().copied().unwrap_or(0) as usize;
        let chunk = images.chunk_shape().map_err(|e| e.to_string())?.unwrap_or_default();
        check_sides(&chunk, shape)?;
        check_sizes(&images, path)?;
        // Chunks are stored whole, also one that is longer than what there is.
        let chunk_rows = chunk.first().copied().unwrap_or(1).max(1) as usize;
        let block_rows = chunk_rows.min((MAX_BLOCK_BYTES / row_bytes).max(1));
        let filters: Vec<u16> = images.filter_pipeline().iter().map(|filter| filter.id).collect();
        let simple = filters.iter().all(|id| [DEFLATE, SHUFFLE].contains(id));
        let blocks = if simple && block_rows == chunk_rows && chunk.get(1..) == shape.get(1..) {
            let file = File::open(path).map_err(|e| e.to_string())?;
            let spans = chunk_spans(&images, chunk_rows)?;
            Blocks::Direct { file, spans, filters }
        } else {
            Blocks::Library(images)
        };
        Ok(ChunkedRows { count, row_bytes, block_rows, blocks, last: Mutex::new(None) })
    }

    /// Rows `start..start + count`, inside the dataset.
    pub(super) fn read(&self, start: usize, count: usize) -> Outcome<Vec<u8>> {
        let mut rows = Vec::with_capacity(count * self.row_bytes);
        let mut at = start;
        while at < start + count {
            let block = at / self.block_rows;
            let bytes = self.block(block)?;
            let first = at - block * self.block_rows;
            let end = (first + start + count - at).min(self.block_rows);
            let part = bytes.get(first * self.row_bytes..end * self.row_bytes);
            rows.extend_from_slice(part.ok_or_else(|| format!("a chunk ends before row {at}"))?);
            at += end - first;
        }
        Ok(rows)
    }

    fn block(&self, block: usize) -> Outcome<Arc<Vec<u8>>> {
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((number, bytes)) = &*last()
            && *number == block
        {
            return Ok(bytes.clone());
        }
        let bytes = Arc::new(match &self.blocks {
            Blocks::Direct { file, spans, filters } => {
                let found = spans.binary_search_by_key(&block, |span| span.block);
                let span = found.ok().and_then(|at| spans.get(at)).ok_or("these rows were never written")?;
                self.unpack(file, *span, filters)?
            }
            Blocks::Library(dataset) => {
                let start = block * self.block_rows;
                let rows = self.block_rows.min(self.count - start);
                dataset.read_raw_rows(start as u64, rows as u64).map_err(|e| e.to_string())?
            }
        });
        *last() = Some((block, bytes.clone()));
        Ok(bytes)
    }

    fn unpack(&self, file: &File, span: Span, filters: &[u16]) -> Outcome<Vec<u8>> {
        let whole = self.block_rows * self.row_bytes;
        // Deflate never grows data by more than a few bytes in a thousand: a larger claim is damage.
        if span.stored_bytes as usize > whole + whole / 100 + 1024 {
            return Err(format!("a chunk claims {} bytes for {whole}", span.stored_bytes));
        }
        let mut stored = vec![0; span.stored_bytes as usize];
        read_exact_at(file, &mut stored, span.address).map_err(|e| e.to_string())?;
        let deflated = filters.iter().position(|&id| id == DEFLATE).is_some_and(|i| span.skipped >> i & 1 == 0);
        if deflated {
            let mut bytes = Vec::with_capacity(whole);
            let inflate = flate2::read::ZlibDecoder::new(&stored[..]);
            inflate
                .take(whole as u64 + 1)
                .read_to_end(&mut bytes)
                .map_err(|e| format!("damaged chunk: {e}"))?;
            stored = bytes;
        }
        if stored.len() == whole {
            Ok(stored)
        } else {
            Err(format!("a chunk holds {} bytes instead of {whole}", stored.len()))
        }
    }
}

/// The library walks over all of a chunk for each row that it reads, be most of it outside the dataset. Only along rows,
/// which may be appended, can a chunk that somebody wrote be longer than what there is.
fn check_sides(chunk: &[u64], shape: &[u64]) -> Outcome<()> {
    const ROWS: u64 = 1024;
    let rows = [shape.first().copied().unwrap_or(0).max(ROWS)];
    let allowed = rows.iter().chain(shape.iter().skip(1));
    match chunk.iter().zip(allowed).any(|(side, allowed)| side > allowed) {
        true => Err(format!("a chunk claims to be {chunk:?}, larger than the images {shape:?}")),
        false => Ok(()),
    }
}

/// The library makes room for as much as a chunk claims to take in the file.
fn check_sizes(images: &Dataset, path: &Path) -> Outcome<()> {
    let file_bytes = path.metadata().map_err(|e| e.to_string())?.len();
    match images.chunks().map_err(|e| e.to_string())?.iter().find(|chunk| chunk.storage_size > file_bytes) {
        Some(chunk) => Err(format!("a chunk claims {} bytes in a file of {file_bytes}", chunk.storage_size)),
        None => Ok(()),
    }
}

fn chunk_spans(images: &Dataset, chunk_rows: usize) -> Outcome<Vec<Span>> {
    let span = |chunk: hdf5::Chunk| {
        let row = chunk.offset.first().copied().unwrap_or(0) as usize;
        let stored_bytes =
            u32::try_from(chunk.storage_size).map_err(|_| "a chunk claims over 4 GiB".to_owned())?;
        Ok(Span { block: row / chunk_rows, address: chunk.address, stored_bytes, skipped: chunk.filter_mask })
    };
    let chunks = images.chunks().map_err(|e| e.to_string())?;
    let mut spans = chunks.into_iter().map(span).collect::<Outcome<Vec<Span>>>()?;
    spans.sort_unstable_by_key(|span| span.block);
    Ok(spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_along_rows_is_a_chunk_longer_than_what_there_is() {
        let shape = [300, 6, 7, 3];
        for fine in [[1, 6, 7, 3], [300, 3, 7, 1], [1024, 6, 7, 3]] {
            assert_eq!(check_sides(&fine, &shape), Ok(()), "{fine:?}");
        }
        for wrong in [[4_194_304, 3, 7, 3], [1025, 6, 7, 3], [1, 7, 7, 3], [1, 6, 8, 3], [1, 6, 7, 4]] {
            assert!(check_sides(&wrong, &shape).is_err_and(|e| e.contains("larger than")), "{wrong:?}");
        }
        assert_eq!(check_sides(&[5000, 6, 7, 3], &[5000, 6, 7, 3]), Ok(()));
    }
}
