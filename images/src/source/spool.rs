//! Room for what has been unpacked: memory up to a budget, beyond it an unnamed temporary file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::RandomAccess;
use crate::error::Error;

/// What is being unpacked.
pub(crate) struct Spool {
    memory_bytes: usize,
    room: Room,
}

enum Room {
    Memory(Vec<u8>),
    File(BufWriter<File>),
}

impl Spool {
    /// Stays in memory up to `memory_bytes`.
    pub(crate) fn new(memory_bytes: usize) -> Self {
        Spool { memory_bytes, room: Room::Memory(Vec::new()) }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Room::Memory(memory) = &self.room
            && memory.len() + bytes.len() > self.memory_bytes
        {
            let mut file = BufWriter::with_capacity(1 << 20, tempfile::tempfile()?);
            file.write_all(memory)?;
            self.room = Room::File(file);
        }
        match &mut self.room {
            Room::Memory(memory) => memory.extend_from_slice(bytes),
            Room::File(file) => file.write_all(bytes)?,
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> io::Result<RandomAccess> {
        match self.room {
            Room::Memory(bytes) => Ok(RandomAccess::Memory(bytes)),
            Room::File(writer) => Ok(RandomAccess::File(writer.into_inner().map_err(|e| e.into_error())?)),
        }
    }
}

/// An error of the temporary file for what `path` unpacks to.
pub(crate) fn no_room(path: &Path, error: &io::Error) -> Error {
    let reason = format!("no room to unpack `{}`: {error}", path.display());
    Error::io(&std::env::temp_dir(), io::Error::new(error.kind(), reason))
}
