//! GradCAT, gradient-based class-aware tree traversal (arXiv 2105.12723, section 3.3 and algorithm 1): from the root
//! of NesT's tree of blocks to the leaf on which the score of a class depends most.
//!
//! At every node, a value of every place is averaged over the node's four quarters; the way goes on into the quarter with the
//! highest average. Activations A are those that a level's layers get, on the image plane: what the level's blocks below have
//! handed up. A node of the top level is the whole image; its quarters are the blocks of the level below, whose quarters are the
//! blocks below that. With the gradient g of the class's logit and g' that of the mean of all logits, the value of a place is,
//! summed over channels,
//!
//! ```text
//! |A g| + contrast (A - mean of A over the places) (g - g')
//! ```
//!
//! The first term says how much the class's score depends on the place, the second how much more what is special about the place
//! speaks for this class than for others. The contrast is 4 at the root and halves with each step down.
//!
//! Differs from the paper as it is remembered (no reference code exists), because of what was measured on small planted
//! objects (samples/planted):
//! - Not what a level's layers give but what they get: a block's attention has by then spread what one quarter found over
//!   all four.
//! - Two terms, where the paper has activations times gradients with a sign. Between two norms these nearly add up to zero: a norm
//!   does not change with the scale of its input (Euler's theorem on homogeneous functions). Signed, the sums say little about
//!   where; without a sign they find an object, but lead to the same one whatever class is asked for.

use candle_core::{DType, Result, Tensor, bail};
use nestgen_kernels::{self as k, Var};

use crate::data::synthetic::BoundingBox;
use crate::models::{FeatureMap, Features};

/// How much telling classes apart counts at the root, beside finding what matters at all; half of it a step down. Chosen on planted
/// objects, single ones and pairs of two classes: 1 tells half of the pairs apart, 6 hardly more than 4, and the same contrast at
/// all levels finds fewer of the single ones (samples/planted).
const CONTRAST: f64 = 4.0;

/// A way from the root to a leaf.
#[derive(Clone, Debug, PartialEq)]
pub struct Traversal {
    /// Whose logit.
    pub class: usize,
    /// The logit.
    pub logit: f64,
    /// The nodes at which a quarter was chosen, the root first.
    pub nodes: Vec<Node>,
}

/// A node of the tree of blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The level at whose input activations were looked at; the last one is the root's.
    pub level: usize,
    /// Where the node is, as shares of the image.
    pub region: BoundingBox,
    /// The values of its quarters, which may be below zero: upper left, upper right, lower left, lower right.
    pub values: [f64; 4],
    /// The quarter with the highest value.
    pub chosen: usize,
}

impl Node {
    /// Where a quarter of the node is.
    pub fn quarter(&self, index: usize) -> BoundingBox {
        let BoundingBox { left, top, right, bottom } = self.region;
        let (x, y) = ((left + right) / 2.0, (top + bottom) / 2.0);
        let (left, right) = if index.is_multiple_of(2) { (left, x) } else { (x, right) };
        let (top, bottom) = if index < 2 { (top, y) } else { (y, bottom) };
        BoundingBox { left, top, right, bottom }
    }
}

impl Traversal {
    /// Where the way ends, as shares of the image.
    pub fn leaf(&self) -> BoundingBox {
        let whole = BoundingBox { left: 0.0, top: 0.0, right: 1.0, bottom: 1.0 };
        self.nodes.last().map_or(whole, |node| node.quarter(node.chosen))
    }
}

/// What all classes have in common: the gradients of the mean of all logits, a map for each level that has blocks below it.
///
/// # Errors
/// When the features were not watched.
pub fn of_mean(features: &Features) -> Result<Vec<Var>> {
    k::grad(&k::mean_all(&features.logits)?, &probes(features)?, false)
}

fn probes(features: &Features) -> Result<Vec<&Var>> {
    match with_blocks_below(features).iter().map(|map| map.probe.as_ref()).collect() {
        Some(probes) => Ok(probes),
        None => bail!("gradcat: the features were not watched"),
    }
}

/// The first level has no blocks below it.
fn with_blocks_below(features: &Features) -> &[FeatureMap] {
    features.maps.get(1..).unwrap_or_default()
}

/// The traversal for `class` of one image's watched features, whose [`of_mean`] are given.
///
/// # Errors
/// When the features are not those of one image through a NesT, watched.
pub fn traverse(features: &Features, of_mean: &[Var], class: usize) -> Result<Traversal> {
    let classes = features.logits.dims().get(1).copied().unwrap_or(0);
    if features.logits.dims().first() != Some(&1) || class >= classes {
        bail!("gradcat: expected logits [1, K > {class}], got {:?}", features.logits.dims());
    }
    let logit = k::reshape(&k::narrow(&features.logits, 1, class, 1)?, &[])?;
    let mut traversal =
        Traversal { class, logit: logit.value().to_dtype(DType::F64)?.to_scalar()?, nodes: vec![] };
    let of_class = k::grad(&logit, &probes(features)?, false)?;
    let mut contrast = CONTRAST;
    let mut region = BoundingBox { left: 0.0, top: 0.0, right: 1.0, bottom: 1.0 };
    let levels = with_blocks_below(features).iter().zip(&of_class).zip(of_mean);
    for (index, ((map, of_class), of_mean)) in levels.enumerate().rev() {
        let values = quarters(&values(&map.value, of_class.value(), of_mean.value(), contrast)?, region);
        contrast /= 2.0;
        let best = (1..4).fold(0, |best, i| if values[i] > values[best] { i } else { best });
        let node = Node { level: index + 1, region, values, chosen: best };
        region = node.quarter(best);
        traversal.nodes.push(node);
    }
    Ok(traversal)
}

/// The values of the places `[H, W]` of a map `[1, H, W, C]`.
fn values(map: &Tensor, of_class: &Tensor, of_mean: &Tensor, contrast: f64) -> Result<Vec<Vec<f64>>> {
    let [map, of_class, of_mean] = [map, of_class, of_mean].map(|tensor| tensor.to_dtype(DType::F64));
    let (map, of_class) = (map?, of_class?);
    let special = map.broadcast_sub(&map.mean_keepdim((1, 2))?)?;
    let depends = (&map * &of_class)?.abs()?.sum(3)?;
    let speaks = (special * (of_class - of_mean?)?)?.sum(3)?;
    (depends + (speaks * contrast)?)?.squeeze(0)?.to_vec2()
}

/// Averages of a square map over the four quarters of a region.
fn quarters(rows: &[Vec<f64>], region: BoundingBox) -> [f64; 4] {
    let place = |share: f32| (f64::from(share) * rows.len() as f64).round() as usize;
    let (top, left) = (place(region.top), place(region.left));
    let half = (place(region.right) - left) / 2;
    let mut values = [0.0; 4];
    for (quarter, value) in values.iter_mut().enumerate() {
        let (y, x) = (top + quarter / 2 * half, left + quarter % 2 * half);
        let cells = rows.iter().skip(y).take(half).flat_map(|row| row.iter().skip(x).take(half));
        *value = cells.sum::<f64>() / (half * half).max(1) as f64;
    }
    values
}
