//! Reductions over one row, in independent lanes that the compiler turns into vector registers.
//!
//! The order of additions depends on the length alone, so results repeat bit for bit.

use crate::cpu::Element;

/// Running results kept side by side: one AVX-512 register of f32.
pub(crate) const LANES: usize = 16;

/// Joins the lanes pairwise.
#[inline(always)]
fn join<T: Element>(mut lanes: [T; LANES], f: impl Fn(T, T) -> T) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = f(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum of a row.
#[inline(always)]
pub(crate) fn sum<T: Element>(x: &[T]) -> T {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut lanes = [T::zero(); LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += chunk[lane];
        }
    }
    let mut total = join(lanes, |a, b| a + b);
    for x in tail {
        total += *x;
    }
    total
}

/// Sum of `(x - mean)^2` over a row.
#[inline(always)]
pub(crate) fn sum_squares_about<T: Element>(x: &[T], mean: T) -> T {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut lanes = [T::zero(); LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            let d = chunk[lane] - mean;
            lanes[lane] = d.fma(d, lanes[lane]);
        }
    }
    let mut total = join(lanes, |a, b| a + b);
    for x in tail {
        total = (*x - mean).fma(*x - mean, total);
    }
    total
}

/// Dot product of two rows of one length.
#[inline(always)]
pub(crate) fn dot<T: Element>(x: &[T], y: &[T]) -> T {
    let ((x, x_tail), (y, y_tail)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut lanes = [T::zero(); LANES];
    for (x, y) in x.iter().zip(y) {
        for lane in 0..LANES {
            lanes[lane] = x[lane].fma(y[lane], lanes[lane]);
        }
    }
    let mut total = join(lanes, |a, b| a + b);
    for (x, y) in x_tail.iter().zip(y_tail) {
        total = x.fma(*y, total);
    }
    total
}

/// Largest element of a row. NaN may or may not come out; callers that exponentiate differences meet it there.
#[inline(always)]
pub(crate) fn max<T: Element>(x: &[T]) -> T {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut lanes = [T::lit(f64::NEG_INFINITY); LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = lanes[lane].maximum(chunk[lane]);
        }
    }
    let mut top = join(lanes, T::maximum);
    for x in tail {
        top = top.maximum(*x);
    }
    top
}

/// `y += x`, element by element.
#[inline(always)]
pub(crate) fn add_assign<T: Element>(y: &mut [T], x: &[T]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += *x;
    }
}

/// The two sums over a row that layer normalisation's backward pass needs, with `h = g w` and
/// `n = (x - mean) rstd`: (sum of `h`, sum of `h n`).
#[inline(always)]
pub(crate) fn layer_norm_sums<T: Element>(x: &[T], g: &[T], w: &[T], mean: T, rstd: T) -> (T, T) {
    let (x, x_tail) = x.as_chunks::<LANES>();
    let ((g, g_tail), (w, w_tail)) = (g.as_chunks::<LANES>(), w.as_chunks::<LANES>());
    let (mut sums, mut inners) = ([T::zero(); LANES], [T::zero(); LANES]);
    for ((x, g), w) in x.iter().zip(g).zip(w) {
        for lane in 0..LANES {
            let h = g[lane] * w[lane];
            sums[lane] += h;
            inners[lane] = h.fma(x[lane] - mean, inners[lane]);
        }
    }
    let (mut sum, mut inner) = (join(sums, |a, b| a + b), join(inners, |a, b| a + b));
    for ((x, g), w) in x_tail.iter().zip(g_tail).zip(w_tail) {
        sum += *g * *w;
        inner = (*g * *w).fma(*x - mean, inner);
    }
    (sum, inner * rstd)
}
