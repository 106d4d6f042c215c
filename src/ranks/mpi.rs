//! Ranks over MPI (the MPI Forum's standard 3.1), by the crate `mpi`.
//!
//! Collectives are started without blocking and tested until a deadline, since a blocking one waits for ever for a
//! rank that hangs. A rank that dies is noticed by the launcher, which ends the others.

use std::cell::Cell;
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::collective::{CommunicatorCollectives, Root, SystemOperation};
use mpi::environment::{self, Universe};
use mpi::point_to_point::{Destination, Source};
use mpi::request::{self, Request, Scope, StaticScope};
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::traits::Equivalence;

use super::{OnLost, Spent};
use crate::error::{Error, Result};

/// What launchers set for the processes they connect: Open MPI, MPICH, and Slurm with either plugin.
const VARIABLES: [&str; 4] = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "PMI_ID"];
/// How many times longer than for a step ranks wait while rank 0 draws pictures and takes scores.
const TICK_PATIENCE: u32 = 12;
/// The tag of messages that say "I am here".
const ROLL_CALL: i32 = 77;
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
    spent: Cell<Spent>,
    /// Finalises MPI when dropped, after everything else.
    _universe: Universe,
}

impl Link {
    pub(super) fn new(patience: Duration, on_lost: OnLost) -> Result<Self> {
        let Some((universe, _)) = environment::initialize_with_threading(Threading::Funneled) else {
            return Err(Error::Usage { message: "MPI was started before".into(), hint: None });
        };
        let world = universe.world();
        let (names, spent) = (Vec::new(), Cell::default());
        let mut link = Self { world, patience, on_lost, names, spent, _universe: universe };
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

    /// What sums have cost since this was last asked.
    pub(super) fn take_spent(&self) -> Spent {
        self.spent.take()
    }

    /// `host, process 17` of every rank: each writes its own into its place among zeros, and all add up.
    fn gather_names(&self) -> Vec<String> {
        let host = environment::processor_name().unwrap_or_else(|_| "unknown host".into());
        let name = format!("{host}, process {}", std::process::id());
        let mut bytes = vec![0u8; self.size() * NAME_BYTES];
        let place = bytes.chunks_mut(NAME_BYTES).nth(self.rank()).unwrap_or_default();
        for (to, from) in place.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        self.sum(&mut bytes[..]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
        bytes.chunks(NAME_BYTES).map(text).collect()
    }

    /// Replaces each value by its sum over the ranks.
    pub(super) fn sum<T: Equivalence + Copy>(&self, values: &mut [T]) {
        let start = Instant::now();
        let bytes = size_of_val(values) as u64;
        let own = values.to_vec();
        request::scope(|scope| {
            let sum = SystemOperation::sum();
            self.wait(self.world.immediate_all_reduce_into(scope, &own[..], values, sum), self.patience);
        });
        let spent = self.spent.get();
        let secs = spent.secs + start.elapsed().as_secs_f64();
        self.spent.set(Spent { secs, bytes: spent.bytes + bytes });
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

    fn broadcast<T: Equivalence>(&self, values: &mut [T]) {
        // The first rank may have taken long to know what it tells; it waits for nobody that takes long.
        let patience = if self.rank() == 0 { self.patience } else { self.patience * TICK_PATIENCE };
        let first = self.world.process_at_rank(0);
        request::scope(|scope| self.wait(first.immediate_broadcast_into(scope, values), patience));
    }

    /// Waits for all ranks to take part. MPI may write to the request's memory for as long as it is not complete, so
    /// there is no way back from here when one does not: this process says which, and ends them all.
    fn wait<'a, T: ?Sized, S: Scope<'a>>(&self, mut request: Request<'a, T, S>, patience: Duration) {
        let start = Instant::now();
        loop {
            request = match request.test() {
                Ok(_) => return,
                Err(pending) => pending,
            };
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
        let name = |rank: usize| format!("rank {rank} ({})", self.names.get(rank).map_or("", String::as_str));
        let missing: Vec<String> = (0..size).filter(|&rank| !present[rank]).map(name).collect();
        let ranks = if missing.is_empty() { "the network".to_owned() } else { missing.join(", ") };
        Error::RanksLost { ranks, secs: patience.as_secs() }
    }

    pub(super) fn abort(&self, code: u8) -> ! {
        self.world.abort(code.into())
    }
}
