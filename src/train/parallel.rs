//! What ranks do together: gradients, measurements and decisions of a run that several processes make.
//!
//! Synchronous data parallelism: every rank works on its share of the same global batch with the same weights, the
//! gradients are averaged, and every rank makes the same optimizer step. Everything random is a function of the
//! number of an image, so a run does not depend on how many ranks make it, to rounding.
//!
//! Gradients are averaged while the backward pass goes on: it tells of each as soon as nothing can be added to it. MPI
//! does its part whenever the pass hands one over, on the thread that trains; NCCL goes by itself.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use candle_core::Tensor;
use nestgen_fid::formula::fnv1a64;
use nestgen_kernels::cpu::with_downloaded;
use nestgen_kernels::{Gradients, Param, SumOverParts, Var, backward, backward_telling};
use serde::{Deserialize, Serialize};

use super::adversarial::Training;
use super::guard::Trouble;
use super::session::Networks;
use super::settings::TrainConfig;
use super::state::Position;
use crate::data::{ImageData, Share};
use crate::error::{Error, Result};
use crate::nn::ParamSet;
use crate::ranks::{Give, Ranks};
use crate::rng::{FNV_START, fnv1a};

/// Which images of each global batch are this rank's, such that no rank needs another's images for its losses.
///
/// # Errors
/// When the batch cannot be shared out evenly.
pub fn share_out(config: &TrainConfig, networks: &Networks, ranks: &Ranks) -> Result<Share> {
    let (size, part) = (ranks.size(), config.micro_batch());
    if size == 1 {
        return Ok(Share::whole());
    }
    // The samples that are compared with one another are the i-th of as many pieces of the batch.
    let pieces = networks.discriminator.compared_samples(part);
    if !part.is_multiple_of(size * pieces) {
        let parts =
            if config.accumulate > 1 { format!("{} parts of ", config.accumulate) } else { String::new() };
        let groups = if pieces > 1 { format!(" with {pieces} images each to compare") } else { String::new() };
        return Err(Error::Usage {
            message: format!("{parts}{part} images cannot be shared out evenly among {size} ranks{groups}"),
            hint: Some(format!(
                "choose train.batch divisible by {}, or fewer ranks",
                size * pieces * config.accumulate
            )),
        });
    }
    Ok(Share { rank: ranks.rank(), world: size, run: part / (size * pieces), back: false })
}

/// Which images of each batch are this rank's, such that it has the i-th from the end for every i-th image: these two
/// are what MixUp and CutMix bring together.
///
/// # Errors
/// When the batch cannot be shared out in pairs.
pub fn share_out_pairs(batch: usize, ranks: &Ranks) -> Result<Share> {
    let size = ranks.size();
    if size == 1 {
        return Ok(Share::whole());
    }
    if !batch.is_multiple_of(2 * size) {
        return Err(Error::Usage {
            message: format!("{batch} images cannot be shared out evenly, in pairs, among {size} ranks"),
            hint: Some(format!("choose train.batch divisible by {}, or fewer ranks", 2 * size)),
        });
    }
    Ok(Share { rank: ranks.rank(), world: size, run: batch / (2 * size), back: true })
}

/// Tells the networks that this rank works on a part of every batch.
pub fn share_batches(networks: &mut Networks, ranks: &Ranks) {
    if ranks.size() > 1 {
        let ranks = ranks.clone();
        networks.generator.share_batches(&(Rc::new(move |sums: &mut [f64]| ranks.sum(sums)) as SumOverParts));
    }
}

