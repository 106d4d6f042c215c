//! From a preset or a file, over `--set` and flags, to a configuration that is complete and valid.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Table;

use super::classify::ClassifyRunConfig;
use super::idle::{Cause, in_run};
use super::overrides::Override;
use super::presets::{PRESETS, preset};
use super::run::RunConfig;
use super::words::{meant_setting, near_or_all, plain, unknown_name};
use crate::error::{Error, Result};

/// Where a configuration starts from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// One of the built-in [`PRESETS`].
    Preset(&'a str),
    /// A file of the user's.
    File(&'a Path),
}

/// Reads, overrides and validates.
///
/// # Errors
/// [`Error::Config`] names the file, preset or override, the key, and near names for unknown ones.
pub fn load(source: Source, overrides: &[Override]) -> Result<RunConfig> {
    let (place, text) = match source {
        Source::Preset(name) => (format!("preset {name}"), preset(name)?.text.to_owned()),
        Source::File(path) => {
            let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
            (path.display().to_string(), text)
        }
    };
    if toml::from_str::<ClassifyRunConfig>(&text).is_ok() {
        return Err(of_other_kind(&place, "a classifier", "nestgen classify train"));
    }
    resolve(&place, &text, overrides, RunConfig::validate, in_run)
}

/// The configuration of `place` is of `kind`, which `verb` trains.
pub(super) fn of_other_kind(place: &str, kind: &str, verb: &str) -> Error {
    Error::Usage {
        message: format!("`{place}` is the configuration of {kind}"),
        hint: Some(format!("`{verb}` takes it")),
    }
}

/// The configuration of any kind of run: `text` of `place`, overridden and validated. No override may be idle, unless
/// what makes it so is one itself, which somebody meant; in a file, which may be a run's complete one, any setting may be.
///
/// # Errors
/// As [`load`].
pub(super) fn resolve<T: DeserializeOwned + Serialize>(
    place: &str,
    text: &str,
    overrides: &[Override],
    validate: impl Fn(&T) -> std::result::Result<(), (String, String)>,
    idle: impl Fn(&T, &str) -> Option<Cause>,
) -> Result<T> {
    let mut config = parse_as(place, text)?;
    let mut table: Table = text.parse().map_err(|error| bad_toml(place, text, &error))?;
    for (number, item) in overrides.iter().enumerate() {
        item.refuse_second(overrides.split_at(number).0)?;
        let settings = Table::try_from(&config).unwrap_or_default();
        item.refuse_group(&settings)?;
        item.apply(&mut table, &settings)?;
        // After each one, so that the blame falls on the right one.
        config = table.clone().try_into().map_err(|error| bad_override(item, &settings, &error))?;
    }
    // The last one of a key is the one that holds.
    let given_at = |key: &str| overrides.iter().rev().find(|item| item.key() == key).map(|item| item.place);
    validate(&config).map_err(|(key, reason)| Error::Config {
        place: given_at(&key).unwrap_or(place).to_owned(),
        key,
        reason,
        hint: None,
    })?;
    let mut idle = overrides.iter().filter_map(|item| Some((item, idle(&config, &item.key())?)));
    match idle.find(|(_, (cause, _))| given_at(cause).is_none()) {
        None => Ok(config),
        Some((item, (cause, value))) => Err(Error::Config {
            place: item.place.into(),
            key: item.key(),
            reason: format!("it changes nothing while `{cause}` is {value}"),
            hint: Some(format!("leave it out, or give `{cause}` another value")),
        }),
    }
}

/// Reads a complete configuration back, as saved beside a run or in a snapshot.
///
/// # Errors
/// As [`load`].
pub fn parse(place: &str, text: &str) -> Result<RunConfig> {
    parse_as(place, text)
}

/// [`parse`] for the configuration of any kind of run.
pub(super) fn parse_as<T: DeserializeOwned>(place: &str, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| bad_toml(place, text, &error))
}

/// The text of a configuration of kind `T` with every setting that there is now: one that there was not when it was written has its
/// default in it. A text that cannot be read stays as it is.
pub(super) fn completed<T: DeserializeOwned + Serialize>(text: &str) -> String {
    let config = toml::from_str::<T>(text).ok();
    config.and_then(|config| toml::to_string(&config).ok()).unwrap_or_else(|| text.to_owned())
}

fn bad_toml(place: &str, text: &str, error: &toml::de::Error) -> Error {
    let message = error.message();
    let hint = unknown_name(message).map(|(name, known)| near_or_all(name, &known));
    // The first line of the full text is the position: "TOML parse error at line 3, column 1".
    let position = error.to_string();
    let position =
        position.lines().next().and_then(|line| line.strip_prefix("TOML parse error at ")).map(str::to_owned);
    let place = position.map_or_else(|| place.to_owned(), |position| format!("{place}, {position}"));
    Error::Config { place, key: blamed(message, text, error.span()), reason: plain(message), hint }
}

