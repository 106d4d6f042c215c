//! `nestgen data`: pack, check and make image sets.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use nestgen::config::refuse_run_folder;
use nestgen::data::synthetic;
use nestgen::error::Error;
use nestgen::train::files::{behind_links, same_place};
use nestgen_images::{CheckReport, ImageSet, OpenOptions, PackOptions, check, is_hdf5, write_pack};

use super::{interrupt, ui};

/// The verbs of `nestgen data`.
#[derive(Subcommand)]
pub(super) enum DataVerb {
    /// Write a folder, zip, tar(.gz) or CIFAR-10 archive as one HDF5 file of equal-sized images
    Pack(PackArgs),
    /// Read every image; list each bad one with its reason, exact duplicates, sizes and channels
    Check(CheckArgs),
    /// Write the built-in scenes as PNG files in class folders
    Synth(SynthArgs),
}

#[derive(Args)]
pub(super) struct PackArgs {
    /// The images: a folder, zip, tar(.gz), HDF5 pack, CIFAR-10 archive or .npz
    source: PathBuf,
    /// The HDF5 file to write
    #[arg(value_parser = ui::file_to_write(&[]))]
    target: PathBuf,
    /// Crop each image to its centre square and resize it to this side; without it, all must have one square size
    #[arg(long, value_name = "PX", value_parser = clap::value_parser!(u32).range(1..=4096))]
    res: Option<u32>,
    /// Pack at most so many of the images, drawn at random, always the same; bad ones are drawn too, and --skip-bad replaces none
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_images: Option<u64>,
    /// Use this first-level folder (`all` for every image); the default is `train` where there are splits
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Leave out images that cannot be used instead of stopping at the first
    #[arg(long)]
    skip_bad: bool,
    /// Images whose shorter side is below this are bad
    #[arg(long, value_name = "PX", default_value_t = PackOptions::default().min_side)]
    min_side: u32,
    /// Replace the target if it exists
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
pub(super) struct CheckArgs {
    /// The images: a folder, zip, tar(.gz), HDF5 pack, CIFAR-10 archive or .npz
    source: PathBuf,
    /// Use this first-level folder (`all` for every image); the default is `train` where there are splits
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
}

#[derive(Args)]
pub(super) struct SynthArgs {
    /// Number of images
    #[arg(short, value_name = "N", default_value_t = 1200, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    n: u64,
    /// Side of the images
    #[arg(long, value_name = "PX", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    res: u64,
    /// Which scenes: image i depends on seed and i alone
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The objects alone, small, anywhere, before a backdrop that does not tell the class: to test explanations; an
    /// object is about 0.7 of SIZE, a share of the picture's side [default: 0.32]
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true)]
    planted: Option<Option<f32>>,
    /// Folder to write to; must be new or empty
    #[arg(long, value_name = "DIR")]
    outdir: PathBuf,
}

/// Runs one of them.
pub(super) fn run(verb: &DataVerb) -> anyhow::Result<ExitCode> {
    match verb {
        DataVerb::Pack(args) => run_pack(args),
        DataVerb::Check(args) => run_check(args),
        DataVerb::Synth(args) => run_synth(args),
    }
}

fn run_pack(args: &PackArgs) -> anyhow::Result<ExitCode> {
    let target = place_for_pack(&args.target, args.force)?;
    if same_place(&args.source, &target) {
        return Err(
            Error::usage("the pack would replace the images that it is made of", "name another file").into()
        );
    }
    let start = Instant::now();
    let set = open(&args.source, args.split.as_deref())?;
    let options = PackOptions {
        res: args.res,
        max_images: args.max_images.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        skip_bad: args.skip_bad,
        min_side: args.min_side,
    };
    let stop = interrupt::flag_saying("stopping; no pack is written")?;
    let bar = ui::progress_bar("packing", set.len() as u64);
    let result = write_pack(&set, &target, &options, &|done, total| advance(&bar, &stop, done, total));
    bar.finish_and_clear();
    let summary = result.map_err(why_not_packed)?;
    for skipped in &summary.skipped {
        ui::warn(&format!("left out: {skipped}"));
    }
    if let Some(loose) = set.loose() {
        ui::note(&format!("no classes are packed, for `{loose}` lies beside the folders"));
    }
    let classes = if summary.classes > 0 { format!(", {} classes", summary.classes) } else { String::new() };
    ui::result_line(&format!(
        "packed {} images of {1}x{1} px{classes} into `{2}` ({3:.1} MiB) in {4}",
        summary.images,
        summary.res,
        args.target.display(),
        summary.bytes as f64 / f64::from(1 << 20),
        ui::duration(start.elapsed().as_secs_f64())
    ))?;
    if !summary.skipped.is_empty() {
        ui::result_line(&format!("left out {} bad images", summary.skipped.len()))?;
    }
    ui::result_line(&format!("source sha256 {}", summary.source_digest))?;
    Ok(ExitCode::SUCCESS)
}

