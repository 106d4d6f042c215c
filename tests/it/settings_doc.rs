//! `docs/settings.md` names every setting that there is.

use std::collections::BTreeSet;

use toml::Value;

use super::cli::nestgen;

const DOCUMENT: &str = include_str!("../../docs/settings.md");

/// Dotted keys of what a dry run prints: a configuration, and sizes in comments.
fn printed(args: &str) -> BTreeSet<String> {
    let out = nestgen(&args.split_whitespace().collect::<Vec<_>>());
    assert!(out.status.success(), "{args}: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let mut keys = BTreeSet::new();
    dotted("", &Value::Table(text.parse().unwrap()), &mut keys);
    keys
}

fn dotted(key: &str, value: &Value, keys: &mut BTreeSet<String>) {
    match value {
        Value::Table(table) => table.iter().for_each(|(name, value)| {
            dotted(&if key.is_empty() { name.clone() } else { format!("{key}.{name}") }, value, keys);
        }),
        _ => {
            keys.insert(key.to_owned());
        }
    }
}

#[test]
fn every_setting_is_in_the_document() {
    let few = "--set data.scenes=24 --set data.test_scenes=12 --set train.batch=8";
    let mut keys = BTreeSet::new();
    for args in ["--preset demo64", "--preset quality32", "--arch sagan"] {
        keys.extend(printed(&format!("train -n {args}")));
    }
    for model in ["nest-xs", "vit-xs"] {
        keys.extend(printed(&format!("classify train -n --model {model} {few}")));
    }
    assert!(keys.len() > 90, "{} settings", keys.len());
    let missing: Vec<_> = keys.iter().filter(|key| !DOCUMENT.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty(), "docs/settings.md lacks {missing:?}");
    // And no others: what is in quotes and begins like a setting is one, or one that is printed only where it is given.
    let unprinted = ["data.test_split", "discriminator.width", "discriminator.attention"];
    let groups: BTreeSet<&str> =
        keys.iter().filter_map(|key| key.rsplit_once('.')).map(|(group, _)| group).collect();
    let quoted = DOCUMENT.split('`').skip(1).step_by(2);
    let named = quoted.filter(|text| text.chars().all(|c| c.is_ascii_alphanumeric() || "._".contains(c)));
    let is_key = |text: &&str| {
        let first = text.split('.').next().unwrap_or_default();
        text.contains('.') && ["model", "discriminator", "data", "train", "eval"].contains(&first)
    };
    let unknown: Vec<_> = named
        .filter(is_key)
        .filter(|key| !keys.contains(*key) && !groups.contains(key) && !unprinted.contains(key))
        .collect();
    assert!(unknown.is_empty(), "docs/settings.md names {unknown:?}");
}
