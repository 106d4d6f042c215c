//! The folder of a study: whose it is, whether it holds this study, and what in it has a name already.

use std::fs::File;
use std::path::Path;

use super::plan::{Plan, PlannedArm};
use super::settings::{differences, matters};
use crate::error::{Error, Result};
use crate::train::files::{sweep, write_atomic};
use crate::train::folder;

/// The file that a plan is written to, in the study's folder.
const PLAN: &str = "study.toml";

/// The folder in a tuned study's where its choice is confirmed: a study of its own.
pub const CONFIRMED: &str = "confirmed";

impl Plan {
    /// Refuses arms whose folders, called as they are, would lie elsewhere or in the place of the study's own files.
    ///
    /// # Errors
    /// With the name.
    pub fn refuse_names(&self) -> Result<()> {
        const OWN: [&str; 2] = ["lock", CONFIRMED];
        let is_taken =
            |name: &str| name.is_empty() || name.starts_with('.') || OWN.contains(&name) || is_ours(name);
        match self.arms.iter().find(|arm| is_taken(&arm.name)) {
            None => Ok(()),
            Some(PlannedArm { name, .. }) => Err(Error::Usage {
                message: format!(
                    "an arm cannot be called `{name}`: a study keeps files of its own under such names"
                ),
                hint: Some("arms are called by their files: rename the configuration file".into()),
            }),
        }
    }

    /// Makes the study's folder, or checks that the one there holds the same study; seeds may be added. The folder is this process's
    /// until the file that is given back is dropped.
    ///
    /// # Errors
    /// When another study is there, or something else; when another process works at it.
    pub fn open(&self, study: &Path) -> Result<File> {
        let path = study.join(PLAN);
        if path.exists() {
            let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
            let other = |reason: String| Error::Usage {
                message: format!("`{}` holds another study: {reason}", study.display()),
                hint: Some("give the same settings to go on with it, or another --outdir".into()),
            };
            let before: Self = toml::from_str(&text).map_err(|error| other(error.message().to_owned()))?;
            // A study that ended in an error before its first run began is none yet.
            let begun = || before.tasks(study).iter().any(|task| task.outdir.exists());
            if let Some(reason) = self.contradicts(&before)?.filter(|_| begun()) {
                return Err(other(reason));
            }
        } else {
            refuse_others_folder(study)?;
        }
        std::fs::create_dir_all(study).map_err(Error::io("create", study))?;
        let held = folder::lock(study, "wait for it or stop it, or give another --outdir")?;
        sweep(study)?;
        let text =
            toml::to_string(self).map_err(|error| Error::Usage { message: error.to_string(), hint: None })?;
        write_atomic(&path, |file| file.write_all(text.as_bytes()))?;
        Ok(held)
    }

    /// Why runs of the plan `before` are not runs of this one.
    fn contradicts(&self, before: &Self) -> Result<Option<String>> {
        let names = |plan: &Self| plan.arms.iter().map(|arm| arm.name.clone()).collect::<Vec<_>>();
        if names(self) != names(before) {
            return Ok(Some(format!("its arms are {}", names(before).join(", "))));
        }
        for (arm, was) in self.arms.iter().zip(&before.arms) {
            let (settings, old) = (arm.settings()?, was.settings()?);
            let changed = differences(&[&settings, &old]);
            // What may change when a run is resumed: a study of before stopped where one of now warns.
            // Where scores are taken, and which images there are, stay as they were.
            const HELD: [&str; 3] = ["data.path", "train.tick_kimg", "train.eval_epochs"];
            let held = |key: &str| key.starts_with("eval.") || HELD.contains(&key);
            let free = |key: &str| !matters(key) && !held(key) || key.starts_with("train.guard.");
            if let Some(change) = changed.iter().find(|change| !free(&change.key)) {
                let was = change.values.last().cloned().flatten().unwrap_or_else(|| "not set".into());
                return Ok(Some(format!("there, {} is {was} for {}", change.key, arm.name)));
            }
        }
        let short =
            |digests: &[String]| digests.first().and_then(|digest| digest.get(..12)).unwrap_or("").to_owned();
        for (what, now, was) in
            [("images", &self.images, &before.images), ("test images", &self.test_images, &before.test_images)]
        {
            // Studies of before have noted none.
            if !now.is_empty() && !was.is_empty() && !now.iter().any(|digest| was.contains(digest)) {
                let (was, now) = (short(was), short(now));
                return Ok(Some(format!("the SHA-256 of its {what} was {was}…, now it is {now}…")));
            }
        }
        let missing = before.seeds.iter().find(|seed| !self.seeds.contains(seed));
        Ok(missing.map(|seed| format!("it has seed {seed} as well")))
    }
}

/// Whether a study writes files of such names into its folder.
fn is_ours(name: &str) -> bool {
    [".toml", ".csv", ".md", ".svg", ".html"].iter().any(|ending| name.ends_with(ending))
}

/// Refuses a folder without a study that holds files such as a study replaces.
fn refuse_others_folder(study: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(study) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read", study)(error)),
    };
    for entry in entries {
        let name = entry.map_err(Error::io("read", study))?.file_name().to_string_lossy().into_owned();
        if is_ours(&name) && !name.starts_with('.') {
            return Err(Error::Usage {
                message: format!("`{}` holds no study, but `{name}`", study.display()),
                hint: Some("name another --outdir: a study has its folder, and files that end like this one, to itself".into()),
            });
        }
    }
    Ok(())
}
