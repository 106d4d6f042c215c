//! How each kernel of `cuda/kernels.cu` is launched: grid, block, and what its parameter holds.

// A build without CUDA makes plans that only tests launch.
#![cfg_attr(not(any(test, feature = "cuda")), allow(dead_code))]

use candle_core::DType;

/// Threads of a block.
pub(super) const BLOCK: u32 = 256;
/// Blocks of an elementwise kernel at most: enough for every GPU; each thread takes several elements then.
const BLOCKS: u64 = 4096;
/// Rows that a block of row kernels works on: one for each of its warps.
const ROWS: u64 = BLOCK as u64 / 32;
/// Chunks of rows that column sums are cut into at most; the second launch sums what they leave.
const CHUNKS: u64 = 256;
/// Columns that a block adds up, of many rows and of the few that chunks leave.
const BAND: u64 = 128;
const BAND_OF_CHUNKS: u64 = 32;
/// Rows of a chunk at least.
const SHORTEST_CHUNK: u64 = 64;

/// One launch.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) kernel: &'static str,
    /// Blocks: x and y.
    pub(super) grid: (u32, u32),
    pub(super) block: u32,
    pub(super) sizes: Vec<u64>,
    pub(super) numbers: Vec<f32>,
    /// Shapes of the outputs.
    pub(super) outputs: Vec<Vec<usize>>,
    /// Bit k: whether output k is bf16; the others are f32.
    pub(super) rough: u32,
}

/// The parameter of every kernel, as C lays it out: pointers that are not used are null.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Args {
    pub(super) inputs: [u64; 8],
    pub(super) outputs: [u64; 4],
    pub(super) sizes: [u64; 12],
    pub(super) numbers: [f32; 8],
    /// Which operands are bf16: inputs from bit 0, outputs from bit 8.
    pub(super) rough: u32,
    /// Whether all operands start at multiples of [`ALIGNMENT`] bytes.
    pub(super) aligned: u32,
}

/// Bytes that a thread reads or writes at once.
const ALIGNMENT: u64 = 16;

impl Plan {
    /// A kernel of one thread an element, and its outputs of one shape.
    pub(super) fn elements(kernel: &'static str, outputs: usize, dims: &[usize]) -> Self {
        let count: usize = dims.iter().product();
        let blocks = (count as u64).div_ceil(u64::from(BLOCK)).clamp(1, BLOCKS);
        Self {
            kernel,
            grid: (blocks as u32, 1),
            block: BLOCK,
            sizes: vec![count as u64],
            numbers: Vec::new(),
            outputs: vec![dims.to_vec(); outputs],
            rough: 0,
        }
    }

    /// A kernel whose threads take eight elements at once.
    pub(super) fn eights(kernel: &'static str, outputs: usize, dims: &[usize]) -> Self {
        let count = dims.iter().product::<usize>() as u64;
        let blocks = count.div_ceil(8 * u64::from(BLOCK)).clamp(1, BLOCKS);
        Self { grid: (blocks as u32, 1), ..Self::elements(kernel, outputs, dims) }
    }

    /// The same with one number for each of at most `most` blocks.
    pub(super) fn block_parts(kernel: &'static str, elements: usize, most: usize) -> Self {
        let plan = Self::eights(kernel, 1, &[elements]);
        let blocks = plan.grid.0.min(most as u32);
        Self { grid: (blocks, 1), outputs: vec![vec![blocks as usize]], ..plan }
    }

    /// A kernel of so many blocks that go through `rows` rows of `width` elements, several rows at a time.
    pub(super) fn shared_rows(
        kernel: &'static str,
        blocks: usize,
        rows: usize,
        width: usize,
        outputs: Vec<Vec<usize>>,
    ) -> Self {
        let grid = (blocks.max(1) as u32, 1);
        Self { grid, ..Self::rows(kernel, rows, width, outputs) }
    }

    /// A kernel of one warp a row, for `rows` rows of `width` elements.
    pub(super) fn rows(kernel: &'static str, rows: usize, width: usize, outputs: Vec<Vec<usize>>) -> Self {
        let blocks = (rows as u64).div_ceil(ROWS).max(1);
        let sizes = vec![rows as u64, width as u64];
        Self { kernel, grid: (blocks as u32, 1), block: BLOCK, sizes, numbers: Vec::new(), outputs, rough: 0 }
    }

    /// A kernel of blocks of so many warps.
    pub(super) fn blocks(
        kernel: &'static str,
        grid: (usize, usize),
        warps: usize,
        outputs: Vec<Vec<usize>>,
    ) -> Self {
        let grid = (grid.0.max(1) as u32, grid.1.max(1) as u32);
        let block = 32 * warps as u32;
        Self { kernel, grid, block, sizes: Vec::new(), numbers: Vec::new(), outputs, rough: 0 }
    }

    /// A kernel of one block a piece of a parameter, with a table that has the addresses of its results.
    pub(super) fn pieces(kernel: &'static str, pieces: usize) -> Self {
        Self { block: BLOCK, ..Self::blocks(kernel, (pieces, 1), 1, Vec::new()) }
    }

