//! `nestgen sample` and `nestgen interpolate`: pictures from a run's averaged generator.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use clap::Args;
use nestgen::error::Error;
use nestgen::models::Generator;
use nestgen::ranks::Ranks;
use nestgen::sample::{for_each_batch, interpolate, truncation_limit};
use nestgen::train::fakes::generate;
use nestgen::train::files::Pending;
use nestgen::train::grid::Picture;
use nestgen_images::is_image_name;
use rayon::prelude::*;

use super::network::Network;
use super::ui;

/// How long finished images may wait for the sync that gives them their names.
const SYNC_EVERY: Duration = Duration::from_secs(10);
/// Most columns and rows of a picture of many.
const MOST_CELLS: usize = 256;
/// Most seeds of one range: more are a slip of the hand.
const MOST_SEEDS: u64 = 10_000_000;

/// Draw images from a trained generator
#[derive(Args)]
pub(super) struct SampleArgs {
    #[command(flatten)]
    network: Network,
    /// How many images: seeds 0 to n-1
    #[arg(short, long, value_name = "N", conflicts_with = "seeds", value_parser = clap::value_parser!(u64).range(1..=MOST_SEEDS))]
    n: Option<u64>,
    /// Which images, by seed, each once: `0,5-9`
    #[arg(long, value_name = "LIST")]
    seeds: Option<String>,
    /// Draw latents within ±2·PSI only: fewer odd images, less variety; leave it out for none, 1 is not none
    #[arg(long, value_name = "PSI")]
    trunc: Option<f64>,
    /// Also write `<outdir>-grid.png`, beside the folder, with COLUMNSxROWS of the images
    #[arg(long, value_name = "CxR")]
    grid: Option<String>,
    /// Write the grid only, whose seeds may repeat
    #[arg(long, requires = "grid")]
    grid_only: bool,
    /// Images drawn at a time; changes speed and memory, not images
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=MOST_SEEDS))]
    batch: u64,
    /// Where the PNG files go: a folder that holds no others
    #[arg(long, value_name = "DIR", default_value = "samples-out")]
    outdir: PathBuf,
}

/// Draw the way from one seed's image to the next
#[derive(Args)]
pub(super) struct InterpolateArgs {
    #[command(flatten)]
    network: Network,
    /// The seeds to pass through, two or more: `0,5-9`
    #[arg(long, value_name = "LIST", default_value = "0-7")]
    seeds: String,
    /// Draw the seeds' latents within ±2·PSI only, as `sample --trunc` does
    #[arg(long, value_name = "PSI")]
    trunc: Option<f64>,
    /// Images in a row, both ends included
    #[arg(long, default_value_t = 9)]
    steps: usize,
    /// The picture to write: one row for each pair of neighbouring seeds
    #[arg(long, value_name = "FILE", default_value = "interpolation.png", value_parser = ui::file_to_write(&["png"]))]
    out: PathBuf,
}

