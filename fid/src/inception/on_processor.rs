//! The network on the processor, over `nestgen_kernels::inference`: one thread runs whole images.

use super::spec::Branch;
use super::{Layers, SIDE, Tap, tap_after_block, tap_after_stem};
use nestgen_kernels::inference::{
    ConvShape, Layer, Map, Workspace, average_pool3_relu, global_average, max_pool3,
};

/// Images that go through the later blocks together: the weights of those are larger than their activations, so
/// one image at a time would wait for memory.
pub(crate) const CHUNK: usize = 8;

impl Layers<Layer> {
    /// Features of up to [`CHUNK`] images.
    ///
    /// `load(i, pixels)` fills image i: `[299, 299, 3]`, as preprocessed. Returns, for each image, the features of
    /// each tap in `taps` (which are sorted), one after the other.
    pub(crate) fn features(
        &self,
        images: usize,
        taps: &[Tap],
        work: &mut Workspace,
        mut load: impl FnMut(usize, &mut [f32]),
    ) -> Vec<Vec<f32>> {
        let mut features = vec![Vec::new(); images];
        let deepest = taps.last().copied().unwrap_or(Tap::D64);
        let mut stacked: Option<Map> = None;
        for (image, features) in features.iter_mut().enumerate() {
            let mut pixels = work.map(1, SIDE, SIDE, 3);
            load(image, &mut pixels.data);
            let Some(map) = self.shallow(pixels, taps, deepest, features, work) else { continue };
            // 17x17: from here on the images go together.
            let size = map.data.len();
            let all = stacked.get_or_insert_with(|| work.map(images, map.height, map.width, map.channels));
            all.data[image * size..][..size].copy_from_slice(&map.data);
            work.reclaim(map);
        }
        let Some(mut map) = stacked else { return features };
        for (index, block) in self.blocks.iter().enumerate().skip(4) {
            map = run_block(block, map, work);
            let Some(tap) = tap_after_block(index) else { continue };
            if taps.contains(&tap) {
                features.iter_mut().enumerate().for_each(|(i, f)| f.extend(global_average(&map, i)));
            }
            if deepest == tap {
                break;
            }
        }
        work.reclaim(map);
        features
    }

    /// The stem and the blocks 5b to 6a on one image; `None` once the deepest tap is reached.
    fn shallow(
        &self,
        pixels: Map,
        taps: &[Tap],
        deepest: Tap,
        features: &mut Vec<f32>,
        work: &mut Workspace,
    ) -> Option<Map> {
        let mut map = pixels;
        for (index, layer) in self.stem.iter().enumerate() {
            map = run_layer(layer, map, work);
            let Some(tap) = tap_after_stem(index) else { continue };
            let mut pooled = work.map(1, (map.height - 3) / 2 + 1, (map.width - 3) / 2 + 1, map.channels);
            max_pool3(&map, &mut pooled, 0, 2);
            work.reclaim(std::mem::replace(&mut map, pooled));
            if taps.contains(&tap) {
                features.extend(global_average(&map, 0));
            }
            if deepest == tap {
                work.reclaim(map);
                return None;
            }
        }
        for block in &self.blocks[..4] {
            map = run_block(block, map, work);
        }
        Some(map)
    }
}

/// One convolution with ReLU into a map of its own; the input's memory is taken back.
fn run_layer(layer: &Layer, input: Map, work: &mut Workspace) -> Map {
    let output = convolve(layer, &input, true, work);
    work.reclaim(input);
    output
}

fn convolve(layer: &Layer, input: &Map, relu: bool, work: &mut Workspace) -> Map {
    let (height, width) = layer.shape().output(input.height, input.width);
    let mut output = work.map(input.images, height, width, layer.shape().out_channels);
    layer.forward(input, &mut output, 0, relu, work);
    output
}

/// All branches of a block, each into its channels of the result.
fn run_block(block: &[Branch<Layer>], input: Map, work: &mut Workspace) -> Map {
    let channels = block.iter().map(|branch| out_channels(branch, input.channels)).sum();
    let stride = if block.iter().any(|branch| matches!(branch, Branch::Downsample)) { 2 } else { 1 };
    let side = |size: usize| if stride == 2 { (size - 3) / 2 + 1 } else { size };
    let mut output = work.map(input.images, side(input.height), side(input.width), channels);
    let mut offset = 0;
    for branch in block {
        match branch {
            Branch::Chain(layers) => run_chain(layers, &[], &input, &mut output, offset, work),
            Branch::Split(layers, sides) => run_chain(layers, sides, &input, &mut output, offset, work),
            Branch::AveragePool(layer) => {
                // Pool and 1x1 convolution are both linear and commute: pooling the result moves fewer channels.
                let convolved = convolve(layer, &input, false, work);
                average_pool3_relu(&convolved, &mut output, offset);
                work.reclaim(convolved);
            }
            Branch::MaxPool(layer) => {
                let mut pooled = work.map(input.images, input.height, input.width, input.channels);
                max_pool3(&input, &mut pooled, 0, 1);
                layer.forward(&pooled, &mut output, offset, true, work);
                work.reclaim(pooled);
            }
            Branch::Downsample => max_pool3(&input, &mut output, offset, 2),
        }
        offset += out_channels(branch, input.channels);
    }
    work.reclaim(input);
    output
}

/// A chain whose last layer, or the `sides` after it, write into `output`.
fn run_chain(
    layers: &[Layer],
    sides: &[Layer],
    input: &Map,
    output: &mut Map,
    mut offset: usize,
    work: &mut Workspace,
) {
    let inner = if sides.is_empty() { layers.len() - 1 } else { layers.len() };
    let mut current: Option<Map> = None;
    for layer in &layers[..inner] {
        let next = convolve(layer, current.as_ref().unwrap_or(input), true, work);
        if let Some(old) = current.replace(next) {
            work.reclaim(old);
        }
    }
    for layer in layers[inner..].iter().chain(sides) {
        layer.forward(current.as_ref().unwrap_or(input), output, offset, true, work);
        offset += layer.shape().out_channels;
    }
    if let Some(map) = current {
        work.reclaim(map);
    }
}

fn out_channels(branch: &Branch<Layer>, input: usize) -> usize {
    let channels = |layer: &Layer| -> usize {
        let ConvShape { out_channels, .. } = layer.shape();
        *out_channels
    };
    match branch {
        Branch::Chain(layers) => layers.last().map_or(input, channels),
        Branch::Split(_, [left, right]) => channels(left) + channels(right),
        Branch::AveragePool(layer) | Branch::MaxPool(layer) => channels(layer),
        Branch::Downsample => input,
    }
}
