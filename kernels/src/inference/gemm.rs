//! The inner loop of every convolution: rows of activations times one packed panel of weights.
//!
//! A panel holds the weights of 16, 32, 48 or 64 output channels, channels last: `panel[k][channel]`. A tile is a
//! few output pixels times one panel. Its sums stay in registers from the first product to the last, and each sum
//! takes its products in the same order whatever the tile, so that a result depends on nothing but the pixel's own
//! inputs: not on the batch, the tile that the pixel fell into, or the number of threads.
//!
//! Activations are reached through pointers (one for each pixel and kernel tap: Dukhan, "The Indirect Convolution
//! Algorithm", arXiv 1907.02129), so there is no im2col copy.

use crate::lanes::LANES;
use crate::simd::{self, Level};

/// The widest panel in vectors.
pub(super) const MAX_VECTORS: usize = 4;
/// The most rows any tile has.
pub(super) const MAX_ROWS: usize = 12;

/// Rows of a tile for panels of `vectors` vectors: as many sums as the registers hold.
pub(super) const fn tile_rows(vectors: usize) -> usize {
    match vectors {
        4 => 6,
        3 => 8,
        _ => 12,
    }
}

/// What to do with a finished sum.
#[derive(Clone, Copy)]
pub(super) struct Epilogue {
    /// Added to each output channel of the panel; null: nothing.
    pub(super) bias: *const f32,
    /// Replace negative results by zero.
    pub(super) relu: bool,
}

/// Computes one tile:
/// `out[r][..] = epilogue(sum over taps t, channels c of a[t * stride + r][c] * panel[t * depth + c][..])`.
///
/// # Safety
/// For each tap `a[tap * stride..][..tile_rows(vectors)]` are pointers to `depth` readable elements each, `panel`
/// has `taps * depth * vectors * 16` elements, `out` holds `tile_rows(vectors)` pointers to `vectors * 16` writable
/// elements each, and the bias, if any, has `vectors * 16` elements.
pub(super) type Tile = unsafe fn(Taps, a: *const *const f32, panel: *const f32, out: *const *mut f32, Epilogue);

/// The extent of a tile's sums.
#[derive(Clone, Copy)]
pub(super) struct Taps {
    /// Kernel taps: each has its own pointer for each row.
    pub(super) count: usize,
    /// Pointers from one tap to the next.
    pub(super) stride: usize,
    /// Elements behind each pointer.
    pub(super) depth: usize,
}

/// The tile function for panels of `vectors` vectors (1 to 4) on this processor.
pub(super) fn tile(vectors: usize) -> Tile {
    #[cfg(target_arch = "x86_64")]
    match simd::level() {
        Level::Amx | Level::Avx512 => {
            return match vectors {
                1 => avx512::tile::<12, 1>,
                2 => avx512::tile::<12, 2>,
                3 => avx512::tile::<8, 3>,
                _ => avx512::tile::<6, 4>,
            };
        }
        Level::Avx2 => {
            return match vectors {
                1 => avx2::tile::<12, 1>,
                2 => avx2::tile::<12, 2>,
                3 => avx2::tile::<8, 3>,
                _ => avx2::tile::<6, 4>,
            };
        }
        Level::Plain => {}
    }
    match vectors {
        1 => plain::<12, 1>,
        2 => plain::<12, 2>,
        3 => plain::<8, 3>,
        _ => plain::<6, 4>,
    }
}

