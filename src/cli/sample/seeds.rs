//! Which images: lists of seeds, and the columns and rows of a grid.

use std::collections::HashSet;

use nestgen::error::Error;

/// Most columns and rows of a picture of many.
pub(super) const MOST_CELLS: usize = 256;
/// Most seeds of one range: more are a slip of the hand.
pub(super) const MOST_SEEDS: u64 = 10_000_000;

/// The seeds as a set: a seed is one image of what is written, so that asking for two of it is a mistake.
pub(super) fn distinct(seeds: &[u64]) -> Result<HashSet<u64>, Error> {
    let mut set = HashSet::with_capacity(seeds.len());
    match seeds.iter().find(|&&seed| !set.insert(seed)) {
        Some(twice) => Err(Error::usage(
            format!("--seeds names seed {twice} twice, and a seed is one image"),
            "name each seed once; in a picture of --grid with --grid-only they may repeat",
        )),
        None => Ok(set),
    }
}

/// `8x4`: columns and rows.
pub(super) fn parse_grid(text: &str) -> Result<(usize, usize), Error> {
    let parsed = text.split_once('x').and_then(|(c, r)| Some((c.parse().ok()?, r.parse().ok()?)));
    match parsed {
        Some((columns @ 1..=MOST_CELLS, rows @ 1..=MOST_CELLS)) => Ok((columns, rows)),
        _ => Err(Error::usage(
            format!("`{text}` is not COLUMNSxROWS"),
            "for example --grid 8x8, at most 256x256",
        )),
    }
}

/// `0,5-9`: numbers and ranges with both ends.
pub(super) fn parse_seeds(text: &str) -> Result<Vec<u64>, Error> {
    let wrong = || Error::usage(format!("`{text}` is not a list of seeds"), "for example --seeds 0,5-9");
    let mut seeds = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) =
            (first.trim().parse().map_err(|_| wrong())?, last.trim().parse().map_err(|_| wrong())?);
        if last < first {
            return Err(wrong());
        }
        if last - first >= MOST_SEEDS {
            return Err(Error::usage(
                format!("`{text}` are more than {MOST_SEEDS} seeds"),
                "draw them part by part",
            ));
        }
        seeds.extend(first..=last);
    }
    Ok(seeds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_numbers_and_ranges() {
        assert_eq!(parse_seeds("0,5-8").unwrap(), [0, 5, 6, 7, 8]);
        for bad in ["", "a", "5-3", "1-", "0-99999999999"] {
            assert!(parse_seeds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn grids_are_columns_by_rows() {
        assert_eq!(parse_grid("8x4").unwrap(), (8, 4));
        for bad in ["8", "0x4", "8x", "8x400"] {
            assert!(parse_grid(bad).is_err(), "{bad}");
        }
    }
}
