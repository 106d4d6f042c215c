//! A comparison as one page: markup, style, script, data and pictures in a single file that needs no network.
//!
//! The page's own files are beside this one: `report.html` (the frame), `report.css`, `chart.js` (curves) and
//! `report.js` (tables, pictures, provenance). The data goes in as JSON that the script draws; without scripts the
//! page still shows the figure and the tables.

pub mod figure;
mod pictures;

use serde::Serialize;

use self::pictures::Embedded;
use super::arms::{Arm, differences};
use super::axis::Axis;
use super::comparison::{Comparison, Question, compare};
use super::headline::headline;
use super::history::{QUANTITIES, Tick};
use super::provenance::Provenance;
use super::run::Run;
use super::settings::Difference;
use super::table;
use crate::error::Result;

const FRAME: &str = include_str!("report.html");
const STYLE: &str = include_str!("report.css");
const CHART: &str = include_str!("chart.js");
const SCRIPT: &str = include_str!("report.js");

/// Points of a plotted quantity; ticks between them are averaged.
const MAX_QUANTITY_POINTS: usize = 200;

#[derive(Serialize)]
struct Page<'a> {
    axis: Axis,
    labels: Vec<(&'static str, &'static str)>,
    colors: [&'static str; 7],
    comparisons: Vec<AxisPage>,
    quantities: Vec<Quantity>,
    settings: Vec<Difference>,
    common: Vec<(&'a String, &'a String)>,
    arms: Vec<ArmPage<'a>>,
}

/// A comparison along one axis with its tables in words.
#[derive(Serialize)]
struct AxisPage {
    comparison: Comparison,
    summary: TablePage,
    tests: TablePage,
    remarks: Vec<String>,
    headline: String,
}

#[derive(Serialize)]
struct TablePage {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl From<table::Table> for TablePage {
    fn from(table: table::Table) -> Self {
        Self { header: table.header, rows: table.rows }
    }
}

/// A quantity of training, per arm and run: kimg and value.
#[derive(Serialize)]
struct Quantity {
    name: &'static str,
    arms: Vec<Vec<Vec<(f64, f64)>>>,
}

#[derive(Serialize)]
struct ArmPage<'a> {
    name: &'a str,
    /// Of the arm's first seed.
    grids: Vec<Embedded>,
    reals: Vec<Embedded>,
    interpolations: Vec<Embedded>,
    neighbours: Vec<Embedded>,
    runs: Vec<RunPage<'a>>,
}

#[derive(Serialize)]
struct RunPage<'a> {
    name: &'a str,
    seed: i64,
    kimg: f64,
    wall_secs: f64,
    train_secs: f64,
    provenance: Option<&'a Provenance>,
}

/// The page for `runs` in `arms`, which opens on the axis asked for and offers every other one that was recorded.
///
/// # Errors
/// When the runs cannot be compared along that axis, or a picture cannot be read.
pub fn html(runs: &[Run], arms: &[Arm], question: &Question) -> Result<String> {
    let axis = question.axis;
    let main = compare(runs, arms, question)?;
    let drawn = figure::svg(&main);
    let tables = format!("<pre>{}</pre>", figure::escape(&table::terminal(&main, arms)));
    let title = figure::escape(&title(arms, question.metric));
    let others = Axis::ALL.into_iter().filter(|&other| other != axis);
    // An axis that was not recorded is not offered; that is no reason to have no page.
    let others =
        others.filter_map(|other| compare(runs, arms, &Question { axis: other, ..question.clone() }).ok());
    let mut comparisons: Vec<AxisPage> = std::iter::once(main).chain(others).map(AxisPage::new).collect();
    comparisons.sort_by_key(|page| Axis::ALL.iter().position(|&axis| axis == page.comparison.axis));
    let page = Page {
        axis,
        labels: Axis::ALL.iter().map(|axis| (axis.name(), axis.label())).collect(),
        colors: figure::COLORS,
        comparisons,
        quantities: quantities(runs, arms),
        settings: differences(arms),
        common: common_settings(arms),
        arms: arms.iter().map(|arm| arm_page(runs, arm)).collect::<Result<_>>()?,
    };
    let json = serde_json::to_string(&page).map_err(|error| crate::error::Error::Usage {
        message: format!("the report's data cannot be written as JSON: {error}"),
        hint: None,
    })?;
    // `</script>` in a name would end the script; in JSON, `<` may always be written as an escape.
    let json = json.replace('<', "\\u003c");
    Ok(fill(&[
        ("title", &title),
        ("style", STYLE),
        ("figure", &drawn),
        ("tables", &tables),
        ("data", &json),
        ("chart", CHART),
        ("script", SCRIPT),
    ]))
}

