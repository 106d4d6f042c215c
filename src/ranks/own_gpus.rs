//! Whether every rank has a GPU of its own, which NCCL wants.

/// What tells a rank's GPU from all others.
pub(super) type GpuId = [u8; 16];

/// In place of a GPU's, where a rank computes on the processor.
pub(super) const NO_GPU: GpuId = [0; 16];

/// What keeps NCCL from connecting the GPUs of all ranks, if anything does.
pub(super) fn obstacle(gpus: &[GpuId]) -> Option<String> {
    let first_with = |gpu: &GpuId| gpus.iter().position(|other| other == gpu);
    if let Some(rank) = first_with(&NO_GPU) {
        return Some(format!("rank {rank} computes on the processor"));
    }
    let mut pairs = gpus.iter().enumerate().filter_map(|(rank, gpu)| Some((first_with(gpu)?, rank)));
    let (first, rank) = pairs.find(|&(first, rank)| first < rank)?;
    Some(format!("ranks {first} and {rank} share one GPU, which NCCL refuses"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_needs_a_gpu_of_its_own() {
        let said = |gpus: &[u8]| obstacle(&gpus.iter().map(|&gpu| [gpu; 16]).collect::<Vec<_>>());
        assert_eq!(said(&[1, 2, 3]), None);
        assert_eq!(said(&[3, 1, 2, 1]).unwrap(), "ranks 1 and 3 share one GPU, which NCCL refuses");
        assert_eq!(said(&[1, 0]).unwrap(), "rank 1 computes on the processor");
    }
}
