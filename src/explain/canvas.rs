//! A picture to draw on: images, boxes, lines, letters, heat.

use super::cam::Heat;
use super::font::{ADVANCE, glyph};
use crate::data::synthetic::BoundingBox;
use crate::train::grid::Picture;

/// Red, green, blue.
pub type Color = [u8; 3];

/// Dots of a letter's height, with the space below.
pub const LINE: usize = 10;

/// A rectangle of the canvas in pixels: left, top, side.
#[derive(Clone, Copy, Debug)]
pub struct Panel {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns and rows.
    pub side: usize,
}

/// A picture under construction.
pub struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    /// A canvas of one colour.
    pub fn new(width: usize, height: usize, color: Color) -> Self {
        Self { width, height, pixels: color.repeat(width * height) }
    }

    /// The finished picture.
    pub fn into_picture(self) -> Picture {
        Picture { width: self.width as u32, height: self.height as u32, pixels: self.pixels }
    }

    /// Mixes a colour into a pixel; `cover` 1 replaces it. Pixels outside are passed over.
    fn mix(&mut self, x: i64, y: i64, color: Color, cover: f64) {
        if x < 0 || y < 0 || x >= self.width as i64 || y >= self.height as i64 {
            return;
        }
        let at = (y as usize * self.width + x as usize) * 3;
        for (pixel, ink) in self.pixels[at..at + 3].iter_mut().zip(color) {
            *pixel = (f64::from(*pixel) + (f64::from(ink) - f64::from(*pixel)) * cover).round() as u8;
        }
    }

    /// Fills a panel with a square image of bytes `[res, res, 3]`: pixels stay square where they are enlarged.
    pub fn image(&mut self, panel: Panel, bytes: &[u8], res: usize) {
        for y in 0..panel.side {
            for x in 0..panel.side {
                let from = (y * res / panel.side * res + x * res / panel.side) * 3;
                if let Some(&[r, g, b]) = bytes.get(from..from + 3) {
                    self.mix((panel.left + x) as i64, (panel.top + y) as i64, [r, g, b], 1.0);
                }
            }
        }
    }

    /// Fills a rectangle.
    pub fn fill(&mut self, left: usize, top: usize, width: usize, height: usize, color: Color) {
        for y in top..top + height {
            for x in left..left + width {
                self.mix(x as i64, y as i64, color, 1.0);
            }
        }
    }

    /// Lays a colour over what is outside a box of the panel.
    pub fn dim_outside(&mut self, panel: Panel, region: BoundingBox, color: Color, cover: f64) {
        let [left, top, right, bottom] = corners(panel, region);
        for y in panel.top as i64..(panel.top + panel.side) as i64 {
            for x in panel.left as i64..(panel.left + panel.side) as i64 {
                if x < left || x >= right || y < top || y >= bottom {
                    self.mix(x, y, color, cover);
                }
            }
        }
    }

    /// Lays a heat map over a panel: cold places let the image through.
    pub fn heat(&mut self, panel: Panel, heat: &Heat) {
        let map = heat.normalised().resized(panel.side);
        for (i, &value) in map.values.iter().enumerate() {
            let (x, y) = (panel.left + i % panel.side, panel.top + i / panel.side);
            self.mix(x as i64, y as i64, warmth(value), 0.15 + 0.55 * value);
        }
    }

    /// The outline of a box of the panel, `thick` pixels wide, inside it, with a dark edge that shows on any ground.
    pub fn outline(&mut self, panel: Panel, region: BoundingBox, color: Color, thick: i64) {
        let [left, top, right, bottom] = corners(panel, region);
        for y in top - 1..=bottom {
            for x in left - 1..=right {
                let depth = (x - left).min(right - 1 - x).min(y - top).min(bottom - 1 - y);
                if (0..thick).contains(&depth) {
                    self.mix(x, y, color, 1.0);
                } else if depth == thick || depth == -1 {
                    self.mix(x, y, [0, 0, 0], 0.6);
                }
            }
        }
    }

    /// A line between two points given as shares of the panel, with a dark edge.
    pub fn line(&mut self, panel: Panel, from: (f64, f64), to: (f64, f64), color: Color, thick: f64) {
        let place = |(x, y): (f64, f64)| {
            (panel.left as f64 + x * panel.side as f64, panel.top as f64 + y * panel.side as f64)
        };
        let ((x0, y0), (x1, y1)) = (place(from), place(to));
        self.capsule((x0, y0), (x1, y1), [0, 0, 0], thick / 2.0 + 1.0);
        self.capsule((x0, y0), (x1, y1), color, thick / 2.0);
    }

    /// A dot at a point given as shares of the panel.
    pub fn dot(&mut self, panel: Panel, at: (f64, f64), color: Color, radius: f64) {
        self.line(panel, at, at, color, 2.0 * radius);
    }

    /// Every pixel by its distance from a segment, antialiased.
    fn capsule(&mut self, (x0, y0): (f64, f64), (x1, y1): (f64, f64), color: Color, radius: f64) {
        let (dx, dy) = (x1 - x0, y1 - y0);
        let length = (dx * dx + dy * dy).max(1e-9);
        let reach = radius + 1.0;
        for y in (y0.min(y1) - reach) as i64..=(y0.max(y1) + reach) as i64 {
            for x in (x0.min(x1) - reach) as i64..=(x0.max(x1) + reach) as i64 {
                let (px, py) = (x as f64 + 0.5 - x0, y as f64 + 0.5 - y0);
                let along = ((px * dx + py * dy) / length).clamp(0.0, 1.0);
                let distance = (px - along * dx).hypot(py - along * dy);
                let cover = (radius + 0.5 - distance).clamp(0.0, 1.0);
                if cover > 0.0 {
                    self.mix(x, y, color, cover);
                }
            }
        }
    }

    /// One line of text with its upper left corner here, each dot `size` pixels.
    pub fn text(&mut self, left: usize, top: usize, text: &str, color: Color, size: usize) {
        for (letter, character) in text.chars().enumerate() {
            for (row, bits) in glyph(character).into_iter().enumerate() {
                for column in (0..5).filter(|column| bits >> (4 - column) & 1 == 1) {
                    let (x, y) = (left + (letter * ADVANCE + column) * size, top + row * size);
                    for dot in 0..size * size {
                        self.mix((x + dot % size) as i64, (y + dot / size) as i64, color, 1.0);
                    }
                }
            }
        }
    }
}