pub(super) fn run(args: &SampleArgs) -> anyhow::Result<ExitCode> {
    let grid = args.grid.as_deref().map(parse_grid).transpose()?;
    let in_grid = grid.map_or(0, |(columns, rows)| columns * rows);
    let seeds = wanted_seeds(args, in_grid)?;
    truncation_limit(args.trunc)?;
    if !args.grid_only {
        refuse_other_files(&args.outdir, &distinct(&seeds)?)?;
    }
    let (generator, network) = args.network.load()?;
    let folder = if args.grid_only { args.outdir.parent() } else { Some(args.outdir.as_path()) };
    if let Some(folder) = folder {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    let drawn = draw(&generator, &seeds, args, in_grid)?;
    if !args.grid_only {
        let of = if drawn.count < seeds.len() { format!(" of {}", seeds.len()) } else { String::new() };
        let (count, outdir) = (drawn.count, args.outdir.display());
        ui::result_line(&format!("wrote {count}{of} images of {} to {outdir}", network.display()))?;
        warn_of_older(&args.outdir, &seeds[drawn.count..]);
    }
    if let (Some((columns, _)), Some(first)) = (grid, drawn.for_grid) {
        let path = grid_file(&args.outdir);
        Picture::grid(&first, columns)?.write(&path)?;
        ui::result_line(&format!("wrote a grid of {} to {}", network.display(), path.display()))?;
    }
    Ok(if drawn.count == seeds.len() {
        ExitCode::SUCCESS
    } else {
        super::interrupt::exit_code(&Ranks::alone())
    })
}

/// The seeds asked for; those of the grid where nothing else is written.
fn wanted_seeds(args: &SampleArgs, in_grid: usize) -> Result<Vec<u64>, Error> {
    let mut seeds: Vec<u64> = match (&args.seeds, args.n, in_grid) {
        (Some(list), _, _) => parse_seeds(list)?,
        (None, Some(n), _) => (0..n).collect(),
        (None, None, 0) => {
            return Err(Error::usage("say how many images", "-n 64, --seeds 0-63 or --grid 8x8"));
        }
        (None, None, in_grid) => (0..in_grid as u64).collect(),
    };
    if let Some(grid) = args.grid.as_deref().filter(|_| seeds.len() < in_grid) {
        let message = format!("--grid {grid} shows {in_grid} images, and {} are drawn", seeds.len());
        return Err(Error::usage(&message, "ask for more images, or for a smaller grid"));
    }
    if args.grid_only {
        seeds.truncate(in_grid);
    }
    Ok(seeds)
}

/// The seeds as a set: a seed is one image in one file, so that asking for two of it is a mistake.
fn distinct(seeds: &[u64]) -> Result<HashSet<u64>, Error> {
    let mut set = HashSet::with_capacity(seeds.len());
    match seeds.iter().find(|&&seed| !set.insert(seed)) {
        Some(twice) => Err(Error::usage(
            format!("--seeds names seed {twice} twice, and a seed is one image"),
            "name each seed once; in a picture of --grid with --grid-only they may repeat",
        )),
        None => Ok(set),
    }
}

/// Refuses a folder with files that drawing `seeds` does not write: a score of the folder would count them as samples of
/// this network.
fn refuse_other_files(outdir: &Path, seeds: &HashSet<u64>) -> Result<(), Error> {
    let entries = match fs::read_dir(outdir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io("read", outdir))?,
    };
    let is_ours = |name: &str| {
        let seed = name.strip_prefix("seed").and_then(|rest| rest.strip_suffix(".png")?.parse().ok());
        seed.is_some_and(|seed| seeds.contains(&seed) && file_name(seed) == name)
    };
    let mut others = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("read", outdir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Hidden files, such as those that a killed process leaves, and what is no image count nowhere.
        let counts = entry.path().is_dir() && !name.starts_with('.') || is_image_name(name.as_bytes());
        if counts && !is_ours(&name) {
            others.push(name);
        }
    }
    let Some(first) = others.iter().min() else { return Ok(()) };
    let (files, place) = (if others.len() == 1 { "file" } else { "files" }, outdir.display());
    Err(Error::usage(
        format!(
            "`{place}` holds {} other {files} (`{first}`), which would count as samples of this network",
            others.len()
        ),
        "give another --outdir, or remove them; to add seeds of the same network, name those that are there as well: --seeds 0-199",
    ))
}

/// Names what an earlier call has left where this one, told to stop, has drawn nothing.
fn warn_of_older(outdir: &Path, not_drawn: &[u64]) {
    let left = not_drawn.iter().filter(|&&seed| outdir.join(file_name(seed)).is_file()).count();
    if left > 0 {
        let outdir = outdir.display();
        ui::warn(&format!(
            "images of an earlier call, perhaps of another network, are still in `{outdir}`: {left}"
        ));
    }
}

/// Where the grid goes: beside the folder, so that the folder holds samples only and can be scored as it is.
fn grid_file(outdir: &Path) -> PathBuf {
    // `.` and `..` have no name of their own.
    let named = if outdir.file_name().is_none() { fs::canonicalize(outdir).ok() } else { None };
    let outdir = named.as_deref().unwrap_or(outdir);
    let name = outdir.file_name().unwrap_or_default().to_string_lossy();
    outdir.with_file_name(format!("{name}-grid.png"))
}

