//! The figure of one image: what it is taken for, and for each of a few classes the way through the tree of blocks and
//! the class activation map, side by side.

use std::borrow::Cow;

use super::Explanation;
use super::canvas::{Canvas, Color, LINE, Panel, fitting, text_width};
use super::font::is_drawable;
use super::localise::{HotPart, center};
use crate::data::synthetic::BoundingBox;
use crate::train::grid::Picture;

/// Side of a panel, px.
const SIDE: usize = 224;
const GAP: usize = 14;
/// Room above a panel for two lines of text.
const HEAD: usize = 4 * LINE + 4;

const PAPER: Color = [255, 255, 255];
const INK: Color = [35, 35, 40];
const FAINT: Color = [110, 110, 118];
const GIVEN: Color = [80, 220, 100];
const FOUND: Color = [255, 255, 255];
/// From the root of the tree to its leaves.
const WAY: [Color; 4] = [[86, 180, 233], [240, 228, 66], [230, 159, 0], [213, 94, 0]];

fn color_at(depth: usize) -> Color {
    WAY[depth.min(WAY.len() - 1)]
}

/// What a figure shows.
pub struct Shown<'a> {
    /// Bytes `[res, res, 3]`.
    pub bytes: &'a [u8],
    /// Side of the image, px.
    pub res: usize,
    /// What the image is called.
    pub name: &'a str,
    /// The class it is known to be of.
    pub truth: Option<usize>,
    /// Where its object is known to be.
    pub given: Option<BoundingBox>,
    /// Class names in label order.
    pub class_names: &'a [String],
    /// The likeliest classes, for the list at the left.
    pub likeliest: &'a [(usize, f64)],
    /// The classes that are explained, each with the part found.
    pub explained: &'a [(Explanation, HotPart)],
}

/// Draws the figure.
pub fn figure(shown: &Shown) -> Picture {
    let columns = shown.explained.len() + 1;
    let (width, height) = (GAP + columns * (SIDE + GAP), 2 * (HEAD + SIDE) + GAP);
    let mut canvas = Canvas::new(width, height, PAPER);
    the_image(&mut canvas, shown);
    for (column, (explanation, found)) in shown.explained.iter().enumerate() {
        let left = GAP + (column + 1) * (SIDE + GAP);
        the_way(&mut canvas, shown, explanation, left);
        the_heat(&mut canvas, shown, explanation, found, left);
    }
    canvas.into_picture()
}

/// A class's name, or its number where the name has letters that cannot be drawn.
fn name_of<'a>(shown: &'a Shown, class: usize) -> Cow<'a, str> {
    match shown.class_names.get(class) {
        Some(name) if is_drawable(name) => name.into(),
        _ => format!("class {class}").into(),
    }
}

/// The image with the given box, and what it is taken for.
fn the_image(canvas: &mut Canvas, shown: &Shown) {
    let panel = Panel { left: GAP, top: HEAD, side: SIDE };
    canvas.text(GAP, 8, &fitting(shown.name, SIDE, 1), FAINT, 1);
    if let Some(truth) = shown.truth {
        let text = format!("class: {}", name_of(shown, truth));
        canvas.text(GAP, 10 + LINE, &fitting(&text, SIDE, 2), INK, 2);
    }
    canvas.image(panel, shown.bytes, shown.res);
    if let Some(given) = shown.given {
        canvas.outline(panel, given, GIVEN, 2);
    }
    let mut top = HEAD + SIDE + 12;
    canvas.text(GAP, top, "taken for", FAINT, 1);
    top += 2 * LINE;
    for &(class, probability) in shown.likeliest {
        let text = fitting(&name_of(shown, class), SIDE - 80, 2);
        canvas.text(GAP, top, &text, INK, 2);
        canvas.text(GAP + SIDE - 74, top, &format!("{:5.1}%", 100.0 * probability), INK, 2);
        top += 2 * LINE - 2;
        let length = (probability * SIDE as f64) as usize;
        canvas.fill(GAP, top, length.max(1), 3, WAY[0]);
        top += LINE;
    }
    let legend: [(&str, Option<Color>); 3] = [
        ("object, as given", shown.given.map(|_| GIVEN)),
        ("found by the map", Some(FOUND)),
        (
            "leaf, at the end of the way",
            shown.explained.first().map(|(e, _)| color_at(e.traversal.nodes.len())),
        ),
    ];
    let mut top = 2 * (HEAD + SIDE) - 3 * (LINE + 2);
    for (text, color) in legend {
        if let Some(color) = color {
            canvas.dot(Panel { left: GAP + 3, top: top + 3, side: 1 }, (0.5, 0.5), color, 3.0);
            canvas.text(GAP + 12, top, text, FAINT, 1);
            top += LINE + 2;
        }
    }
}

/// Boxes from the root to the leaf, lines between their centres, values of the quarters that were chosen.
fn the_way(canvas: &mut Canvas, shown: &Shown, explanation: &Explanation, left: usize) {
    let panel = Panel { left, top: HEAD, side: SIDE };
    let traversal = &explanation.traversal;
    let probability = format!(" {:.1}%", 100.0 * explanation.probability);
    let room = SIDE - text_width(&probability, 2);
    let title = fitting(&name_of(shown, explanation.class), room, 2) + &probability;
    canvas.text(left, 8, &title, INK, 2);
    let values = traversal.nodes.iter().map(|node| format!("{:.3}", node.values[node.chosen]));
    let text = format!("GradCAT  {}", values.collect::<Vec<_>>().join(" > "));
    canvas.text(left, 10 + 2 * LINE, &fitting(&text, SIDE, 1), FAINT, 1);
    canvas.image(panel, shown.bytes, shown.res);
    canvas.dim_outside(panel, traversal.leaf(), [0, 0, 0], 0.35);
    let mut way = vec![(0.5, 0.5)];
    for (depth, node) in traversal.nodes.iter().enumerate() {
        canvas.outline(panel, node.region, color_at(depth), 1);
        way.push(center(node.quarter(node.chosen)));
    }
    canvas.outline(panel, traversal.leaf(), color_at(traversal.nodes.len()), 2);
    for (depth, pair) in way.windows(2).enumerate() {
        canvas.line(panel, pair[0], pair[1], color_at(depth + 1), 2.0);
    }
    for (depth, &at) in way.iter().enumerate() {
        canvas.dot(panel, at, color_at(depth), 4.0);
    }
}

/// The map over the image, with the box and the point that it finds and the box that was given.
fn the_heat(canvas: &mut Canvas, shown: &Shown, explanation: &Explanation, found: &HotPart, left: usize) {
    let panel = Panel { left, top: 2 * HEAD + SIDE, side: SIDE };
    let text = match shown.given {
        Some(given) => format!("CAM  IoU {:.2}", super::localise::iou(given, found.bounds)),
        None => "CAM".to_owned(),
    };
    canvas.text(left, HEAD + SIDE + 10 + 2 * LINE, &text, FAINT, 1);
    canvas.image(panel, shown.bytes, shown.res);
    canvas.heat(panel, &explanation.heat);
    canvas.outline(panel, found.bounds, FOUND, 2);
    if let Some(given) = shown.given {
        canvas.outline(panel, given, GIVEN, 2);
    }
    canvas.dot(panel, found.middle, FOUND, 3.0);
}
