//! `nestgen sample` and `nestgen interpolate`: pictures from a run's averaged generator.

mod array;
mod folder;
pub(super) mod interpolate;
mod seeds;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use candle_core::Tensor;
use clap::Args;
use nestgen::error::Error;
use nestgen::models::Generator;
use nestgen::ranks::Ranks;
use nestgen::sample::{for_each_batch, truncation_limit};
use nestgen::train::files::Pending;
use nestgen::train::grid::Picture;
use nestgen_images::ArrayWriter;

use super::network::Network;
use super::ui;
use seeds::{MOST_SEEDS, distinct, parse_grid, parse_seeds};

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
    /// Also write a picture of COLUMNSxROWS of the images: `NAME-grid.png` beside the folder NAME or the file NAME.npz
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
    /// Write all images into one new file in place of PNG files: `arr_0` uint8 [N, H, W, 3], as evaluators of diffusion models
    /// read it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["outdir", "grid_only"], value_parser = ui::file_to_write(&["npz"]))]
    npz: Option<PathBuf>,
}

/// Where images go.
enum Output<'a> {
    /// PNG files in a folder.
    Folder(&'a Path),
    /// Rows of an array in a file.
    Array(&'a Path),
    /// Nowhere: only the grid is written.
    Nowhere,
}

impl SampleArgs {
    fn output(&self) -> Output<'_> {
        match &self.npz {
            Some(file) => Output::Array(file),
            None if self.grid_only => Output::Nowhere,
            None => Output::Folder(&self.outdir),
        }
    }
}

pub(super) fn run(args: &SampleArgs) -> anyhow::Result<ExitCode> {
    let grid = args.grid.as_deref().map(parse_grid).transpose()?;
    let in_grid = grid.map_or(0, |(columns, rows)| columns * rows);
    let seeds = wanted_seeds(args, in_grid)?;
    truncation_limit(args.trunc)?;
    let output = args.output();
    match output {
        Output::Folder(outdir) => folder::refuse_other_files(outdir, &distinct(&seeds)?)?,
        Output::Array(file) => {
            distinct(&seeds)?;
            array::refuse(file)?;
        }
        Output::Nowhere => {}
    }
    let (generator, network) = args.network.load()?;
    let place = args.npz.as_deref().unwrap_or(&args.outdir);
    let folder = if let Output::Folder(outdir) = output { Some(outdir) } else { place.parent() };
    if let Some(folder) = folder {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    let stop = super::interrupt::flag_saying("stopping after this batch; what was drawn is kept")?;
    let drawing = Drawing { generator: &generator, seeds: &seeds, args, in_grid, stop: &stop };
    let drawn = drawing.write_to(&output)?;
    if !args.grid_only {
        let of = if drawn.count < seeds.len() { format!(" of {}", seeds.len()) } else { String::new() };
        let (count, place) = (drawn.count, place.display());
        ui::result_line(&format!("wrote {count}{of} images of {} to {place}", network.display()))?;
    }
    if let Output::Folder(outdir) = output {
        folder::warn_of_older(outdir, &seeds[drawn.count..]);
    }
    if let (Some((columns, _)), Some(first)) = (grid, drawn.for_grid) {
        let path = grid_file(&output, place);
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

/// Where the grid goes: beside the folder, so that the folder holds samples only and can be scored as it is, or the file.
fn grid_file(output: &Output, place: &Path) -> PathBuf {
    // `.` and `..` have no name of their own.
    let named = if place.file_name().is_none() { fs::canonicalize(place).ok() } else { None };
    let place = named.as_deref().unwrap_or(place);
    let name = if let Output::Array(_) = output { place.file_stem() } else { place.file_name() };
    place.with_file_name(format!("{}-grid.png", name.unwrap_or_default().to_string_lossy()))
}

/// What came of drawing.
struct Drawn {
    /// Images drawn: fewer than asked for after a signal.
    count: usize,
    /// The first images `[n, H, W, 3]`, for the grid.
    for_grid: Option<Tensor>,
}

/// What is to be drawn.
struct Drawing<'a> {
    generator: &'a Generator,
    seeds: &'a [u64],
    args: &'a SampleArgs,
    in_grid: usize,
    /// Raised by a signal.
    stop: &'a AtomicBool,
}

impl Drawing<'_> {
    /// Draws the images into their place.
    fn write_to(&self, output: &Output) -> anyhow::Result<Drawn> {
        match output {
            Output::Folder(outdir) => {
                let pending = Pending::new(outdir);
                self.draw(folder::encode, |batches| folder::write(&pending, batches))
            }
            Output::Array(file) => {
                let side = self.generator.resolution();
                let mut writer = ArrayWriter::create(file, side, side)?;
                let drawn = self.draw(array::rows, |batches| array::write(&mut writer, batches))?;
                writer.finish()?;
                Ok(drawn)
            }
            Output::Nowhere => self.draw(|_, _| Ok(()), |batches| batches.iter().try_for_each(Ok)),
        }
    }

    /// Draws the images; `write` gets what `encode` makes of each batch while the next are drawn.
    fn draw<Batch: Send>(
        &self,
        encode: impl Fn(&[u64], &Tensor) -> nestgen::error::Result<Batch>,
        write: impl FnOnce(mpsc::Receiver<Batch>) -> nestgen::error::Result<()> + Send,
    ) -> anyhow::Result<Drawn> {
        let Drawing { generator, seeds, args, in_grid, stop } = *self;
        let bar = ui::progress_bar("sampling", seeds.len() as u64);
        let (mut count, mut for_grid) = (0, Vec::new());
        // One batch waits while one is written: drawing never runs far ahead.
        let (to_writer, batches) = mpsc::sync_channel(1);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| write(batches));
            let drawn = for_each_batch(generator, seeds, args.trunc, args.batch as usize, |seeds, images| {
                if count < in_grid {
                    for_grid.push(images.narrow(0, 0, seeds.len().min(in_grid - count))?);
                }
                // A writer that is gone has failed: its own error is reported below.
                let kept = to_writer.send(encode(seeds, &images)?).is_ok();
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
}
