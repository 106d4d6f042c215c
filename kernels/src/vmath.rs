//! Elementary functions that vectorise: no calls, no branches, so a loop over them inside
//! [`multiversion!`](crate::simd::multiversion) runs at full SIMD width.
//!
//! f32 uses polynomials fitted here for the purpose (least squares, reweighted towards the minimax, 40 digits).
//! Largest error against f64 in units in the last place (tested): exp 1.1, tanh 1.3, sigmoid 3, normal
//! distribution 5 within 2 sigma. f64, which only gradient checks use, goes through the standard library.
//! NaN in, NaN out.

use crate::cpu::Element;

/// Element types with vectorised elementary functions.
pub trait Math: Element {
    /// `e^self`; overflows to infinity, underflows to 0.
    fn exp(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// The standard normal distribution at `self`: (cumulative probability, density). GELU and its derivative.
    fn normal_cdf_pdf(self) -> (Self, Self);

    /// `1 / (1 + e^-self)`.
    #[inline(always)]
    fn sigmoid(self) -> Self {
        let one = Self::lit(1.0);
        one / (one + (-self).exp())
    }
}

/// Evaluates a polynomial, lowest coefficient first, by Horner's rule.
#[inline(always)]
fn poly<const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut sum = c[N - 1];
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        sum = sum.mul_add(x, c[i]);
    }
    sum
}

/// Comparisons that keep NaN, which `f32::clamp`'s building blocks `min` and `max` would drop.
#[inline(always)]
fn clamp_keeping_nan(x: f32, low: f32, high: f32) -> f32 {
    let x = if x > high { high } else { x };
    if x < low { low } else { x }
}

impl Math for f32 {
    #[inline(always)]
    fn exp(self) -> f32 {
        // e^x = 2^n e^r with |r| <= ln(2)/2; ln 2 in two parts so that n * ln 2 is exact.
        const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the integer in the low bits
        const LN2_HI: f32 = 0.693_359_4;
        const LN2_LO: f32 = -2.121_944_4e-4;
        let x = clamp_keeping_nan(self, -105.0, 89.0);
        let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = n.mul_add(-LN2_LO, n.mul_add(-LN2_HI, x));
        let p = poly(r, [0.5, 0.166_665_78, 0.041_666_854, 0.008_363_144, 0.001_390_127_6]);
        let y = (r * r).mul_add(p, r) + 1.0;
        // 2^n in two factors: n reaches 128 and -151, outside the range of one exponent.
        let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        let half = n >> 1;
        let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
        y * power(half) * power(n.wrapping_sub(half))
    }

    #[inline(always)]
    fn tanh(self) -> f32 {
        let a = self.abs();
        let u = self * self;
        let p = poly(u, [-0.333_333_28, 0.133_327_19, -0.053_843_31, 0.020_961_51, -0.006_045_39]);
        let near = (a * u).mul_add(p, a);
        let far = 1.0 - 2.0 / (Math::exp(2.0 * a) + 1.0);
        let magnitude = if a < 0.625 { near } else { far };
        magnitude.copysign(self)
    }

    #[inline(always)]
    fn normal_cdf_pdf(self) -> (f32, f32) {
        const P: f32 = 0.35;
        const INV_SQRT_TAU: f32 = 0.398_942_3;
        let a = clamp_keeping_nan(self.abs(), 0.0, 15.0);
        let bell = Math::exp(-0.5 * a * a);
        // Upper tail = e^(-a^2/2) t Q(t), t = 1 / (1 + 0.35 a): small relative error out to 13 sigma.
        let t = 1.0 / a.mul_add(P, 1.0);
        let q = poly(
            t,
            [
                0.139_621_82,
                0.139_854_76,
                0.119_882_69,
                0.105_317_235,
                -0.022_671_597,
                0.158_553_53,
                -0.255_183_3,
                0.143_720_08,
                -0.029_095_206,
            ],
        );
        let tail = bell * t * q;
        let cdf = if self > 0.0 { 1.0 - tail } else { tail };
        (cdf, bell * INV_SQRT_TAU)
    }
}

impl Math for f64 {
    #[inline(always)]
    fn exp(self) -> f64 {
        f64::exp(self)
    }

    #[inline(always)]
    fn tanh(self) -> f64 {
        f64::tanh(self)
    }

    #[inline(always)]
    fn normal_cdf_pdf(self) -> (f64, f64) {
        let cdf = 0.5 * libm::erfc(-self * std::f64::consts::FRAC_1_SQRT_2);
        let pdf = f64::exp(-0.5 * self * self) / f64::sqrt(std::f64::consts::TAU);
        (cdf, pdf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::multiversion;

    multiversion! {
        fn eval(which: usize, x: f32) -> f32 {
            match which {
                0 => Math::exp(x),
                1 => Math::tanh(x),
                2 => x.normal_cdf_pdf().0,
                3 => x.normal_cdf_pdf().1,
                _ => x.sigmoid(),
            }
        }
    }

    fn reference(which: usize, x: f64) -> f64 {
        match which {
            0 => x.exp(),
            1 => x.tanh(),
            2 => x.normal_cdf_pdf().0,
            3 => x.normal_cdf_pdf().1,
            _ => 1.0 / (1.0 + (-x).exp()),
        }
    }

    /// Largest error in units of the last place over a dense grid.
    fn worst_ulp(which: usize, low: f64, high: f64) -> f64 {
        let n = 200_001;
        let mut worst = 0.0f64;
        for i in 0..n {
            let x = (low + (high - low) * i as f64 / (n - 1) as f64) as f32;
            let want = reference(which, x as f64);
            let ulp = f64::from(f32::EPSILON) * 2f64.powf(want.abs().log2().floor());
            worst = worst.max((f64::from(eval(which, x)) - want).abs() / ulp);
        }
        worst
    }

    #[test]
    fn f32_functions_are_within_a_few_units_in_the_last_place() {
        // (function, range, allowed ulp). The density rounds x^2/2 before exponentiating, which costs
        // x^2/4 ulp: 9 at 6 sigma, where the density is 6e-9; the cumulative probability shares it.
        let cases = [
            (0, -87.0, 88.7, 2.0),
            (1, -12.0, 12.0, 2.5),
            (1, -0.7, 0.7, 2.0),
            (2, -2.0, 6.0, 6.0),
            (2, -6.0, -2.0, 20.0),
            (3, -2.0, 2.0, 3.0),
            (3, -6.0, 6.0, 20.0),
            (4, -80.0, 80.0, 3.0),
        ];
        for (which, low, high, allowed) in cases {
            let worst = worst_ulp(which, low, high);
            assert!(worst <= allowed, "function {which} on {low}..{high}: {worst} ulp > {allowed}");
        }
    }

    #[test]
    fn special_values() {
        assert_eq!(eval(0, 200.0), f32::INFINITY);
        assert_eq!(eval(0, f32::INFINITY), f32::INFINITY);
        assert_eq!(eval(0, f32::NEG_INFINITY), 0.0);
        assert_eq!(eval(1, f32::INFINITY), 1.0);
        assert_eq!(eval(1, f32::NEG_INFINITY), -1.0);
        assert_eq!(eval(2, f32::NEG_INFINITY), 0.0);
        assert_eq!(eval(2, 100.0), 1.0);
        assert_eq!(eval(4, -1000.0), 0.0);
        for which in 0..5 {
            assert!(eval(which, f32::NAN).is_nan(), "function {which} hides NaN");
        }
    }
}
