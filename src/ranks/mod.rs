//! The processes of one data-parallel run, and the few things they say to one another.
//!
//! A process is a rank of `size` ranks when MPI started it (`mpirun`, Slurm's `srun`) and the program was built with
//! the feature `mpi`; otherwise it is alone, and everything here does nothing at once. All ranks run the same code
//! on their share of every batch; each call below is made by all of them, in the same order.
//!
//! Rank 0 is the one that writes and prints. What only it knows (the clock, a score) it tells the others, so that
//! all decide alike. Who waits for another waits for a time, not for ever: [`Error::RanksLost`].

#[cfg(feature = "mpi")]
mod averaging;
#[cfg(feature = "nccl")]
mod gpus;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(any(test, feature = "nccl"))]
mod own_gpus;

#[cfg(feature = "mpi")]
use std::rc::Rc;
use std::time::Duration;

use candle_core::{Device, Tensor};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The verbs that several processes carry out together.
const SEVERAL: &str = "`train`, `classify train`, `fid` and `study`";

/// What launchers tell each process: how many there are. Slurm's last: in its job, `mpirun` starts processes of its own.
const SIZE_VARIABLES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// This process among those of its run. Cloning shares the connection.
#[derive(Clone)]
pub struct Ranks {
    rank: usize,
    size: usize,
    #[cfg(feature = "mpi")]
    link: Option<Rc<mpi::Link>>,
}

/// Told which ranks are lost, by a process that is about to end for it: its rank, how many there are, and the error.
/// Gives the exit code.
pub type OnLost = fn(usize, usize, Error) -> u8;

/// Hands a tensor over whose mean over all ranks is wanted.
pub type Give<'a> = dyn FnMut(&Tensor) -> candle_core::Result<()> + 'a;

/// What communication has cost a rank.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Seconds, those of waiting for slower ranks included.
    pub secs: f64,
    /// Bytes that were summed up. How many travel is MPI's or NCCL's choice: about twice as many for each rank.
    pub bytes: u64,
}

/// A value on its way; TOML needs a name for it, and keeps every bit of a number.
#[derive(Serialize, Deserialize)]
struct Told<T> {
    value: T,
}

/// How many processes a launcher says that it started; 1 where there was none.
fn launched() -> usize {
    let size = |name| std::env::var(name).ok()?.parse().ok();
    SIZE_VARIABLES.into_iter().find_map(size).unwrap_or(1)
}

/// How to tell a process of Slurm's that it has nothing to do with the others.
fn each_for_itself() -> String {
    let [.., slurm] = SIZE_VARIABLES;
    if std::env::var_os(slurm).is_some() {
        format!("; if each is to work for itself, `env -u {slurm} nestgen ...`")
    } else {
        String::new()
    }
}

/// For work that is one process's: several of them would each do all of it.
///
/// # Errors
/// When a launcher started several.
pub fn refuse_several() -> Result<()> {
    match launched() {
        0 | 1 => Ok(()),
        size => Err(Error::Usage {
            message: format!(
                "{size} processes were launched, but of all verbs only {SEVERAL} run on several ranks"
            ),
            hint: Some(format!(
                "start it without mpirun or srun; one process uses all cores of its machine{}",
                each_for_itself()
            )),
        }),
    }
}

impl Ranks {
    /// A process on its own.
    pub fn alone() -> Self {
        Self {
            rank: 0,
            size: 1,
            #[cfg(feature = "mpi")]
            link: None,
        }
    }

    /// Joins the processes that were launched together with this one, if any were; they wait `patience` for one
    /// another in a step; when that is over, `on_lost` is told, and all processes end. Called once, at the start of the program, by the thread that trains.
    ///
    /// # Errors
    /// When several were launched and this program cannot connect them.
    pub fn join(patience: Duration, on_lost: OnLost) -> Result<Self> {
        #[cfg(feature = "mpi")]
        if mpi::launched() {
            let link = mpi::Link::new(patience, on_lost)?;
            if link.size() < launched() {
                return Err(Error::Usage {
                    message: format!(
                        "{} processes were launched, but MPI connects {} of them",
                        launched(),
                        link.size()
                    ),
                    hint: Some(
                        "the launcher is not that of this program's MPI: with Slurm try `srun --mpi=pmix` (`srun --mpi=list` names \
                         what there is), else the mpirun of the library it was built with"
                            .into(),
                    ),
                });
            }
            return Ok(Self { rank: link.rank(), size: link.size(), link: Some(Rc::new(link)) });
        }
        #[cfg(not(feature = "mpi"))]
        let _ = (patience, on_lost);
        let (why, hint) = if cfg!(feature = "mpi") {
            ("not for MPI", "with Slurm, `srun --mpi=pmix` (`srun --mpi=list` names what there is)")
        } else {
            ("this program was built without MPI", "build it with `cargo build --release --features mpi`")
        };
        match launched() {
            0 | 1 => Ok(Self::alone()),
            size => Err(Error::Usage {
                message: format!("{size} processes were launched, but {why}"),
                hint: Some(format!("{hint}{}", each_for_itself())),
            }),
        }
    }