/// What came of drawing.
struct Drawn {
    /// Images drawn: fewer than asked for after a signal.
    count: usize,
    /// The first images `[n, H, W, 3]`, for the grid.
    for_grid: Option<Tensor>,
}

/// A batch's files: name and PNG of each.
type Files = Vec<(String, Vec<u8>)>;

/// Draws the images and, unless only the grid is wanted, writes each to its file while the next are drawn.
fn draw(generator: &Generator, seeds: &[u64], args: &SampleArgs, in_grid: usize) -> anyhow::Result<Drawn> {
    let stop = super::interrupt::flag_saying("stopping after this batch; what was drawn is kept")?;
    let bar = ui::progress_bar("sampling", seeds.len() as u64);
    let (mut count, mut for_grid) = (0, Vec::new());
    let pending = Pending::new(&args.outdir);
    // One batch waits while one is written: drawing never runs far ahead.
    let (to_writer, batches) = mpsc::sync_channel::<Files>(1);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_batches(&pending, batches));
        let drawn = for_each_batch(generator, seeds, args.trunc, args.batch as usize, |seeds, images| {
            if count < in_grid {
                for_grid.push(images.narrow(0, 0, seeds.len().min(in_grid - count))?);
            }
            // A writer that is gone has failed: its own error is reported below.
            let kept = args.grid_only || to_writer.send(encode(seeds, &images)?).is_ok();
            count += seeds.len();
            bar.inc(seeds.len() as u64);
            Ok(kept && !stop.load(Ordering::Relaxed))
        });
        drop(to_writer);
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and(drawn)
    })?;
    bar.finish_and_clear();
    let for_grid = if for_grid.is_empty() { None } else { Some(Tensor::cat(&for_grid, 0)?) };
    Ok(Drawn { count, for_grid })
}

fn file_name(seed: u64) -> String {
    format!("seed{seed:06}.png")
}

/// The PNG of every image, made on all threads. This thread is one of the pool's, so it encodes
/// itself: while it waited for a thread that waits for the pool, neither would go on.
fn encode(seeds: &[u64], images: &Tensor) -> nestgen::error::Result<Files> {
    let one = |(i, seed): (usize, &u64)| {
        let name = file_name(*seed);
        let png = Picture::grid(&images.narrow(0, i, 1)?, 1)?.png().map_err(Error::io("encode", &name))?;
        Ok((name, png))
    };
    seeds.par_iter().enumerate().map(one).collect()
}

/// Writes the files of each batch, and now and then syncs them and gives them their names.
fn write_batches(pending: &Pending, batches: mpsc::Receiver<Files>) -> nestgen::error::Result<()> {
    let mut synced = Instant::now();
    for files in batches {
        for (name, png) in &files {
            pending.write(name, png)?;
        }
        if synced.elapsed() > SYNC_EVERY {
            pending.commit()?;
            synced = Instant::now();
        }
    }
    pending.commit()
}

pub(super) fn run_interpolate(args: &InterpolateArgs) -> anyhow::Result<ExitCode> {
    let seeds = parse_seeds(&args.seeds)?;
    if !(2..=MOST_CELLS).contains(&args.steps) || !(2..=MOST_CELLS + 1).contains(&seeds.len()) {
        anyhow::bail!(Error::usage(
            format!(
                "an interpolation takes two seeds and two steps at least, and {MOST_CELLS} rows and steps at most"
            ),
            "--seeds 0-7 --steps 9"
        ));
    }
    truncation_limit(args.trunc)?;
    let (generator, path) = args.network.load()?;
    let mut strips = Vec::new();
    for pair in seeds.windows(2) {
        let z = interpolate(pair[0], pair[1], args.steps, generator.z_dim(), args.trunc)?;
        strips.push(generate(&generator, &z, 32)?);
    }
    Picture::grid(&Tensor::cat(&strips, 0)?, args.steps)?.write(&args.out)?;
    ui::result_line(&format!("wrote {} from {}", args.out.display(), path.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// `8x4`: columns and rows.
fn parse_grid(text: &str) -> Result<(usize, usize), Error> {
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
fn parse_seeds(text: &str) -> Result<Vec<u64>, Error> {
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
