//! The pool of threads that operations share.

use std::num::NonZero;

use rayon::ThreadPoolBuilder;
use rayon::iter::{IndexedParallelIterator, MaxLen};

/// Makes the calling thread one of the pool's threads: as many as `RAYON_NUM_THREADS` says, else `threads`, else as there are cores
/// for this process. Call once at the start of a program.
///
/// Otherwise the caller of every operation goes to sleep while others work, and two switches of threads are longer
/// than many a small operation. The caller takes part only while it is inside an operation: other threads must not wait
/// for the pool while the caller waits for them. Does nothing where there already is a pool.
pub fn join_pool(threads: Option<NonZero<usize>>) {
    let pool = ThreadPoolBuilder::new().use_current_thread();
    let chosen = std::env::var("RAYON_NUM_THREADS").is_ok_and(|n| n.parse::<usize>().is_ok_and(|n| n > 0));
    let pool = match threads.filter(|_| !chosen) {
        Some(threads) => pool.num_threads(threads.get()),
        None => pool,
    };
    // The only error is that a pool exists; then its threads do the work.
    let _ = pool.build_global();
}

/// Tasks of an operation, cut by its kernel to a size that is worth handing over. Where the size is that of a tensor's row, which may
/// be short, rayon makes runs of them.
pub(crate) trait Tasks: IndexedParallelIterator {
    /// Every task can be taken by a thread that has nothing to do. Rayon by itself makes about four runs of tasks of an
    /// operation on two threads, and none can be taken from within a run: the last may be waited for as long as a quarter
    /// of the operation takes, when cores are not equally fast.
    fn one_by_one(self) -> MaxLen<Self> {
        self.with_max_len(1)
    }
}

impl<T: IndexedParallelIterator> Tasks for T {}
