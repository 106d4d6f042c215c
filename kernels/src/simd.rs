//! One source, several instruction sets: picks AVX-512, AVX2 or plain code at run time.
//!
//! [`multiversion!`] compiles the body of each function three times under different `target_feature`s and
//! dispatches on [`level`], so loops vectorise at full width on a stable compiler and a baseline build.

use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set that the kernels have code for, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// What every x86-64 (or other) processor has.
    Plain = 1,
    /// AVX2 and FMA.
    Avx2 = 2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512 = 3,
    /// AVX-512 and the matrix units for bf16.
    Amx = 4,
}

/// 0: not looked yet.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// Set to 0, it leaves the matrix units alone.
const VARIABLE: &str = "NESTGEN_AMX";

fn detect() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if avx2 && avx512 {
            let units = std::env::var_os(VARIABLE).is_none_or(|value| value != "0") && crate::amx::granted();
            return if units { Level::Amx } else { Level::Avx512 };
        }
        if avx2 {
            return Level::Avx2;
        }
    }
    Level::Plain
}

/// The instruction set in use: the best one the processor has, unless [`force`] lowered it.
pub fn level() -> Level {
    match LEVEL.load(Ordering::Relaxed) {
        4 => Level::Amx,
        3 => Level::Avx512,
        2 => Level::Avx2,
        1 => Level::Plain,
        _ => force(Level::Amx),
    }
}

/// Uses at most `level` from now on, in the whole process; returns what it came to. For tests and benches
/// that exercise the fallbacks: call it between operations, and from a process in which nothing is compared
/// bit for bit.
pub fn force(level: Level) -> Level {
    let level = level.min(detect());
    LEVEL.store(level as u8, Ordering::Relaxed);
    level
}

/// Compiles functions for every [`Level`] and dispatches at run time. At most one generic parameter.
#[macro_export]
macro_rules! multiversion {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident $(<$T:ident: $bound:path>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[inline]
        $vis fn $name $(<$T: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn plain $(<$T: $bound>)? ($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512 $(<$T: $bound>)? ($($arg: $ty),*) $(-> $ret)? { plain($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2 $(<$T: $bound>)? ($($arg: $ty),*) $(-> $ret)? { plain($($arg),*) }
                match $crate::simd::level() {
                    // SAFETY: `level` returns this value only after detecting the features at run time.
                    $crate::simd::Level::Amx | $crate::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::simd::Level::Plain => {}
                }
            }
            plain($($arg),*)
        }
    )*};
}
pub use multiversion;
