//! The network over the operations of `nestgen-kernels`, beside the engine: in a process of its own, since the
//! portable path is forced in it.
#![allow(missing_docs)]

#[allow(dead_code, reason = "shared with the other tests")]
#[path = "it/images.rs"]
mod images;

use candle_core::Device;
use images::image;
use nestgen_fid::features::{Extracted, extract};
use nestgen_fid::{Error, Inception, Resize, Tap, formula};
use nestgen_kernels::portable;

/// f32 sums in another order, as a share of the tap's largest feature.
const RELATIVE: f64 = 1e-4;

fn run(network: &Inception, taps: &[Tap], count: usize, bad: Option<usize>) -> Extracted {
    let read = |i: usize| match bad {
        Some(bad) if bad == i => Err(Error::caller("not an image")),
        _ => Ok(image(if i.is_multiple_of(2) { "real" } else { "fake" }, 1, i)),
    };
    extract(network, Resize::Pytorch, taps, count, &read, bad.is_some(), &|_, _| {}).unwrap()
}

fn assert_close(found: &Extracted, wanted: &Extracted) {
    assert_eq!(found.skipped, wanted.skipped);
    assert_eq!(found.taps.len(), wanted.taps.len());
    for (found, wanted) in found.taps.iter().zip(&wanted.taps) {
        assert_eq!((found.dims, found.data.len()), (wanted.dims, wanted.data.len()));
        let largest = wanted.data.iter().fold(0.0, |max: f64, &x| max.max(f64::from(x).abs()));
        let differences =
            found.data.iter().zip(&wanted.data).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs());
        let worst = differences.fold(0.0, f64::max);
        assert!(largest > 0.0 && worst <= RELATIVE * largest, "{}: off by {worst} of {largest}", found.dims);
    }
}

#[test]
fn features_over_tensors_are_those_of_the_engine() {
    let tensors = formula::state_dict();
    let engine = Inception::new(&tensors).unwrap();
    portable::force(true);
    let device = Inception::on(&tensors, &Device::Cpu).unwrap();
    // Every layer and pool, odd sizes among them (149, 147, 73, 71, 35, 17, 8).
    assert_close(&run(&device, &Tap::ALL, 3, None), &run(&engine, &Tap::ALL, 3, None));
    // More than one batch, the last of one image, and one that cannot be read.
    assert_close(&run(&device, &[Tap::D64], 34, Some(5)), &run(&engine, &[Tap::D64], 34, Some(5)));
    let none_readable = extract(
        &device,
        Resize::Pytorch,
        &[Tap::D64],
        40,
        &|i| Err(Error::caller(format!("image {i}"))),
        false,
        &|_, _| {},
    );
    assert_eq!(none_readable.unwrap_err().to_string(), "image 0");
    assert_eq!(run(&device, &[Tap::D64], 0, None).taps[0].len(), 0);
}
