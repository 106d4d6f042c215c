//! A small inference engine for convolutional networks on the processor: channels last, folded batch norm, weights
//! packed once, bias and ReLU in the last pass over a result, concatenation by writing in place.
//!
//! One thread runs whole images; threads share nothing but the weights. Each convolution takes the cheapest of three
//! exact algorithms by its shape: indirect GEMM (`direct`), Winograd's on square tiles (`winograd2d`) or along
//! one axis (`winograd1d`). A pixel's result is the same bits in any batch and on any number of threads.

mod direct;
mod gemm;
mod layer;
mod pool;
mod winograd1d;
mod winograd2d;

pub use layer::{ConvShape, Layer};
pub use pool::{average_pool3_relu, global_average, max_pool3};

/// Activations of a few images: `[images, height, width, channels]`, contiguous.
#[derive(Debug, Default)]
pub struct Map {
    /// Number of images.
    pub images: usize,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Numbers of a pixel.
    pub channels: usize,
    /// The numbers.
    pub data: Vec<f32>,
}

impl Map {
    /// Whether its data are as many as its shape says.
    fn is_whole(&self) -> bool {
        let sides = [self.images, self.height, self.width, self.channels];
        let count = sides.into_iter().try_fold(1_usize, usize::checked_mul);
        count.is_some_and(|count| self.data.len() >= count)
    }

    /// The elements of one image.
    ///
    /// # Panics
    /// When there is no such image.
    pub fn image(&self, index: usize) -> &[f32] {
        let size = self.height * self.width * self.channels;
        &self.data[index * size..][..size]
    }
}

/// A thread's own memory: buffers that are given back and used again, so that a pass allocates nothing after the
/// first image.
#[derive(Debug, Default)]
pub struct Workspace {
    free: Vec<Vec<f32>>,
    pointers: Vec<*const f32>,
}

// SAFETY: the pointer list is scratch space: it is filled and read within one call, by the thread that holds the
// workspace exclusively.
unsafe impl Send for Workspace {}

impl Workspace {
    /// A map of the given shape, contents arbitrary.
    pub fn map(&mut self, images: usize, height: usize, width: usize, channels: usize) -> Map {
        let data = self.buffer(images * height * width * channels);
        Map { images, height, width, channels, data }
    }

    /// A buffer of `len` elements, contents arbitrary.
    fn buffer(&mut self, len: usize) -> Vec<f32> {
        let fitting = self.free.iter().enumerate().filter(|(_, b)| b.capacity() >= len);
        let best = fitting.min_by_key(|(_, b)| b.capacity()).map(|(i, _)| i);
        let mut data = best.map_or_else(Vec::new, |i| self.free.swap_remove(i));
        // Only the part that was never written is filled; a reused buffer keeps its old contents.
        if data.len() < len {
            data.resize(len, 0.0);
        }
        data.truncate(len);
        data
    }

    /// Takes a map's memory back.
    pub fn reclaim(&mut self, map: Map) {
        self.free.push(map.data);
    }
}

#[cfg(test)]
mod tests;