    /// This process's number, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// This process's number among those of its machine, from 0.
    pub fn place(&self) -> usize {
        #[cfg(feature = "mpi")]
        if let Some(link) = &self.link {
            return link.place();
        }
        0
    }

    /// How many of them share this process's machine, at least 1.
    pub fn on_machine(&self) -> usize {
        #[cfg(feature = "mpi")]
        if let Some(link) = &self.link {
            return link.on_machine();
        }
        1
    }

    /// How many there are, at least 1.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether this is the rank that writes and prints.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Where every rank runs, as `host (process)`; empty for a process on its own.
    pub fn names(&self) -> &[String] {
        #[cfg(feature = "mpi")]
        if let Some(link) = &self.link {
            return link.names();
        }
        &[]
    }

    /// What sums and means have cost since this was last asked; nothing for a process on its own.
    pub fn take_spent(&self) -> Spent {
        #[cfg(feature = "mpi")]
        if let Some(link) = &self.link {
            return link.take_spent();
        }
        Spent::default()
    }

    /// Replaces each value by its sum over all ranks: the same bits on every one.
    pub fn sum(&self, values: &mut [f64]) {
        #[cfg(feature = "mpi")]
        if let Some(link) = &self.link {
            link.sum(values);
        }
        let _ = values;
    }

    /// Connects the GPUs that ranks compute on, each on its `device`, if this program can and each has its own; says how
    /// gradients travel where that is worth saying. For runs that ranks train together, before the first step.
    ///
    /// # Errors
    /// When GPUs that should be connected cannot be.
    pub fn connect_gpus(&self, device: &Device) -> Result<Option<String>> {
        #[cfg(feature = "nccl")]
        if let Some(link) = self.link.as_ref().filter(|link| link.size() > 1) {
            return gpus::connect(link, device);
        }
        let _ = device;
        Ok(None)
    }

    /// Lets `work` hand over f32 tensors, at most `most` of them, and gives their means over all ranks, the same bits on
    /// every one. They travel in buckets while the work goes on, whenever it hands one over. All ranks hand over as many,
    /// of the same shapes, in the same order.
    ///
    /// # Errors
    /// Those of the work; where MPI carries numbers of its memory, it ends all ranks, with its error.
    pub fn while_averaging<R>(
        &self,
        most: usize,
        work: impl FnOnce(&mut Give) -> Result<R>,
    ) -> Result<(R, Vec<Tensor>)> {
        #[cfg(feature = "mpi")]
        if let Some(link) = &self.link {
            #[cfg(feature = "nccl")]
            if let Some(gpus) = link.gpus() {
                return gpus::while_averaging(link, gpus, work);
            }
            return averaging::while_averaging(link, most, work);
        }
        let mut own = Vec::with_capacity(most);
        let result = work(&mut |tensor| {
            own.push(tensor.clone());
            Ok(())
        })?;
        Ok((result, own))
    }

