//! The plan of a study: arms that differ in nothing but their model, each with the same seeds, and a folder from which an
//! interrupted study goes on.
//!
//! ```text
//! <study>/study.toml             the plan
//! <study>/<arm>/seed<k>/         runs of one arm and seed: 00000-..., and outcome.json once it has ended
//! <study>/report.html ...        of the runs that have ended, written whenever the study stops
//! <study>/confirmed/             a study of the best of several values, on other seeds
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::settings::{Difference, Settings, differences, flatten, of_arm};
use super::task::Task;
use crate::error::{Error, Result};

/// Generators this much apart in parameters and in operations are not of one class. Widths come in steps, so that two
/// narrow architectures cannot match more closely.
const CAPACITY_RATIO: f64 = 1.25;

/// What says which images there are: a study reads one set.
const IMAGES: [&str; 9] = [
    "data.path",
    "data.max_images",
    "data.scenes",
    "data.test_scenes",
    "data.test_split",
    "data.max_test",
    "data.hold_out",
    "data.held_out",
    "model.resolution",
];

/// The settings in which arms may differ.
const FREE_SECTION: &str = "model.";

/// What a study does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The seeds of every arm.
    pub seeds: Vec<u64>,
    /// What is unfair about it and was allowed.
    pub allowed_unfair: Vec<String>,
    /// A setting that every arm has its own value of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned: Option<String>,
    /// SHA-256 of the images, and of those that they are a pack of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// The same of the images that classifiers are tested on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test_images: Vec<String>,
    /// The arms.
    pub arms: Vec<PlannedArm>,
}

/// An arm before it has run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedArm {
    /// Its name, and that of its folder.
    pub name: String,
    /// Parameters of its generator or classifier.
    pub parameters: u64,
    /// Operations of it for one image.
    pub flops: u64,
    /// The complete configuration; its seed is that of no run.
    pub config: String,
}

impl PlannedArm {
    pub(super) fn settings(&self) -> Result<Settings> {
        let table = self.config.parse::<toml::Table>().map_err(|error| Error::Usage {
            message: format!("the configuration of arm {} is damaged: {}", self.name, error.message()),
            hint: None,
        })?;
        Ok(flatten(&table))
    }
}

impl Plan {
    /// The configurations of all arms as one text.
    pub fn settings_of_all(&self) -> String {
        self.arms.iter().map(|arm| arm.config.as_str()).collect::<Vec<_>>().join("\n")
    }

    /// Why a comparison of these arms would say little about their generators; empty if it is fair.
    ///
    /// # Errors
    /// When a configuration is not TOML.
    pub fn unfair(&self) -> Result<Vec<String>> {
        let settings: Vec<Settings> = self.arms.iter().map(PlannedArm::settings).collect::<Result<_>>()?;
        let others = differences(&settings.iter().collect::<Vec<_>>());
        let is_free = |key: &str| key.starts_with(FREE_SECTION) || self.tuned.as_deref() == Some(key);
        let others = others.into_iter().filter(|difference| !is_free(&difference.key));
        let mut reasons: Vec<String> = others.map(|difference| self.in_words(&difference)).collect();
        let (parameters, flops) = self.capacity_ratios();
        if parameters > CAPACITY_RATIO && flops > CAPACITY_RATIO {
            let networks = self.networks();
            reasons.push(format!(
                "the {networks} match neither in parameters ({parameters:.2} times apart) nor in FLOPs ({flops:.2} times)"
            ));
        }
        Ok(reasons)
    }

    /// The plan, with what is `unfair` about it, if anything may be.
    ///
    /// # Errors
    /// When it is unfair and may not be.
    pub fn allowing(self, unfair: Vec<String>, allowed: bool) -> Result<Self> {
        if !unfair.is_empty() && !allowed {
            return Err(Error::usage(
                format!("the arms cannot be compared fairly: {}", unfair.join("; ")),
                "make them equal, or say --allow-unfair: the page will tell",
            ));
        }
        Ok(Self { allowed_unfair: unfair, ..self })
    }

    /// How far apart arms are in parameters and in operations, the largest over the smallest.
    fn capacity_ratios(&self) -> (f64, f64) {
        let ratio = |value: fn(&PlannedArm) -> u64| {
            let values = || self.arms.iter().map(|arm| value(arm).max(1) as f64);
            values().fold(0.0, f64::max) / values().fold(f64::INFINITY, f64::min)
        };
        (ratio(|arm| arm.parameters), ratio(|arm| arm.flops))
    }