/// The file to write. A pack is renamed to it: links have to be followed first, and devices spared.
fn place_for_pack(target: &Path, force: bool) -> Result<PathBuf, Error> {
    let refuse = |what: &str, hint: &str| {
        Err(Error::Usage { message: format!("`{}` {what}", target.display()), hint: Some(hint.into()) })
    };
    match std::fs::metadata(target) {
        Ok(there) if !there.is_file() => refuse("is not a regular file", "name a file for the pack"),
        Ok(_) if !force => refuse("exists", "name another file, or replace it with --force"),
        // Two paths in the wrong order, or an image of the set, would be lost.
        Ok(there) if there.len() > 0 && !is_hdf5(target).map_err(Error::io("read", target))? => {
            refuse("is no pack, and --force replaces packs only", "name another file, or remove this one")
        }
        _ => match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
                refuse("lies in no folder that is there", "make the folder first, or name another file")
            }
            _ => behind_links(target),
        },
    }
}

/// What is no error of the set, only of this use of it, in words of its own: `data check` finds nothing wrong there.
fn why_not_packed(error: nestgen_images::Error) -> Error {
    use nestgen_images::Error as E;
    let (message, hint) = match &error {
        E::BadImage { .. } => (
            error.to_string(),
            "replace the file, or leave out all such images with --skip-bad; `nestgen data check` lists the unreadable \
             ones, --min-side says which are too small"
                .to_owned(),
        ),
        E::MixedSizes { path, first, first_size: (width, height), .. } if width != height => (
            format!("`{}`: `{first}` is not square ({width}x{height} px)", path.display()),
            "give a resolution with --res, to which each image is cropped and resized".to_owned(),
        ),
        _ => return error.into(),
    };
    Error::Usage { message, hint: Some(hint) }
}

