//! Products of f32 on the matrix units (AMX) of Intel's processors since Sapphire Rapids, which multiply bf16.
//!
//! A number of f32 has 24 significant bits and is, exactly, the sum of three of bf16, of 8 each: `x = h + m + l`, `m` below
//! 2^-8 of `x` and `l` below 2^-16. Six of the nine products of two such sums,
//!
//! ```text
//! x y = hx hy + hx ly + hx my + mx my + mx hy + lx hy
//! ```
//!
//! leave out less than f32 itself rounds away (Henry, Tang and Heinecke, "Leveraging the bfloat16 artificial intelligence
//! datatype for higher-precision computations", 2019). They are exact in f32, in which the unit adds them up, in chains of
//! 16: the error is about half that of a plain f32 product ([docs/kernels.md] has figures). An infinity becomes NaN, as
//! does a number within 0.2 % of the largest, and numbers below 1e-33 lose bits.
//!
//! A block of the result is 32 by 32 numbers, in four tiles. As on [`crate::micro`], an element depends neither on how work
//! was split nor on what else is in the batch.
//!
//! [docs/kernels.md]: https://github.com/nestgen/nestgen/blob/main/docs/kernels.md

#![cfg(target_arch = "x86_64")]

pub(crate) mod parts;
pub(crate) mod product;

use std::arch::asm;
use std::marker::PhantomData;

use parts::{LINES, Line};

/// Rows and columns of a block.
pub(crate) const BLOCK: usize = 32;

/// Whether products of this inner dimension and this many columns go faster here than on [`crate::micro`]: blocks are
/// filled up with zeros. It does not depend on rows, so that an image's result does not depend on its batch.
///
/// Only where most of the work is such products: units that rest in between seldom reach their full rate.
pub(crate) fn pays(depth: usize, columns: usize) -> bool {
    let padded = depth.next_multiple_of(BLOCK) * columns.next_multiple_of(BLOCK);
    crate::simd::level() == crate::simd::Level::Amx && depth * columns > 0 && 4 * padded <= 5 * depth * columns
}

/// Asks for the matrix units; false where processor or system have none.
pub(crate) fn granted() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

    /// Bits of leaf 7's EDX: bf16 products, tiles.
    const FEATURES: u32 = 1 << 22 | 1 << 24;
    /// State that the system must save: configuration and contents of tiles.
    const STATES: u64 = 1 << 17 | 1 << 18;
    const OSXSAVE: u32 = 1 << 27;

    #[target_feature(enable = "xsave")]
    fn saved_states() -> u64 {
        // SAFETY: OSXSAVE was seen by the caller; register 0 is there with it.
        unsafe { _xgetbv(0) }
    }

    let listed = __cpuid(0).eax >= 7
        && __cpuid_count(7, 0).edx & FEATURES == FEATURES
        && __cpuid(1).ecx & OSXSAVE != 0
        && is_x86_feature_detected!("xsave");
    // SAFETY: `xsave` was seen.
    listed && unsafe { saved_states() } & STATES == STATES && permitted()
}

/// Linux grants the large state of tiles to a process that asks.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    // SAFETY: the call reads two numbers.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// What will be read next, in pieces of two cache lines: it is brought into the level-2 cache while the units work.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    from: *const f32,
    /// Numbers from piece to piece.
    stride: usize,
}

impl Ahead {
    /// Pieces that are asked for in a step.
    const PIECES: usize = 6;

    /// A part of a run of numbers: asked for in `parts` calls of `steps` steps each.
    pub(crate) fn part(run: &[f32], part: usize, parts: usize, steps: usize) -> Self {
        let start = run.len() * part / parts.max(1);
        let stride = run.len().div_ceil((parts * steps * Self::PIECES).max(1));
        Self { from: run.as_ptr().wrapping_add(start), stride }
    }

    /// A piece of each of some rows, the first ones of `run`, from a part of them on.
    pub(crate) fn rows(
        run: &[f32],
        stride: usize,
        rows: usize,
        part: usize,
        parts: usize,
        steps: usize,
    ) -> Self {
        let each = rows.div_ceil((parts * steps * Self::PIECES).max(1));
        Self { from: run.as_ptr().wrapping_add(rows * part / parts.max(1) * stride), stride: each * stride }
    }
}

/// An instruction of the units, and a few that do nothing. Units that the processor holds back are a third faster when their
/// instructions do not stand side by side, and those that it does not hold back lose nothing (docs/kernels.md).
macro_rules! spaced {
    ($instruction:literal) => {
        concat!($instruction, "\n.rept 12\nnop\n.endr")
    };
}

/// The units of this thread, set up for tiles of 16 rows of 64 bytes; dropped, they are put to rest. No other thread's: neither
/// `Send` nor `Sync`.
pub(crate) struct Units(PhantomData<*mut ()>);

