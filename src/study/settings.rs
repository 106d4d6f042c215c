//! Configurations as flat lists of settings: what makes two runs the same arm, and what two arms differ in.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

/// Dotted key -> value as TOML writes it.
pub type Settings = BTreeMap<String, String>;

/// The key of the seed, the one setting in which the runs of an arm differ.
pub const SEED_KEY: &str = "train.seed";

/// Settings that change neither what is learned nor what is measured; sections end with a point.
const IMMATERIAL: [&str; 9] = [
    "data.workers",
    // When scores are taken; how they are taken is a matter of their protocol.
    "eval.",
    "train.tick_kimg",
    "train.eval_epochs",
    "train.image_ticks",
    "train.snap_ticks",
    "train.keep_states",
    "train.grid",
    // Where the images lie; which images they are is a matter of their digest.
    "data.path",
];

/// Every setting of a configuration, the nested ones under dotted keys.
pub fn flatten(table: &Table) -> Settings {
    let mut settings = Settings::new();
    for (key, value) in table {
        flatten_into(key, value, &mut settings);
    }
    settings
}

fn flatten_into(key: &str, value: &Value, settings: &mut Settings) {
    match value {
        Value::Table(table) => {
            table.iter().for_each(|(name, value)| flatten_into(&format!("{key}.{name}"), value, settings));
        }
        value => {
            settings.insert(key.to_owned(), value.to_string());
        }
    }
}

/// Whether a setting changes what is learned or what is measured.
pub(super) fn matters(key: &str) -> bool {
    !IMMATERIAL.iter().any(|free| if free.ends_with('.') { key.starts_with(free) } else { key == *free })
}

/// The settings that make an arm: all that matter, except the seed.
pub fn of_arm(settings: &Settings) -> Settings {
    let matters = |key: &str| key != SEED_KEY && matters(key);
    settings.iter().filter(|(key, _)| matters(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// A setting in which arms differ, with its value in each of them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// The dotted key.
    pub key: String,
    /// Its value in each arm, in their order; `None` where an arm does not have it.
    pub values: Vec<Option<String>>,
}

/// Every setting that is not the same in all of `arms`.
pub fn differences(arms: &[&Settings]) -> Vec<Difference> {
    let keys: BTreeSet<&String> = arms.iter().flat_map(|settings| settings.keys()).collect();
    let of_key = |key: &String| Difference {
        key: key.clone(),
        values: arms.iter().map(|settings| settings.get(key).cloned()).collect(),
    };
    let all = keys.into_iter().map(of_key);
    all.filter(|difference| difference.values.windows(2).any(|pair| pair[0] != pair[1])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        flatten(&text.parse().unwrap())
    }

    #[test]
    fn seeds_and_workers_make_no_arm() {
        let a = settings("[train]\nseed = 1\nbatch = 8\n[data]\nworkers = 1\nmirror = true\n");
        let b = settings("[train]\nseed = 2\nbatch = 8\n[data]\nworkers = 4\nmirror = true\n");
        assert_ne!(a, b);
        assert_eq!(of_arm(&a), of_arm(&b));
        assert_eq!(of_arm(&a).keys().collect::<Vec<_>>(), ["data.mirror", "train.batch"]);
    }

    #[test]
    fn differences_name_the_key_and_every_value() {
        let a = settings("[model]\nkind = 'nest'\nwidths = [4, 2]\n");
        let b = settings("[model]\nkind = 'sagan'\n");
        let found = differences(&[&a, &b]);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].key, "model.kind");
        assert_eq!(found[1].values, [Some("[4, 2]".to_owned()), None]);
        assert!(differences(&[&a, &a]).is_empty());
    }
}
