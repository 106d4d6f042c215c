//! `nestgen classify explain`: where a classifier looked, as pictures and as JSON.

mod tally;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::{Device, Tensor};
use nestgen::config::classify::Trained;
use nestgen::data::synthetic::BoundingBox;
use nestgen::error::{Error, Result};
use nestgen::explain::figure::{Shown, figure};
use nestgen::explain::localise::{HotPart, hot_part, iou};
use nestgen::explain::{Explanation, explain, likeliest, traceable};
use nestgen::train::files::write_atomic;
use nestgen_images::{RgbImage8, to_square};

use super::Network;
use super::sources::{Boxes, Image, images, refuse_among};
use crate::cli::ui;
use tally::Tally;

/// The file that describes all.
const EXPLANATIONS: &str = "explanations.json";
/// In it, the name of an image's figure.
const FIGURE: &str = "figure";
/// Classes that are explained in one figure.
const MOST_CLASSES: usize = 16;

/// Show where a NesT looked: the way through its tree of blocks (GradCAT), class activation maps, boxes
#[derive(clap::Args)]
pub(in crate::cli) struct ExplainArgs {
    /// Images, or folders of them; `<class>/<file>` tells the class of an image
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    network: Network,
    /// Explain the likeliest classes, this many
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=8))]
    top_k: u64,
    /// Explain these classes instead
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    classes: Vec<String>,
    /// Where objects are: CSV with the columns file,left,top,right,bottom in pixels, as `nestgen data synth` writes
    #[arg(long, value_name = "FILE.csv")]
    boxes: Option<PathBuf>,
    /// The share of a map's range above which its box is
    #[arg(long, value_name = "SHARE", default_value_t = 0.4)]
    threshold: f64,
    /// Figures for the first images only, this many
    #[arg(long, value_name = "N", default_value_t = 32)]
    figures: usize,
    /// Where figures and explanations.json go
    #[arg(long, value_name = "DIR", default_value = "explained")]
    outdir: PathBuf,
}

/// Runs the verb.
pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    if !(0.0..=1.0).contains(&args.threshold) {
        let message = format!("--threshold {} is not in 0..1", args.threshold);
        return Err(Error::Usage { message, hint: Some("0.4 is a good start".into()) }.into());
    }
    let (mut trained, path) = args.network.load()?;
    traceable(&trained.classifier)?;
    if trained.class_names.is_empty() {
        trained.class_names =
            (0..trained.config.model.classes()).map(|class| format!("class {class}")).collect();
    }
    let wanted = wanted_classes(&args.classes, &trained.class_names)?;
    let boxes = args.boxes.as_deref().map(Boxes::read).transpose()?;
    let images = images(&args.images)?;
    refuse_among(&args.outdir, &args.images)?;
    if let Some(boxes) = &boxes {
        count_boxes(boxes, &images)?;
    }
    refuse_unusable(&images, &trained)?;
    let old_figures = figures_of_before(&args.outdir);
    std::fs::create_dir_all(&args.outdir).map_err(Error::io("create", &args.outdir))?;
    let bar = ui::progress_bar("explaining", images.len() as u64);
    let mut explained = Vec::with_capacity(images.len());
    let mut tally = Tally::default();
    for (number, image) in images.iter().enumerate() {
        let one = One::new(args, &trained, image, &wanted, boxes.as_ref())?;
        let name = (number < args.figures).then(|| format!("{number:04}-{}.png", image.stem()));
        if let Some(name) = &name {
            let file = args.outdir.join(name);
            one.figure(&trained).write(&file)?;
        }
        tally.add(&one);
        let mut json = one.json(&trained);
        json[FIGURE] = name.into();
        explained.push(json);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let json = serde_json::json!({ "model": path.display().to_string(), "images": explained, "summary": tally.json() });
    // Those that are not described any more would stay among the new ones.
    let kept: HashSet<&str> =
        json["images"].as_array().into_iter().flatten().filter_map(|one| one[FIGURE].as_str()).collect();
    for old in old_figures.iter().filter(|old| !kept.contains(old.as_str())) {
        let path = args.outdir.join(old);
        std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    let file = args.outdir.join(EXPLANATIONS);
    write_atomic(&file, |out| out.write_all(format!("{json:#}\n").as_bytes()))?;
    let figures = images.len().min(args.figures);
    ui::result_line(&format!("wrote {figures} figures and explanations.json to {}", args.outdir.display()))?;
    tally.print()?;
    Ok(ExitCode::SUCCESS)
}

/// The figures that an earlier run has written into the folder, as far as they are still there.
fn figures_of_before(outdir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(outdir.join(EXPLANATIONS)).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let names = json["images"].as_array().into_iter().flatten().filter_map(|one| one[FIGURE].as_str());
    // Names only: a damaged file must not lead out of the folder.
    let names = names.filter(|name| Path::new(name).file_name() == Some(OsStr::new(name)));
    names.filter(|name| outdir.join(name).is_file()).map(str::to_owned).collect()
}

/// Says how many images have a box.
///
/// # Errors
/// When none has one: then the table is of other images.
fn count_boxes(boxes: &Boxes, images: &[Image]) -> Result<()> {
    let count = images.iter().filter(|image| boxes.knows(&image.name)).count();
    let Some(first) = images.first().filter(|_| count == 0) else {
        ui::note(&format!("{count} of {} images have a box", images.len()));
        return Ok(());
    };
    Err(Error::Usage {
        message: format!("--boxes has no box of these images (`{}`, ...)", first.name),
        hint: Some("its first column is the end of an image's path: cat/1.png".into()),
    })
}

/// Reads every image before anything is written: one that is no use would end the work with half of the figures.
fn refuse_unusable(images: &[Image], trained: &Trained) -> Result<()> {
    let bar = ui::progress_bar("checking", images.len() as u64);
    let checked = images.iter().try_for_each(|image| {
        read(image, trained)?;
        bar.inc(1);
        Ok(())
    });
    bar.finish_and_clear();
    checked
}

/// The pixels of an image, which must be a patch at least.
fn read(image: &Image, trained: &Trained) -> Result<RgbImage8> {
    let pixels = image.read()?;
    let patch = traceable(&trained.classifier)?.config().patch_size as u32;
    if pixels.width.min(pixels.height) < patch {
        return Err(Error::Usage {
            message: format!(
                "`{}` is {}x{} px, smaller than a patch of {patch} px",
                image.name, pixels.width, pixels.height
            ),
            hint: Some(format!("give images of about {} px", trained.config.model.resolution())),
        });
    }
    Ok(pixels)
}

fn wanted_classes(names: &[String], known: &[String]) -> Result<Vec<usize>> {
    if names.len() > MOST_CLASSES {
        let message = format!("--classes names {} classes, a figure has room for {MOST_CLASSES}", names.len());
        return Err(Error::Usage { message, hint: None });
    }
    let find = |name: &String| {
        known.iter().position(|other| other == name).ok_or_else(|| Error::Usage {
            message: format!("the classifier knows no class `{name}`"),
            hint: Some(format!("it knows: {}", known.join(", "))),
        })
    };
    names.iter().map(find).collect()
}

/// One image with its explanations.
struct One<'a> {
    image: &'a Image,
    bytes: Vec<u8>,
    res: usize,
    probabilities: Vec<f64>,
    truth: Option<usize>,
    given: Option<BoundingBox>,
    explained: Vec<(Explanation, HotPart)>,
}