impl Units {
    /// # Safety
    /// [`granted`] has answered true; nobody else uses this thread's units until this is dropped.
    pub(crate) unsafe fn new() -> Self {
        #[repr(C, align(64))]
        struct Configuration {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            bytes_of_a_row: [u16; 16],
            rows: [u8; 16],
        }
        let mut set = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            bytes_of_a_row: [0; 16],
            rows: [0; 16],
        };
        set.bytes_of_a_row[..8].fill(64);
        set.rows[..8].fill(16);
        // SAFETY: the units are there; the instruction reads the 64 bytes of `set`.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const set, options(readonly, nostack, preserves_flags)) };
        Self(PhantomData)
    }

    /// Multiplies a block of rows by a block of columns, both packed, over as many steps of the inner dimension as they
    /// have, into `sum`, 32 rows of 32 numbers.
    #[inline]
    pub(crate) fn multiply(
        &self,
        rows: &[Line],
        columns: &[Line],
        ahead: Ahead,
        sum: &mut [f32; BLOCK * BLOCK],
    ) {
        assert!(rows.len() == columns.len() && rows.len().is_multiple_of(LINES) && !rows.is_empty(), "blocks");
        // Memory is asked for while the units work: that asks nothing of them.
        // Tiles 0 to 3: the sums; 4 and 5: rows 0 to 15 and 16 to 31; 6 and 7: columns. A step has, for each of h, m and l,
        // two tiles of 1024 bytes. The order is such that one operand stays where it is from one product to the next.
        // The compiler never uses tiles of its own accord, so none of them is named as changed.
        // SAFETY: `Units` says that the units are there and set up; the loop reads both slices from end to end, and the
        // last four instructions write the 4096 bytes of `sum`.
        unsafe {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "2:",
                "prefetcht1 [{p}]", "prefetcht1 [{p} + 64]", "add {p}, {next}",
                // h h
                spaced!("tileloadd tmm4, [{a} + {line}]"), spaced!("tileloadd tmm6, [{b} + {line}]"),
                spaced!("tdpbf16ps tmm0, tmm4, tmm6"),
                spaced!("tileloadd tmm7, [{b} + {line} + 1024]"), spaced!("tdpbf16ps tmm1, tmm4, tmm7"),
                spaced!("tileloadd tmm5, [{a} + {line} + 1024]"),
                spaced!("tdpbf16ps tmm2, tmm5, tmm6"), spaced!("tdpbf16ps tmm3, tmm5, tmm7"),
                "prefetcht1 [{p}]", "prefetcht1 [{p} + 64]", "add {p}, {next}",
                // h l
                spaced!("tileloadd tmm6, [{b} + {line} + 4096]"), spaced!("tileloadd tmm7, [{b} + {line} + 5120]"),
                spaced!("tdpbf16ps tmm0, tmm4, tmm6"), spaced!("tdpbf16ps tmm1, tmm4, tmm7"),
                spaced!("tdpbf16ps tmm2, tmm5, tmm6"), spaced!("tdpbf16ps tmm3, tmm5, tmm7"),
                "prefetcht1 [{p}]", "prefetcht1 [{p} + 64]", "add {p}, {next}",
                // h m
                spaced!("tileloadd tmm6, [{b} + {line} + 2048]"), spaced!("tileloadd tmm7, [{b} + {line} + 3072]"),
                spaced!("tdpbf16ps tmm0, tmm4, tmm6"), spaced!("tdpbf16ps tmm1, tmm4, tmm7"),
                spaced!("tdpbf16ps tmm2, tmm5, tmm6"), spaced!("tdpbf16ps tmm3, tmm5, tmm7"),
                "prefetcht1 [{p}]", "prefetcht1 [{p} + 64]", "add {p}, {next}",
                // m m
                spaced!("tileloadd tmm4, [{a} + {line} + 2048]"), spaced!("tileloadd tmm5, [{a} + {line} + 3072]"),
                spaced!("tdpbf16ps tmm0, tmm4, tmm6"), spaced!("tdpbf16ps tmm1, tmm4, tmm7"),
                spaced!("tdpbf16ps tmm2, tmm5, tmm6"), spaced!("tdpbf16ps tmm3, tmm5, tmm7"),
                "prefetcht1 [{p}]", "prefetcht1 [{p} + 64]", "add {p}, {next}",
                // m h
                spaced!("tileloadd tmm6, [{b} + {line}]"), spaced!("tileloadd tmm7, [{b} + {line} + 1024]"),
                spaced!("tdpbf16ps tmm0, tmm4, tmm6"), spaced!("tdpbf16ps tmm1, tmm4, tmm7"),
                spaced!("tdpbf16ps tmm2, tmm5, tmm6"), spaced!("tdpbf16ps tmm3, tmm5, tmm7"),
                "prefetcht1 [{p}]", "prefetcht1 [{p} + 64]", "add {p}, {next}",
                // l h
                spaced!("tileloadd tmm4, [{a} + {line} + 4096]"), spaced!("tileloadd tmm5, [{a} + {line} + 5120]"),
                spaced!("tdpbf16ps tmm0, tmm4, tmm6"), spaced!("tdpbf16ps tmm1, tmm4, tmm7"),
                spaced!("tdpbf16ps tmm2, tmm5, tmm6"), spaced!("tdpbf16ps tmm3, tmm5, tmm7"),
                "add {a}, 6144", "add {b}, 6144",
                "dec {steps}", "jnz 2b",
                "tilestored [{c} + {row}], tmm0", "tilestored [{c} + {row} + 64], tmm1",
                "tilestored [{c} + {row} + 2048], tmm2", "tilestored [{c} + {row} + 2112], tmm3",
                a = inout(reg) rows.as_ptr() => _,
                b = inout(reg) columns.as_ptr() => _,
                steps = inout(reg) rows.len() / LINES => _,
                c = in(reg) sum.as_mut_ptr(),
                p = inout(reg) ahead.from => _,
                next = in(reg) ahead.stride * size_of::<f32>(),
                line = in(reg) 64_usize,
                row = in(reg) 4 * BLOCK,
                options(nostack),
            );
        }
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        // SAFETY: the units are there, or this would not have been made.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
