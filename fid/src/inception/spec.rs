//! Inception-v3 as the FID network has it: every convolution by name and shape.
//!
//! Source: Szegedy et al., "Rethinking the Inception Architecture" (arXiv 1512.00567); names and variants of
//! pytorch-fid's `inception.py`. Differs from torchvision's `inception_v3`: average pools do not count padding, the
//! last block pools by maximum, 1008 classes, no auxiliary head.

use nestgen_kernels::inference::ConvShape;

/// One path from a block's input to a part of its output. `L` is a convolution: its description or the layer itself.
#[derive(Debug)]
pub(super) enum Branch<L> {
    /// Convolutions one after the other.
    Chain(Vec<L>),
    /// A chain, then two convolutions of its result side by side.
    Split(Vec<L>, [L; 2]),
    /// 3x3 average pool at stride 1, then a 1x1 convolution.
    AveragePool(L),
    /// 3x3 maximum pool at stride 1, then a 1x1 convolution.
    MaxPool(L),
    /// 3x3 maximum pool at stride 2.
    Downsample,
}

impl<L> Branch<L> {
    /// The same branch with each convolution replaced.
    pub(super) fn map<M, E>(self, f: &mut impl FnMut(L) -> Result<M, E>) -> Result<Branch<M>, E> {
        Ok(match self {
            Branch::Chain(layers) => Branch::Chain(layers.into_iter().map(f).collect::<Result<_, E>>()?),
            Branch::Split(layers, [left, right]) => {
                Branch::Split(layers.into_iter().map(&mut *f).collect::<Result<_, E>>()?, [f(left)?, f(right)?])
            }
            Branch::AveragePool(layer) => Branch::AveragePool(f(layer)?),
            Branch::MaxPool(layer) => Branch::MaxPool(f(layer)?),
            Branch::Downsample => Branch::Downsample,
        })
    }
}

/// A convolution with its name in the weight file.
#[derive(Clone, Debug)]
pub(super) struct Conv {
    pub(super) name: String,
    pub(super) shape: ConvShape,
}

/// A list of convolutions in the making: each takes the channels of the one before.
struct Chain<'a> {
    block: &'a str,
    channels: usize,
    layers: Vec<Conv>,
}

impl<'a> Chain<'a> {
    fn new(block: &'a str, channels: usize) -> Self {
        Self { block, channels, layers: Vec::new() }
    }

    fn push(
        mut self,
        name: &str,
        out_channels: usize,
        kernel: (usize, usize),
        stride: usize,
        pad: bool,
    ) -> Self {
        let padding = if pad { (kernel.0 / 2, kernel.1 / 2) } else { (0, 0) };
        let shape = ConvShape { in_channels: self.channels, out_channels, kernel, stride, padding };
        let name = if self.block.is_empty() { name.to_owned() } else { format!("{}.{name}", self.block) };
        self.layers.push(Conv { name, shape });
        self.channels = out_channels;
        self
    }

    /// A convolution at stride 1 that keeps the size.
    fn same(self, name: &str, out_channels: usize, height: usize, width: usize) -> Self {
        self.push(name, out_channels, (height, width), 1, true)
    }

    /// A 3x3 convolution at stride 2 without padding.
    fn half(self, name: &str, out_channels: usize) -> Self {
        self.push(name, out_channels, (3, 3), 2, false)
    }

    fn end(self) -> Branch<Conv> {
        Branch::Chain(self.layers)
    }

    fn only(mut self) -> Conv {
        self.layers.remove(0)
    }

    /// Ends in a 1x3 and a 3x1 convolution side by side.
    fn split(self, names: [&str; 2], out_channels: usize) -> Branch<Conv> {
        let side = |name: &str, height, width| {
            Chain::new(self.block, self.channels).same(name, out_channels, height, width).only()
        };
        let sides = [side(names[0], 1, 3), side(names[1], 3, 1)];
        Branch::Split(self.layers, sides)
    }
}

/// The five convolutions before the blocks; pools follow the third and the fifth.
pub(super) fn stem() -> Vec<Conv> {
    Chain::new("", 3)
        .half("Conv2d_1a_3x3", 32)
        .push("Conv2d_2a_3x3", 32, (3, 3), 1, false)
        .same("Conv2d_2b_3x3", 64, 3, 3)
        .same("Conv2d_3b_1x1", 80, 1, 1)
        .push("Conv2d_4a_3x3", 192, (3, 3), 1, false)
        .layers
}

/// The blocks in order, 5b to 7c.
pub(super) fn blocks() -> Vec<Vec<Branch<Conv>>> {
    vec![
        block_a("Mixed_5b", 192, 32),
        block_a("Mixed_5c", 256, 64),
        block_a("Mixed_5d", 288, 64),
        block_b("Mixed_6a", 288),
        block_c("Mixed_6b", 768, 128),
        block_c("Mixed_6c", 768, 160),
        block_c("Mixed_6d", 768, 160),
        block_c("Mixed_6e", 768, 192),
        block_d("Mixed_7a", 768),
        block_e("Mixed_7b", 1280, false),
        block_e("Mixed_7c", 2048, true),
    ]
}