impl<'a> One<'a> {
    fn new(
        args: &ExplainArgs,
        trained: &Trained,
        image: &'a Image,
        wanted: &[usize],
        boxes: Option<&Boxes>,
    ) -> Result<Self> {
        let res = trained.config.model.resolution();
        let pixels = read(image, trained)?;
        let bytes = to_square(&pixels, res as u32);
        let mut values = Vec::with_capacity(bytes.len());
        trained.config.data.normalise().append(&bytes, &mut values);
        let input = Tensor::from_vec(values, (res, res, 3), &Device::Cpu)?;
        let choose = |probabilities: &[f64]| {
            if wanted.is_empty() { likeliest(probabilities, args.top_k as usize) } else { wanted.to_vec() }
        };
        let (probabilities, explanations) = explain(traceable(&trained.classifier)?, &input, choose)?;
        let class = |name: &str| trained.class_names.iter().position(|other| other == name);
        let truth = image.classes().find_map(class);
        let given = boxes.and_then(|boxes| boxes.find(&image.name, pixels.width, pixels.height));
        let explained = explanations.into_iter().map(|e| {
            let found = hot_part(&e.heat, args.threshold);
            (e, found)
        });
        let explained = explained.collect();
        Ok(Self { image, bytes, res, probabilities, truth, given, explained })
    }

    fn answer(&self) -> Option<usize> {
        likeliest(&self.probabilities, 1).first().copied()
    }

    fn figure(&self, trained: &Trained) -> nestgen::train::grid::Picture {
        let first = likeliest(&self.probabilities, 5);
        let first: Vec<(usize, f64)> =
            first.into_iter().map(|class| (class, self.probabilities[class])).collect();
        figure(&Shown {
            bytes: &self.bytes,
            res: self.res,
            name: &self.image.short_name(),
            truth: self.truth,
            given: self.given,
            class_names: &trained.class_names,
            likeliest: &first,
            explained: &self.explained,
        })
    }

    fn json(&self, trained: &Trained) -> serde_json::Value {
        let name = |class: usize| trained.class_names.get(class);
        let of_class = |(e, found): &(Explanation, HotPart)| {
            let node = |node: &nestgen::explain::gradcat::Node| {
                serde_json::json!({
                    "level": node.level,
                    "region": corners(node.region),
                    "values": node.values,
                    "chosen": node.chosen,
                })
            };
            serde_json::json!({
                "class": name(e.class),
                "probability": e.probability,
                "logit": e.traversal.logit,
                "gradcat": {
                    "path": e.traversal.nodes.iter().map(|node| node.chosen).collect::<Vec<_>>(),
                    "nodes": e.traversal.nodes.iter().map(node).collect::<Vec<_>>(),
                    "leaf": corners(e.traversal.leaf()),
                },
                "cam": {
                    "side": e.heat.side,
                    "values": e.heat.values,
                    "peak": e.heat.peak(),
                    "middle": found.middle,
                    "box": corners(found.bounds),
                },
                "iou": self.given.map(|given| iou(given, found.bounds)),
            })
        };
        serde_json::json!({
            "image": self.image.name,
            "class": self.truth.and_then(name),
            "answer": self.answer().and_then(name),
            "box": self.given.map(corners),
            "explained": self.explained.iter().map(of_class).collect::<Vec<_>>(),
        })
    }
}

fn corners(b: BoundingBox) -> [f32; 4] {
    [b.left, b.top, b.right, b.bottom]
}
