//! DINOv2 (Oquab et al., arXiv 2304.07193), ViT-B/14 and its smaller and larger forms, as a feature space: the
//! class token after the last layer norm, of images of 224 px (Stein et al., arXiv 2306.04675, who propose it).
//!
//! The network is the [`vit`] of this program. Differs from the file: what DINOv2 adds, a scale for each channel
//! of each branch, is multiplied into the linear layer before it; the position embedding, trained at 518 px, is
//! resampled to 224 px as the authors do (bicubic, a = -0.75, scale (16 + 0.1) / 37). The model with registers and
//! the giant one, whose MLP is gated, are refused as other networks.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor};

use super::Space;
use crate::data::IMAGENET;
use crate::models::{ClassifierConfig, vit};
use crate::nn::Gelu;

/// Side of the images in pixels.
const RESOLUTION: usize = 224;
/// Side of a patch in pixels.
const PATCH: usize = 14;
/// Channels of a head, in every size of the model.
const HEAD_DIM: usize = 64;
/// Added to the target side by the authors before they divide by the source side.
const OFFSET: f64 = 0.1;

type Tensors = BTreeMap<String, Tensor>;

/// Whether tensors are named as DINOv2's.
pub(super) fn is_one(tensors: &Tensors) -> bool {
    tensors.contains_key("blocks.0.ls1.gamma")
        || tensors.keys().any(|name| name.ends_with("layer_scale1.lambda1"))
}

/// The feature space of DINOv2's tensors.
///
/// # Errors
/// What does not fit, in words.
pub(super) fn space(tensors: Tensors) -> std::result::Result<Space, String> {
    let tensors =
        if tensors.contains_key("blocks.0.ls1.gamma") { tensors } else { from_transformers(tensors)? };
    let cls = tensors.get("cls_token").ok_or("`cls_token` is missing")?;
    let &[1, 1, dim] = cls.dims() else { return Err(format!("`cls_token` has shape {:?}", cls.dims())) };
    let depth = (0..).take_while(|i| tensors.contains_key(&format!("blocks.{i}.ls1.gamma"))).count();
    let config = vit::Config {
        resolution: RESOLUTION,
        patch_size: PATCH,
        dim,
        depth,
        heads: (dim / HEAD_DIM).max(1),
        gelu: Gelu::Erf,
        drop_path: 0.0,
        classes: 1,
    };
    let name = match (dim, depth) {
        (768, 12) => "DINOv2".to_owned(),
        _ => format!("DINOv2-{dim}x{depth}"),
    };
    let tensors = fold(tensors, depth, dim)?;
    Space::new(name, ClassifierConfig::Vit(config), &tensors, IMAGENET)
}

/// Takes the scales into the layers before them, resamples the positions, leaves out what features do not need and
/// adds an empty head.
fn fold(mut tensors: Tensors, depth: usize, dim: usize) -> std::result::Result<Tensors, String> {
    let failed = |error: candle_core::Error| error.to_string();
    tensors.remove("mask_token");
    for block in 0..depth {
        for (scale, layer) in [("ls1", "attn.proj"), ("ls2", "mlp.fc2")] {
            let name = format!("blocks.{block}.{scale}.gamma");
            let gamma = tensors.remove(&name).ok_or_else(|| format!("`{name}` is missing"))?;
            for part in ["weight", "bias"] {
                let name = format!("blocks.{block}.{layer}.{part}");
                let tensor = tensors.get_mut(&name).ok_or_else(|| format!("`{name}` is missing"))?;
                *tensor = scale_rows(tensor, &gamma).map_err(|e| format!("`{name}`: {e}"))?;
            }
        }
    }
    let positions = tensors.get_mut("pos_embed").ok_or("`pos_embed` is missing")?;
    *positions = resample_positions(positions, RESOLUTION / PATCH)?;
    for (part, shape) in [("head.weight", vec![1, dim]), ("head.bias", vec![1])] {
        let zeros = Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).map_err(failed)?;
        if tensors.insert(part.into(), zeros).is_some() {
            return Err(format!("`{part}`: DINOv2's backbone has no head"));
        }
    }
    Ok(tensors)
}

