//! Class activation maps (Zhou et al., arXiv 1512.04150).
//!
//! NesT's logit is a linear function of the mean of its normalised tokens, so the map is exact: the mean of
//! `w_class . token` over the places, plus the bias, is the logit.

use candle_core::{DType, Result, bail};

use crate::models::Features;
use crate::models::nest::Nest;

/// A square map of one number a place.
#[derive(Clone, Debug, PartialEq)]
pub struct Heat {
    /// Places a side.
    pub side: usize,
    /// Row by row.
    pub values: Vec<f64>,
}

/// What each place of the last level adds to the logit of `class`, times the number of places.
///
/// # Errors
/// When the features are not those of one image through this network.
pub fn activation_map(nest: &Nest, features: &Features, class: usize) -> Result<Heat> {
    let Some(weight) = nest.params().params().iter().find(|param| param.name() == "head.weight") else {
        bail!("activation_map: the network has no head")
    };
    let (batch, side, _, _) = features.tokens.value().dims4()?;
    if batch != 1 {
        bail!("activation_map: expected the tokens of one image, got {batch}");
    }
    let weight = weight.value().to_dtype(DType::F64)?.get(class)?;
    let map = features.tokens.value().to_dtype(DType::F64)?.broadcast_mul(&weight)?.sum(3)?;
    Ok(Heat { side, values: map.flatten_all()?.to_vec1()? })
}

impl Heat {
    /// From 0 for the lowest place to 1 for the highest.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let low = self.values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let range = if high > low { high - low } else { 1.0 };
        Self { side: self.side, values: self.values.iter().map(|value| (value - low) / range).collect() }
    }

    /// The map at another size, bilinear between the centres of places.
    #[must_use]
    pub fn resized(&self, side: usize) -> Self {
        let last = self.side as f64 - 1.0;
        let place = |i: usize| {
            let at = ((i as f64 + 0.5) * self.side as f64 / side as f64 - 0.5).clamp(0.0, last);
            (at.floor() as usize, at.ceil() as usize, at.fract())
        };
        let places: Vec<_> = (0..side).map(place).collect();
        let at = |y: usize, x: usize| self.values.get(y * self.side + x).copied().unwrap_or(0.0);
        let mut values = Vec::with_capacity(side * side);
        for &(y0, y1, dy) in &places {
            for &(x0, x1, dx) in &places {
                let upper = at(y0, x0) * (1.0 - dx) + at(y0, x1) * dx;
                let lower = at(y1, x0) * (1.0 - dx) + at(y1, x1) * dx;
                values.push(upper * (1.0 - dy) + lower * dy);
            }
        }
        Self { side, values }
    }

    /// The centre of the highest place, as shares of the side: right and down.
    pub fn peak(&self) -> (f64, f64) {
        let best = (0..self.values.len()).fold(0, |a, b| if self.values[b] > self.values[a] { b } else { a });
        let share = |i: usize| (i as f64 + 0.5) / self.side.max(1) as f64;
        (share(best % self.side.max(1)), share(best / self.side.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resizing_keeps_places_where_they_are() {
        let heat = Heat { side: 2, values: vec![0.0, 1.0, 2.0, 3.0] };
        let large = heat.resized(4);
        assert_eq!(large.values[0..4], [0.0, 0.25, 0.75, 1.0]);
        assert_eq!((large.values[12], large.values[15]), (2.0, 3.0));
        assert_eq!(heat.resized(2), heat);
        assert_eq!((heat.peak(), heat.normalised().values[1]), ((0.75, 0.75), 1.0 / 3.0));
    }
}