fn run_check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let set = open(&args.source, args.split.as_deref())?;
    let stop = interrupt::flag_saying("stopping; what was read so far is reported")?;
    let bar = ui::progress_bar("reading", set.len() as u64);
    let report = check(&set, &|done, total| advance(&bar, &stop, done, total));
    bar.finish_and_clear();
    print_report(&set, &report)?;
    Ok(if report.bad.is_empty() && !report.stopped { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Names of classes that are listed: enough to see that they are no splits.
const NAMES_SHOWN: usize = 6;

fn print_report(set: &ImageSet, report: &CheckReport) -> std::io::Result<()> {
    for bad in &report.bad {
        ui::result_line(&format!("bad: {bad}"))?;
    }
    for group in &report.duplicates {
        let names: Vec<String> = group
            .iter()
            .map(|&i| match set.label(i).and_then(|label| set.class_names().get(label as usize)) {
                Some(class) => format!("`{}` ({class})", set.name(i)),
                None => format!("`{}`", set.name(i)),
            })
            .collect();
        ui::result_line(&format!("duplicates: {}", names.join(" = ")))?;
    }
    if report.stopped {
        ui::result_line(&format!("stopped after {} of {} images", report.images, set.len()))?;
    }
    let list = |counts: Vec<String>| counts.join(", ");
    ui::result_line(&format!("images      {} ({} bad)", report.images, report.bad.len()))?;
    let mut sizes: Vec<_> = report.sizes.iter().collect();
    sizes.sort_by_key(|&(_, count)| std::cmp::Reverse(*count));
    const SIZES_SHOWN: usize = 8;
    let mut shown: Vec<String> =
        sizes.iter().take(SIZES_SHOWN).map(|((w, h), count)| format!("{w}x{h}: {count}")).collect();
    if sizes.len() > SIZES_SHOWN {
        shown.push(format!("and {} more sizes", sizes.len() - SIZES_SHOWN));
    }
    ui::result_line(&format!("sizes       {}", list(shown)))?;
    let formats = report.formats.iter().map(|((channels, bits), count)| {
        let name = match channels {
            1 => "grey",
            2 => "grey+alpha",
            3 => "RGB",
            _ => "RGB+alpha or CMYK",
        };
        format!("{name} {bits}-bit: {count}")
    });
    ui::result_line(&format!("channels    {}", list(formats.collect())))?;
    let redundant: usize = report.duplicates.iter().map(|group| group.len() - 1).sum();
    ui::result_line(&format!("duplicates  {redundant} in {} groups", report.duplicates.len()))?;
    let others = set.other_files();
    if others.count > 0 {
        let endings = list(others.endings.iter().map(|ending| format!(".{ending}")).collect());
        let endings = if endings.is_empty() { endings } else { format!(" ({endings})") };
        ui::result_line(&format!("other files {}{endings}", others.count))?;
    }
    if let Some(loose) = set.loose() {
        ui::result_line(&format!("classes     none, for `{loose}` lies beside the folders"))?;
    }
    if let (Some(least), Some(most)) = (report.classes.values().min(), report.classes.values().max()) {
        // A pack of some images has the names of all classes.
        let name = |&label: &u32| set.class_names().get(label as usize).map(String::as_str);
        let names: Vec<&str> = report.classes.keys().filter_map(name).collect();
        let more = if names.len() > NAMES_SHOWN { ", ..." } else { "" };
        let names = names.into_iter().take(NAMES_SHOWN).collect::<Vec<_>>().join(", ");
        let count = report.classes.len();
        ui::result_line(&format!("classes     {count} of {least} to {most} images: {names}{more}"))?;
    }
    Ok(())
}

fn run_synth(args: &SynthArgs) -> anyhow::Result<ExitCode> {
    let planted = args.planted.map(|size| size.unwrap_or(synthetic::PLANTED_SIZE));
    if let Some(size) = planted.filter(|size| !(0.1..=1.0).contains(size)) {
        return Err(Error::Usage {
            message: format!("--planted={size} is not a share of the picture's side from 0.1 to 1"),
            hint: Some(format!("small objects are {}", synthetic::PLANTED_SIZE)),
        }
        .into());
    }
    let stop = interrupt::flag_saying("stopping; scenes written so far stay")?;
    let bar = ui::progress_bar("rendering", args.n);
    let (count, res) = (usize::try_from(args.n)?, usize::try_from(args.res)?);
    let progress = |done, total| advance(&bar, &stop, done, total);
    let render = |seed, index, res| match planted {
        Some(size) => synthetic::render_planted(seed, index, res, size),
        None => synthetic::render(seed, index, res),
    };
    let result = synthetic::write_pngs(&args.outdir, render, args.seed, count, res, &progress);
    bar.finish_and_clear();
    result?;
    ui::result_line(&format!(
        "wrote {} scenes of {1}x{1} px in {2} classes to `{3}`",
        args.n,
        args.res,
        synthetic::class_names().len(),
        args.outdir.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn open(source: &Path, split: Option<&str>) -> anyhow::Result<ImageSet> {
    refuse_run_folder(source)?;
    let options = OpenOptions { split: split.map(str::to_owned), ..Default::default() };
    let set = ImageSet::open(source, &options)?;
    if let (Some(chosen), None) = (set.split(), split) {
        ui::note(&format!("using the split `{chosen}` ({} images); choose with --split", set.len()));
    }
    Ok(set)
}

/// Moves the bar; false when the user asked to stop.
fn advance(bar: &ProgressBar, stop: &AtomicBool, done: usize, total: usize) -> bool {
    bar.set_length(total as u64);
    bar.set_position(done as u64);
    !stop.load(Ordering::Relaxed)
}
