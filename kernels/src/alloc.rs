//! Keeps the pages of freed buffers mapped, and counts what is in use.
//!
//! A training step allocates and frees the same few gigabytes over and over. glibc gives large buffers
//! back to the system at once, and the page faults of getting them again cost more than the arithmetic of an
//! elementwise pass.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counting. A program that asks [`live_bytes`] makes it its `#[global_allocator]`.
pub struct Counting;

// SAFETY: every call goes to the system's allocator with the caller's arguments; the count is beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE_BYTES.fetch_add(size, Ordering::Relaxed);
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
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
            (libc::M_TRIM_THRESHOLD, libc::c_int::MAX),
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
