//! A picture that shapes are painted on, back to front. A shape is a signed distance (negative inside) and a shade; its
//! edge is antialiased by how far the pixel's centre is from it, so the same scene can be drawn at any resolution.
//!
//! Only `+ - * /`, `sqrt` and `floor` are used here and in the shapes: these are exact in IEEE arithmetic, so a scene has
//! the same bytes on every machine.

/// A place; x to the right, y down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) x: f32,
    pub(super) y: f32,
}

pub(super) const fn at(x: f32, y: f32) -> Point {
    Point { x, y }
}

impl Point {
    pub(super) fn minus(self, other: Point) -> Point {
        at(self.x - other.x, self.y - other.y)
    }

    pub(super) fn length(self) -> f32 {
        (self.x * self.x + self.y * self.y).sqrt()
    }
}

/// Red, green, blue, 0 to 1 and beyond (clipped in the end).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rgb(pub(super) f32, pub(super) f32, pub(super) f32);

impl Rgb {
    pub(super) fn mix(self, other: Rgb, share: f32) -> Rgb {
        let mix = |a: f32, b: f32| a + (b - a) * share;
        Rgb(mix(self.0, other.0), mix(self.1, other.1), mix(self.2, other.2))
    }

    pub(super) fn times(self, factor: f32) -> Rgb {
        Rgb(self.0 * factor, self.1 * factor, self.2 * factor)
    }

    pub(super) fn tinted(self, tint: Rgb) -> Rgb {
        Rgb(self.0 * tint.0, self.1 * tint.1, self.2 * tint.2)
    }
}

/// Left, top, right, bottom of a shape in the coordinates of its frame; nothing is painted outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area(pub(super) f32, pub(super) f32, pub(super) f32, pub(super) f32);

/// Where and how large a thing stands: its own coordinates (about -1..1) to the picture's (0..1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) center: Point,
    pub(super) scale: f32,
    /// Cosine and sine of the tilt, clockwise.
    pub(super) tilt: (f32, f32),
    pub(super) flipped: bool,
}

impl Frame {
    /// The whole picture, 0..1 both ways.
    pub(super) const PICTURE: Frame =
        Frame { center: at(0.0, 0.0), scale: 1.0, tilt: (1.0, 0.0), flipped: false };

    fn to_local(self, p: Point) -> Point {
        let d = at((p.x - self.center.x) / self.scale, (p.y - self.center.y) / self.scale);
        let (cos, sin) = self.tilt;
        let x = d.x * cos + d.y * sin;
        at(if self.flipped { -x } else { x }, d.y * cos - d.x * sin)
    }

    fn to_picture(self, q: Point) -> Point {
        let x = if self.flipped { -q.x } else { q.x };
        let (cos, sin) = self.tilt;
        at(
            self.center.x + self.scale * (x * cos - q.y * sin),
            self.center.y + self.scale * (x * sin + q.y * cos),
        )
    }
}

/// Least and greatest pixel column and row covered by at least half.
#[derive(Clone, Copy, Debug)]
pub(super) struct PixelBox {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) right: usize,
    pub(super) bottom: usize,
}

/// The picture being painted.
pub(super) struct Canvas {
    res: usize,
    pixels: Vec<Rgb>,
    frame: Frame,
    marking: bool,
    object: Option<PixelBox>,
    /// Where a scene's main object goes when it alone is painted, small; `None` paints everything as it comes.
    planting: Option<(Point, f32)>,
}

impl Canvas {
    pub(super) fn new(res: usize) -> Canvas {
        let pixels = vec![Rgb(0.0, 0.0, 0.0); res * res];
        Canvas { res, pixels, frame: Frame::PICTURE, marking: false, object: None, planting: None }
    }

    /// Following shapes are in the coordinates of `frame`.
    pub(super) fn place(&mut self, mut frame: Frame) {
        if let Some((corner, scale)) = self.planting {
            frame.center = at(corner.x + scale * frame.center.x, corner.y + scale * frame.center.y);
            frame.scale *= scale;
        }
        self.frame = frame;
    }

    /// From here on only main objects are painted, each as if its whole scene were the square with this upper left
    /// corner and side.
    pub(super) fn plant(&mut self, corner: Point, side: f32) {
        self.planting = Some((corner, side));
    }

