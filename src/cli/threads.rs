//! How many threads a process should have that shares its machine with others of the same run.

use std::num::NonZero;

use nestgen::train::resources::kernel_field;

/// What launchers tell each process: how many of them are on its machine. Slurm's is a list, `4(x2),3`.
const LOCAL_SIZE_VARIABLES: [&str; 3] =
    ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE"];

/// The threads of one of several ranks on a machine; `None` for a process of its own. Without it every rank would have as many as
/// there are cores, and those that wait would take them from those that work.
pub(crate) fn of_rank() -> Option<NonZero<usize>> {
    let local = |name| leading_number(&std::env::var(name).ok()?);
    let local = LOCAL_SIZE_VARIABLES.into_iter().find_map(local).filter(|&local| local > 1)?;
    let own = std::thread::available_parallelism().ok()?.get();
    let launcher = cores_allowed(&std::os::unix::process::parent_id().to_string());
    let bound_to = launcher.filter(|&launcher| cores_allowed("self").is_some_and(|own| own < launcher));
    NonZero::new(share(own, bound_to, local))
}

/// Of `own` cores that this process may use: all, but no more than its part of the launcher's where it was bound to some of
/// those, since ranks may be bound to the same ones; else its part of them.
fn share(own: usize, of_launcher: Option<usize>, local: usize) -> usize {
    of_launcher.map_or(own / local, |launcher| own.min(launcher / local)).max(1)
}

fn leading_number(text: &str) -> Option<usize> {
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// How many cores a process may run on, by the kernel's list of them, like `0-3,8`; `None` where there is none.
fn cores_allowed(process: &str) -> Option<usize> {
    count(&kernel_field(&format!("/proc/{process}/status"), "Cpus_allowed_list")?)
}

fn count(list: &str) -> Option<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?).map(|more| more + 1)
    };
    list.trim().split(',').map(range).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_share_the_cores_of_their_machine() {
        // 64 cores, 4 ranks: bound to nothing, to one of two halves, to a core each.
        assert_eq!([share(64, None, 4), share(32, Some(64), 4), share(1, Some(64), 4)], [16, 16, 1]);
        assert_eq!(share(2, None, 4), 1);
    }

    #[test]
    fn lists_of_the_kernel_and_of_slurm_are_read() {
        assert_eq!(count("\t0-3,8,10-11\n"), Some(7));
        assert_eq!(count(""), None);
        assert_eq!(["4(x2),3", "2", "x"].map(leading_number), [Some(4), Some(2), None]);
        let usable = std::thread::available_parallelism().unwrap().get();
        assert!(cores_allowed("self").is_none_or(|allowed| allowed >= usable));
    }
}