    /// What is trained: only what trains a generator has a discriminator, which counts for nothing here.
    fn networks(&self) -> &'static str {
        let is_generator = |arm: &PlannedArm| {
            arm.settings().is_ok_and(|settings| settings.keys().any(|key| key.starts_with("discriminator.")))
        };
        if self.arms.iter().any(is_generator) { "generators" } else { "classifiers" }
    }

    /// What is to be said where generators, or classifiers, are equal in one measure of capacity alone.
    pub fn unequal(&self) -> Option<String> {
        let ((parameters, flops), networks) = (self.capacity_ratios(), self.networks());
        // What is alike is seldom equal: widths come in steps.
        let alike = |measure: &str, ratio: f64| {
            format!("the arms' {networks} are alike in {measure} ({ratio:.2} times apart)")
        };
        match (parameters > CAPACITY_RATIO, flops > CAPACITY_RATIO) {
            (false, true) => Some(format!(
                "{}, and {flops:.1} times apart in operations: --x flops compares at equal ones",
                alike("parameters", parameters)
            )),
            (true, false) => {
                Some(format!("{}, and {parameters:.1} times apart in parameters", alike("operations", flops)))
            }
            _ => None,
        }
    }

    /// Refuses two arms that are one experiment: their runs could not be compared when all are trained.
    ///
    /// # Errors
    /// When there are such arms; when a configuration is not TOML.
    pub fn refuse_twins(&self) -> Result<()> {
        let settings = self.arms.iter().map(|arm| Ok(of_arm(&arm.settings()?)));
        let settings: Vec<Settings> = settings.collect::<Result<_>>()?;
        for (number, own) in settings.iter().enumerate() {
            if let Some(first) = settings[..number].iter().position(|other| other == own) {
                let [a, b] = [first, number].map(|arm| &self.arms[arm].name);
                return Err(Error::Usage {
                    message: format!("the arms {a} and {b} are the same experiment"),
                    hint: Some("leave one of them out; --seeds N trains an arm several times".into()),
                });
            }
        }
        Ok(())
    }

    /// Refuses arms on different images: scores of one set say nothing beside those of another.
    ///
    /// # Errors
    /// With the setting that differs; when a configuration is not TOML.
    pub fn refuse_other_images(&self) -> Result<()> {
        let settings: Vec<Settings> = self.arms.iter().map(PlannedArm::settings).collect::<Result<_>>()?;
        let found = differences(&settings.iter().collect::<Vec<_>>());
        match found.iter().find(|difference| IMAGES.contains(&difference.key.as_str())) {
            None => Ok(()),
            Some(difference) => Err(Error::Usage {
                message: format!("the arms have different images: {}", self.in_words(difference)),
                hint: Some(
                    "a study trains all arms on one set of one size: name it with --data, --res or --set"
                        .into(),
                ),
            }),
        }
    }

    /// The setting's values, each with the arms that have it; of three arms and more, most arms are "the others".
    fn in_words(&self, difference: &Difference) -> String {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for (arm, value) in self.arms.iter().zip(&difference.values) {
            let value = value.as_deref().unwrap_or("not set");
            match groups.iter_mut().find(|(other, _)| *other == value) {
                Some((_, names)) => names.push(&arm.name),
                None => groups.push((value, vec![&arm.name])),
            }
        }
        groups.sort_by_key(|(_, names)| names.len());
        let last = groups.len() - 1;
        let words = groups.iter().enumerate().map(|(i, (value, names))| match names.len() {
            3.. if i == last => format!("{value} for the others"),
            _ => format!("{value} for {}", names.join(", ")),
        });
        format!("{} is {}", difference.key, words.collect::<Vec<_>>().join(" and "))
    }

    /// Every run of the study, seed by seed, so that a study cut short has arms with equal seeds.
    pub fn tasks(&self, study: &Path) -> Vec<Task> {
        let of = |seed: u64, arm: usize, name: &str| Task {
            arm,
            seed,
            outdir: study.join(name).join(format!("seed{seed}")),
        };
        let arms = || self.arms.iter().enumerate();
        self.seeds
            .iter()
            .flat_map(|&seed| arms().map(move |(arm, planned)| of(seed, arm, &planned.name)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(configs: [&str; 2], parameters: [u64; 2], flops: [u64; 2]) -> Plan {
        let arm = |i: usize| PlannedArm {
            name: ["a", "b"][i].into(),
            parameters: parameters[i],
            flops: flops[i],
            config: configs[i].into(),
        };
        Plan { seeds: vec![0, 1], arms: vec![arm(0), arm(1)], ..Plan::default() }
    }

    const NEST: &str = "[model]\nkind = 'nest'\n[train]\nbatch = 8\n";
    const SAGAN: &str = "[model]\nkind = 'sagan'\nwidth = 3\n[train]\nbatch = 8\n";

    #[test]
    fn only_generators_of_one_class_may_differ() {
        assert!(plan([NEST, SAGAN], [100, 105], [7, 900]).unfair().unwrap().is_empty());
        assert!(plan([NEST, SAGAN], [100, 500], [700, 701]).unfair().unwrap().is_empty());
        let capacity = plan([NEST, SAGAN], [100, 200], [100, 300]).unfair().unwrap();
        assert!(capacity[0].contains("2.00 times") && capacity[0].contains("3.00 times"), "{capacity:?}");
        assert_eq!(plan([NEST, SAGAN], [100, 130], [130, 100]).unfair().unwrap().len(), 1);
        assert!(plan([NEST, SAGAN], [100, 130], [120, 100]).unfair().unwrap().is_empty());
        let batch = plan([NEST, &SAGAN.replace('8', "16")], [1, 1], [1, 1]).unfair().unwrap();
        assert_eq!(batch, ["train.batch is 8 for a and 16 for b"]);
    }

    #[test]
    fn networks_of_another_size_are_called_what_they_are() {
        let said = |config: &str| plan([config, config], [100, 200], [100, 300]).unfair().unwrap().remove(0);
        assert!(said(NEST).starts_with("the classifiers match neither"), "{}", said(NEST));
        let generator = format!("{NEST}[discriminator]\nresolution = 32\n");
        assert!(said(&generator).starts_with("the generators match neither"), "{}", said(&generator));
    }

    #[test]
    fn an_arm_under_two_names_is_refused() {
        assert!(plan([NEST, SAGAN], [1, 1], [1, 1]).refuse_twins().is_ok());
        let same = NEST.to_owned() + "seed = 3\n[data]\nworkers = 4\n";
        let error = plan([NEST, &same], [1, 1], [1, 1]).refuse_twins().unwrap_err().to_string();
        assert_eq!(error, "the arms a and b are the same experiment");
    }

    #[test]
    fn what_is_unfair_is_said_once_however_many_arms_there_are() {
        let mut many = plan([NEST, NEST], [1, 1], [1, 1]);
        for name in ["c", "d"] {
            let arm = PlannedArm { name: name.into(), ..many.arms[0].clone() };
            many.arms.push(arm);
        }
        many.arms[1].config = NEST.replace('8', "16");
        assert_eq!(many.unfair().unwrap(), ["train.batch is 16 for b and 8 for the others"]);
    }

    #[test]
    fn what_is_equal_in_one_measure_alone_is_said() {
        let said = |parameters, flops| plan([NEST, SAGAN], parameters, flops).unequal();
        assert_eq!(said([100, 120], [100, 120]), None);
        assert!(said([100, 100], [100, 720]).unwrap().contains("7.2 times apart in operations"));
        assert!(said([100, 300], [100, 100]).unwrap().contains("3.0 times apart in parameters"));
        // Unequal in both is unfair, which is said elsewhere.
        assert_eq!(said([100, 300], [100, 300]), None);
    }

    #[test]
    fn a_study_goes_on_only_as_itself_but_may_grow() {
        let dir = tempfile::tempdir().unwrap();
        let mut study = plan([NEST, SAGAN], [1, 1], [1, 1]);
        study.open(dir.path()).unwrap();
        std::fs::create_dir_all(&study.tasks(dir.path())[0].outdir).unwrap();
        study.seeds.push(2);
        study.open(dir.path()).unwrap();
        // What changes nothing: how many workers there are, which states are kept.
        let otherwise = |more: &str| {
            let config = |config: &str| format!("{config}{more}");
            let mut study = plan([&config(NEST), &config(SAGAN)], [1, 1], [1, 1]);
            study.seeds.push(2);
            study.open(dir.path()).map(drop).map_err(|error| error.to_string())
        };
        otherwise("keep_states = 3\n[data]\nworkers = 4\n").unwrap();
        for (more, says) in
            [("[data]\npath = 'other'\n", "data.path"), ("tick_kimg = 2.0\n", "train.tick_kimg")]
        {
            assert!(otherwise(more).unwrap_err().contains(says), "{more}");
        }
        let other = plan([NEST, &SAGAN.replace("width = 3", "width = 4")], [1, 1], [1, 1]);
        let error = other.open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("model.width is 3 for b"), "{error}");
        study.seeds.truncate(1);
        assert!(study.open(dir.path()).unwrap_err().to_string().contains("seed"));
    }

    #[test]
    fn arms_see_the_same_images() {
        for key in ["path", "test_split", "max_test", "hold_out"] {
            let other = format!("{SAGAN}[data]\n{key} = 5\n");
            let error = plan([NEST, &other], [1, 1], [1, 1]).refuse_other_images().unwrap_err().to_string();
            assert!(error.contains(&format!("data.{key}")), "{error}");
        }
        plan([NEST, SAGAN], [1, 1], [1, 1]).refuse_other_images().unwrap();
    }

    #[test]
    fn a_study_without_a_run_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let study = plan([NEST, SAGAN], [1, 1], [1, 1]);
        study.open(dir.path()).unwrap();
        let other = plan([NEST, &SAGAN.replace("width = 3", "width = 4")], [1, 1], [1, 1]);
        other.open(dir.path()).unwrap();
        std::fs::create_dir_all(&other.tasks(dir.path())[0].outdir).unwrap();
        assert!(study.open(dir.path()).unwrap_err().to_string().contains("model.width is 4 for b"));
    }

    #[test]
    fn runs_come_seed_by_seed() {
        let tasks = plan([NEST, SAGAN], [1, 1], [1, 1]).tasks(Path::new("study"));
        let order: Vec<(u64, usize)> = tasks.iter().map(|task| (task.seed, task.arm)).collect();
        assert_eq!(order, [(0, 0), (0, 1), (1, 0), (1, 1)]);
        assert_eq!(tasks[1].outdir, Path::new("study/b/seed0"));
    }
}
