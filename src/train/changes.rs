//! What differs between two configurations: resuming under other settings is not a resume.

use std::fmt;
use std::path::Path;

use toml::{Table, Value};

use crate::error::{Error, Result};

/// Settings that a resumed run may change: how long it is, what it writes when, how it is watched, and where its images lie
/// (which they are is held by their digest).
const FREE: [&str; 12] = [
    "train.kimg",
    "train.minutes",
    "train.epochs",
    "train.tick_kimg",
    "train.image_ticks",
    "train.snap_ticks",
    "train.keep_states",
    "train.grid",
    "train.guard",
    "data.workers",
    "data.path",
    "eval",
];

/// One setting with two values.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Its dotted key.
    pub key: String,
    /// The saved value; `None` if there was none.
    pub before: Option<Value>,
    /// The value now; `None` if there is none.
    pub now: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Option<Value>| value.as_ref().map_or("nothing".to_owned(), Value::to_string);
        write!(f, "{} = {} (was {})", self.key, show(&self.now), show(&self.before))
    }
}

/// Every setting that differs between two configurations in TOML.
///
/// # Errors
/// When one of them is not TOML.
pub fn changes(before: &str, now: &str) -> Result<Vec<Change>, toml::de::Error> {
    let (before, now) = (before.parse::<Table>()?, now.parse::<Table>()?);
    let mut found = Vec::new();
    compare("", Some(&Value::Table(before)), Some(&Value::Table(now)), &mut found);
    Ok(found)
}

fn compare(key: &str, before: Option<&Value>, now: Option<&Value>, found: &mut Vec<Change>) {
    if before == now {
        return;
    }
    let empty = Table::new();
    let tables = [before, now].map(|value| value.map_or(Some(&empty), Value::as_table));
    let [Some(before_table), Some(now_table)] = tables else {
        found.push(Change { key: key.to_owned(), before: before.cloned(), now: now.cloned() });
        return;
    };
    let mut names: Vec<&String> = before_table.keys().chain(now_table.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let dotted = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        compare(&dotted, before_table.get(name), now_table.get(name), found);
    }
}

/// Refuses to go on from a state that was made under other settings.
///
/// # Errors
/// With every setting that differs, but for those that may ([`FREE`]).
pub fn refuse_changes(state: &Path, before: &str, now: &str) -> Result<()> {
    let unreadable = |error: toml::de::Error| Error::Checkpoint {
        path: state.to_path_buf(),
        reason: format!("its configuration: {}", error.message()),
        hint: None,
    };
    let mut found = changes(before, now).map_err(unreadable)?;
    found.retain(|change| {
        !FREE.iter().any(|free| change.key == *free || change.key.starts_with(&format!("{free}.")))
    });
    if found.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = found.iter().map(Change::to_string).collect();
    Err(Error::Usage {
        message: format!("`{}` was trained under other settings: {}", state.display(), list.join("; ")),
        hint: Some("leave them as they were, or start a new run from its weights with --transfer".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "[train]\nbatch = 8\nkimg = 10.0\n[train.ema]\nramp = 0.1\n[data]\npath = \"x\"\n";

    #[test]
    fn differences_are_listed_by_dotted_key() {
        let now = BEFORE.replace("batch = 8", "batch = 16").replace("ramp = 0.1", "ramp = 0.2");
        let error = refuse_changes(Path::new("s"), BEFORE, &now).unwrap_err();
        assert!(
            error.to_string().contains("train.batch = 16 (was 8); train.ema.ramp = 0.2 (was 0.1)"),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("--transfer"));
    }

    #[test]
    fn the_length_may_change_and_new_settings_count() {
        let longer = BEFORE.replace("kimg = 10.0", "kimg = 20.0") + "[eval]\nimages = 3\n";
        assert!(refuse_changes(Path::new("s"), BEFORE, &longer).is_ok());
        let moved = BEFORE.replace("path = \"x\"", "path = \"y\"\nworkers = 2");
        let moved = moved.replace("kimg = 10.0", "minutes = 3.0\nsnap_ticks = 2\nkeep_states = 9");
        assert!(refuse_changes(Path::new("s"), BEFORE, &moved).is_ok());
        let added = BEFORE.to_owned() + "mirror = true\n";
        let error = refuse_changes(Path::new("s"), BEFORE, &added).unwrap_err();
        assert!(error.to_string().contains("data.mirror = true (was nothing)"), "{error}");
    }
}
