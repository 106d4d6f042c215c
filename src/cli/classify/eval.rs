//! `nestgen classify eval`: how often a trained classifier is right.

use std::process::ExitCode;
use std::time::Instant;

use nestgen::error::Error;
use nestgen::ranks::Ranks;
use nestgen::train::classify::evaluate::{Evaluation, evaluate};

use super::{Network, open_data};
use crate::cli::device::DeviceArgs;
use crate::cli::ui;

/// Test a trained classifier
#[derive(clap::Args)]
pub(in crate::cli) struct EvalArgs {
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    device: DeviceArgs,
    /// Labelled images; a source with a test split is tested on that, any other as it was held out in training
    /// [default: what the classifier was trained on]
    #[arg(long, value_name = "PATH", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    data: Option<String>,
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
    }
    let data = open_data(&config, trained.config.model.resolution())?;
    let (_, test) = data.chosen(&config);
    let names = data.class_names();
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
        let mut pairs = trained.class_names.iter().zip(names);
        let first = pairs.find(|(before, now)| before != now);
        let example = first.map_or(String::new(), |(before, now)| format!(": `{before}` is `{now}` here"));
        ui::warn(&format!("classes are named differently from training{example}"));
    }
    let bar = ui::progress_bar("testing", test.len() as u64);
    let start = Instant::now();
    let result = evaluate(&trained.classifier, &test, config.normalise(), &Ranks::alone(), &mut |done| {
        bar.set_position(done as u64);
        true
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

fn per_class(tested: &Evaluation, names: &[String]) -> std::io::Result<()> {
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    for (class, row) in tested.confusion.iter().enumerate() {
        let (total, right) = (row.iter().sum::<u32>().max(1), row.get(class).copied().unwrap_or(0));
        let others = row.iter().enumerate().filter(|&(answer, &n)| answer != class && n > 0);
        let most = others.max_by_key(|&(_, n)| n).and_then(|(answer, n)| Some((names.get(answer)?, n)));
        let taken = most.map_or(String::new(), |(name, n)| format!("  most often taken for {name} ({n})"));
        let share = 100.0 * f64::from(right) / f64::from(total);
        ui::result_line(&format!("{:<width$}  {share:5.1} %{taken}", names.get(class).map_or("", |n| n)))?;
    }
    Ok(())
}
