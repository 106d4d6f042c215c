//! Neighbouring channels of a pixel: a vector of AVX-512 or AVX2, or an array, which the compiler puts into the registers of
//! any processor. Left alone with arrays for AVX-512 too, it used half registers and spilled them (docs/kernels.md).
//!
//! No closures in here nor in what is built on it: they are compiled for any processor.

/// Channels that always go together: the widest vector.
pub(crate) const LANES: usize = 16;

/// Arithmetic on [`Lanes::WIDTH`] numbers.
pub(crate) trait Lanes: Copy {
    /// How many: [`LANES`] or a divisor of it.
    const WIDTH: usize;

    /// The same number in all lanes.
    fn splat(value: f32) -> Self;

    /// Reads numbers.
    ///
    /// # Safety
    /// They are readable at `from`.
    unsafe fn load(from: *const f32) -> Self;

    /// Writes them.
    ///
    /// # Safety
    /// They are writable at `to`.
    unsafe fn store(self, to: *mut f32);

    fn add(self, other: Self) -> Self;

    fn sub(self, other: Self) -> Self;

    fn mul(self, other: Self) -> Self;

    /// `self * factor + term`; rounded once where the processor does so.
    fn mul_add(self, factor: Self, term: Self) -> Self;

    /// What is below `floor` becomes `floor`; a NaN stays a NaN.
    fn at_least(self, floor: Self) -> Self;

    /// What is not above 0 is multiplied by `slope`.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    fn leak(self, slope: Self) -> Self;
}

impl Lanes for [f32; LANES] {
    const WIDTH: usize = LANES;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; an array of f32 has the alignment of f32.
        unsafe { *from.cast::<Self>() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { *to.cast::<Self>() = self }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let mut out = self;
        for i in 0..LANES {
            out[i] = self[i] + other[i];
        }
        out
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        let mut out = self;
        for i in 0..LANES {
            out[i] = self[i] - other[i];
        }
        out
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        let mut out = self;
        for i in 0..LANES {
            out[i] = self[i] * other[i];
        }
        out
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // Not `f32::mul_add`: without the instruction that is a call of a library.
        let mut out = self;
        for i in 0..LANES {
            out[i] = self[i] * factor[i] + term[i];
        }
        out
    }

    #[inline(always)]
    fn at_least(self, floor: Self) -> Self {
        let mut out = self;
        for i in 0..LANES {
            out[i] = if self[i] < floor[i] { floor[i] } else { self[i] };
        }
        out
    }

    #[inline(always)]
    fn leak(self, slope: Self) -> Self {
        let mut out = self;
        for i in 0..LANES {
            out[i] = if self[i] > 0.0 { self[i] } else { self[i] * slope[i] };
        }
        out
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// Only to be used in functions of `target_feature(enable = "avx512f")`: [`super::with_lanes`] sees to that.
    impl Lanes for __m512 {
        const WIDTH: usize = 16;

        #[inline(always)]
        fn splat(value: f32) -> Self {
            // SAFETY: this and all below: the processor has AVX-512 F, see above.
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above, and the caller's promise.
            unsafe { _mm512_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above, and the caller's promise.
            unsafe { _mm512_storeu_ps(to, self) }
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_add_ps(self, other) }
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_sub_ps(self, other) }
        }

        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_mul_ps(self, other) }
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, term: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_fmadd_ps(self, factor, term) }
        }

        #[inline(always)]
        fn at_least(self, floor: Self) -> Self {
            // Of a NaN and a number the instruction gives the second.
            // SAFETY: as above.
            unsafe { _mm512_max_ps(floor, self) }
        }

        #[inline(always)]
        fn leak(self, slope: Self) -> Self {
            // SAFETY: as above.
            unsafe {
                let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self, _mm512_setzero_ps());
                _mm512_mask_mov_ps(_mm512_mul_ps(self, slope), positive, self)
            }
        }
    }

    /// Only to be used in functions of `target_feature(enable = "avx2,fma")`: [`super::with_lanes`] sees to that.
    impl Lanes for __m256 {
        const WIDTH: usize = 8;

        #[inline(always)]
        fn splat(value: f32) -> Self {
            // SAFETY: this and all below: the processor has AVX2 and FMA, see above.
            unsafe { _mm256_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above, and the caller's promise.
            unsafe { _mm256_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above, and the caller's promise.
            unsafe { _mm256_storeu_ps(to, self) }
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_add_ps(self, other) }
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_sub_ps(self, other) }
        }

        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_mul_ps(self, other) }
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, term: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(self, factor, term) }
        }

        #[inline(always)]
        fn at_least(self, floor: Self) -> Self {
            // Of a NaN and a number the instruction gives the second.
            // SAFETY: as above.
            unsafe { _mm256_max_ps(floor, self) }
        }

        #[inline(always)]
        fn leak(self, slope: Self) -> Self {
            // SAFETY: as above.
            unsafe {
                let positive = _mm256_cmp_ps::<_CMP_GT_OQ>(self, _mm256_setzero_ps());
                _mm256_blendv_ps(_mm256_mul_ps(self, slope), self, positive)
            }
        }
    }
}

/// A mask of the first `width` lanes of a vector of AVX2, of all where there are more.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn first_lanes(width: usize) -> std::arch::x86_64::__m256i {
    use std::arch::x86_64::{_mm256_cmpgt_epi32, _mm256_set1_epi32, _mm256_setr_epi32};
    _mm256_cmpgt_epi32(_mm256_set1_epi32(width.min(8) as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// [`crate::multiversion!`] for functions that are generic over their [`Lanes`]: the instruction set decides on the type as
/// well. They give nothing back. All are safe or all unsafe.
macro_rules! with_lanes {
    ($($(#[$meta:meta])* $vis:vis unsafe fn $name:ident<$V:ident>($($arg:ident: $ty:ty),* $(,)?) $body:block)+) => {$(
        $crate::lanes::with_lanes!(@each [unsafe] [$(#[$meta])* $vis] $name<$V>($($arg: $ty),*) $body);
    )+};
    ($($(#[$meta:meta])* $vis:vis fn $name:ident<$V:ident>($($arg:ident: $ty:ty),* $(,)?) $body:block)+) => {$(
        $crate::lanes::with_lanes!(@each [] [$(#[$meta])* $vis] $name<$V>($($arg: $ty),*) $body);
    )+};
    (@each [$($unsafe:tt)?] [$($head:tt)*] $name:ident<$V:ident>($($arg:ident: $ty:ty),*) $body:block) => {
        $($head)* $($unsafe)? fn $name($($arg: $ty),*) {
            #[inline(always)]
            fn any<$V: $crate::lanes::Lanes>($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) { any::<std::arch::x86_64::__m512>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) { any::<std::arch::x86_64::__m256>($($arg),*) }
                match $crate::simd::level() {
                    // SAFETY: `level` returns this value only after detecting the features at run time.
                    $crate::simd::Level::Amx | $crate::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::simd::Level::Plain => {}
                }
            }
            any::<[f32; 16]>($($arg),*)
        }
    };
}
pub(crate) use with_lanes;
