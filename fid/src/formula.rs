//! The weights of `random-v1`: an Inception network filled from a formula, with no file.
//!
//! Each value is a function of the tensor's name and the element's index alone (FNV-1a of the name, then a
//! splitmix64 counter), so that any language can make the same network. Its features are a fixed random projection
//! of the image: good for tests and for watching a run, never to be called FID.

use crate::weights::{Array, StateDict};

/// SHA-256 of the whole network: names in order, each followed by its values, little-endian.
pub const SHA256: &str = "579dde4ef1130e788925200b867fdf948713e7647f8a4fd2b2d0f0da7fd0b869";

/// The golden-ratio increment of splitmix64.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Spread of the classifier's weights, chosen so that its softmax is neither flat nor certain.
const CLASSIFIER_GAIN: f64 = 8.0;

/// FNV-1a, 64 bits.
pub fn fnv1a64(text: &str) -> u64 {
    text.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

/// Draw number `index + 1` of the splitmix64 stream that starts at `state`.
pub fn draw(state: u64, index: u64) -> u64 {
    let mut z = state.wrapping_add((index + 1).wrapping_mul(GOLDEN));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A number in -1..1 with 24 bits, exact in f32.
pub(crate) fn unit(state: u64, index: u64) -> f64 {
    ((draw(state, index) >> 40) as f64 - 8_388_608.0) / 8_388_608.0
}

/// One tensor of the network by its name and shape.
fn tensor(name: &str, dims: &[usize]) -> Array {
    let count: usize = dims.iter().product();
    let fan_in = (count / dims.first().copied().unwrap_or(1).max(1)) as f64;
    let (scale, shift) = if name.ends_with("conv.weight") {
        ((6.0 / fan_in).sqrt(), 0.0)
    } else if name.ends_with("bn.weight") || name.ends_with("running_var") {
        (0.25, 1.0)
    } else if name.ends_with("bn.bias") {
        (0.25, 0.0)
    } else if name.ends_with("running_mean") {
        (0.1, 0.0)
    } else if name == "fc.weight" {
        (CLASSIFIER_GAIN * (6.0f64 / 2048.0).sqrt(), 0.0)
    } else {
        (0.5, 0.0)
    };
    let state = fnv1a64(name);
    let data = (0..count as u64).map(|i| (shift + scale * unit(state, i)) as f32).collect();
    Array::F32 { dims: dims.to_vec(), data }
}

/// All 566 tensors, named and shaped as in the published file.
pub fn state_dict() -> StateDict {
    let mut tensors = StateDict::new();
    for (name, dims) in crate::inception::tensor_shapes() {
        let array = if name.ends_with("num_batches_tracked") {
            Array::I64 { dims, data: vec![0] }
        } else {
            tensor(&name, &dims)
        };
        tensors.insert(name, array);
    }
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn the_tensors_are_those_of_the_specification() {
        assert_eq!(fnv1a64("Conv2d_1a_3x3.conv.weight"), 0xb233_eed7_10c5_459d);
        let all = state_dict();
        assert_eq!(all.len(), 566);
        let mut hash = Sha256::new();
        for (name, array) in &all {
            hash.update(name.as_bytes());
            match array {
                Array::F32 { data, .. } => data.iter().for_each(|x| hash.update(x.to_le_bytes())),
                Array::I64 { data, .. } => data.iter().for_each(|x| hash.update(x.to_le_bytes())),
            }
        }
        assert_eq!(nestgen_images::hex(&hash.finalize()), SHA256);
    }
}