/// Puts the parts where the frame names them; what the parts contain is not searched again.
fn fill(parts: &[(&str, &str)]) -> String {
    let mut page = String::new();
    let mut rest = FRAME;
    while let Some((before, after)) = rest.split_once("{{") {
        page += before;
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        page += parts.iter().find(|part| part.0 == name).map_or("", |part| part.1);
        rest = after;
    }
    page + rest
}

fn title(arms: &[Arm], metric: &str) -> String {
    let names: Vec<&str> = arms.iter().map(|arm| arm.name.as_str()).collect();
    match names.len() {
        // More do not fit into a heading.
        4.. => format!("{} arms: {metric}", names.len()),
        _ => format!("{}: {metric}", names.join(" vs ")),
    }
}

impl AxisPage {
    fn new(comparison: Comparison) -> Self {
        Self {
            summary: table::summary(&comparison).into(),
            tests: table::tests(&comparison).into(),
            remarks: table::remarks(&comparison),
            headline: headline(&comparison),
            comparison,
        }
    }
}

fn common_settings(arms: &[Arm]) -> Vec<(&String, &String)> {
    let Some((first, others)) = arms.split_first() else { return Vec::new() };
    let shared = |key: &String, value: &String| others.iter().all(|arm| arm.settings.get(key) == Some(value));
    first.settings.iter().filter(|(key, value)| shared(key, value)).collect()
}

fn quantities(runs: &[Run], arms: &[Arm]) -> Vec<Quantity> {
    let of_run = |run: usize, index: usize| runs.get(run).map_or_else(Vec::new, |run| thinned(run, index));
    let of_arm = |arm: &Arm, index: usize| arm.runs.iter().map(|&run| of_run(run, index)).collect();
    let all = QUANTITIES
        .iter()
        .enumerate()
        .map(|(index, &name)| Quantity { name, arms: arms.iter().map(|arm| of_arm(arm, index)).collect() });
    all.filter(|quantity| quantity.arms.iter().flatten().any(|points: &Vec<_>| !points.is_empty())).collect()
}

/// A quantity over kimg, neighbours averaged so that at most [`MAX_QUANTITY_POINTS`] are left.
fn thinned(run: &Run, index: usize) -> Vec<(f64, f64)> {
    let value = |tick: &Tick| tick.quantities.get(index).copied().filter(|value| value.is_finite());
    let points: Vec<(f64, f64)> = run.ticks.iter().filter_map(|tick| Some((tick.kimg, value(tick)?))).collect();
    let every = points.len().div_ceil(MAX_QUANTITY_POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let sum = chunk.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / chunk.len() as f64, sum.1 / chunk.len() as f64)
    };
    points.chunks(every).map(mean).collect()
}

fn arm_page<'a>(runs: &'a [Run], arm: &'a Arm) -> Result<ArmPage<'a>> {
    let members: Vec<&Run> = arm.runs.iter().filter_map(|&index| runs.get(index)).collect();
    let first =
        |read: &dyn Fn(&Run) -> Result<Vec<Embedded>>| members.first().map_or(Ok(Vec::new()), |run| read(run));
    Ok(ArmPage {
        name: &arm.name,
        grids: first(&pictures::grids)?,
        reals: first(&pictures::reals)?,
        interpolations: first(&|run| pictures::named(run, "interpolation"))?,
        neighbours: first(&|run| pictures::named(run, "nearest"))?,
        runs: members.iter().map(|run| run_page(run)).collect(),
    })
}

fn run_page(run: &Run) -> RunPage<'_> {
    let last = run.ticks.last().copied().unwrap_or_default();
    RunPage {
        name: &run.name,
        seed: run.seed,
        kimg: last.kimg,
        wall_secs: last.wall_secs,
        train_secs: last.train_secs,
        provenance: run.provenance.as_ref(),
    }
}
