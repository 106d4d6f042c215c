//! What the fuzz targets share.

pub mod readers;
pub mod repair;

use libfuzzer_sys::fuzzer_mutate;

/// libFuzzer's own change; three times in four with the checksums brought up to date afterwards, so that it gets past
/// them. Gives the new size.
pub fn mutate(bytes: &mut [u8], size: usize, max: usize, seed: u32, repair: fn(&mut Vec<u8>)) -> usize {
    let size = fuzzer_mutate(bytes, size, max);
    if seed % 4 == 0 {
        return size;
    }
    let mut repaired = bytes[..size].to_vec();
    repair(&mut repaired);
    let size = repaired.len().min(max);
    bytes[..size].copy_from_slice(&repaired[..size]);
    size
}
