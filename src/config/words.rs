//! What the TOML reader says about a setting, in words of those who wrote it.

use toml::{Table, Value};

use super::overrides::nearest;

/// "invalid type: string "abc", expected usize" as "`"abc"` is not a whole number, 0 or more"; what is known to nobody here stays
/// as it is, up to its first line.
pub(super) fn plain(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    if first.starts_with("missing field ") {
        return "it is missing".into();
    }
    if let Some((name, known)) = unknown_name(first) {
        if first.starts_with("unknown field ") {
            return format!("there is no `{name}`");
        }
        return format!("`{name}` is none of {}", known.join(", "));
    }
    if let Some(length) = first.strip_prefix("invalid length ").and_then(|told| told.split(',').next()) {
        return format!("a list of length {length} does not fit");
    }
    let Some((found, expected)) = wrong_type(first) else { return first.to_owned() };
    if found.is_empty() && !first.contains("string \"\"") {
        return format!("it is not {}", kind(expected));
    }
    let number = found.trim_start_matches('-');
    // TOML's own whole numbers end before 2^63, and larger ones are read as text.
    if number.len() > 18 && number.bytes().all(|digit| digit.is_ascii_digit()) {
        return format!("`{found}` is too large");
    }
    format!("`{found}` is not {}", kind(expected))
}

/// Of serde's "unknown variant `x`, expected one of `a`, `b`": `x`, and what is known.
pub(super) fn unknown_name(message: &str) -> Option<(&str, Vec<&str>)> {
    let mut quoted = message.strip_prefix("unknown ")?.split('`').skip(1).step_by(2);
    Some((quoted.next()?, quoted.collect()))
}

/// The near one of the known names, or all of them.
pub(super) fn near_or_all(name: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known names: {}", known.join(", ")),
    }
}

/// The setting that was meant by `keys`, of which `name` is not among the `known` ones of its group: one of that name in another
/// group, or one of a near name in this.
pub(super) fn meant_setting(keys: &[String], name: &str, known: &[&str], settings: &Table) -> String {
    const MOST_SHOWN: usize = 3;
    let near = nearest(name, known.iter().copied()).and_then(|near| {
        let keys: Vec<&str> = keys.iter().map(|key| if key == name { near } else { key }).collect();
        let is_there = keys.contains(&near) && lookup(&keys, settings);
        is_there.then(|| format!("`{}`", keys.join(".")))
    });
    let mut elsewhere = Vec::new();
    keys.last().into_iter().for_each(|last| called(last, "", settings, &mut elsewhere));
    let is_last = keys.last().is_some_and(|last| last == name);
    let found = match near {
        Some(near) if elsewhere.is_empty() || !is_last => near,
        _ if (1..=MOST_SHOWN).contains(&elsewhere.len()) => elsewhere.join(" or "),
        _ => return near_or_all(name, known),
    };
    format!("did you mean {found}?")
}

/// Whether there is a setting, or a group of them, at these keys.
fn lookup(keys: &[&str], settings: &Table) -> bool {
    match keys {
        [] => true,
        [key] => settings.contains_key(*key),
        [key, rest @ ..] => {
            settings.get(*key).and_then(Value::as_table).is_some_and(|inner| lookup(rest, inner))
        }
    }
}

/// The dotted keys of the settings of this name, quoted.
fn called(name: &str, group: &str, settings: &Table, found: &mut Vec<String>) {
    for (key, value) in settings {
        match value {
            Value::Table(inner) => called(name, &format!("{group}{key}."), inner, found),
            _ if key == name => found.push(format!("`{group}{key}`")),
            _ => {}
        }
    }
}

/// Of serde's "invalid type: integer `3`, expected a string": the value, and what was expected.
fn wrong_type(message: &str) -> Option<(&str, &str)> {
    let told = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "))?;
    let (found, expected) = told.rsplit_once(", expected ")?;
    let found = match found.strip_prefix("string \"").and_then(|text| text.strip_suffix('"')) {
        Some(text) => text,
        None => found.split('`').nth(1).unwrap_or(match found {
            "sequence" => "[…]",
            "map" => "{…}",
            _ => "",
        }),
    };
    Some((found, expected))
}

