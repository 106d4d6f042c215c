//! Winograd's short convolutions with six products (Lavin and Gray, "Fast Algorithms for Convolutional Neural
//! Networks", arXiv 1509.09308), one family for every kernel of the network.
//!
//! Six products give 4 outputs of a 3-tap kernel, 3 of a 4-tap one, or 2 of a 5-tap one; the input transform is the
//! same for all. Differs from the usual points (0, ±1, ±2, ∞): the points here are 0, ±3/4, ±3/2, ∞, exact in binary
//! like the usual ones, with half their rounding error (measured on random 3x3 layers in f32: 1.0e-6 of the output's
//! deviation against 1.9e-6; the direct sum has 0.4e-6).

/// Sixteen channels.
pub(super) type Lanes = [f32; 16];

/// Products of one short convolution: input samples of a tile along one axis.
pub(super) const POINTS: usize = 6;

const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

#[inline(always)]
fn map2(x: &Lanes, y: &Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
    let mut out = [0.0; 16];
    for i in 0..16 {
        out[i] = f(x[i], y[i]);
    }
    out
}

#[inline(always)]
fn map3(x: &Lanes, y: &Lanes, z: &Lanes, f: impl Fn(f32, f32, f32) -> f32) -> Lanes {
    let mut out = [0.0; 16];
    for i in 0..16 {
        out[i] = f(x[i], y[i], z[i]);
    }
    out
}

/// Reads sixteen channels.
///
/// # Safety
/// Sixteen elements are readable at `from`.
#[inline(always)]
pub(super) unsafe fn load(from: *const f32) -> Lanes {
    // SAFETY: the caller's promise; an array of f32 has the alignment of f32.
    unsafe { *from.cast::<Lanes>() }
}

/// Writes sixteen channels.
///
/// # Safety
/// Sixteen elements are writable at `to`.
#[inline(always)]
pub(super) unsafe fn store(to: *mut f32, value: Lanes) {
    // SAFETY: the caller's promise.
    unsafe { *to.cast::<Lanes>() = value }
}

/// Six input samples to the six points.
#[inline(always)]
pub(super) fn input(d: [Lanes; POINTS]) -> [Lanes; POINTS] {
    let ends = |p: &Lanes, q: &Lanes, r: &Lanes| map3(p, q, r, |p, q, r| A2 * B2 * p - (A2 + B2) * q + r);
    let (even_a, odd_a) = (map2(&d[2], &d[4], |p, q| q - B2 * p), map2(&d[1], &d[3], |p, q| A * (q - B2 * p)));
    let (even_b, odd_b) = (map2(&d[2], &d[4], |p, q| q - A2 * p), map2(&d[1], &d[3], |p, q| B * (q - A2 * p)));
    [
        ends(&d[0], &d[2], &d[4]),
        map2(&even_a, &odd_a, |e, o| e + o),
        map2(&even_a, &odd_a, |e, o| e - o),
        map2(&even_b, &odd_b, |e, o| e + o),
        map2(&even_b, &odd_b, |e, o| e - o),
        ends(&d[1], &d[3], &d[5]),
    ]
}

/// The six products to `OUT` outputs (2, 3 or 4).
#[inline(always)]
pub(super) fn output<const OUT: usize>(m: [Lanes; POINTS]) -> [Lanes; OUT] {
    let (sum_a, difference_a) = (map2(&m[1], &m[2], |p, q| p + q), map2(&m[1], &m[2], |p, q| p - q));
    let (sum_b, difference_b) = (map2(&m[3], &m[4], |p, q| p + q), map2(&m[3], &m[4], |p, q| p - q));
    // All four; those past OUT are dead code in each instance.
    let all = [
        map3(&m[0], &sum_a, &sum_b, |p, q, r| p + q + r),
        map2(&difference_a, &difference_b, |p, q| A * p + B * q),
        map2(&sum_a, &sum_b, |p, q| A2 * p + B2 * q),
        map2(&difference_a, &difference_b, |p, q| A2 * A * p + B2 * B * q),
    ];
    let last = map2(&all[OUT - 1], &m[5], |p, q| p + q);
    std::array::from_fn(|i| if i == OUT - 1 { last } else { all[i] })
}

/// Adds a bias and replaces what is below `floor` by it (0: ReLU; minus infinity: nothing).
#[inline(always)]
pub(super) fn finish(value: &Lanes, bias: &Lanes, floor: f32) -> Lanes {
    map2(value, bias, |x, b| if x + b < floor { floor } else { x + b })
}

/// A kernel of any length up to 5 to the six points, in f64.
pub(super) fn kernel(taps: &[f64]) -> [f64; POINTS] {
    let points = [0.0, f64::from(A), -f64::from(A), f64::from(B), -f64::from(B)];
    let mut out = [0.0; POINTS];
    for (value, &x) in out.iter_mut().zip(&points) {
        let scale: f64 = points.iter().filter(|&&y| y != x).map(|&y| x - y).product();
        *value = taps.iter().rev().fold(0.0, |sum, &tap| sum * x + tap) / scale;
    }
    out[POINTS - 1] = taps.last().copied().unwrap_or(0.0);
    out
}
