//! `--set train.batch=32`: one setting given on the command line, in the words of the configuration file.

use toml::{Table, Value};

use crate::error::{Error, Result};

/// Where an override comes from that is no flag of its own.
const SET: &str = "--set";

/// A parsed `--set` argument.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// The dotted key, split at its dots.
    pub keys: Vec<String>,
    /// The value.
    pub value: Value,
    /// The value as it was given, for a setting that takes text.
    given: String,
    /// Where it comes from, for messages: `--set`, or a flag of its own.
    pub place: &'static str,
}

impl Override {
    /// Parses `a.b=v`. `v` is a TOML value; anything that is not one is taken as text, so quotes can be left out.
    ///
    /// # Errors
    /// When there is no `=` or a part of the key is empty.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |reason: &str| Error::Config {
            place: SET.into(),
            key: text.to_owned(),
            reason: reason.into(),
            hint: Some("write it like `--set train.batch=32`".into()),
        };
        let (key, value) = text.split_once('=').ok_or_else(|| bad("there is no `=` in it"))?;
        let keys: Vec<String> = key.split('.').map(|part| part.trim().to_owned()).collect();
        if keys.iter().any(String::is_empty) {
            return Err(bad("a part of its key is empty"));
        }
        let value = value.trim();
        let parsed =
            format!("value = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
        let given = value.to_owned();
        Ok(Self { keys, value: parsed.unwrap_or_else(|| Value::String(given.clone())), given, place: SET })
    }

    /// The override of a dedicated flag, or of what has no flag, named for messages.
    pub fn new(flag: &'static str, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let given = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Self { keys: key.split('.').map(str::to_owned).collect(), value, given, place: flag }
    }

    /// The dotted key.
    pub fn key(&self) -> String {
        self.keys.join(".")
    }

    /// Refuses a value for a group of `settings`: the reader would take a list for the first ones of the group.
    ///
    /// # Errors
    /// When it is one.
    pub fn refuse_group(&self, settings: &Table) -> Result<()> {
        if !self.now(settings).is_some_and(Value::is_table) || self.value.is_table() {
            return Ok(());
        }
        Err(Error::Config {
            place: self.place.into(),
            key: self.key(),
            reason: "it is a group of settings, which are given one by one".into(),
            hint: None,
        })
    }

    /// Refuses a flag of its own for what a `--set` before it has set to something else: one of them would be lost without a word.
    ///
    /// # Errors
    /// When it is one.
    pub fn refuse_second(&self, before: &[Self]) -> Result<()> {
        let number = |value: &Value| value.as_float().or(value.as_integer().map(|value| value as f64));
        let same = |a: &Value, b: &Value| a == b || number(a).is_some_and(|a| Some(a) == number(b));
        let set = before.iter().rev().find(|other| other.place == SET && other.keys == self.keys);
        match set {
            Some(set) if self.place != SET && set.given != self.given && !same(&set.value, &self.value) => {
                Err(Error::Config {
                    place: SET.into(),
                    key: self.key(),
                    reason: format!("it is {} there, and {} makes it {}", set.value, self.place, self.value),
                    hint: Some("leave one of them out".into()),
                })
            }
            _ => Ok(()),
        }
    }

    /// Where this gives a group of `settings` another kind than it has: the group, and its kind.
    pub fn kind_of_group(&self, settings: &Table) -> Option<(String, String)> {
        let (last, group) = self.keys.split_last()?;
        let now = self.now(settings)?.as_str()?;
        (last == "kind" && self.value.as_str().is_some_and(|kind| kind != now))
            .then(|| (group.join("."), now.to_owned()))
    }

    /// What `settings` have at these keys.
    fn now<'a>(&self, settings: &'a Table) -> Option<&'a Value> {
        let mut keys = self.keys.iter();
        let first = keys.next().and_then(|key| settings.get(key));
        keys.fold(first, |here, key| here?.as_table()?.get(key))
    }

    /// Writes the value into `table`, making the tables on the way. Where `settings`, the complete ones, have text, it is text as well:
    /// a folder may be called `2024`.
    ///
    /// # Errors
    /// When something on the way is a value, not a table.
    pub fn apply(&self, table: &mut Table, settings: &Table) -> Result<()> {
        let Some((last, way)) = self.keys.split_last() else { return Ok(()) };
        let mut here = table;
        for key in way {
            let next = here.entry(key.clone()).or_insert_with(|| Value::Table(Table::new()));
            here = next.as_table_mut().ok_or_else(|| Error::Config {
                place: self.place.into(),
                key: self.key(),
                reason: format!("`{key}` is a setting, not a group of settings"),
                hint: None,
            })?;
        }
        let text_is_due = self.now(settings).is_some_and(Value::is_str);
        let value = match &self.value {
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) if text_is_due => {
                Value::String(self.given.clone())
            }
            value => value.clone(),
        };
        here.insert(last.clone(), value);
        Ok(())
    }
}