    /// Sums of columns within chunks of rows, of so many quantities: `[chunks, quantities * width]`.
    pub(super) fn columns(kernel: &'static str, rows: usize, width: usize, quantities: usize) -> Self {
        let chunk = (rows as u64).div_ceil(CHUNKS).max(SHORTEST_CHUNK);
        Self::columns_of(kernel, (rows, chunk as usize), width, quantities)
    }

    /// The same with chunks of `chunk` rows.
    pub(super) fn columns_of(
        kernel: &'static str,
        (rows, chunk): (usize, usize),
        width: usize,
        quantities: usize,
    ) -> Self {
        let chunk = chunk as u64;
        let chunks = (rows as u64).div_ceil(chunk).max(1);
        Self {
            kernel,
            grid: ((width as u64).div_ceil(BAND) as u32, chunks as u32),
            block: BLOCK,
            sizes: vec![rows as u64, width as u64, chunk],
            numbers: Vec::new(),
            outputs: vec![vec![chunks as usize, quantities * width]],
            rough: 0,
        }
    }

    /// The sums of what chunks have left, every `chunk` rows of it.
    pub(super) fn sums_of_chunks((rows, chunk): (usize, usize), width: usize) -> Self {
        let plan = Self::columns_of("column_sums_of_chunks", (rows, chunk), width, 1);
        Self { grid: ((width as u64).div_ceil(BAND_OF_CHUNKS) as u32, plan.grid.1), ..plan }
    }

    /// The same with further sizes.
    pub(super) fn with_sizes(mut self, sizes: &[usize]) -> Self {
        self.sizes.extend(sizes.iter().map(|&size| size as u64));
        self
    }

    /// The same with numbers.
    pub(super) fn with_numbers(mut self, numbers: &[f32]) -> Self {
        self.numbers.extend_from_slice(numbers);
        self
    }

    /// The same with outputs of these types, as many as there are.
    pub(super) fn with_types(mut self, types: &[DType]) -> Self {
        for (k, dtype) in types.iter().enumerate() {
            self.rough |= u32::from(*dtype == DType::BF16) << k;
        }
        self
    }

    /// The type of output `k`.
    pub(super) fn dtype(&self, k: usize) -> DType {
        if self.rough >> k & 1 == 1 { DType::BF16 } else { DType::F32 }
    }

    /// The parameter for operands at these addresses; bit k of `rough` says whether input k is bf16.
    pub(super) fn args(&self, inputs: &[u64], rough: u32, outputs: &[u64]) -> Args {
        let aligned = inputs.iter().chain(outputs).all(|address| address.is_multiple_of(ALIGNMENT));
        let mut args = Args { rough: rough | self.rough << 8, aligned: u32::from(aligned), ..Args::default() };
        args.inputs[..inputs.len()].copy_from_slice(inputs);
        args.outputs[..outputs.len()].copy_from_slice(outputs);
        args.sizes[..self.sizes.len()].copy_from_slice(&self.sizes);
        args.numbers[..self.numbers.len()].copy_from_slice(&self.numbers);
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the emulation cannot see: it has its own numbers of blocks and threads for most kernels.
    #[test]
    fn blocks_cover_all_rows_columns_and_elements() {
        for count in (1..200).chain([255, 256, 257, 2047, 2048, 2049, 65_537, 3_000_000]) {
            let warps = |plan: &Plan| u64::from(plan.grid.0) * u64::from(plan.block / 32);
            let rows = warps(&Plan::rows("softmax", count, 5, Vec::new()));
            assert!((count as u64..count as u64 + 8).contains(&rows), "{count} rows: {rows} warps");
            // Threads go on until all is done where there are as many blocks as there may be.
            for (each, plan) in [(1, Plan::elements("add", 1, &[count])), (8, Plan::eights("add", 1, &[count]))]
            {
                let elements = 32 * warps(&plan) * each;
                assert!(elements >= count as u64 || u64::from(plan.grid.0) == BLOCKS, "{count}: {elements}");
            }
            let columns = Plan::columns("column_sums", 3, count, 1);
            assert!(u64::from(columns.grid.0) * BAND >= count as u64, "{count} columns");
            let few = Plan::sums_of_chunks((3, 3), count);
            assert!(u64::from(few.grid.0) * BAND_OF_CHUNKS >= count as u64, "{count} columns");
            let chunks = Plan::columns("column_sums", count, 3, 1);
            assert!(u64::from(chunks.grid.1) * chunks.sizes[2] >= count as u64, "{count} rows");
            assert!(u64::from(chunks.grid.1) <= CHUNKS && chunks.outputs[0][0] == chunks.grid.1 as usize);
        }
    }

    #[test]
    fn operands_are_aligned_where_all_of_them_are() {
        let plan = Plan::elements("add", 1, &[7]);
        let aligned = |inputs: &[u64], output: u64| plan.args(inputs, 0, &[output]).aligned;
        assert_eq!(aligned(&[4096, 0, 4112], 4128), 1);
        for odd in [2, 4, 8, 12] {
            assert_eq!(aligned(&[4096, 4096 + odd], 4112), 0, "an input at {odd}");
            assert_eq!(aligned(&[4096], 4096 + odd), 0, "an output at {odd}");
        }
    }
}
