//! Inception-v3's features of images that have the network's size, as scores compute them: from bytes, in f32.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use nestgen_fid::features::extract;
use nestgen_fid::inception::SIDE;
use nestgen_fid::{Inception, Resize, Tap, formula};
use nestgen_images::RgbImage8;

use crate::case::{Case, Tensors, stream};
use crate::place;

/// Multiplications and additions of one image's convolutions.
const FLOPS: u64 = 11_420_000_000;

/// The network with the weights of `fid_formula.py`, and a batch.
pub(crate) struct InceptionPass {
    network: Inception,
    images: Vec<RgbImage8>,
}

impl InceptionPass {
    pub(crate) fn make(batch: usize) -> Result<Tensors> {
        let mut rng = stream("inception");
        let bytes: Vec<f32> =
            (0..batch * SIDE * SIDE * 3).map(|_| (rng.uniform() * 256.0).floor() as f32).collect();
        let images = Tensor::from_vec(bytes, (batch, SIDE, SIDE, 3), &Device::Cpu)?;
        Ok(Tensors::from([("images".into(), images)]))
    }

    pub(crate) fn new(tensors: &Tensors) -> Result<Self> {
        let images = tensors.get("images").context("no tensor `images`")?;
        let bytes = images.flatten_all()?.to_vec1::<f32>()?;
        let image = |bytes: &[f32]| {
            let data = bytes.iter().map(|&x| x as u8).collect();
            RgbImage8 { width: SIDE as u32, height: SIDE as u32, data }
        };
        let images = bytes.chunks(SIDE * SIDE * 3).map(image).collect();
        Ok(Self { network: Inception::on(&formula::state_dict(), &place::device())?, images })
    }

    fn features(&self) -> Result<Tensor> {
        let read = |i: usize| Ok(self.images[i].clone());
        let count = self.images.len();
        let found = extract(&self.network, Resize::Pytorch, &[Tap::D2048], count, &read, false, &|_, _| {})?;
        let taps = found.taps.into_iter().next().context("no features")?;
        Ok(Tensor::from_vec(taps.data, (count, taps.dims), &Device::Cpu)?)
    }
}

impl Case for InceptionPass {
    fn run(&mut self) -> Result<()> {
        self.features().map(drop)
    }

    fn dump(&mut self) -> Result<Tensors> {
        Ok(Tensors::from([("features".into(), self.features()?)]))
    }

    fn flops(&self) -> u64 {
        FLOPS * self.images.len() as u64
    }
}
