//! Why a classifier decided: the path through NesT's tree of blocks (GradCAT), class activation maps, boxes.

pub mod cam;
pub mod canvas;
pub mod figure;
mod font;
pub mod gradcat;
pub mod localise;

use candle_core::{Device, Tensor};
use nestgen_kernels::Var;

use crate::error::{Error, Result};
use crate::models::{Classifier, nest::Nest};
use cam::Heat;
use gradcat::Traversal;

/// Why an image was taken for a class.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The class.
    pub class: usize,
    /// Its probability, in 0..1.
    pub probability: f64,
    /// The way from the root of the tree of blocks to a leaf.
    pub traversal: Traversal,
    /// What each place of the last level adds to the logit.
    pub heat: Heat,
}

/// The network of a classifier whose decisions can be traced.
///
/// # Errors
/// When it is no NesT, or its blocks cannot be halved.
pub fn traceable(classifier: &Classifier) -> Result<&Nest> {
    let usage = |message: &str, hint: &str| Error::Usage { message: message.into(), hint: Some(hint.into()) };
    let Classifier::Nest(nest) = classifier else {
        return Err(usage(
            "a ViT has neither a tree of blocks nor a head over the mean of its tokens",
            "explain a NesT: nest-xs, nest-t, nest-s, nest-b",
        ));
    };
    let config = nest.config();
    let block = (config.resolution / config.patch_size) >> (config.dims.len() - 1);
    if !block.is_multiple_of(2) {
        return Err(usage(
            &format!("blocks of {block}x{block} tokens have no quarters"),
            "explain a NesT with an even block side",
        ));
    }
    Ok(nest)
}

/// The probabilities of all classes for one normalised image `[res, res, 3]`, and an explanation of each of the
/// classes that `choose` picks from them.
///
/// # Errors
/// Only those of tensors.
pub fn explain(
    nest: &Nest,
    image: &Tensor,
    choose: impl FnOnce(&[f64]) -> Vec<usize>,
) -> Result<(Vec<f64>, Vec<Explanation>)> {
    let image = Var::constant(image.to_device(&Device::Cpu)?.unsqueeze(0)?);
    let features = nest.forward(&image, None, true)?;
    let logits = features.logits.value().flatten_all()?.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?;
    let probabilities = softmax(&logits);
    let of_mean = gradcat::of_mean(&features)?;
    let explanations = choose(&probabilities)
        .into_iter()
        .map(|class| {
            let heat = cam::activation_map(nest, &features, class)?;
            Ok(Explanation {
                class,
                probability: probabilities.get(class).copied().unwrap_or(0.0),
                traversal: gradcat::traverse(&features, &of_mean, class)?,
                heat,
            })
        })
        .collect::<Result<_>>()?;
    Ok((probabilities, explanations))
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (logit - highest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// The `count` likeliest classes, likeliest first.
pub fn likeliest(probabilities: &[f64], count: usize) -> Vec<usize> {
    let mut classes: Vec<usize> = (0..probabilities.len()).collect();
    classes.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]).then(a.cmp(&b)));
    classes.truncate(count);
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_class_comes_first() {
        assert_eq!(likeliest(&[0.1, 0.6, 0.1, 0.2], 3), [1, 3, 0]);
        assert_eq!(likeliest(&[0.5, 0.5], 5), [0, 1]);
    }
}
