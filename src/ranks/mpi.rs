//! Ranks over MPI (the MPI Forum's standard 3.1), by the crate `mpi`.
//!
//! Collectives are started without blocking and tested until a deadline, since a blocking one waits for ever for a
//! rank that hangs. A rank that dies is noticed by the launcher, which ends the others.

use std::cell::{Cell, OnceCell};
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::collective::{CommunicatorCollectives, Root, SystemOperation};
use mpi::environment::{self, Universe};
use mpi::point_to_point::{Destination, Source};
use mpi::request::{self, Request, Scope, StaticScope};
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::traits::Equivalence;
#[cfg(feature = "nccl")]
use nestgen_kernels::cuda::nccl;

use super::{OnLost, Spent};
use crate::error::{Error, Result};

/// What launchers set for the processes they connect: Open MPI, MPICH, and Slurm with either plugin.
const VARIABLES: [&str; 4] = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "PMI_ID"];
/// How many times longer than for a step ranks wait while rank 0 draws pictures and takes scores.
const TICK_PATIENCE: u32 = 12;
/// The tag of messages that say "I am here".
const ROLL_CALL: i32 = 77;
/// The tag of messages that say "I am at work".
const AT_WORK: i32 = 79;
/// The tag of what is brought to the first rank.
const GATHER: i32 = 78;
/// Values of a message: MPI counts them in 31 bits.
const MESSAGE: usize = 1 << 28;
/// Waiting that long costs a core; waiting longer gives it to others.
const SPIN: Duration = Duration::from_secs(1);
/// The shortest time that those who wait are given to tell of one another.
const ROLL_CALL_SECS: f64 = 3.0;
/// Bytes of a rank's name that are passed around.
const NAME_BYTES: usize = 64;

/// Whether an MPI launcher started this process.
pub(super) fn launched() -> bool {
    VARIABLES.iter().any(|name| std::env::var_os(name).is_some())
}

/// The connection of all ranks; MPI ends with it.
pub(super) struct Link {
    world: SimpleCommunicator,
    patience: Duration,
    on_lost: OnLost,
    names: Vec<String>,
    /// This process's number among those of its machine.
    place: usize,
    /// How many they are.
    on_machine: usize,
    spent: Cell<Spent>,
    /// When this rank last said that it is at work.
    said: Cell<Instant>,
    #[cfg(feature = "nccl")]
    gpus: OnceCell<nccl::Communicator>,
    /// Finalises MPI when dropped, after everything else.
    _universe: Universe,
}

impl Link {
    pub(super) fn new(patience: Duration, on_lost: OnLost) -> Result<Self> {
        let Some((universe, _)) = environment::initialize_with_threading(Threading::Funneled) else {
            return Err(Error::Usage { message: "MPI was started before".into(), hint: None });
        };
        let world = universe.world();
        let machine = world.split_shared(world.rank());
        let (place, on_machine) = (machine.rank() as usize, machine.size() as usize);
        drop(machine);
        let mut link = Self {
            world,
            patience,
            on_lost,
            names: Vec::new(),
            place,
            on_machine,
            spent: Cell::default(),
            said: Cell::new(Instant::now()),
            #[cfg(feature = "nccl")]
            gpus: OnceCell::new(),
            _universe: universe,
        };
        link.names = link.gather_names();
        Ok(link)
    }