/// Row i times `gamma[i]`, for a weight `[C, ..]` or a bias `[C]`.
fn scale_rows(tensor: &Tensor, gamma: &Tensor) -> Result<Tensor> {
    let (rows, scales) = (tensor.dim(0)?, gamma.flatten_all()?.to_vec1::<f32>()?);
    if rows != scales.len() {
        candle_core::bail!("{rows} rows, but {} scales", scales.len());
    }
    let row = tensor.elem_count() / rows.max(1);
    let mut values = tensor.flatten_all()?.to_vec1::<f32>()?;
    for (values, scale) in values.chunks_exact_mut(row.max(1)).zip(scales) {
        values.iter_mut().for_each(|x| *x *= scale);
    }
    Tensor::from_vec(values, tensor.shape(), &Device::Cpu)
}

/// `[1, 1 + S*S, C]` -> `[1, 1 + side*side, C]`: the first row is the class token's and stays.
fn resample_positions(positions: &Tensor, side: usize) -> std::result::Result<Tensor, String> {
    let wrong = || format!("`pos_embed` has shape {:?}, expected [1, 1 + side * side, C]", positions.dims());
    let &[1, tokens, dim] = positions.dims() else { return Err(wrong()) };
    let source = tokens.saturating_sub(1).isqrt();
    if source == 0 || source * source + 1 != tokens {
        return Err(wrong());
    }
    if source == side {
        return Ok(positions.clone());
    }
    let failed = |error: candle_core::Error| error.to_string();
    let values = positions.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(failed)?;
    let (class, grid) = values.split_at(dim);
    let taps: Vec<[(usize, f64); 4]> = (0..side).map(|target| taps(target, source, side)).collect();
    let mut out = class.to_vec();
    let mut sums = vec![0f64; dim];
    for down in &taps {
        for across in &taps {
            sums.fill(0.0);
            for &(y, wy) in down {
                for &(x, wx) in across {
                    let row = grid.iter().skip((y * source + x) * dim);
                    sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += wy * wx * f64::from(v));
                }
            }
            out.extend(sums.iter().map(|&sum| sum as f32));
        }
    }
    Tensor::from_vec(out, (1, 1 + side * side, dim), &Device::Cpu).map_err(failed)
}

/// The four source samples of a target sample with their weights; samples beyond the border repeat it.
fn taps(target: usize, source: usize, side: usize) -> [(usize, f64); 4] {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let scale = (side as f64 + OFFSET) / source as f64;
    let centre = (target as f64 + 0.5) / scale - 0.5;
    let (first, t) = (centre.floor(), centre - centre.floor());
    let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
    std::array::from_fn(|i| {
        let at = (first + i as f64 - 1.0).clamp(0.0, (source - 1) as f64);
        (at as usize, weights[i])
    })
}

/// Renames tensors of the transformers library (`facebook/dinov2-base`), and joins query, key and value.
fn from_transformers(tensors: Tensors) -> std::result::Result<Tensors, String> {
    let mut renamed = Tensors::new();
    let mut parts: BTreeMap<String, [Option<Tensor>; 3]> = BTreeMap::new();
    for (name, tensor) in tensors {
        let name = name
            .strip_prefix("dinov2.")
            .unwrap_or(&name)
            .replace("embeddings.patch_embeddings.projection", "patch_embed.proj");
        let name = match name.as_str() {
            "embeddings.cls_token" => "cls_token".to_owned(),
            "embeddings.mask_token" => continue,
            "embeddings.position_embeddings" => "pos_embed".to_owned(),
            _ => name.replace("encoder.layer.", "blocks."),
        };
        let name = match name.strip_prefix("layernorm.") {
            Some(part) => format!("norm.{part}"),
            None => name
                .replace(".attention.output.dense.", ".attn.proj.")
                .replace(".layer_scale1.lambda1", ".ls1.gamma")
                .replace(".layer_scale2.lambda1", ".ls2.gamma"),
        };
        let third = ["query", "key", "value"]
            .iter()
            .position(|third| name.contains(&format!(".attention.attention.{third}.")));
        match (third, name.split_once(".attention.attention.")) {
            (Some(third), Some((block, rest))) => {
                let part = rest.rsplit('.').next().unwrap_or_default();
                parts.entry(format!("{block}.attn.qkv.{part}")).or_default()[third] = Some(tensor);
            }
            _ => {
                renamed.insert(name, tensor);
            }
        }
    }
    for (name, parts) in parts {
        let [Some(q), Some(k), Some(v)] = parts else {
            return Err(format!("`{name}`: one of query, key and value is missing"));
        };
        let joined = Tensor::cat(&[&q, &k, &v], 0).map_err(|e| format!("`{name}`: {e}"))?;
        renamed.insert(name, joined);
    }
    Ok(renamed)
}
