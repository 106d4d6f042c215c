//! Which images of a global batch one of several data-parallel processes works on.
//!
//! Image numbers are those of the whole run, so whatever is random for an image does not depend on who works on it.

use std::ops::Range;

/// The part of every global batch that belongs to one rank.
///
/// Ranks take turns: `run` consecutive images of the batch each, then again. With `run` a rank's whole share, it is
/// one piece; shorter runs give each rank a piece of every part of the batch whose images belong together. Going back
/// and forth, with two turns a batch, a rank has the image before the end for every image after the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// This process's place, from 0.
    pub rank: usize,
    /// How many there are.
    pub world: usize,
    /// Consecutive images that are one rank's, at least 1.
    pub run: usize,
    /// Whether every second turn goes from the last rank to the first.
    pub back: bool,
}

impl Share {
    /// All images: of a process on its own.
    pub fn whole() -> Self {
        Self { rank: 0, world: 1, run: 1, back: false }
    }

    /// The number of this rank's image `local` in a global batch that begins with image `first`.
    pub fn number(&self, first: u64, local: usize) -> u64 {
        let (turn, within) = (local / self.run, local % self.run);
        let rank = if self.back && turn % 2 == 1 { self.world - 1 - self.rank } else { self.rank };
        first + ((turn * self.world + rank) * self.run + within) as u64
    }

    /// The numbers of a range of this rank's images.
    pub fn numbers(&self, first: u64, local: Range<usize>) -> Vec<u64> {
        local.map(|local| self.number(first, local)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_take_turns_and_leave_nothing_out() {
        let share = |rank| Share { rank, world: 2, run: 2, back: false }.numbers(100, 0..4);
        assert_eq!((share(0), share(1)), (vec![100, 101, 104, 105], vec![102, 103, 106, 107]));
        assert_eq!(Share::whole().numbers(7, 1..4), [8, 9, 10]);
    }

    #[test]
    fn back_and_forth_image_and_mirror_image_are_one_ranks() {
        let share = |rank| Share { rank, world: 2, run: 2, back: true }.numbers(8, 0..4);
        assert_eq!((share(0), share(1)), (vec![8, 9, 14, 15], vec![10, 11, 12, 13]));
    }
}
