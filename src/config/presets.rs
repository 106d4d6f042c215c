//! The experiments in `configs/`, built into the program.

use super::overrides::nearest;
use crate::error::{Error, Result};

/// A built-in configuration.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name on the command line.
    pub name: &'static str,
    /// The whole file; its first lines say purpose, cost and expected result.
    pub text: &'static str,
}

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        /// Every preset, cheapest first.
        pub const PRESETS: &[Preset] = &[
            $(Preset { name: $name, text: include_str!(concat!("../../configs/", $name, ".toml")) }),*
        ];
    };
}
presets!["demo64", "fast32", "fast64", "quality32", "quality64", "paper64"];

/// The preset of that name.
///
/// # Errors
/// When there is none, with the nearest name.
pub fn preset(name: &str) -> Result<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| {
        let names = || PRESETS.iter().map(|preset| preset.name);
        let known = names().collect::<Vec<_>>().join(", ");
        let hint = match nearest(name, names()) {
            Some(near) => format!("did you mean `{near}`? Presets: {known}"),
            None => format!("presets: {known}"),
        };
        Error::Config {
            place: "--preset".into(),
            key: name.to_owned(),
            reason: "there is no preset of this name".into(),
            hint: Some(hint),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, load};
    use crate::models::GeneratorConfig;
    use crate::models::transposed_nest::Config;

    #[test]
    fn every_preset_says_what_it_is_for_and_what_to_expect() {
        for preset in PRESETS {
            let about: Vec<&str> = preset.text.lines().take_while(|line| line.starts_with('#')).collect();
            for word in ["# Purpose:", "# Cost:", "# Expected:"] {
                assert!(
                    about.iter().any(|line| line.starts_with(word)),
                    "{}: no `{word}` at the top",
                    preset.name
                );
            }
        }
    }

    #[test]
    fn presets_have_the_shapes_that_they_stand_for() {
        let shapes = [
            ("demo64", Config::demo(64)),
            ("fast32", Config::fast(32)),
            ("quality32", Config::fast(32)),
            ("fast64", Config::fast(64)),
            ("quality64", Config::fast(64)),
            ("paper64", Config::paper(64)),
        ];
        assert_eq!(shapes.len(), PRESETS.len());
        for (name, shape) in shapes {
            let preset = load(Source::Preset(name), &[]).unwrap();
            assert_eq!(preset.model, GeneratorConfig::TransposedNest(shape), "{name}");
        }
    }
}
