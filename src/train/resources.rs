//! What a run uses of its machine, and what a Linux kernel tells of it.

use candle_core::Device;

use super::stats::Collector;
use crate::device::peak_gpu_gib;
use crate::ranks::Ranks;

/// The value of a line `key: value` of one of the kernel's files, such as `/proc/self/status`; `None` where there is none.
pub fn kernel_field(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

/// The bytes of a line `key: N kB` of such a file.
pub fn kernel_bytes(file: &str, key: &str) -> Option<usize> {
    kernel_field(file, key)?.split(' ').next()?.parse::<usize>().ok().map(|kib| kib << 10)
}

/// Memory of this process in GiB: now and at its highest. `None` where the system does not say.
pub fn memory_gib() -> Option<(f64, f64)> {
    const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
    let gib = |key| Some(kernel_bytes("/proc/self/status", key)? as f64 / GIB);
    Some((gib("VmRSS")?, gib("VmHWM")?))
}

/// What a tick's line says of the machine, GiB; for the line that people read.
pub(super) struct Used {
    /// Memory of the process now; 0 where the system does not say.
    pub(super) memory_gib: f64,
    /// The most of the GPU so far; `None` on the processor.
    pub(super) gpu_peak_gib: Option<f64>,
}

/// Reports memory, the processor's and the GPU's, and what the ranks have told one another since the last tick.
pub(super) fn report(collected: &mut Collector, device: &Device, ranks: &Ranks) -> Used {
    let (memory_gib, peak) = memory_gib().unwrap_or_default();
    let gpu_peak_gib = peak_gpu_gib(device);
    collected.report("Resources/cpu_mem_gb", memory_gib);
    collected.report("Resources/peak_cpu_mem_gb", peak);
    if let Some(gib) = gpu_peak_gib {
        collected.report("Resources/peak_gpu_mem_gb", gib);
    }
    if ranks.size() > 1 {
        let spent = ranks.take_spent();
        collected.report("Timing/ranks_sec", spent.secs);
        collected.report("Resources/ranks_mb", spent.bytes as f64 / 1e6);
    }
    Used { memory_gib, gpu_peak_gib }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_known_on_linux() {
        let (now, peak) = memory_gib().unwrap();
        assert!(now > 0.0 && peak >= now * 0.5);
    }
}
