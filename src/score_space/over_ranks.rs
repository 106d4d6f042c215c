//! Features of image sets, made by all ranks of a job: each works on its share, and the first one gets them all.
//!
//! The first rank scores as a process on its own does, but where features of a set are missing, it asks all ranks for
//! them, block by block; the others do nothing else. So caches, reports and files are the first rank's alone, and as an
//! image's features are the same bits whoever makes them, every score is that of one process.

use std::ops::Range;

use nestgen_fid::extractor::CUSTOM_BATCH;
use nestgen_fid::features::{Extracted, Progress, Skipped};
use nestgen_fid::formula::fnv1a64;
use nestgen_fid::{Extractor, Features, Input, ScoreConfig};
use nestgen_images::ImageSet;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ranks::Ranks;

/// Images of each rank in a block: enough to keep its cores busy, few enough that no rank waits long for another.
const BLOCK: usize = 8 * CUSTOM_BATCH;

/// What the first rank asks for: features of images of a side's set, which has `total` of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Block {
    side: usize,
    total: usize,
    images: Range<usize>,
}

/// Ranks that make features together; all of them have opened the same inputs.
pub struct Together<'a> {
    /// The ranks.
    pub ranks: &'a Ranks,
    /// The feature space.
    pub extractor: &'a Extractor<'a>,
    /// How images are read and seen.
    pub config: &'a ScoreConfig,
}

impl Together<'_> {
    /// The input number `side`, whose features all ranks make where the first one asks for them. For that rank.
    pub fn delegate<'a>(&'a self, side: usize, input: Input<'a>) -> Input<'a> {
        match input {
            Input::Images(images) if self.ranks.size() > 1 => Input::Delegated {
                images,
                extract: Box::new(move |set, progress| self.extract_all(side, set, progress)),
            },
            other => other,
        }
    }

    /// Makes sure that all ranks have the same images and the same network: what they make is put together as one.
    ///
    /// # Errors
    /// Names the ranks that differ from the first one.
    pub fn check(&self, sides: &[&Input]) -> Result<()> {
        if self.ranks.size() == 1 {
            return Ok(());
        }
        let mut digests = String::new();
        for side in sides {
            if let Input::Images(set) = side {
                digests += &set.digest()?;
            }
        }
        let network = format!("{} {}", self.extractor.sha256(), self.extractor.dims(self.config.tap));
        let same_files = "every rank reads the images itself: put them where all nodes see the same files";
        self.ranks.check_same("the set of images", fnv1a64(&digests), same_files)?;
        let same_network = "give all ranks the same flags, and weights that all nodes see";
        self.ranks.check_same("the feature space", fnv1a64(&network), same_network)
    }

    /// Makes features for the first rank until [`Together::dismiss`]. For all other ranks.
    ///
    /// # Errors
    /// When an image cannot be read, or this rank sees another set than the first one.
    pub fn serve(&self, sides: &[&Input]) -> Result<()> {
        while let Some(block) = self.ranks.first_tells(None::<Block>)? {
            let set = match sides.get(block.side) {
                Some(Input::Images(set)) if set.len() == block.total => set,
                Some(Input::Images(set)) => {
                    return Err(Error::Usage {
                        message: format!(
                            "`{}` has {} images here, {} on rank 0",
                            set.path().display(),
                            set.len(),
                            block.total
                        ),
                        hint: Some("all ranks must see the same files".into()),
                    });
                }
                _ => return Err(Error::Usage { message: "rank 0 scores other inputs".into(), hint: None }),
            };
            let part = self.extract(set, self.part(&block.images), &|_, _| {})?;
            self.gather(part)?;
        }
        Ok(())
    }

    /// Ends the others' [`Together::serve`]. For the first rank.
    ///
    /// # Errors
    /// None in practice.
    pub fn dismiss(&self) -> Result<()> {
        self.ranks.first_tells(None::<Block>).map(|_| ())
    }

    /// Features of a whole set, in the order of its images.
    fn extract_all(&self, side: usize, set: &ImageSet, progress: &Progress) -> nestgen_fid::Result<Extracted> {
        let (total, dims) = (set.len(), self.extractor.dims(self.config.tap));
        let mut all = Extracted { taps: vec![Features { dims, data: Vec::new() }], skipped: Vec::new() };
        let block = BLOCK * self.ranks.size();
        for first in (0..total).step_by(block) {
            let images = first..total.min(first + block);
            self.ranks.first_tells(Some(Block { side, total, images: images.clone() })).map_err(caller)?;
            let own = self.part(&images);
            let told = |done: usize, of: usize| progress(first + done * images.len() / of.max(1), total);
            let part = self.extract(set, own, &told)?;
            for part in self.gather(part).map_err(caller)? {
                all.taps[0].data.extend(part.taps.into_iter().flat_map(|tap| tap.data));
                all.skipped.extend(part.skipped);
            }
            progress(images.end, total);
        }
        Ok(all)
    }

    /// This rank's images of a block: whole batches of a caller's network, so that each sees what it sees in one process.
    fn part(&self, images: &Range<usize>) -> Range<usize> {
        part(images, self.ranks.rank(), self.ranks.size())
    }

    fn extract(&self, set: &ImageSet, images: Range<usize>, told: &Progress) -> nestgen_fid::Result<Extracted> {
        let ScoreConfig { tap, resize, skip_bad, .. } = *self.config;
        let read = |i: usize| set.read_rgb(images.start + i).map_err(nestgen_fid::Error::Images);
        let mut part = self.extractor.extract(&[tap], resize, images.len(), &read, skip_bad, told)?;
        part.skipped.iter_mut().for_each(|skipped| skipped.index += images.start);
        Ok(part)
    }

    /// All ranks' parts of a block, on the first one.
    fn gather(&self, part: Extracted) -> Result<Vec<Extracted>> {
        let garbled = |error: serde_json::Error| Error::Usage {
            message: format!("a rank's list of unreadable images: {error}"),
            hint: None,
        };
        let skipped = self.ranks.all_tell_first(serde_json::to_string(&part.skipped).map_err(garbled)?);
        let data = part.taps.into_iter().flat_map(|tap| tap.data).collect();
        let dims = self.extractor.dims(self.config.tap);
        let parts = self.ranks.bring_to_first(data).into_iter().zip(skipped);
        parts
            .map(|(data, skipped)| {
                let skipped: Vec<Skipped> = serde_json::from_str(&skipped).map_err(garbled)?;
                Ok(Extracted { taps: vec![Features { dims, data }], skipped })
            })
            .collect()
    }
}