/// The setting that an error of a file is about: the one that it names, or else what stands on the line that it points to.
fn blamed(message: &str, text: &str, span: Option<std::ops::Range<usize>>) -> String {
    if message.starts_with("unknown field") || message.starts_with("missing field") {
        return message.split('`').nth(1).unwrap_or_default().to_owned();
    }
    let before = span.and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = text.lines().nth(before.matches('\n').count()).unwrap_or_default();
    let key = line.split('=').next().unwrap_or_default().trim();
    if key.is_empty() { "(syntax)".into() } else { key.to_owned() }
}

/// `settings` are all that there are.
fn bad_override(item: &Override, settings: &Table, error: &toml::de::Error) -> Error {
    let message = error.message();
    if let Some((group, now)) = item.kind_of_group(settings).filter(|_| !message.starts_with("unknown variant"))
    {
        return Error::Config {
            place: item.place.into(),
            key: item.key(),
            reason: format!("the other settings of `{group}` are those of `{now}`"),
            hint: Some(
                "a configuration file has all settings of the other kind; the same command with -n, and without this --set, prints one \
                 to begin with"
                    .into(),
            ),
        };
    }
    let hint = unknown_name(message).map(|(name, known)| {
        if message.starts_with("unknown field") {
            meant_setting(&item.keys, name, &known, settings)
        } else {
            near_or_all(name, &known)
        }
    });
    Error::Config { place: item.place.into(), key: item.key(), reason: plain(message), hint }
}

/// The names of the presets, for messages.
pub fn preset_names() -> Vec<&'static str> {
    PRESETS.iter().map(|preset| preset.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::changes::refuse_changes;

    fn set(texts: &[&str]) -> Vec<Override> {
        texts.iter().map(|text| Override::parse(text).unwrap()).collect()
    }

    #[test]
    fn overrides_win_over_the_preset() {
        let config = load(Source::Preset("demo64"), &set(&["train.batch=6", "train.ema.ramp=0.25"])).unwrap();
        assert_eq!((config.train.batch, config.train.ema.ramp), (6, 0.25));
    }

    #[test]
    fn settings_of_now_are_in_a_configuration_of_before() {
        let now = load(Source::Preset("demo64"), &[]).unwrap().to_toml();
        let before = now.replace("rgb = \"last_level\"\n", "");
        let state = Path::new("state");
        assert!(before != now && refuse_changes(state, &before, &now).is_err());
        refuse_changes(state, &completed::<RunConfig>(&before), &now).unwrap();
        let other = now.replace("rgb = \"last_level\"", "rgb = \"every_level\"");
        assert!(refuse_changes(state, &completed::<RunConfig>(&before), &other).is_err());
        assert_eq!(completed::<RunConfig>("no configuration"), "no configuration");
    }

    #[test]
    fn unknown_names_get_near_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        let text = preset("demo64").unwrap().text.replace("\n[train]\n", "\n[train]\nbatchh = 3\n");
        std::fs::write(&path, text).unwrap();
        let error = load(Source::File(&path), &[]).unwrap_err();
        assert!(
            error.to_string().contains("x.toml, line") && error.to_string().contains("`batchh`"),
            "{error}"
        );
        assert_eq!(error.hint().as_deref(), Some("did you mean `batch`?"));
        let error = load(Source::Preset("demo64"), &set(&["train.loss=hing"])).unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("did you mean `hinge`?"), "{error}");
        let error = load(Source::Preset("demo46"), &[]).unwrap_err();
        assert_eq!(
            error.hint().as_deref(),
            Some("did you mean `demo64`? Presets: demo64, fast32, fast64, quality32, quality64, paper64"),
            "{error}"
        );
    }

    #[test]
    fn bad_values_name_the_override() {
        let error = load(Source::Preset("demo64"), &set(&["train.batch=many"])).unwrap_err();
        assert_eq!(error.to_string(), "--set: `train.batch`: `many` is not a whole number, 0 or more");
        let error = load(Source::Preset("demo64"), &set(&["train.kimg=-1"])).unwrap_err();
        assert!(error.to_string().starts_with("--set: `train.kimg`"), "{error}");
    }

    #[test]
    fn what_a_file_has_wrong_is_named_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        let preset = preset("demo64").unwrap().text;
        let says = |text: &str| {
            std::fs::write(&path, text).unwrap();
            load(Source::File(&path), &[]).unwrap_err().to_string()
        };
        let said = says(&preset.replace("minutes = 15", "minutes = \"ten\""));
        assert!(said.ends_with("column 11: `minutes`: `ten` is not a number"), "{said}");
        assert!(says("").ends_with("`model`: it is missing"), "{}", says(""));
        assert!(says("hello\n").contains("line 1, column 6: `hello`: "), "{}", says("hello\n"));
    }

    #[test]
    fn the_resolved_text_reads_back_to_the_same_configuration() {
        for preset in PRESETS {
            let config = load(Source::Preset(preset.name), &[]).unwrap();
            assert_eq!(parse("resolved", &config.to_toml()).unwrap(), config, "{}", preset.name);
        }
    }
}