/// The gradients of a loss, added to those `before` of earlier parts of the batch; each sum is then its mean over all ranks.
/// They travel while the pass back goes on.
pub(super) fn backward_averaged(
    ranks: &Ranks,
    loss: Var,
    before: Gradients,
    params: &[Param],
) -> Result<Gradients> {
    let mut all = before;
    if ranks.size() == 1 {
        all.accumulate(backward(loss)?)?;
        return Ok(all);
    }
    let by_id: HashMap<u64, &Param> = params.iter().map(|param| (param.id(), param)).collect();
    let mut members: Vec<&Param> = Vec::with_capacity(params.len());
    let work = |give: &mut Give| -> Result<()> {
        let mut told = HashSet::new();
        let mut take = |param, gradient: &Tensor| {
            members.push(param);
            give(gradient)
        };
        backward_telling(loss, &mut |id, gradient| {
            let Some(&param) = by_id.get(&id) else { return Ok(()) };
            told.insert(id);
            match all.param(param) {
                Some(before) => take(param, &(before + gradient)?),
                None => take(param, gradient),
            }
        })?;
        for param in params.iter().filter(|param| !told.contains(&param.id())) {
            if let Some(gradient) = all.param(param) {
                take(param, gradient)?;
            }
        }
        Ok(())
    };
    let ((), means) = ranks.while_averaging(params.len(), work)?;
    for (param, mean) in members.into_iter().zip(means) {
        all.set_param(param, mean);
    }
    Ok(all)
}

/// What the first rank decides at the end of a tick.
#[derive(Serialize, Deserialize)]
struct Decision {
    trouble: Option<Trouble>,
    position: Position,
}

impl Training<'_> {
    /// Opens the run on the first rank; the others go on from the same place.
    pub(super) fn open_together(&mut self) -> Result<()> {
        let ranks = self.session.ranks;
        if ranks.is_first() {
            self.open()?;
        }
        self.follow_first(None)?;
        self.check_in_step()
    }

    /// A tick, which the first rank makes: pictures, scores and files. All take on what it decides.
    pub(super) fn tick_together(&mut self, over: bool) -> Result<Option<Trouble>> {
        self.check_in_step()?;
        let trouble = if self.session.ranks.is_first() { self.tick(over)? } else { None };
        self.follow_first(trouble)
    }

    fn follow_first(&mut self, trouble: Option<Trouble>) -> Result<Option<Trouble>> {
        if self.session.ranks.size() == 1 {
            return Ok(trouble);
        }
        let decision = Decision { trouble, position: self.position.clone() };
        let decision = self.session.ranks.first_tells(decision)?;
        self.position = decision.position;
        Ok(decision.trouble)
    }

    /// Whether the run is as long as it should be, by the first rank's clock.
    pub(super) fn is_over(&self) -> bool {
        let over = self.length.is_over(self.position.cur_nimg, self.clock.elapsed_secs());
        self.session.ranks.first_decides(over)
    }

    /// Makes sure that all ranks have the same networks.
    fn check_in_step(&self) -> Result<()> {
        let ranks = self.session.ranks;
        check_same(ranks, "the generator", self.networks.generator.params())?;
        check_same(ranks, "the discriminator", self.networks.discriminator.params())
    }
}

/// Makes sure that all ranks have the same network.
pub(super) fn check_same(ranks: &Ranks, what: &str, params: &ParamSet) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let hint = "ranks need the same program and the same kind of processor; resume from the last state";
    ranks.check_same(what, digest(params)?, hint)
}

/// Makes sure that all ranks were given the same work: shares of other images, or under other settings, would be shares of no
/// one run.
///
/// # Errors
/// Names the ranks that have other images or settings than the first one.
pub fn check_work(ranks: &Ranks, data: &[&ImageData], config: &str) -> Result<()> {
    let digests = data.iter().map(|data| data.digest()).collect::<Vec<_>>().join(" ");
    ranks.check_same(
        "the set of images",
        fnv1a64(&digests),
        "every rank reads the images itself: put them where all nodes see the same files",
    )?;
    ranks.check_same("the configuration", fnv1a64(config), "give all ranks the same flags and files")
}

/// FNV-1a over the bits of every number, buffers included.
fn digest(params: &ParamSet) -> Result<u64> {
    let mut hash = FNV_START;
    for param in params.all() {
        with_downloaded::<f32, _>(&param.value(), |numbers| {
            hash = numbers.iter().map(|number| u64::from(number.to_bits())).fold(hash, fnv1a);
            Ok(())
        })?;
    }
    Ok(hash)
}
