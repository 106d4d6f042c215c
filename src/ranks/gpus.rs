//! Means of tensors from GPU to GPU by NCCL. MPI connects it, and notices who is missing before NCCL would wait for it.

use std::time::Instant;

use candle_core::{Device, Tensor};
use nestgen_kernels::cuda::nccl::{Communicator, Id, gpu_id, new_id};

use super::mpi::Link;
use super::own_gpus::{GpuId, NO_GPU, obstacle};
use super::{Give, Spent};
use crate::error::{Error, Result};

/// Numbers that travel together: 16 MiB, since links between GPUs are faster than MPI's and every bucket waits for all
/// ranks. By reasoning, not by measurement.
const BUCKET: usize = 1 << 22;

/// Connects the GPUs of all ranks, if each has one of its own. Says how gradients will travel; `None` where no rank has
/// a GPU.
pub(super) fn connect(link: &Link, device: &Device) -> Result<Option<String>> {
    let own: GpuId = if device.is_cuda() { gpu_id(device)? } else { NO_GPU };
    let gpus: Vec<GpuId> = link.everyones(own);
    if gpus.iter().all(|gpu| *gpu == NO_GPU) {
        return Ok(None);
    }
    if let Some(obstacle) = obstacle(&gpus) {
        return Ok(Some(format!("gradients travel by MPI: {obstacle}")));
    }
    let refused = |error| {
        Error::Usage {
        message: format!("gradients cannot travel from GPU to GPU: {error}"),
        hint: Some(
            "with NCCL_DEBUG=INFO in the environment NCCL says what it tries; a program built with `cuda,mpi` and \
             without `nccl` lets gradients travel by MPI"
                .into(),
        ),
    }
    };
    let mut id: Id = [0; 128];
    if link.rank() == 0 {
        id = new_id().map_err(refused)?;
    }
    link.broadcast(&mut id[..]);
    link.use_gpus(Communicator::join(&id, link.size(), link.rank(), device).map_err(refused)?);
    Ok(Some("gradients travel from GPU to GPU, by NCCL".into()))
}

/// See [`super::Ranks::while_averaging`].
pub(super) fn while_averaging<R>(
    link: &Link,
    gpus: &Communicator,
    work: impl FnOnce(&mut Give) -> Result<R>,
) -> Result<(R, Vec<Tensor>)> {
    let mut averaging = gpus.averaging();
    let (mut bucket, mut numbers, mut spent) = (Vec::new(), 0, Spent::default());
    let mut travel = |bucket: &mut Vec<Tensor>, numbers: &mut usize| {
        if bucket.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        // NCCL would wait for ever for a rank that does not come.
        link.meet();
        averaging.start(bucket)?;
        bucket.clear();
        spent.bytes += (std::mem::take(numbers) * size_of::<f32>()) as u64;
        spent.secs += start.elapsed().as_secs_f64();
        candle_core::Result::Ok(())
    };
    let result = work(&mut |tensor| {
        numbers += tensor.elem_count();
        bucket.push(tensor.clone());
        if numbers >= BUCKET { travel(&mut bucket, &mut numbers) } else { Ok(()) }
    })?;
    travel(&mut bucket, &mut numbers)?;

    averaging.wait_for_own_work()?;
    let (start, mut failed) = (Instant::now(), None);
    link.wait_until(|| {
        averaging.is_over().unwrap_or_else(|error| {
            failed = Some(error);
            true
        })
    });
    spent.secs += start.elapsed().as_secs_f64();
    link.add_spent(spent);
    match failed {
        Some(error) => Err(error.into()),
        None => Ok((result, averaging.finish()?)),
    }
}
