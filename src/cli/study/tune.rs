//! A setting that suits every generator differently: each arm is trained at several values of it, or at its own.

use nestgen::config::Override;
use nestgen::error::{Error, Result};
use nestgen::study::settings::SEED_KEY;
use nestgen::study::tuned::AT;

/// `KEY=V1,V2,...`, or `KEY` where every arm names its value.
#[derive(Clone, Debug)]
pub(super) struct Tune {
    pub(super) key: String,
    values: Vec<String>,
}

/// An arm at a value of the setting.
pub(super) struct At {
    /// `nest@1e-4`.
    pub(super) name: String,
    /// What it is without its value: `nest`, or a file.
    pub(super) arm: String,
    /// Its value, where one is tuned.
    pub(super) value: Option<Override>,
}

impl Tune {
    /// From the command line.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (key, values) = text.split_once('=').unwrap_or((text, ""));
        let values = values.split(',').map(str::trim).filter(|value| !value.is_empty());
        let values: Vec<String> = values.map(str::to_owned).collect();
        // Other settings say which images or scores there are, or are free anyway.
        if !key.trim().starts_with("train.") || key.trim() == SEED_KEY {
            return Err("it must be a setting of training, like train.generator.lr=1e-4,2e-4".into());
        }
        match values.iter().enumerate().find(|(at, value)| values[..*at].contains(value)) {
            Some((_, twice)) => Err(format!("it names {twice} twice: name each value once")),
            None => Ok(Self { key: key.trim().to_owned(), values }),
        }
    }

    fn at(&self, name: String, arm: &str, value: &str) -> Result<At> {
        let value = Override::parse(&format!("{}={value}", self.key))?;
        Ok(At { name, arm: arm.to_owned(), value: Some(value) })
    }
}

/// The arms that are asked for, each at every value, but for those that name their own; as they are where nothing is tuned.
pub(super) fn arms_at(arms: &[String], tune: Option<&Tune>) -> Result<Vec<At>> {
    let Some(tune) = tune else {
        return Ok(arms.iter().map(|arm| At { name: arm.clone(), arm: arm.clone(), value: None }).collect());
    };
    let mut found = Vec::new();
    for arm in arms {
        if let Some((plain, value)) = arm.rsplit_once(AT) {
            found.push(tune.at(arm.clone(), plain, value)?);
            continue;
        }
        if tune.values.is_empty() {
            return Err(Error::usage(
                format!("arm {arm} has no value of {}", tune.key),
                "name it like nest@1e-4, or several for all like --tune train.generator.lr=1e-4,2e-4",
            ));
        }
        for value in &tune.values {
            found.push(tune.at(format!("{arm}{AT}{value}"), arm, value)?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_go_with_every_value_or_their_own() {
        let names = |arms: &[&str], tune: &str| -> Vec<(String, String)> {
            let arms: Vec<String> = arms.iter().map(|&arm| arm.to_owned()).collect();
            let found = arms_at(&arms, Some(&Tune::parse(tune).unwrap())).unwrap();
            found.into_iter().map(|at| (at.name, at.arm)).collect()
        };
        let pair = |name: &str, arm: &str| (name.to_owned(), arm.to_owned());
        assert_eq!(
            names(&["nest", "sagan@5e-4"], "train.generator.lr=1e-4, 2e-4"),
            [pair("nest@1e-4", "nest"), pair("nest@2e-4", "nest"), pair("sagan@5e-4", "sagan")]
        );
        assert_eq!(names(&["a.toml@3"], "train.d_steps"), [pair("a.toml@3", "a.toml")]);
        let bare = Tune::parse("train.generator.lr").unwrap();
        assert!(arms_at(&["nest".into()], Some(&bare)).is_err());
        assert!(Tune::parse("train.d_steps=1,2, 1").unwrap_err().starts_with("it names 1 twice"));
        assert!(Tune::parse("=1").is_err() && Tune::parse("eval.images=100,200").is_err());
        assert_eq!(arms_at(&["nest".into()], None).unwrap()[0].name, "nest");
    }
}
