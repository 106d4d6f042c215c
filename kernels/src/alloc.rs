//! Keeps the pages of freed buffers mapped, starts large buffers at a cache line, and counts what is in use.
//!
//! A training step allocates and frees the same few gigabytes over and over. glibc gives large buffers
//! back to the system at once, and the page faults of getting them again cost more than the arithmetic of an
//! elementwise pass. And it starts them 16 bytes into a cache line, so that every AVX-512 load and store touches two.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Bytes from which a buffer starts at a cache line.
const LARGE: usize = 4096;
/// Bytes of a cache line, and of an AVX-512 register.
const LINE: usize = 64;

/// What is asked of the system: for a large buffer a line more, in which its start is moved.
fn asked(layout: Layout) -> Layout {
    let more = if is_moved(layout) { LINE } else { 0 };
    Layout::from_size_align(layout.size() + more, layout.align()).unwrap_or(layout)
}

/// Whether a buffer of this layout starts at a cache line because of what is done here. The system's own function for
/// aligned memory does not find freed blocks of the same size again, and memory grows.
fn is_moved(layout: Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= 16
}

/// Moves the start of a block from the system to the next cache line, and writes down before it where the block started.
///
/// # Safety
/// `block` is null or holds what [`asked`] says for a layout that [`is_moved`].
unsafe fn moved(block: *mut u8) -> *mut u8 {
    if block.is_null() {
        return block;
    }
    // The system's blocks start at a multiple of a pointer's size at least, so there is room for one.
    let start = block.wrapping_add(LINE - block.addr() % LINE);
    // SAFETY: inside the block, before its new start; see above for the room.
    unsafe { start.cast::<*mut u8>().sub(1).write_unaligned(block) };
    start
}

/// The system's allocator, counting, with large buffers at cache lines. A program that computes makes it its
/// `#[global_allocator]`; without it products are slower (docs/kernels.md).
pub struct Counting;

// SAFETY: blocks are the system's, of at least the caller's size and alignment; a large one is entered a few bytes later,
// which is undone when it is freed (the same layout gives the same decision). The count is beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe {
            let block = System.alloc(asked(layout));
            if is_moved(layout) { moved(block) } else { block }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe {
            let block = System.alloc_zeroed(asked(layout));
            if is_moved(layout) { moved(block) } else { block }
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above; `moved` wrote the block's start before `memory`.
        unsafe {
            let block =
                if is_moved(layout) { memory.cast::<*mut u8>().sub(1).read_unaligned() } else { memory };
            System.dealloc(block, asked(layout));
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller vouches that `size` makes a layout.
        let larger = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if !is_moved(layout) && !is_moved(larger) {
            LIVE_BYTES.fetch_add(size, Ordering::Relaxed);
            LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
            // SAFETY: as above.
            return unsafe { System.realloc(memory, layout, size) };
        }
        // The system may move a block to another place in a line, so it cannot do this.
        // SAFETY: both blocks hold the bytes that are copied, and the old one is not used again.
        unsafe {
            let new = self.alloc(larger);
            if !new.is_null() {
                std::ptr::copy_nonoverlapping(memory, new, size.min(layout.size()));
                self.dealloc(memory, layout);
            }
            new
        }
    }
}

static PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);

/// [`Counting`] that also keeps the highest count: for tests of how much memory something may take.
pub struct CountingPeak;

// SAFETY: every call goes to `Counting` with the caller's arguments; the peak is beside it.
unsafe impl GlobalAlloc for CountingPeak {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let memory = unsafe { Counting.alloc(layout) };
        PEAK_BYTES.fetch_max(live_bytes(), Ordering::Relaxed);
        memory
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let memory = unsafe { Counting.alloc_zeroed(layout) };
        PEAK_BYTES.fetch_max(live_bytes(), Ordering::Relaxed);
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { Counting.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        let memory = unsafe { Counting.realloc(memory, layout, size) };
        PEAK_BYTES.fetch_max(live_bytes(), Ordering::Relaxed);
        memory
    }
}

/// The most [`live_bytes`] since [`restart_peak`]; 0 unless [`CountingPeak`] is the allocator.
pub fn peak_bytes() -> usize {
    PEAK_BYTES.load(Ordering::Relaxed)
}

/// Starts [`peak_bytes`] anew from what is in use now, and gives that.
pub fn restart_peak() -> usize {
    let live = live_bytes();
    PEAK_BYTES.store(live, Ordering::Relaxed);
    live
}

/// Bytes that the process has allocated and not freed; 0 unless [`Counting`] is its allocator.
pub fn live_bytes() -> usize {
    LIVE_BYTES.load(Ordering::Relaxed)
}

/// Tunes the C library's allocator: no private mappings for large buffers, no trimming of the heap. Call once at
/// the start of a program, before threads start. Does nothing where the C library is not glibc.
pub fn keep_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let settings = [
            (libc::M_MMAP_MAX, 0),
            // None at all: the largest number there is would still be one, 2 GiB, and what is given back is faulted in again.
            (libc::M_TRIM_THRESHOLD, -1),
            (libc::M_TOP_PAD, 64 << 20),
            // One heap for all threads: a buffer that a worker frees is there for the main thread.
            (libc::M_ARENA_MAX, 1),
        ];
        for (parameter, value) in settings {
            // SAFETY: mallopt only changes settings of the allocator, under its own lock.
            unsafe { libc::mallopt(parameter, value) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_start_at_cache_lines_and_keep_their_contents() {
        let layout = |size: usize| Layout::from_size_align(size, 4).unwrap();
        for (from, to) in [(100, 200), (100, 5000), (5000, 100_000), (100_000, 100), (LARGE - 1, LARGE)] {
            // SAFETY: blocks are written and read inside their sizes, and freed once with the layout they have.
            unsafe {
                let memory = Counting.alloc(layout(from));
                (0..from).for_each(|i| memory.add(i).write(i as u8));
                let memory = Counting.realloc(memory, layout(from), to);
                assert!(to < LARGE || memory.addr().is_multiple_of(LINE));
                assert!((0..from.min(to)).all(|i| memory.add(i).read() == i as u8));
                Counting.dealloc(memory, layout(to));
                let zeros = Counting.alloc_zeroed(layout(to));
                assert!((0..to).all(|i| zeros.add(i).read() == 0));
                Counting.dealloc(zeros, layout(to));
            }
        }
    }
}
