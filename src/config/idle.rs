//! Settings that change nothing beside others: asked for on the command line, they are a mistake that only the finished run
//! would show, or nothing ever would.

use serde::Serialize;
use toml::Value;

use super::classify::ClassifyRunConfig;
use super::run::RunConfig;
use crate::train::augment::AugmentKind;
use crate::train::guard::OnDivergence;
use crate::train::schedule::ScheduleKind;

/// The setting that makes another one idle, and its value.
pub(super) type Cause = (&'static str, Value);

/// What makes `key` change nothing in the training of a generator, if something does.
pub(super) fn in_run(config: &RunConfig, key: &str) -> Option<Cause> {
    let (data, train) = (&config.data, &config.train);
    let (schedule, augment, penalty) = (&train.schedule, &train.augment, &train.penalty);
    let no_gradient_penalty = penalty.r1_gamma == 0.0 && penalty.r2_gamma == 0.0;
    let (idle, cause, value) = match key.strip_prefix("train.").unwrap_or(key) {
        "data.scenes" => (!data.path.is_empty(), "data.path", of(&data.path)),
        "kimg" => (train.minutes > 0.0, "train.minutes", of(train.minutes)),
        "schedule.gamma_final" | "penalty.interval" if no_gradient_penalty => {
            (true, "train.penalty.r1_gamma", of(penalty.r1_gamma))
        }
        "schedule.lr_final" | "schedule.gamma_final" => {
            (schedule.kind == ScheduleKind::Constant, "train.schedule.kind", of(schedule.kind))
        }
        "schedule.burn_in" => (schedule.kind != ScheduleKind::BurnIn, "train.schedule.kind", of(schedule.kind)),
        "augment.probability" | "augment.color" | "augment.translation" | "augment.cutout" => {
            (augment.kind == AugmentKind::None, "train.augment.kind", of(augment.kind))
        }
        "augment.target" | "augment.adjust_kimg" => {
            (augment.kind != AugmentKind::Adaptive, "train.augment.kind", of(augment.kind))
        }
        "penalty.lecam_start_kimg" => (penalty.lecam == 0.0, "train.penalty.lecam", of(penalty.lecam)),
        "ema.ramp" => (train.ema.halflife_kimg == 0.0, "train.ema.halflife_kimg", of(train.ema.halflife_kimg)),
        "guard.max_rollbacks" => {
            let answer = train.guard.on_divergence;
            (answer != OnDivergence::Rollback, "train.guard.on_divergence", of(answer))
        }
        _ => return None,
    };
    idle.then_some((cause, value))
}

/// What makes `key` change nothing in the training of a classifier, if something does.
pub(super) fn in_classify_run(config: &ClassifyRunConfig, key: &str) -> Option<Cause> {
    let (data, train) = (&config.data, &config.train);
    let (mix, augment) = (&train.mix, &train.augment);
    let (idle, cause, value) = match key.strip_prefix("train.").unwrap_or(key) {
        "data.scenes" | "data.test_scenes" => (!data.path.is_empty(), "data.path", of(&data.path)),
        "data.hold_out" | "data.test_split" => (data.path.is_empty(), "data.path", of(&data.path)),
        "mix.mixup_alpha" | "mix.cutmix_alpha" | "mix.switch" if mix.probability == 0.0 => {
            (true, "train.mix.probability", of(mix.probability))
        }
        "mix.switch" if mix.mixup_alpha == 0.0 => (true, "train.mix.mixup_alpha", of(mix.mixup_alpha)),
        "mix.switch" => (mix.cutmix_alpha == 0.0, "train.mix.cutmix_alpha", of(mix.cutmix_alpha)),
        "augment.rand_magnitude" | "augment.rand_std" | "augment.rand_probability" => {
            (augment.rand_layers == 0, "train.augment.rand_layers", of(augment.rand_layers))
        }
        "augment.erase_area" | "augment.erase_aspect" => {
            (augment.erase_probability == 0.0, "train.augment.erase_probability", of(augment.erase_probability))
        }
        "ema.ramp" => (train.ema.halflife_kimg == 0.0, "train.ema.halflife_kimg", of(train.ema.halflife_kimg)),
        _ => return None,
    };
    idle.then_some((cause, value))
}

/// A value as the configuration file has it.
fn of(value: impl Serialize) -> Value {
    // Only what TOML has no word for can fail, and no setting is such a thing.
    Value::try_from(value).unwrap_or_else(|_| Value::String(String::new()))
}

#[cfg(test)]
mod tests {
    use super::super::{Override, Source, load};
    use super::*;
    use crate::config::classify::model_preset;

    fn set(texts: &[&str]) -> Vec<Override> {
        texts.iter().map(|text| Override::parse(text).unwrap()).collect()
    }

    #[test]
    fn a_setting_beside_what_switches_it_off_is_refused() {
        for (key, cause) in [
            ("train.kimg=5", "train.minutes"),
            ("train.augment.target=0.5", "train.augment.kind"),
            ("train.schedule.burn_in=0.5", "train.schedule.kind"),
            ("train.penalty.lecam_start_kimg=5", "train.penalty.lecam"),
            ("train.guard.max_rollbacks=5", "train.guard.on_divergence"),
        ] {
            let error = load(Source::Preset("demo64"), &set(&[key])).unwrap_err().to_string();
            let key = key.split_once('=').unwrap().0;
            assert!(
                error.contains("changes nothing") && error.contains(key) && error.contains(cause),
                "{error}"
            );
        }
        let useful = ["train.augment.kind=adaptive", "train.augment.target=0.5", "train.schedule.lr_final=0.5"];
        load(Source::Preset("demo64"), &set(&useful)).unwrap();
        // One of several arms, whose values were all asked for.
        let arm = ["train.augment.probability=0.2", "train.augment.kind=none"];
        load(Source::Preset("demo64"), &set(&arm)).unwrap();
    }

    #[test]
    fn every_arm_names_its_cause_and_nothing_without_it() {
        // What makes the keys change nothing, what lets them count again, the keys, and the cause that is named.
        let arms: [(&[&str], &[&str], &[&str], &str); 12] = [
            (&["data.path=x"], &["data.path="], &["data.scenes"], "data.path"),
            (&["train.minutes=1.0"], &["train.minutes=0.0"], &["train.kimg"], "train.minutes"),
            (
                &["train.penalty.r1_gamma=0.0", "train.penalty.r2_gamma=0.0", "train.schedule.kind=cosine"],
                &["train.penalty.r2_gamma=0.1"],
                &["train.penalty.interval", "train.schedule.gamma_final"],
                "train.penalty.r1_gamma",
            ),
            (
                &["train.schedule.kind=constant", "train.penalty.r1_gamma=1.0"],
                &["train.schedule.kind=cosine"],
                &["train.schedule.lr_final", "train.schedule.gamma_final"],
                "train.schedule.kind",
            ),
            (
                &["train.schedule.kind=cosine"],
                &["train.schedule.kind=burn_in"],
                &["train.schedule.burn_in"],
                "train.schedule.kind",
            ),
            (
                &["train.augment.kind=none"],
                &["train.augment.kind=fixed"],
                &[
                    "train.augment.probability",
                    "train.augment.color",
                    "train.augment.translation",
                    "train.augment.cutout",
                ],
                "train.augment.kind",
            ),
            (
                &["train.augment.kind=fixed"],
                &["train.augment.kind=adaptive"],
                &["train.augment.target", "train.augment.adjust_kimg"],
                "train.augment.kind",
            ),
            (
                &["train.penalty.lecam=0.0"],
                &["train.penalty.lecam=0.1"],
                &["train.penalty.lecam_start_kimg"],
                "train.penalty.lecam",
            ),
            (
                &["train.ema.halflife_kimg=0.0"],
                &["train.ema.halflife_kimg=1.0"],
                &["train.ema.ramp"],
                "train.ema.halflife_kimg",
            ),
            (
                &["train.guard.on_divergence=stop"],
                &["train.guard.on_divergence=rollback"],
                &["train.guard.max_rollbacks"],
                "train.guard.on_divergence",
            ),
            (
                &["train.guard.on_divergence=warn"],
                &["train.guard.on_divergence=rollback"],
                &["train.guard.max_rollbacks"],
                "train.guard.on_divergence",
            ),
            (&[], &[], &["train.batch", "train.seed", "data.mirror"], ""),
        ];
        for (idle, useful, keys, cause) in arms {
            let mut config = load(Source::Preset("demo64"), &set(idle)).unwrap();
            for key in keys {
                let found = in_run(&config, key).map(|(cause, _)| cause);
                assert_eq!(found, Some(cause).filter(|cause| !cause.is_empty()), "{key} beside {idle:?}");
            }
            config = load(Source::Preset("demo64"), &set(&[idle, useful].concat())).unwrap();
            for key in keys {
                assert_eq!(in_run(&config, key), None, "{key} beside {useful:?}");
            }
        }
    }

    #[test]
    fn so_does_every_arm_of_classifiers() {
        let arms: [(&[&str], &[&str], &[&str], &str); 8] = [
            (&["data.path=x"], &["data.path="], &["data.scenes", "data.test_scenes"], "data.path"),
            (&["data.path="], &["data.path=x"], &["data.hold_out", "data.test_split"], "data.path"),
            (
                &["train.mix.probability=0.0", "train.mix.mixup_alpha=0.8", "train.mix.cutmix_alpha=1.0"],
                &["train.mix.probability=1.0"],
                &["train.mix.mixup_alpha", "train.mix.cutmix_alpha", "train.mix.switch"],
                "train.mix.probability",
            ),
            (
                &["train.mix.probability=1.0", "train.mix.mixup_alpha=0.0", "train.mix.cutmix_alpha=1.0"],
                &["train.mix.mixup_alpha=0.8"],
                &["train.mix.switch"],
                "train.mix.mixup_alpha",
            ),
            (
                &["train.mix.probability=1.0", "train.mix.mixup_alpha=0.8", "train.mix.cutmix_alpha=0.0"],
                &["train.mix.cutmix_alpha=1.0"],
                &["train.mix.switch"],
                "train.mix.cutmix_alpha",
            ),
            (
                &["train.augment.rand_layers=0"],
                &["train.augment.rand_layers=2"],
                &["train.augment.rand_magnitude", "train.augment.rand_std", "train.augment.rand_probability"],
                "train.augment.rand_layers",
            ),
            (
                &["train.augment.erase_probability=0.0"],
                &["train.augment.erase_probability=0.25"],
                &["train.augment.erase_area", "train.augment.erase_aspect"],
                "train.augment.erase_probability",
            ),
            (
                &["train.ema.halflife_kimg=0.0"],
                &["train.ema.halflife_kimg=1.0"],
                &["train.ema.ramp"],
                "train.ema.halflife_kimg",
            ),
        ];
        let base = ClassifyRunConfig::of_model(model_preset("nest-t", 32, 10).unwrap());
        for (idle, useful, keys, cause) in arms {
            let mut config = base.with("test", &set(idle)).unwrap();
            for key in keys {
                let found = in_classify_run(&config, key).map(|(cause, _)| cause);
                assert_eq!(found, Some(cause), "{key} beside {idle:?}");
            }
            config = base.with("test", &set(&[idle, useful].concat())).unwrap();
            for key in keys {
                assert_eq!(in_classify_run(&config, key), None, "{key} beside {useful:?}");
            }
        }
    }

    #[test]
    fn so_it_is_with_classifiers() {
        let base = ClassifyRunConfig::of_model(model_preset("nest-t", 32, 10).unwrap());
        for key in ["data.hold_out=0.2", "train.ema.ramp=0.1"] {
            let error = base.with("--model nest-t", &set(&[key])).unwrap_err().to_string();
            assert!(error.contains("changes nothing"), "{error}");
        }
        base.with("--model nest-t", &set(&["train.augment.rand_magnitude=5"])).unwrap();
    }
}