    /// Replaces each measured value by its mean over all ranks.
    pub fn mean_measured(&self, measured: &mut [(&'static str, f64)]) {
        if self.size > 1 {
            let mut values: Vec<f64> = measured.iter().map(|&(_, value)| value).collect();
            self.sum(&mut values);
            for ((_, value), sum) in measured.iter_mut().zip(values) {
                *value = sum / self.size as f64;
            }
        }
    }

    /// Whether any rank says yes.
    pub fn any(&self, yes: bool) -> bool {
        let mut votes = [f64::from(u8::from(yes))];
        self.sum(&mut votes);
        votes != [0.0]
    }

    /// What the first rank says; the others have no say.
    pub fn first_decides(&self, yes: bool) -> bool {
        self.any(yes && self.is_first())
    }

    /// What the first rank tells: its `value`, on every rank. It may have taken long to find it out.
    ///
    /// # Errors
    /// When the value has no form as text.
    pub fn first_tells<T: Serialize + DeserializeOwned>(&self, value: T) -> Result<T> {
        #[cfg(feature = "mpi")]
        if let Some(link) = &self.link {
            let garbled = |error: String| Error::Usage { message: format!("rank 0 told: {error}"), hint: None };
            let text = if self.is_first() {
                toml::to_string(&Told { value }).map_err(|error| garbled(error.to_string()))?
            } else {
                String::new()
            };
            let text = link.first_tells(text);
            let told: Told<T> = toml::from_str(&text).map_err(|error| garbled(error.to_string()))?;
            return Ok(told.value);
        }
        Ok(Told { value }.value)
    }

    /// Everybody's numbers, for the first rank, in the order of ranks; the others get nothing. Some may have taken long
    /// to find them.
    pub fn bring_to_first(&self, own: Vec<f32>) -> Vec<Vec<f32>> {
        #[cfg(feature = "mpi")]
        if let Some(link) = &self.link {
            return link.gather(own);
        }
        vec![own]
    }

    /// Everybody's text, for the first rank, in the order of ranks; the others get nothing. Some may have taken long to
    /// know it.
    pub fn all_tell_first(&self, own: String) -> Vec<String> {
        #[cfg(feature = "mpi")]
        if let Some(link) = &self.link {
            let texts = link.gather(own.into_bytes()).into_iter();
            return texts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
        }
        vec![own]
    }

    /// Says that this rank is at work of its own; whoever waits for it in [`Ranks::wait_for_all`] hears it. For every step
    /// of such work: most calls do nothing.
    pub fn at_work(&self) {
        #[cfg(feature = "mpi")]
        if let Some(link) = &self.link {
            link.at_work();
        }
    }

    /// Waits until all ranks are here, however long they are at work of their own, as long as they say so.
    pub fn wait_for_all(&self) {
        #[cfg(feature = "mpi")]
        if let Some(link) = &self.link {
            link.wait_for_all();
        }
    }

    /// Makes sure that a digest is the same on all ranks. Some may have taken long to find it. `hint` is what to do where it is not.
    ///
    /// # Errors
    /// Names the ranks whose digest is not the first one's.
    pub fn check_same(&self, what: &str, digest: u64, hint: &str) -> Result<()> {
        if self.size == 1 {
            return Ok(());
        }
        // 52 bits are exact in f64, and every rank fills its own place.
        let mut digests = vec![0.0; self.size];
        digests[self.rank] = (digest >> 12) as f64;
        #[cfg(feature = "mpi")]
        if let Some(link) = &self.link {
            link.sum_patiently(&mut digests);
        }
        let other: Vec<String> =
            (1..self.size).filter(|&r| digests[r] != digests[0]).map(|r| self.name(r)).collect();
        if other.is_empty() {
            return Ok(());
        }
        Err(Error::Usage {
            message: format!("{what} differs from rank 0's on {}", other.join(", ")),
            hint: Some(hint.to_owned()),
        })
    }

    /// `rank 3 (host, process 17)`
    fn name(&self, rank: usize) -> String {
        match self.names().get(rank) {
            Some(name) => format!("rank {rank} ({name})"),
            None => format!("rank {rank}"),
        }
    }

    /// Ends the processes of all ranks at once: what a rank that failed does, since the others wait for it.
    pub fn abort(&self, code: u8) -> ! {
        #[cfg(feature = "mpi")]
        if let Some(link) = &self.link {
            link.abort(code);
        }
        // The counterpart of `MPI_Abort` in a process on its own.
        std::process::exit(code.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alone_everything_stays_as_it_is() {
        let ranks = Ranks::alone();
        let mut sums = [0.1, f64::NAN];
        ranks.sum(&mut sums);
        assert_eq!((sums[0], sums[1].is_nan()), (0.1, true));
        let tensor = |numbers: &[f32]| Tensor::from_slice(numbers, numbers.len(), &Device::Cpu).unwrap();
        let work = |give: &mut Give| -> Result<&'static str> {
            give(&tensor(&[0.3]))?;
            give(&tensor(&[0.5, 0.7]))?;
            Ok("done")
        };
        let (said, means) = ranks.while_averaging(2, work).unwrap();
        let numbers: Vec<Vec<f32>> = means.iter().map(|mean| mean.to_vec1().unwrap()).collect();
        assert_eq!((said, numbers), ("done", vec![vec![0.3], vec![0.5, 0.7]]));
        assert_eq!((ranks.place(), ranks.connect_gpus(&Device::Cpu).unwrap()), (0, None));
        assert!(ranks.any(true) && !ranks.any(false) && ranks.first_decides(true));
        assert_eq!(ranks.first_tells(Some(7)).unwrap(), Some(7));
        ranks.check_same("nothing", 1, "").unwrap();
        assert_eq!(ranks.on_machine(), 1);
        assert_eq!(ranks.bring_to_first(vec![0.5]), [[0.5]]);
        assert_eq!(ranks.all_tell_first("yes".into()), ["yes"]);
    }

    #[test]
    fn what_is_told_keeps_its_bits() {
        for value in [Some(0.1 + 0.2), Some(f64::MIN_POSITIVE), None] {
            let text = toml::to_string(&Told { value }).unwrap();
            let told: Told<Option<f64>> = toml::from_str(&text).unwrap();
            assert_eq!(told.value.map(f64::to_bits), value.map(f64::to_bits));
        }
    }
}
