//! Matrix products on slices: bounds-checked views, and a parallel product whose result does not depend
//! on the number of threads.

use rayon::prelude::*;

use crate::cpu::{self, Element};
use crate::threads::Tasks;

/// A matrix inside a slice: element `(i, j)` is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// Row-major, `row_stride` elements from row to row.
    pub(crate) fn rows(data: &'a [T], row_stride: usize) -> Self {
        Self { data, row_stride, col_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub(crate) fn t(self) -> Self {
        Self { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// The transpose if `yes`.
    pub(crate) fn t_if(self, yes: bool) -> Self {
        if yes { self.t() } else { self }
    }

    /// The matrix without its first `rows` rows and `cols` columns.
    pub(crate) fn from(self, rows: usize, cols: usize) -> Self {
        let start = (rows * self.row_stride + cols * self.col_stride).min(self.data.len());
        Self { data: &self.data[start..], ..self }
    }

    /// Whether `rows` by `cols` elements are inside the slice.
    pub(crate) fn covers(&self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.row_stride + (cols - 1) * self.col_stride < self.data.len()
    }
}

/// `c = a b`, or `c += a b` with `accumulate`, on the calling thread. `a: [m, k]`, `b: [k, n]`, `c: [m, n]`
/// row-major with `c_stride` elements from row to row.
pub(crate) fn gemm<T: Element>(
    (m, n, k): (usize, usize, usize),
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    c: &mut [T],
    c_stride: usize,
    accumulate: bool,
) {
    assert!(Mat::rows(&*c, c_stride).covers(m, n), "gemm: result too short");
    // SAFETY: the slice covers the rows, and is borrowed by this call alone.
    unsafe { gemm_to((m, n, k), a, b, c.as_mut_ptr(), c_stride, accumulate) }
}

/// [`gemm`] into rows between which other threads write theirs.
///
/// # Safety
/// At `c` are `m` rows of `n` elements, `c_stride` from row to row, which nobody else reads or writes meanwhile.
unsafe fn gemm_to<T: Element>(
    (m, n, k): (usize, usize, usize),
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    c: *mut T,
    c_stride: usize,
    accumulate: bool,
) {
    assert!(a.covers(m, k) && b.covers(k, n), "gemm: operand too short");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            // SAFETY: the rows are the caller's; all bits zero are the number zero.
            (0..m).for_each(|row| unsafe { c.add(row * c_stride).write_bytes(0, n) });
        }
        return;
    }
    // SAFETY: `covers` has checked that every index that (m, n, k) and the strides reach is inside its slice; that of the
    // result is the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            1,
            c_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            T::one(),
            T::one(),
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Rows of an output tile.
const TILE_ROWS: usize = 128;
/// Columns of an output tile.
const TILE_COLS: usize = 512;
/// Below this many output tiles, a long inner dimension is split as well, so that every thread has work.
const ENOUGH_TILES: usize = 16;
/// Shortest part of the inner dimension worth its own task.
const MIN_DEPTH: usize = 512;

/// A raw output pointer that tasks share; each writes elements that no other task touches.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(*mut T, usize);

// SAFETY: users of `Shared` write disjoint ranges (see `Shared::range`).
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(data: &mut [T]) -> Self {
        Self(data.as_mut_ptr(), data.len())
    }

    /// The same as a pointer to f32: for kernels that take nothing else, of a `T` that is f32.
    pub(crate) fn of_f32(&self) -> Shared<f32>
    where
        T: 'static,
    {
        assert!(std::any::TypeId::of::<T>() == std::any::TypeId::of::<f32>(), "elements are not f32");
        Shared(self.0.cast(), self.1)
    }

    /// The first element.
    pub(crate) fn start(&self) -> *mut T {
        self.0
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    /// No two live ranges may write the same element, and the slice that this was made of outlives them.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn range(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.1), "shared range out of bounds");
        // SAFETY: in bounds; the caller keeps writes disjoint.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// `a b` on all threads: `a: [m, k]`, `b: [k, n]`, result `[m, n]` contiguous.
///
/// Tiles and parts of the inner dimension depend on the sizes alone, and parts are added in order.
pub(crate) fn matmul<T: Element>((m, n, k): (usize, usize, usize), a: Mat<'_, T>, b: Mat<'_, T>) -> Vec<T> {
    if k == 0 {
        return vec![T::zero(); m * n];
    }
    let (row_tiles, col_tiles) = (m.div_ceil(TILE_ROWS), n.div_ceil(TILE_COLS));
    let tiles = row_tiles * col_tiles;
    let parts = ENOUGH_TILES.div_ceil(tiles.max(1)).min(k / MIN_DEPTH).max(1);
    let depth = k.div_ceil(parts);
    let mut out: Vec<T> = cpu::uninit(m * n * parts);
    let shared = Shared::new(&mut out);
    (0..tiles * parts).into_par_iter().one_by_one().for_each(|task| {
        let (part, tile) = (task / tiles, task % tiles);
        let (r0, c0, k0) = (tile / col_tiles * TILE_ROWS, tile % col_tiles * TILE_COLS, part * depth);
        let size = (TILE_ROWS.min(m - r0), TILE_COLS.min(n - c0), depth.min(k.saturating_sub(k0)));
        let start = part * m * n + r0 * n + c0;
        // SAFETY: inside `out`, which outlives the tasks; the rows of a tile have other tiles' between them, none of which
        // has an element of another.
        unsafe { gemm_to(size, a.from(r0, k0), b.from(k0, c0), shared.start().add(start), n, false) };
    });
    let rest = out.split_off(m * n);
    for part in rest.chunks_exact((m * n).max(1)) {
        add_assign(&mut out, part);
    }
    out
}

/// `a += b`.
pub(crate) fn add_assign<T: Element>(a: &mut [T], b: &[T]) {
    use crate::map::CHUNK;
    a.par_chunks_mut(CHUNK)
        .zip(b.par_chunks(CHUNK))
        .one_by_one()
        .for_each(|(a, b)| crate::reduce::accumulate_rows(b, a));
}
