//! How much memory a training takes: counted on a few images before it starts, so that one that cannot fit is refused
//! with the batch that would.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use nestgen::config::{RunConfig, build_networks};
use nestgen::error::Error;
use nestgen::ranks::Ranks;
use nestgen::train::resources::kernel_bytes;
use nestgen::train::session::Networks;
use nestgen_kernels::{Var, alloc::live_bytes};

pub(super) const GIB: f64 = 1073741824.0;

/// The peak of a training over what is counted here, at most: penalties keep more, passes have buffers of their own, the
/// loader holds batches, and a heap has holes. Measured: 1.3 at 256 images of 64 px and 1024 of 32 px, 1.6 at 4096 and
/// 16384 of 32 px.
const PEAK: f64 = 1.7;
/// What the program takes beside that: code and threads.
const PROGRAM: usize = 200 << 20;

/// Bytes of a training.
pub(super) struct TrainingMemory {
    /// Weights, gradients and two averages of Adam for both networks; the averaged generator on top.
    pub weights: usize,
    /// What a step keeps for its backward pass, whatever the batch.
    fixed: usize,
    /// What it keeps for each image.
    image: usize,
}

impl TrainingMemory {
    /// Counts on two images and on four.
    pub(super) fn of(networks: &Networks) -> anyhow::Result<Self> {
        let (g, d) = (networks.generator.params().count(), networks.discriminator.params().count());
        // The first pass of a process leaves memory behind that later ones use again: in the first count, it hid the share of
        // tiny networks' images.
        kept(networks, 4)?;
        let (two, four) = (kept(networks, 2)?, kept(networks, 4)?);
        let image = four.saturating_sub(two) / 2;
        Ok(Self { weights: 4 * (4 * (g + d) + g), fixed: two.saturating_sub(2 * image), image })
    }

    /// What a step on `batch` images keeps for its backward pass.
    pub(super) fn activations(&self, batch: usize) -> usize {
        self.fixed + self.image * batch
    }

    /// The largest batch whose peak stays below `available` bytes; `None` where not one image does.
    pub(super) fn largest_batch(&self, available: usize) -> Option<usize> {
        let room = available.checked_sub(PROGRAM + self.weights)? as f64 / PEAK - self.fixed as f64;
        let batch = (room / self.image.max(1) as f64) as usize;
        (batch > 0).then_some(batch)
    }
}

/// Bytes that a step keeps for its backward pass: of the generator through the discriminator, or of the discriminator,
/// which sees as many real images as fakes; the larger of the two.
fn kept(networks: &Networks, batch: usize) -> anyhow::Result<usize> {
    let z = Var::constant(Tensor::zeros((batch, networks.generator.z_dim()), DType::F32, &Device::Cpu)?);
    let before = live_bytes();
    let images = networks.generator.forward(&z, true)?;
    let logits = networks.discriminator.forward(&images, true)?;
    let generator_step = live_bytes().saturating_sub(before);
    drop(logits);
    let images = Var::constant(images.into_value());
    let before = live_bytes();
    let logits =
        [networks.discriminator.forward(&images, true)?, networks.discriminator.forward(&images, true)?];
    let discriminator_step = live_bytes().saturating_sub(before);
    drop(logits);
    Ok(generator_step.max(discriminator_step))
}

/// Refuses a training whose step cannot fit into the memory that there is, which the ranks of a machine share. Where that cannot be
/// told, it is let go on.
pub(super) fn refuse_what_cannot_fit(config: &RunConfig, ranks: &Ranks) -> anyhow::Result<()> {
    let Some(available) = available_bytes(ranks.on_machine()) else { return Ok(()) };
    let for_each = if ranks.on_machine() > 1 { " for each rank" } else { "" };
    let ranks = ranks.size();
    let memory = TrainingMemory::of(&build_networks(config)?)?;
    let batch = config.train.micro_batch() / ranks;
    let needed = memory.weights + memory.activations(batch);
    if needed <= available {
        return Ok(());
    }
    let fits = memory.largest_batch(available).map_or_else(
        || "no batch fits: take smaller networks or a lower resolution".to_owned(),
        |largest| {
            let largest = largest * ranks;
            format!(
                "the largest batch that fits is about {largest}: --batch {largest}, or --set train.accumulate=N to \
                 take a batch in N parts"
            )
        },
    );
    Err(Error::Usage {
        message: format!(
            "out of memory: a batch of {batch} at {} px needs at least {:.2} GiB, and {:.2} GiB are free{for_each}",
            config.model.resolution(),
            needed as f64 / GIB,
            available as f64 / GIB
        ),
        hint: Some(fits),
    }
    .into())
}

/// What each of so many processes can still take: of the machine and of its control group a share, of its address space all.
pub(super) fn available_bytes(processes: usize) -> Option<usize> {
    let machine = kernel_bytes("/proc/meminfo", "MemAvailable")? / processes;
    let address_space = limit("Max address space")
        .and_then(|limit| Some(limit.saturating_sub(kernel_bytes("/proc/self/status", "VmSize")?)));
    let control_group = control_group().map(|bytes| bytes / processes);
    [Some(machine), control_group, address_space].into_iter().flatten().min()
}

/// The soft limit of the process in bytes; `None` where there is none.
fn limit(name: &str) -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What is left of the control groups' memory (version 2); `None` where none has a limit.
fn control_group() -> Option<usize> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    left_of_groups(Path::new("/sys/fs/cgroup"), own)
}

/// The least of what the group `own` below `root` and those around it have left: a limit holds for all groups below.
fn left_of_groups(root: &Path, own: &str) -> Option<usize> {
    Path::new(own).ancestors().filter_map(|group| left_of_group(&root.join(group))).min()
}

fn left_of_group(group: &Path) -> Option<usize> {
    let text = |file: &str| std::fs::read_to_string(group.join(file)).ok();
    let number = |file: &str| text(file)?.trim().parse::<usize>().ok();
    let (limit, used) = (number("memory.max")?, number("memory.current")?);
    // Pages of files that nobody has used of late count as used, and are given back when memory is short.
    let given_back = text("memory.stat").and_then(|stat| {
        stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse::<usize>().ok())
    });
    Some(limit.saturating_sub(used.saturating_sub(given_back.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_group_counts_and_cached_files_do_not() {
        let root = tempfile::tempdir().unwrap();
        let group = |name: &str, limit: &str, used: &str, stat: Option<&str>| {
            let folder = root.path().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            let files = [("memory.max", Some(limit)), ("memory.current", Some(used)), ("memory.stat", stat)];
            for (file, text) in files.into_iter().filter_map(|(file, text)| Some((file, text?))) {
                std::fs::write(folder.join(file), format!("{text}\n")).unwrap();
            }
        };
        group("job/task", "max", "700", None);
        assert_eq!(left_of_groups(root.path(), "job/task"), None);
        group("job", "1000", "900", Some("anon 300\ninactive_anon 5\ninactive_file 600\nactive_file 40"));
        assert_eq!(left_of_groups(root.path(), "job/task"), Some(700));
        group("job/task", "650", "100", None);
        assert_eq!(left_of_groups(root.path(), "job/task"), Some(550));
        group("job/task", "650", "660", Some("inactive_file 0"));
        assert_eq!(left_of_groups(root.path(), "job/task"), Some(0));
        // A container sees its own group as the root.
        group("", "1000", "100", Some("inactive_file 200"));
        assert_eq!(left_of_groups(root.path(), ""), Some(1000));
        assert_eq!(left_of_groups(root.path(), "none/there"), Some(1000));
    }
}