/// The known name nearest to `name`, if one is near enough to be meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Jaro-Winkler similarity below which two names have little in common.
    const NEAR: f64 = 0.75;
    let scored = known.into_iter().map(|candidate| (strsim::jaro_winkler(name, candidate), candidate));
    scored
        .filter(|(score, _)| *score >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_types_and_text_needs_no_quotes() {
        let value = |text: &str| Override::parse(text).unwrap().value;
        assert_eq!(value("train.batch=32"), Value::Integer(32));
        assert_eq!(value("train.generator.lr = 2e-4"), Value::Float(2e-4));
        assert_eq!(value("data.mirror=true"), Value::Boolean(true));
        assert_eq!(value("train.grid=[4,2]").as_array().map(Vec::len), Some(2));
        assert_eq!(value("train.loss=hinge"), Value::String("hinge".into()));
        assert_eq!(value("data.path=/a b/c=d"), Value::String("/a b/c=d".into()));
    }

    #[test]
    fn overrides_reach_into_tables() {
        let mut table: Table = "[train]\nbatch = 8\n[train.ema]\nramp = 0.1\n".parse().unwrap();
        Override::parse("train.ema.ramp=0.5").unwrap().apply(&mut table, &Table::new()).unwrap();
        Override::parse("eval.images=10").unwrap().apply(&mut table, &Table::new()).unwrap();
        assert_eq!(table["train"]["ema"]["ramp"].as_float(), Some(0.5));
        assert_eq!(table["eval"]["images"].as_integer(), Some(10));
        let error = Override::parse("train.batch.x=1").unwrap().apply(&mut table, &Table::new()).unwrap_err();
        assert!(error.to_string().contains("`batch` is a setting"), "{error}");
        let error = Override::parse("train.ema=[0.5]").unwrap().refuse_group(&table).unwrap_err();
        assert!(error.to_string().contains("it is a group of settings"), "{error}");
    }

    #[test]
    fn numbers_and_dates_are_text_where_text_is_due() {
        let settings: Table = "[data]\npath = \"\"\nscenes = 3\n".parse().unwrap();
        let mut table = Table::new();
        for (given, key) in [("2024", "path"), ("2024-11-30", "path"), ("1e3", "path"), ("12", "scenes")] {
            Override::parse(&format!("data.{key}={given}")).unwrap().apply(&mut table, &settings).unwrap();
            let value = &table["data"][key];
            assert_eq!((value.is_str(), value.to_string().trim_matches('"')), (key == "path", given));
        }
        let list = Override::parse("data.path=[1]").unwrap();
        list.apply(&mut table, &settings).unwrap();
        assert!(table["data"]["path"].is_array());
    }

    #[test]
    fn a_setting_that_a_flag_sets_otherwise_is_refused() {
        let set = Override::parse("train.batch=4").unwrap();
        let flag = |value: i64| Override::new("--batch", "train.batch", value);
        let error = flag(8).refuse_second(std::slice::from_ref(&set)).unwrap_err();
        assert!(error.to_string().contains("`train.batch`: it is 4 there, and --batch makes it 8"), "{error}");
        flag(4).refuse_second(std::slice::from_ref(&set)).unwrap();
        Override::new("--batch", "train.batch", 4.0).refuse_second(std::slice::from_ref(&set)).unwrap();
        Override::new("--kimg", "train.kimg", 8).refuse_second(std::slice::from_ref(&set)).unwrap();
        // What a flag stands for may be set apart, and the last of several holds.
        Override::parse("train.batch=5").unwrap().refuse_second(&[flag(8), set]).unwrap();
    }

    #[test]
    fn malformed_overrides_say_how_to_write_them() {
        for text in ["train.batch", "=3", "train..batch=3"] {
            let error = Override::parse(text).unwrap_err();
            assert!(error.hint().unwrap().contains("train.batch=32"), "{text}");
        }
    }

    #[test]
    fn near_names_are_found() {
        let known = ["batch", "beta1", "halflife_kimg"];
        assert_eq!(nearest("bathc", known), Some("batch"));
        assert_eq!(nearest("half_life_kimg", known), Some("halflife_kimg"));
        assert_eq!(nearest("zzz", known), None);
    }
}