/// Portable code, for processors without AVX2.
unsafe fn plain<const ROWS: usize, const VECTORS: usize>(
    taps: Taps,
    a: *const *const f32,
    panel: *const f32,
    out: *const *mut f32,
    epilogue: Epilogue,
) {
    for row in 0..ROWS {
        for vector in 0..VECTORS {
            let mut sum = [0f32; LANES];
            for tap in 0..taps.count {
                // SAFETY: within the sizes that the caller promises.
                let activations = unsafe { *a.add(tap * taps.stride + row) };
                for c in 0..taps.depth {
                    // SAFETY: as above.
                    unsafe {
                        let x = *activations.add(c);
                        let weights = panel.add(((tap * taps.depth + c) * VECTORS + vector) * LANES);
                        for (lane, sum) in sum.iter_mut().enumerate() {
                            *sum += x * *weights.add(lane);
                        }
                    }
                }
            }
            for (lane, &sum) in sum.iter().enumerate() {
                // SAFETY: as above.
                unsafe {
                    let mut y = sum;
                    if !epilogue.bias.is_null() {
                        y += *epilogue.bias.add(vector * LANES + lane);
                    }
                    if epilogue.relu && y < 0.0 {
                        y = 0.0;
                    }
                    *(*out.add(row)).add(vector * LANES + lane) = y;
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{Epilogue, LANES, Taps};
    use std::arch::x86_64::{
        __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_max_ps, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_storeu_ps,
    };

    /// # Safety
    /// See [`super::Tile`]; the processor has AVX-512 F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn tile<const ROWS: usize, const VECTORS: usize>(
        taps: Taps,
        a: *const *const f32,
        mut panel: *const f32,
        out: *const *mut f32,
        epilogue: Epilogue,
    ) {
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        for tap in 0..taps.count {
            let mut rows = [std::ptr::null::<f32>(); ROWS];
            for (row, pointer) in rows.iter_mut().enumerate() {
                // SAFETY: the caller gives ROWS pointers for each tap.
                *pointer = unsafe { *a.add(tap * taps.stride + row) };
            }
            for c in 0..taps.depth {
                let mut weights: [__m512; VECTORS] = [_mm512_setzero_ps(); VECTORS];
                for (vector, weights) in weights.iter_mut().enumerate() {
                    // SAFETY: the panel has `taps * depth * VECTORS * LANES` elements.
                    *weights = unsafe { _mm512_loadu_ps(panel.add(vector * LANES)) };
                }
                for row in 0..ROWS {
                    // SAFETY: each row pointer has `depth` elements.
                    let x = _mm512_set1_ps(unsafe { *rows[row].add(c) });
                    for vector in 0..VECTORS {
                        sums[row][vector] = _mm512_fmadd_ps(x, weights[vector], sums[row][vector]);
                    }
                }
                // SAFETY: at most one past the end.
                panel = unsafe { panel.add(VECTORS * LANES) };
            }
        }
        for vector in 0..VECTORS {
            let bias = if epilogue.bias.is_null() {
                _mm512_setzero_ps()
            } else {
                // SAFETY: the bias has `VECTORS * LANES` elements.
                unsafe { _mm512_loadu_ps(epilogue.bias.add(vector * LANES)) }
            };
            for row in 0..ROWS {
                let mut y = _mm512_add_ps(sums[row][vector], bias);
                if epilogue.relu {
                    // Of a NaN and a number this instruction gives the second: a NaN must not turn into zero.
                    y = _mm512_max_ps(_mm512_setzero_ps(), y);
                }
                // SAFETY: each output pointer has `VECTORS * LANES` writable elements.
                unsafe { _mm512_storeu_ps((*out.add(row)).add(vector * LANES), y) };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Epilogue, LANES, Taps};
    use std::arch::x86_64::{
        _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_set1_ps, _mm256_setzero_ps,
        _mm256_storeu_ps,
    };

    /// # Safety
    /// See [`super::Tile`]; the processor has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn tile<const ROWS: usize, const VECTORS: usize>(
        taps: Taps,
        a: *const *const f32,
        panel: *const f32,
        out: *const *mut f32,
        epilogue: Epilogue,
    ) {
        // Sixteen registers: six rows of two 8-lane vectors at a time (ROWS is 6, 8 or 12; 8 goes as 4 + 4).
        for vector in 0..VECTORS {
            let mut first = 0;
            while first < ROWS {
                // SAFETY: rows `first..first + 6` (or 4) exist; the rest is the caller's promise.
                unsafe {
                    if ROWS.is_multiple_of(6) {
                        rows::<6, VECTORS>(taps, a, panel, out, epilogue, first, vector);
                        first += 6;
                    } else {
                        rows::<4, VECTORS>(taps, a, panel, out, epilogue, first, vector);
                        first += 4;
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn rows<const PART: usize, const VECTORS: usize>(
        taps: Taps,
        a: *const *const f32,
        panel: *const f32,
        out: *const *mut f32,
        epilogue: Epilogue,
        first: usize,
        vector: usize,
    ) {
        let mut sums = [[_mm256_setzero_ps(); 2]; PART];
        // SAFETY: within the panel, whose size the caller of `tile` promises.
        let mut weights = unsafe { panel.add(vector * LANES) };
        for tap in 0..taps.count {
            let mut pointers = [std::ptr::null::<f32>(); PART];
            for (row, pointer) in pointers.iter_mut().enumerate() {
                // SAFETY: the caller of `tile` gives ROWS pointers for each tap.
                *pointer = unsafe { *a.add(tap * taps.stride + first + row) };
            }
            for c in 0..taps.depth {
                // SAFETY: the panel has `taps * depth * VECTORS * LANES` elements; these are the LANES of one vector.
                let (low, high) = unsafe { (_mm256_loadu_ps(weights), _mm256_loadu_ps(weights.add(8))) };
                for row in 0..PART {
                    // SAFETY: each row pointer has `depth` elements.
                    let x = _mm256_set1_ps(unsafe { *pointers[row].add(c) });
                    sums[row][0] = _mm256_fmadd_ps(x, low, sums[row][0]);
                    sums[row][1] = _mm256_fmadd_ps(x, high, sums[row][1]);
                }
                weights = weights.wrapping_add(VECTORS * LANES);
            }
        }
        for half in 0..2 {
            let offset = vector * LANES + half * 8;
            let bias = if epilogue.bias.is_null() {
                _mm256_setzero_ps()
            } else {
                // SAFETY: the bias has `VECTORS * LANES` elements.
                unsafe { _mm256_loadu_ps(epilogue.bias.add(offset)) }
            };
            for row in 0..PART {
                let mut y = _mm256_add_ps(sums[row][half], bias);
                if epilogue.relu {
                    // As above: a NaN stays a NaN.
                    y = _mm256_max_ps(_mm256_setzero_ps(), y);
                }
                // SAFETY: each output pointer has `VECTORS * LANES` writable elements.
                unsafe { _mm256_storeu_ps((*out.add(first + row)).add(offset), y) };
            }
        }
    }
}

/// The widths in vectors of the panels that `channels` output channels are cut into.
///
/// # Panics
/// Never for a multiple of 16: the network's channel counts all are (checked when a layer is made).
pub(super) fn panel_widths(channels: usize) -> Vec<usize> {
    let mut vectors = channels / LANES;
    let mut widths = Vec::new();
    while vectors > 0 {
        // 5 = 3 + 2 rather than 4 + 1: narrow panels waste the most.
        let width = match vectors {
            1..=4 => vectors,
            5 => 3,
            6 => 3,
            _ => MAX_VECTORS,
        };
        widths.push(width);
        vectors -= width;
    }
    widths
}

/// Cuts weights `[rows][channels]` into panels, one after the other: `[panel][row][vectors * 16]`.
pub(super) fn pack(weights: &[f32], rows: usize, channels: usize, packed: &mut Vec<f32>) {
    let mut first = 0;
    for width in panel_widths(channels) {
        let lanes = width * LANES;
        for row in 0..rows {
            packed.extend_from_slice(&weights[row * channels + first..][..lanes]);
        }
        first += lanes;
    }
}
