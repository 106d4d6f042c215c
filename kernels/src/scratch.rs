//! Working memory that a thread keeps between calls, so that a tile's temporaries cost no page faults.

use std::any::TypeId;
use std::cell::RefCell;

use crate::cpu::Element;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u64>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` elements of unspecified (but initialised) contents. May be nested.
pub(crate) fn scratch<T: Element, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    debug_assert!(TypeId::of::<T>() == TypeId::of::<f32>() || TypeId::of::<T>() == TypeId::of::<f64>());
    let mut buffer = BUFFERS.with(|b| b.borrow_mut().pop()).unwrap_or_default();
    // One cache line more than asked for, so that the slice can start on one.
    let words = (len * size_of::<T>()).div_ceil(8) + 8;
    if buffer.len() < words {
        buffer.resize(words, 0);
    }
    let offset = buffer.as_ptr().align_offset(64).min(8);
    // SAFETY: `offset + len` elements fit in the buffer (`words` counts the offset); u64 is at least as aligned
    // as f32 and f64, and every bit pattern of initialised u64s is a valid float.
    let slice = unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().add(offset).cast::<T>(), len) };
    let result = f(slice);
    BUFFERS.with(|b| b.borrow_mut().push(buffer));
    result
}
