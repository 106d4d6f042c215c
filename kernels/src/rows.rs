//! Reductions over one row, in independent lanes that the compiler turns into vector registers.
//!
//! The order of additions depends on the length alone, so results repeat bit for bit.

use crate::cpu::Element;

/// Running results kept side by side: one AVX-512 register of f32.
const LANES: usize = 16;

/// Folds `f` over the lanes and then over the lanes' results and the tail.
#[inline(always)]
fn fold<T: Element>(len: usize, start: T, at: impl Fn(T, usize) -> T, join: impl Fn(T, T) -> T) -> T {
    let mut lanes = [start; LANES];
    let body = len / LANES * LANES;
    let mut base = 0;
    while base < body {
        for (lane, value) in lanes.iter_mut().enumerate() {
            *value = at(*value, base + lane);
        }
        base += LANES;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = join(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    let mut total = lanes[0];
    for i in body..len {
        total = at(total, i);
    }
    total
}

/// Sum of a row.
#[inline(always)]
pub(crate) fn sum<T: Element>(x: &[T]) -> T {
    fold(x.len(), T::zero(), |acc, i| acc + x[i], |a, b| a + b)
}

/// Dot product of two rows of one length.
#[inline(always)]
pub(crate) fn dot<T: Element>(x: &[T], y: &[T]) -> T {
    let y = &y[..x.len()];
    fold(x.len(), T::zero(), |acc, i| x[i].fma(y[i], acc), |a, b| a + b)
}

/// Largest element of a row. NaN may or may not come out; callers that exponentiate differences meet it there.
#[inline(always)]
pub(crate) fn max<T: Element>(x: &[T]) -> T {
    fold(x.len(), T::lit(f64::NEG_INFINITY), |acc, i| acc.maximum(x[i]), T::maximum)
}

/// Sum of `(x - mean)^2` over a row.
#[inline(always)]
pub(crate) fn sum_squares_about<T: Element>(x: &[T], mean: T) -> T {
    fold(x.len(), T::zero(), |acc, i| (x[i] - mean).fma(x[i] - mean, acc), |a, b| a + b)
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
    let (g, w) = (&g[..x.len()], &w[..x.len()]);
    let h = |i: usize| g[i] * w[i];
    let sum = fold(x.len(), T::zero(), |acc, i| acc + h(i), |a, b| a + b);
    let inner = fold(x.len(), T::zero(), |acc, i| h(i).fma(x[i] - mean, acc), |a, b| a + b);
    (sum, inner * rstd)
}