    pub(super) fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    pub(super) fn size(&self) -> usize {
        self.world.size() as usize
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    pub(super) fn place(&self) -> usize {
        self.place
    }

    pub(super) fn on_machine(&self) -> usize {
        self.on_machine
    }

    /// The GPUs of all ranks, where they are connected.
    #[cfg(feature = "nccl")]
    pub(super) fn gpus(&self) -> Option<&nccl::Communicator> {
        self.gpus.get()
    }

    /// From here on the GPUs are connected; once is enough.
    #[cfg(feature = "nccl")]
    pub(super) fn use_gpus(&self, gpus: nccl::Communicator) {
        self.gpus.get_or_init(|| gpus);
    }

    /// What sums have cost since this was last asked.
    pub(super) fn take_spent(&self) -> Spent {
        self.spent.take()
    }

    /// `host, process 17` of every rank.
    fn gather_names(&self) -> Vec<String> {
        let host = environment::processor_name().unwrap_or_else(|_| "unknown host".into());
        let name = format!("{host}, process {}", std::process::id());
        let mut bytes = [0u8; NAME_BYTES];
        for (to, from) in bytes.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        let text = |bytes: [u8; NAME_BYTES]| String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned();
        self.everyones(bytes).into_iter().map(text).collect()
    }

    /// The bytes of every rank: each writes its own into its place among zeros, and all add up.
    pub(super) fn everyones<const N: usize>(&self, own: [u8; N]) -> Vec<[u8; N]> {
        let mut all = vec![[0; N]; self.size()];
        if let Some(place) = all.get_mut(self.rank()) {
            *place = own;
        }
        self.sum(all.as_flattened_mut());
        all
    }

    /// Replaces each value by its sum over the ranks.
    pub(super) fn sum<T: Equivalence + Copy>(&self, values: &mut [T]) {
        self.sum_within(self.patience, values);
    }

    /// As [`Self::sum`], where some may have taken long to come here.
    pub(super) fn sum_patiently<T: Equivalence + Copy>(&self, values: &mut [T]) {
        self.sum_within(self.patience * TICK_PATIENCE, values);
    }

    fn sum_within<T: Equivalence + Copy>(&self, patience: Duration, values: &mut [T]) {
        let start = Instant::now();
        let bytes = size_of_val(values) as u64;
        let own = values.to_vec();
        request::scope(|scope| {
            let sum = SystemOperation::sum();
            self.wait(self.world.immediate_all_reduce_into(scope, &own[..], values, sum), patience);
        });
        self.add_spent(Spent { secs: start.elapsed().as_secs_f64(), bytes });
    }

    pub(super) fn add_spent(&self, more: Spent) {
        let spent = self.spent.get();
        self.spent.set(Spent { secs: spent.secs + more.secs, bytes: spent.bytes + more.bytes });
    }

    /// Lets `work` hand over numbers, at most so many times, and gives their sums over the ranks; they travel while the
    /// work goes on, whenever it hands over some (an empty vector only lets the others travel on). All ranks hand over as
    /// many numbers in the same order. Work that fails ends all ranks: numbers cannot be called back.
    pub(super) fn while_summing<R>(
        &self,
        most: usize,
        work: impl FnOnce(&mut dyn FnMut(Vec<f32>)) -> Result<R>,
    ) -> (R, Vec<Vec<f32>>) {
        let own: Vec<OnceCell<Vec<f32>>> = (0..most).map(|_| OnceCell::new()).collect();
        let mut sums: Vec<Vec<f32>> = vec![Vec::new(); most];
        let mut spent = Spent::default();
        let result = request::scope(|scope| {
            let (mut places, mut under_way) = (own.iter().zip(&mut sums), Vec::new());
            let result = work(&mut |values| {
                let start = Instant::now();
                let place = if values.is_empty() { None } else { places.next() };
                if let Some((own, sum)) = place {
                    spent.bytes += size_of_val(&values[..]) as u64;
                    sum.resize(values.len(), 0.0);
                    let (own, add) = (own.get_or_init(|| values), SystemOperation::sum());
                    under_way.push(self.world.immediate_all_reduce_into(scope, &own[..], &mut sum[..], add));
                }
                let tested = std::mem::take(&mut under_way).into_iter().map(Request::test);
                under_way = tested.filter_map(std::result::Result::err).collect();
                spent.secs += start.elapsed().as_secs_f64();
            });
            let result = match result {
                Ok(result) => result,
                Err(error) => self.abort((self.on_lost)(self.rank(), self.size(), error)),
            };
            let start = Instant::now();
            under_way.into_iter().for_each(|request| self.wait(request, self.patience));
            spent.secs += start.elapsed().as_secs_f64();
            result
        });
        self.add_spent(spent);
        sums.retain(|sum| !sum.is_empty());
        (result, sums)
    }

    /// The first rank's text on all of them.
    pub(super) fn first_tells(&self, text: String) -> String {
        let mut length = [text.len() as u64];
        self.broadcast(&mut length);
        let mut bytes = text.into_bytes();
        bytes.resize(length[0] as usize, 0);
        self.broadcast(&mut bytes[..]);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(super) fn broadcast<T: Equivalence>(&self, values: &mut [T]) {
        // MPI takes the address of an empty vector for a mistake.
        if values.is_empty() {
            return;
        }
        // The first rank may have taken long to know what it tells; it waits for nobody that takes long.
        let patience = if self.rank() == 0 { self.patience } else { self.patience * TICK_PATIENCE };
        let first = self.world.process_at_rank(0);
        request::scope(|scope| self.wait(first.immediate_broadcast_into(scope, values), patience));
    }

    /// What every rank has, for the first one, in the order of ranks; the others get nothing. Some may have taken long
    /// to make it.
    pub(super) fn gather<T: Equivalence + Default + Clone>(&self, own: Vec<T>) -> Vec<Vec<T>> {
        let mut counts = vec![0u64; self.size()];
        counts[self.rank()] = own.len() as u64;
        self.sum_patiently(&mut counts);
        if self.rank() != 0 {
            let first = self.world.process_at_rank(0);
            for part in own.chunks(MESSAGE) {
                request::scope(|scope| {
                    self.wait(first.immediate_send_with_tag(scope, part, GATHER), self.patience);
                });
            }
            return Vec::new();
        }
        let mut all = vec![own];
        for (rank, &count) in counts.iter().enumerate().skip(1) {
            let from = self.world.process_at_rank(rank as i32);
            let mut values = vec![T::default(); count as usize];
            for part in values.chunks_mut(MESSAGE) {
                request::scope(|scope| {
                    let received = from.immediate_receive_into_with_tag(scope, part, GATHER);
                    self.wait(received, self.patience);
                });
            }
            all.push(values);
        }
        all
    }

    /// Says that this rank is at work of its own, to the next one, a few times in what that one's patience is.
    pub(super) fn at_work(&self) {
        const HERE: &[u8] = &[1];
        if self.said.get().elapsed() < self.patience {
            return;
        }
        self.said.set(Instant::now());
        let next = self.world.process_at_rank(((self.rank() + 1) % self.size()) as i32);
        // One byte travels at once, or with whatever MPI does next.
        if let Err(pending) = next.immediate_send_with_tag(StaticScope, HERE, AT_WORK).test() {
            std::mem::forget(pending);
        }
    }

    /// Waits until all ranks are here, for as long as the one before this one says that it is at work; that one, when it
    /// waits, does so for the one before it.
    pub(super) fn wait_for_all(&self) {
        let before = (self.rank() + self.size() - 1) % self.size();
        let from = self.world.process_at_rank(before as i32);
        let patience = self.patience * TICK_PATIENCE;
        let (mut barrier, mut heard) = (self.world.immediate_barrier(), Instant::now());
        loop {
            let over = barrier.test();
            while from.immediate_probe_with_tag(AT_WORK).is_some() {
                let _: (u8, _) = from.receive_with_tag(AT_WORK);
                heard = Instant::now();
            }
            barrier = match over {
                Ok(_) => return,
                Err(pending) => pending,
            };
            self.at_work();
            if heard.elapsed() > patience {
                let error = Error::RanksLost { ranks: self.name(before), secs: patience.as_secs() };
                self.abort((self.on_lost)(self.rank(), self.size(), error));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// `rank 3 (host, process 17)`
    fn name(&self, rank: usize) -> String {
        format!("rank {rank} ({})", self.names.get(rank).map_or("", String::as_str))
    }

    /// Waits in a step until all ranks are here.
    #[cfg(feature = "nccl")]
    pub(super) fn meet(&self) {
        self.wait(self.world.immediate_barrier(), self.patience);
    }

    /// Waits in a step for what all ranks do.
    #[cfg(feature = "nccl")]
    pub(super) fn wait_until(&self, is_over: impl FnMut() -> bool) {
        self.wait_within(self.patience, is_over);
    }

    /// Waits for all ranks to take part. MPI may write to the request's memory for as long as it is not complete, so
    /// there is no way back from here when one does not: this process says which, and ends them all.
    fn wait<'a, T: ?Sized, S: Scope<'a>>(&self, request: Request<'a, T, S>, patience: Duration) {
        let mut pending = Some(request);
        self.wait_within(patience, || {
            pending = pending.take().and_then(|request| request.test().err());
            pending.is_none()
        });
    }

    fn wait_within(&self, patience: Duration, mut is_over: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_over() {
            let waited = start.elapsed();
            if waited > patience {
                let error = self.roll_call(patience);
                self.abort((self.on_lost)(self.rank(), self.size(), error));
            }
            if waited < SPIN {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    /// Every rank that still waits tells the others so; whoever is silent is the one that is waited for.
    fn roll_call(&self, patience: Duration) -> Error {
        let (own, size) = (self.rank(), self.size());
        let here: &'static [u8] = Box::leak(Box::new([1]));
        for other in (0..size).filter(|&other| other != own) {
            let to = self.world.process_at_rank(other as i32);
            // One byte travels at once; the process ends soon after.
            std::mem::forget(to.immediate_send_with_tag(StaticScope, here, ROLL_CALL));
        }
        let mut present = vec![false; size];
        present[own] = true;
        let grace = Duration::from_secs_f64((patience.as_secs_f64() / 10.0).max(ROLL_CALL_SECS));
        let until = Instant::now() + grace;
        while Instant::now() < until {
            while let Some(status) = self.world.any_process().immediate_probe_with_tag(ROLL_CALL) {
                let from = self.world.process_at_rank(status.source_rank());
                let _: (u8, _) = from.receive_with_tag(ROLL_CALL);
                present[status.source_rank() as usize] = true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let missing: Vec<String> =
            (0..size).filter(|&rank| !present[rank]).map(|rank| self.name(rank)).collect();
        let ranks = if missing.is_empty() { "the network".to_owned() } else { missing.join(", ") };
        Error::RanksLost { ranks, secs: patience.as_secs() }
    }

    pub(super) fn abort(&self, code: u8) -> ! {
        self.world.abort(code.into())
    }
}
