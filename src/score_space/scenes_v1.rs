//! `scenes-v1`: a feature space that is part of the program, for scores where no weights of Inception are at hand.
//!
//! A NesT-XS of 64 px, trained by `nestgen classify train` to tell the twelve kinds of built-in scenes apart, and those of small
//! planted objects: 24 classes. How well its scores rank generators, of scenes and of photographs, is measured in
//! `docs/studies.md`. It is not FID.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Device;
use nestgen_fid::Extractor;

use super::Space;
use crate::error::{Error, Result};
use crate::train::tensors;

/// What settings, options and scores call it.
pub const NAME: &str = "scenes-v1";

/// The classifier's file. Its weights are rounded to bf16, which moved KID by at most 0.6 % and the Frechet distance by 0.13 %: less
/// than a tenth of their errors (8 snapshots, 1000 images each).
const FILE: &[u8] = include_bytes!("scenes-v1.safetensors");

/// Its features are computed on `device`.
///
/// # Errors
/// When the device has no room.
pub fn extractor(device: &Device) -> Result<Extractor<'static>> {
    let (metadata, tensors) = tensors::parse(Path::new(NAME), FILE)?;
    let tensors: BTreeMap<_, _> = tensors.into_iter().collect();
    let space = Space::classifier(NAME.into(), &metadata, &tensors).map_err(|reason| Error::Checkpoint {
        path: NAME.into(),
        reason,
        hint: None,
    })?;
    space.extractor(tensors::sha256(FILE), device)
}