fn block_a(name: &str, channels: usize, pool: usize) -> Vec<Branch<Conv>> {
    let new = || Chain::new(name, channels);
    vec![
        new().same("branch1x1", 64, 1, 1).end(),
        new().same("branch5x5_1", 48, 1, 1).same("branch5x5_2", 64, 5, 5).end(),
        new()
            .same("branch3x3dbl_1", 64, 1, 1)
            .same("branch3x3dbl_2", 96, 3, 3)
            .same("branch3x3dbl_3", 96, 3, 3)
            .end(),
        Branch::AveragePool(new().same("branch_pool", pool, 1, 1).only()),
    ]
}

fn block_b(name: &str, channels: usize) -> Vec<Branch<Conv>> {
    let new = || Chain::new(name, channels);
    vec![
        new().half("branch3x3", 384).end(),
        new()
            .same("branch3x3dbl_1", 64, 1, 1)
            .same("branch3x3dbl_2", 96, 3, 3)
            .half("branch3x3dbl_3", 96)
            .end(),
        Branch::Downsample,
    ]
}

fn block_c(name: &str, channels: usize, inner: usize) -> Vec<Branch<Conv>> {
    let new = || Chain::new(name, channels);
    vec![
        new().same("branch1x1", 192, 1, 1).end(),
        new()
            .same("branch7x7_1", inner, 1, 1)
            .same("branch7x7_2", inner, 1, 7)
            .same("branch7x7_3", 192, 7, 1)
            .end(),
        new()
            .same("branch7x7dbl_1", inner, 1, 1)
            .same("branch7x7dbl_2", inner, 7, 1)
            .same("branch7x7dbl_3", inner, 1, 7)
            .same("branch7x7dbl_4", inner, 7, 1)
            .same("branch7x7dbl_5", 192, 1, 7)
            .end(),
        Branch::AveragePool(new().same("branch_pool", 192, 1, 1).only()),
    ]
}

fn block_d(name: &str, channels: usize) -> Vec<Branch<Conv>> {
    let new = || Chain::new(name, channels);
    vec![
        new().same("branch3x3_1", 192, 1, 1).half("branch3x3_2", 320).end(),
        new()
            .same("branch7x7x3_1", 192, 1, 1)
            .same("branch7x7x3_2", 192, 1, 7)
            .same("branch7x7x3_3", 192, 7, 1)
            .half("branch7x7x3_4", 192)
            .end(),
        Branch::Downsample,
    ]
}

fn block_e(name: &str, channels: usize, max_pool: bool) -> Vec<Branch<Conv>> {
    let new = || Chain::new(name, channels);
    let pool = new().same("branch_pool", 192, 1, 1).only();
    vec![
        new().same("branch1x1", 320, 1, 1).end(),
        new().same("branch3x3_1", 384, 1, 1).split(["branch3x3_2a", "branch3x3_2b"], 384),
        new()
            .same("branch3x3dbl_1", 448, 1, 1)
            .same("branch3x3dbl_2", 384, 3, 3)
            .split(["branch3x3dbl_3a", "branch3x3dbl_3b"], 384),
        if max_pool { Branch::MaxPool(pool) } else { Branch::AveragePool(pool) },
    ]
}

/// Every convolution of the network.
fn convolutions() -> Vec<Conv> {
    let mut all = stem();
    for branch in blocks().into_iter().flatten() {
        match branch {
            Branch::Chain(layers) => all.extend(layers),
            Branch::Split(layers, sides) => all.extend(layers.into_iter().chain(sides)),
            Branch::AveragePool(layer) | Branch::MaxPool(layer) => all.push(layer),
            Branch::Downsample => {}
        }
    }
    all
}

/// Names and shapes of all 566 tensors of a weight file; convolutions are `[out, in, height, width]`.
pub(crate) fn tensor_shapes() -> Vec<(String, Vec<usize>)> {
    let mut shapes = Vec::new();
    for Conv { name, shape } in convolutions() {
        let (height, width) = shape.kernel;
        shapes
            .push((format!("{name}.conv.weight"), vec![shape.out_channels, shape.in_channels, height, width]));
        for part in ["weight", "bias", "running_mean", "running_var"] {
            shapes.push((format!("{name}.bn.{part}"), vec![shape.out_channels]));
        }
        shapes.push((format!("{name}.bn.num_batches_tracked"), vec![]));
    }
    shapes.push(("fc.weight".into(), vec![super::CLASSES, super::FEATURES]));
    shapes.push(("fc.bias".into(), vec![super::CLASSES]));
    shapes
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_network_has_the_published_number_of_tensors_and_values() {
        let shapes = super::tensor_shapes();
        assert_eq!(shapes.len(), 566);
        let values: usize = shapes.iter().map(|(_, dims)| dims.iter().product::<usize>()).sum();
        assert_eq!(values, 23_850_960 + 34_432 + 94);
    }
}
