//! Keeps the pages of freed buffers mapped.
//!
//! A training step allocates and frees the same few gigabytes over and over. glibc gives large buffers
//! back to the system at once, and the page faults of getting them again cost more than the arithmetic of an
//! elementwise pass.

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