/// Text cut to what fits into `width` pixels.
pub fn fitting(text: &str, width: usize, size: usize) -> String {
    let most = width / (ADVANCE * size);
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(2)).chain("..".chars()).collect()
}

/// How wide a line of text is, px.
pub fn text_width(text: &str, size: usize) -> usize {
    text.chars().count() * ADVANCE * size
}

fn corners(panel: Panel, region: BoundingBox) -> [i64; 4] {
    let place = |start: usize, share: f32| (start as f64 + f64::from(share) * panel.side as f64).round() as i64;
    [
        place(panel.left, region.left),
        place(panel.top, region.top),
        place(panel.left, region.right),
        place(panel.top, region.bottom),
    ]
}

/// From deep blue over violet and orange to pale yellow, evenly rising in brightness.
fn warmth(value: f64) -> Color {
    const STOPS: [[f64; 3]; 5] = [
        [20.0, 15.0, 90.0],
        [120.0, 25.0, 130.0],
        [205.0, 65.0, 95.0],
        [250.0, 145.0, 50.0],
        [252.0, 240.0, 150.0],
    ];
    let at = value.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let (low, high) = (STOPS[at.floor() as usize], STOPS[at.ceil() as usize]);
    std::array::from_fn(|c| (low[c] + (high[c] - low[c]) * at.fract()).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawing_outside_is_passed_over_and_inside_shows() {
        let mut canvas = Canvas::new(40, 30, [255; 3]);
        let panel = Panel { left: 4, top: 4, side: 20 };
        canvas.image(panel, &[10, 20, 30], 1);
        let whole = BoundingBox { left: 0.0, top: 0.0, right: 1.0, bottom: 1.0 };
        canvas.outline(panel, whole, [255, 0, 0], 2);
        canvas.line(panel, (-3.0, 0.5), (5.0, 0.5), [0, 255, 0], 2.0);
        canvas.text(30, 25, "Tg", [0; 3], 3);
        let picture = canvas.into_picture();
        let at = |x: usize, y: usize| &picture.pixels[(y * 40 + x) * 3..][..3];
        assert_eq!((at(4, 4), at(8, 9), at(39, 0)), (&[255, 0, 0][..], &[10, 20, 30][..], &[255; 3][..]));
        assert_eq!(at(20, 14), [0, 255, 0]);
        assert_eq!(at(31, 26), [0, 0, 0], "the bar of the T");
        assert_eq!(fitting("a long name", 42, 1), "a lon..");
    }
}