/// What serde calls by the names of Rust.
fn kind(expected: &str) -> String {
    let known = match expected {
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number, 0 or more",
        "isize" | "i64" | "i32" | "i16" | "i8" => "a whole number",
        "f64" | "f32" => "a number",
        "a boolean" => "true or false",
        "a string" => "text",
        // How the reader of TOML tells that one of several names is due.
        "string only" | "string or map" | "variant identifier" => "one of the names that this setting takes",
        "a sequence" => "a list, like [64, 32]",
        _ if expected.starts_with("struct ") || expected.contains("enum ") => {
            "a group of settings, which are given one by one"
        }
        _ => return expected.replace("an array of length", "a list of length"),
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_types_become_words() {
        for (told, said) in [
            ("invalid type: string \"abc\", expected usize", "`abc` is not a whole number, 0 or more"),
            ("invalid value: integer `-1`, expected u64", "`-1` is not a whole number, 0 or more"),
            ("invalid type: floating point `1.5`, expected i64", "`1.5` is not a whole number"),
            ("invalid type: string \"\", expected f64", "`` is not a number"),
            ("invalid type: boolean `true`, expected f32", "`true` is not a number"),
            ("invalid type: string \"yes\", expected a boolean", "`yes` is not true or false"),
            ("invalid type: integer `3`, expected a string", "`3` is not text"),
            ("invalid type: integer `3`, expected a sequence", "`3` is not a list, like [64, 32]"),
            ("invalid type: integer `3`, expected an array of length 2", "`3` is not a list of length 2"),
            ("invalid type: map, expected f64", "`{…}` is not a number"),
            (
                "invalid type: unit variant, expected string only",
                "it is not one of the names that this setting takes",
            ),
            (
                "invalid type: integer `3`, expected variant identifier",
                "`3` is not one of the names that this setting takes",
            ),
            (
                "invalid type: sequence, expected string or map",
                "`[…]` is not one of the names that this setting takes",
            ),
            ("invalid length 3, expected fewer elements in array", "a list of length 3 does not fit"),
            (
                "invalid type: integer `3`, expected struct TrainConfig",
                "`3` is not a group of settings, which are given one by one",
            ),
            (
                "invalid type: string \"99999999999999999999\", expected usize",
                "`99999999999999999999` is too large",
            ),
            ("unknown field `x`, expected `a` or `b`", "there is no `x`"),
            ("unknown variant `x`, expected one of `a`, `b`, `c`", "`x` is none of a, b, c"),
            ("missing field `model`", "it is missing"),
            ("something new\nat a place", "something new"),
        ] {
            assert_eq!(plain(told), said);
        }
    }

    #[test]
    fn settings_are_found_in_other_groups() {
        let settings: Table =
            "data.mirror = true\ntrain.batch = 8\ntrain.generator.lr = 1.0\ntrain.discriminator.lr = 1.0"
                .parse()
                .unwrap();
        let meant = |key: &str, name: &str, known: &[&str]| {
            meant_setting(&key.split('.').map(str::to_owned).collect::<Vec<_>>(), name, known, &settings)
        };
        let (groups, train) = (["data", "train"], ["batch", "generator", "discriminator"]);
        assert_eq!(meant("batch", "batch", &groups), "did you mean `train.batch`?");
        assert_eq!(
            meant("train.lr", "lr", &train),
            "did you mean `train.discriminator.lr` or `train.generator.lr`?"
        );
        assert_eq!(meant("train.genrator.lr", "genrator", &train), "did you mean `train.generator.lr`?");
        assert_eq!(meant("train.bathc", "bathc", &train), "did you mean `train.batch`?");
        assert_eq!(meant("train.mirror", "mirror", &train), "did you mean `data.mirror`?");
        assert_eq!(meant("trai.x.y", "trai", &groups), "did you mean `train`?");
        // In the value of a group.
        assert_eq!(meant("train", "genrator", &train), "did you mean `generator`?");
        assert_eq!(meant("train.zzz", "zzz", &train), "known names: batch, generator, discriminator");
    }
}