    /// Whether following shapes are part of the scene's main object.
    pub(super) fn mark_object(&mut self, marking: bool) {
        self.marking = marking;
    }

    /// Pixels of the main object; `None` before it is painted.
    pub(super) fn object(&self) -> Option<PixelBox> {
        self.object
    }

    /// Sets every pixel, whatever the frame: `shade` takes picture coordinates 0..1.
    pub(super) fn fill(&mut self, shade: impl Fn(Point) -> Rgb) {
        if self.planting.is_some() {
            return;
        }
        let step = 1.0 / self.res as f32;
        for (row, line) in self.pixels.chunks_exact_mut(self.res).enumerate() {
            for (column, pixel) in line.iter_mut().enumerate() {
                *pixel = shade(at((column as f32 + 0.5) * step, (row as f32 + 0.5) * step));
            }
        }
    }

    /// Paints a shape with a sharp, antialiased edge.
    pub(super) fn paint(&mut self, area: Area, distance: impl Fn(Point) -> f32, shade: impl Fn(Point) -> Rgb) {
        self.paint_soft(area, 0.0, 1.0, distance, shade);
    }

    /// Paints a shape whose edge fades over `softness` (frame units, half to each side) with at most `opacity`.
    pub(super) fn paint_soft(
        &mut self,
        area: Area,
        softness: f32,
        opacity: f32,
        distance: impl Fn(Point) -> f32,
        shade: impl Fn(Point) -> Rgb,
    ) {
        const HALF: f32 = 0.5;
        if self.planting.is_some() && !self.marking {
            return;
        }
        let frame = self.frame;
        let pixel = 1.0 / self.res as f32;
        let width = softness + pixel / frame.scale;
        let Some(bounds) = self.pixels_of(area, width) else { return };
        for row in bounds.top..=bounds.bottom {
            for column in bounds.left..=bounds.right {
                let q = frame.to_local(at((column as f32 + 0.5) * pixel, (row as f32 + 0.5) * pixel));
                let coverage = (HALF - distance(q) / width).clamp(0.0, 1.0);
                if coverage > 0.0 {
                    let below = &mut self.pixels[row * self.res + column];
                    *below = below.mix(shade(q), coverage * opacity);
                    if self.marking && coverage >= HALF {
                        grow(&mut self.object, column, row);
                    }
                }
            }
        }
    }

    /// The pixels that `area`, widened by `margin`, may touch.
    fn pixels_of(&self, area: Area, margin: f32) -> Option<PixelBox> {
        let Area(left, top, right, bottom) = area;
        let (left, top, right, bottom) = (left - margin, top - margin, right + margin, bottom + margin);
        let corners = [at(left, top), at(right, top), at(left, bottom), at(right, bottom)]
            .map(|q| self.frame.to_picture(q));
        let res = self.res as f32;
        let low = |pick: fn(Point) -> f32| corners.iter().map(|&c| pick(c)).fold(f32::INFINITY, f32::min) * res;
        let high =
            |pick: fn(Point) -> f32| corners.iter().map(|&c| pick(c)).fold(f32::NEG_INFINITY, f32::max) * res;
        let (left, right) = (low(|c| c.x).floor().max(0.0), high(|c| c.x).floor().min(res - 1.0));
        let (top, bottom) = (low(|c| c.y).floor().max(0.0), high(|c| c.y).floor().min(res - 1.0));
        (left <= right && top <= bottom).then_some(PixelBox {
            left: left as usize,
            top: top as usize,
            right: right as usize,
            bottom: bottom as usize,
        })
    }

    /// 8-bit RGB, `[res, res, 3]`.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        let to_byte = |value: f32| (value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
        self.pixels.iter().flat_map(|p| [to_byte(p.0), to_byte(p.1), to_byte(p.2)]).collect()
    }
}

fn grow(object: &mut Option<PixelBox>, column: usize, row: usize) {
    let known = object.get_or_insert(PixelBox { left: column, top: row, right: column, bottom: row });
    known.left = known.left.min(column);
    known.right = known.right.max(column);
    known.top = known.top.min(row);
    known.bottom = known.bottom.max(row);
}
