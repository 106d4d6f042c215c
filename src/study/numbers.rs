//! Numbers as people read them.

/// Four significant digits; thousands and more as 12.3k, 4.56M.
pub(super) fn short(value: f64) -> String {
    if !value.is_finite() {
        return "not finite".into();
    }
    let scales = [(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")];
    for (scale, letter) in scales {
        if value.abs() >= scale {
            let unit = if letter == "k" { 1e3 } else { scale };
            return format!("{}{letter}", digits(value / unit, 3));
        }
    }
    digits(value, 4)
}

/// `value` with `count` significant digits, without an exponent unless it is tiny.
pub(super) fn digits(value: f64, count: i32) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let magnitude = value.abs().log10().floor() as i32;
    if magnitude < -5 {
        return format!("{value:.*e}", (count - 1).max(0) as usize);
    }
    format!("{value:.*}", (count - 1 - magnitude).max(0) as usize)
}

/// `mean ± half width`, both to the digits that the half width gives sense to.
pub(super) fn with_interval(mean: f64, half_width: Option<f64>) -> String {
    match half_width {
        Some(half) if half.is_finite() && half > 0.0 && mean.abs() < 1e4 => {
            let places = (1 - half.log10().floor() as i32).clamp(0, 9) as usize;
            format!("{mean:.places$} ± {half:.places$}")
        }
        Some(half) => format!("{} ± {}", short(mean), short(half)),
        None => short(mean),
    }
}

/// A p value to four places.
pub(super) fn p_value(p: f64) -> String {
    if p < 1e-4 { "< 0.0001".into() } else { format!("{p:.4}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_meaning() {
        assert_eq!(short(0.012_345), "0.01235");
        assert_eq!(short(1234.5), "1234");
        assert_eq!(short(12_345.0), "12.3k");
        assert_eq!(short(73_800_000.0), "73.8M");
        assert_eq!(short(2.5e16), "25.0P");
        assert_eq!(short(f64::NAN), "not finite");
        assert_eq!(with_interval(12.3456, Some(0.234)), "12.35 ± 0.23");
        assert_eq!(with_interval(12.3456, None), "12.35");
    }
}
