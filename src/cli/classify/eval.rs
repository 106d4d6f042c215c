//! `nestgen classify eval`: how often a trained classifier is right.

use std::process::ExitCode;
use std::time::Instant;

use nestgen::config::classify::{ClassDataConfig, Tested, Trained};
use nestgen::data::LabelledImages;
use nestgen::error::Error;
use nestgen::ranks::Ranks;
use nestgen::train::classify::evaluate::{Evaluation, evaluate};

use super::Network;
use crate::cli::device::DeviceArgs;
use crate::cli::ui;

/// Test a trained classifier
#[derive(clap::Args)]
pub(in crate::cli) struct EvalArgs {
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    device: DeviceArgs,
    /// Labelled images: of a source with splits the test or else the validation split; of any other all, or, where they are those
    /// that the classifier was trained on, the part that was held out [default: what it was trained on]
    #[arg(long, value_name = "PATH", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    data: Option<String>,
    /// The split to test on; `all` for every image
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Also the share of every class that is right, and what it is taken for most often
    #[arg(long)]
    per_class: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub(super) fn run(args: &EvalArgs) -> anyhow::Result<ExitCode> {
    let (trained, path) = args.network.load()?;
    trained.classifier.params().move_to(&args.device.open(&Ranks::alone())?)?;
    let mut config = trained.config.data.clone();
    if let Some(data) = &args.data {
        config.path.clone_from(data);
        config.test_split.clear();
    }
    let test = images_to_test(args, &trained, &config)?;
    let names = test.data().class_names();
    if names.len() != trained.config.model.classes() {
        return Err(Error::Usage {
            message: format!(
                "`{}` tells {} classes apart, the images have {}",
                path.display(),
                trained.config.model.classes(),
                names.len()
            ),
            hint: Some("test it on images of the classes it was trained on".into()),
        }
        .into());
    }
    if !trained.class_names.is_empty() && trained.class_names != names {
        refuse_other_order(&trained.class_names, names, test.data().description())?;
        let mut pairs = trained.class_names.iter().zip(names);
        let first = pairs.find(|(before, now)| before != now);
        let example = first.map_or(String::new(), |(before, now)| format!(": `{before}` is `{now}` here"));
        ui::warn(&format!("classes are named differently from training{example}"));
    }
    let bar = ui::progress_bar("testing", test.len() as u64);
    let start = Instant::now();
    let result = evaluate(&trained.classifier, &test, config.normalise(), &Ranks::alone(), &mut |done| {
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let (tested, secs) = (result?, start.elapsed().as_secs_f64());
    let images_per_sec = tested.count as f64 / secs.max(1e-9);
    if args.json {
        let json = serde_json::json!({
            "top1": tested.top1,
            "top1_standard_error": tested.standard_error(),
            "top5": tested.top5,
            "loss": tested.loss,
            "images": tested.count,
            "data": test.data().digest(),
            "model": path.display().to_string(),
            "images_per_sec": images_per_sec,
            "confusion": tested.confusion,
            "classes": names,
        });
        ui::result_line(&json.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    ui::result_line(&format!("top-1   {:.2} ± {:.2} %", tested.top1, tested.standard_error()))?;
    ui::result_line(&format!("top-5   {:.2} %", tested.top5))?;
    ui::result_line(&format!("loss    {:.4}", tested.loss))?;
    ui::result_line(&format!(
        "images  {} of {}, {images_per_sec:.1} a second",
        tested.count,
        test.data().description()
    ))?;
    if args.per_class {
        per_class(&tested, names)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses classes of which some have the names of training and other numbers: answers are numbers, which would all be wrong.
fn refuse_other_order(before: &[String], now: &[String], source: &str) -> Result<(), Error> {
    let place = |name: &String| now.iter().position(|other| other == name);
    let moved =
        before.iter().enumerate().find_map(|(i, name)| Some((name, i, place(name).filter(|at| *at != i)?)));
    match moved {
        None => Ok(()),
        Some((name, before, now)) => Err(Error::Usage {
            message: format!(
                "`{source}`: class `{name}` is number {now} here and was number {before} in training"
            ),
            hint: Some(
                "give the classes the names of training, and a pack its class_names in that order".into(),
            ),
        }),
    }
}

/// The images to test on: never some that the classifier was trained on, as far as can be told.
fn images_to_test(
    args: &EvalArgs,
    trained: &Trained,
    config: &ClassDataConfig,
) -> anyhow::Result<LabelledImages> {
    if args.split.is_some() && config.path.is_empty() {
        return Err(Error::Usage {
            message: "--split: the built-in scenes have none".into(),
            hint: Some("leave it out, or name images with --data".into()),
        }
        .into());
    }
    let trained_on = trained.trained_on.as_ref();
    let (res, split) = (trained.config.model.resolution(), args.split.as_deref());
    let (images, tested) = ui::reading_images(|told| config.open_to_test(res, split, trained_on, told))?;
    let same_place = config.path == trained.config.data.path;
    // A file of before, and timm's, do not tell; of timm's nobody thinks that it was trained on these.
    let untold = trained_on.is_none() && !trained.class_names.is_empty();
    let images = match tested {
        Tested::Whole if args.data.is_none() && trained_on.is_some() => {
            return Err(unsuited(
                config,
                "holds other images than the classifier was trained on: which of them were held out cannot be told",
            ));
        }
        Tested::TrainedOn => {
            let held_out = trained_on.is_some_and(|trained_on| trained_on.held_out);
            let why = if held_out {
                "which of them were held out cannot be told"
            } else {
                "none of them was held out"
            };
            return Err(unsuited(
                config,
                &format!("holds images that the classifier was trained on, and {why}"),
            ));
        }
        Tested::Whole if untold => {
            ui::warn("the classifier does not say which images it was trained on: some may be among these");
            // What was held out, if nothing has changed since.
            if same_place { images.hold_out(config.hold_out)?.1 } else { images }
        }
        _ => images,
    };
    // How many are enough in training says nothing of images that are named.
    let as_in_training = args.data.is_none() && args.split.is_none() && config.max_test > 0;
    Ok(if as_in_training { images.at_most(config.max_test) } else { images })
}

fn unsuited(config: &ClassDataConfig, why: &str) -> anyhow::Error {
    Error::Usage {
        message: format!("`{}` {why}", config.path),
        hint: Some("name images to test on with --data, or all of these with --split all".into()),
    }
    .into()
}

fn per_class(tested: &Evaluation, names: &[String]) -> std::io::Result<()> {
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    for (class, row) in tested.confusion.iter().enumerate() {
        let name = names.get(class).map_or("", |n| n);
        let (total, right) = (row.iter().sum::<u32>(), row.get(class).copied().unwrap_or(0));
        if total == 0 {
            ui::result_line(&format!("{name:<width$}      -    no image"))?;
            continue;
        }
        let others = row.iter().enumerate().filter(|&(answer, &n)| answer != class && n > 0);
        let most = others.max_by_key(|&(_, n)| n).and_then(|(answer, n)| Some((names.get(answer)?, n)));
        let taken = most.map_or(String::new(), |(name, n)| format!("  most often taken for {name} ({n})"));
        let share = 100.0 * f64::from(right) / f64::from(total);
        ui::result_line(&format!("{name:<width$}  {share:5.1} %{taken}"))?;
    }
    Ok(())
}
