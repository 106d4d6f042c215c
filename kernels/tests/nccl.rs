//! NCCL on one GPU: a communicator of one rank, whose means are its own numbers.
#![cfg(feature = "nccl")]

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use nestgen_kernels::cuda;
use nestgen_kernels::cuda::nccl::{Communicator, gpu_id, new_id};

/// The first GPU; says so where there is none.
#[allow(clippy::print_stderr)]
fn gpu() -> Option<Device> {
    if cuda::count() == 0 {
        eprintln!("skipped: no GPU");
        return None;
    }
    Some(cuda::open(0).unwrap())
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().and_then(|tensor| tensor.to_vec1()).unwrap()
}

/// Buckets are started while what they hold is still being computed, and what follows reads them at once: either would
/// show if the streams did not wait for each other.
#[test]
fn one_rank_averages_to_itself_while_it_computes() {
    let Some(device) = gpu() else { return };
    assert_ne!(gpu_id(&device).unwrap(), [0; 16]);
    let communicator = Communicator::join(&new_id().unwrap(), 1, 0, &device).unwrap();
    let size = 2048;
    let values = (0..size * size).map(|i| (i % 97) as f32 / (97 * size) as f32);
    let start = Tensor::from_vec(values.collect(), (size, size), &device).unwrap();
    for _ in 0..3 {
        let mut averaging = communicator.averaging();
        assert!(averaging.is_over().unwrap());
        let (mut x, mut own) = (start.clone(), Vec::new());
        for _ in 0..4 {
            for _ in 0..8 {
                x = (x.matmul(&start).unwrap() + &start).unwrap();
            }
            // One in another order of memory, one that begins within another's, one of a single number.
            let bucket = [x.t().unwrap(), x.narrow(0, 3, 5).unwrap(), x.sum_all().unwrap()];
            averaging.start(&bucket).unwrap();
            own.extend(bucket);
        }
        averaging.wait_for_own_work().unwrap();
        let started = Instant::now();
        while !averaging.is_over().unwrap() {
            assert!(started.elapsed() < Duration::from_secs(60), "nothing arrives");
            std::thread::yield_now();
        }
        let means = averaging.finish().unwrap();
        assert_eq!(means.len(), own.len());
        for (mean, own) in means.iter().zip(&own) {
            assert_eq!((mean.dims(), numbers(mean) == numbers(own)), (own.dims(), true));
        }
    }
}

/// Means that nobody waits for give their memory back after they have travelled.
#[test]
fn means_can_be_finished_at_once_or_given_up() {
    let Some(device) = gpu() else { return };
    let communicator = Communicator::join(&new_id().unwrap(), 1, 0, &device).unwrap();
    for round in 0..50 {
        let own = Tensor::full(round as f32, 1 << 20, &device).unwrap();
        let mut averaging = communicator.averaging();
        averaging.start(std::slice::from_ref(&own)).unwrap();
        if round % 2 == 0 {
            drop((averaging, own));
            continue;
        }
        let doubled = (averaging.finish().unwrap().remove(0) * 2.0).unwrap();
        assert_eq!(numbers(&doubled), vec![2.0 * round as f32; 1 << 20]);
    }
}

#[test]
fn what_cannot_travel_is_refused() {
    let Some(device) = gpu() else { return };
    let communicator = Communicator::join(&new_id().unwrap(), 1, 0, &device).unwrap();
    let elsewhere = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    let doubles = Tensor::zeros(3, DType::F64, &device).unwrap();
    for tensor in [elsewhere, doubles] {
        assert!(communicator.averaging().start(&[tensor]).is_err());
    }
    assert!(Communicator::join(&[0; 128], 1, 0, &Device::Cpu).is_err());
    // A rank that is none of the communicator's, in NCCL's words.
    let error = Communicator::join(&new_id().unwrap(), 1, 1, &device).map(drop).unwrap_err().to_string();
    assert!(error.contains("NCCL cannot connect the GPUs: "), "{error}");
}