/// An error of the ranks as one of a score.
fn caller(error: Error) -> nestgen_fid::Error {
    match error {
        Error::Fid(error) => error,
        Error::Images(error) => nestgen_fid::Error::Images(error),
        error => nestgen_fid::Error::Caller { message: error.to_string(), hint: error.hint() },
    }
}

fn part(images: &Range<usize>, rank: usize, size: usize) -> Range<usize> {
    let batches = images.len().div_ceil(CUSTOM_BATCH);
    let edge = |rank: usize| images.end.min(images.start + rank * batches / size * CUSTOM_BATCH);
    edge(rank)..edge(rank + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_ranks_keep_their_advice() {
        let lost = || Error::RanksLost { ranks: "rank 1".into(), secs: 9 };
        let found = Error::Fid(caller(lost()));
        assert_eq!((found.to_string(), found.hint()), (lost().to_string(), lost().hint()));
        assert!(found.hint().is_some());
    }

    #[test]
    fn parts_are_whole_batches_and_leave_nothing_out() {
        for (count, size) in [(1, 4), (64, 2), (65, 2), (1000, 3), (1024, 2)] {
            let images = 512..512 + count;
            let parts: Vec<Range<usize>> = (0..size).map(|rank| part(&images, rank, size)).collect();
            assert_eq!((parts[0].start, parts[size - 1].end), (512, 512 + count));
            for (before, after) in parts.iter().zip(&parts[1..]) {
                assert_eq!(before.end, after.start);
                assert!(after.is_empty() || after.start.is_multiple_of(CUSTOM_BATCH), "{parts:?}");
            }
        }
        assert_eq!(part(&(0..130), 1, 2), 64..130);
    }
}
