//! `provenance.json` in a run folder: what a result must be known by, beyond its configuration.

use std::path::Path;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::device::describe;
use crate::error::{Error, Result};
use crate::train::settings::TrainConfig;

/// The file's name.
pub const FILE: &str = "provenance.json";

/// Where a run comes from and what it costs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// The command line.
    pub command: String,
    /// The program's version.
    pub version: String,
    /// The git commit that the program was built from, with `-dirty` if the tree had changes; empty if unknown.
    pub commit: String,
    /// What computed: `cpu, 2 threads` or `cuda:0, NVIDIA H100`.
    pub device: String,
    /// SHA-256 of the data set, or of that and the part of it that was used.
    pub data_digest: String,
    /// Images that are trained on.
    pub data_images: u64,
    /// The state whose weights the run began with; empty where they were random.
    pub initial: String,
    /// The command lines that went on with it later, each with the commit of its program.
    pub resumed: Vec<String>,
    /// The lengths that it had before, where it was made longer on the way and its rates are drawn out over its length.
    pub lengths: Vec<String>,
    /// The generator.
    pub generator: Network,
    /// The discriminator.
    pub discriminator: Network,
    /// The classifier, in the place of the other two.
    pub classifier: Network,
    /// Floating-point operations of one generator step with its discriminator steps ([`flops_per_step`]), or of one
    /// step of a classifier.
    pub flops_per_step: f64,
}

/// The size of a network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Trained numbers.
    pub parameters: u64,
    /// Floating-point operations to run it forward on one image.
    pub flops: u64,
}

/// Between the devices of a run that has changed its device.
pub(super) const THEN: &str = ", then ";

impl Provenance {
    /// What this process knows of itself: its command line, version and commit, beside the device it computes on.
    pub fn of_process(device: &Device) -> Self {
        let command: Vec<String> =
            std::env::args_os().map(|part| part.to_string_lossy().into_owned()).collect();
        Self {
            command: command.join(" "),
            version: env!("CARGO_PKG_VERSION").into(),
            commit: env!("NESTGEN_COMMIT").into(),
            device: describe(device),
            ..Self::default()
        }
    }

    /// This process's record for a run that it goes on with: the command, commit and version are those that began it, and devices
    /// follow one another, since seconds are compared between runs on the same ones.
    pub fn after(self, before: Self) -> Self {
        let mut resumed = before.resumed;
        resumed.push(format!("{} ({})", self.command, self.commit));
        let last = before.device.rsplit(THEN).next().unwrap_or_default();
        let device = if before.device.is_empty() {
            self.device
        } else if last == self.device {
            before.device
        } else {
            format!("{}{THEN}{}", before.device, self.device)
        };
        Self {
            command: before.command,
            version: before.version,
            commit: before.commit,
            device,
            initial: before.initial,
            lengths: before.lengths,
            // The same images, by the name they were recorded under: runs are compared by it.
            data_digest: if before.data_digest.is_empty() { self.data_digest } else { before.data_digest },
            resumed,
            ..self
        }
    }

    /// Refuses to go on with the run of this record on images that go by none of `digests`.
    ///
    /// # Errors
    /// When there is a digest in the record, and it is another.
    pub fn refuse_other_images(&self, run: &Path, digests: &[&str]) -> Result<()> {
        if self.data_digest.is_empty() || digests.contains(&self.data_digest.as_str()) {
            return Ok(());
        }
        let short = |digest: &str| digest.get(..12).unwrap_or(digest).to_owned();
        Err(Error::Usage {
            message: format!(
                "`{}` began with other images: their SHA-256 was {}…, now it is {}…",
                run.display(),
                short(&self.data_digest),
                digests.first().map_or(String::new(), |digest| short(digest))
            ),
            hint: Some(format!(
                "name the images of then with --data, wherever they lie now; `nestgen {} --transfer` begins a new run from its \
                 weights on others",
                if self.classifier.parameters > 0 { "classify train" } else { "train" }
            )),
        })
    }

    /// Whether a study trained the run: several in one process.
    pub fn is_of_study(&self) -> bool {
        self.command.split_whitespace().nth(1) == Some("study")
    }

    /// The text of the file.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self);
        #[expect(clippy::expect_used, reason = "strings and numbers always serialise")]
        json.expect("plain data")
    }

    /// Reads the file of a run folder; `None` if there is none.
    ///
    /// # Errors
    /// When it cannot be read or is not what it should be.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        let path = run.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let parsed = serde_json::from_str(&text);
        parsed.map(Some).map_err(|error| Error::Usage {
            message: format!("`{}` is not a record of provenance: {error}", path.display()),
            hint: Some("remove it to compare the run without it".into()),
        })
    }
}

/// Counted operations of one generator step together with the discriminator steps that go with it.
///
/// A backward pass costs two forward passes: one for the gradients of the inputs, one for those of the weights.
/// The discriminator's weights have no gradients in a generator step. A gradient penalty, where it is due, costs a
/// pass for its gradients and two for the way back through them and through the network; it is spread over its
/// interval. Optimizers, averages and augmentation are left out: they are linear in parameters or pixels.
pub fn flops_per_step(train: &TrainConfig, generator_flops: u64, discriminator_flops: u64) -> f64 {
    let (g, d) = (generator_flops as f64, discriminator_flops as f64);
    let penalties =
        [train.penalty.r1_gamma, train.penalty.r2_gamma].iter().filter(|&&gamma| gamma > 0.0).count();
    let penalty = penalties as f64 * 3.0 * d / train.penalty.interval.max(1) as f64;
    let discriminator_step = g + 2.0 * 3.0 * d + penalty;
    let pairs = if train.loss.pairs() { d } else { 0.0 };
    let generator_step = 3.0 * g + 2.0 * d + pairs;
    train.batch as f64 * (train.d_steps as f64 * discriminator_step + generator_step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_of_a_step_add_up() {
        let mut train = TrainConfig { batch: 4, d_steps: 2, ..TrainConfig::default() };
        // Twice (G + 6 D), then 3 G + 2 D, for four images.
        assert_eq!(flops_per_step(&train, 10, 1), 4.0 * (2.0 * 16.0 + 32.0));
        train.penalty.r1_gamma = 1.0;
        train.penalty.interval = 16;
        assert_eq!(flops_per_step(&train, 0, 16), 4.0 * (2.0 * (96.0 + 3.0) + 32.0));
    }

    #[test]
    fn a_run_that_goes_on_keeps_its_beginning_and_its_images() {
        let began = Provenance {
            command: "first".into(),
            commit: "abc".into(),
            data_digest: "feedfeedfeedfeed".into(),
            initial: "another".into(),
            ..Provenance::default()
        };
        let now = Provenance { command: "second".into(), commit: "def".into(), ..began.clone() };
        let record = now.clone().after(began.clone());
        assert_eq!((&*record.command, &*record.commit, &*record.initial), ("first", "abc", "another"));
        assert_eq!(now.after(record).resumed, ["second (def)", "second (def)"]);
        let on = |device: &str| Provenance { device: device.into(), ..Provenance::default() };
        let resumed =
            ["a GPU", "cpu", "cpu", "a GPU"].map(on).into_iter().reduce(|before, now| now.after(before));
        assert_eq!(resumed.unwrap().device, "a GPU, then cpu, then a GPU");
        assert_eq!((&*on("cpu").after(on("")).device, &*on("cpu").after(on("cpu")).device), ("cpu", "cpu"));
        let refused = |digests: &[&str]| began.refuse_other_images(Path::new("run"), digests).err();
        assert!(refused(&["else", "feedfeedfeedfeed"]).is_none());
        let error = refused(&["f00df00df00df00d"]).unwrap().to_string();
        assert!(error.contains("was feedfeedfeed…, now it is f00df00df00d…"), "{error}");
    }

    #[test]
    fn the_file_reads_back_and_older_files_lack_fields() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Provenance::read(dir.path()).unwrap(), None);
        let written = Provenance { commit: "abc".into(), flops_per_step: 2.5e9, ..Provenance::default() };
        std::fs::write(dir.path().join(FILE), written.to_json()).unwrap();
        assert_eq!(Provenance::read(dir.path()).unwrap(), Some(written));
        std::fs::write(dir.path().join(FILE), r#"{"device":"cpu"}"#).unwrap();
        assert_eq!(Provenance::read(dir.path()).unwrap().unwrap().device, "cpu");
        std::fs::write(dir.path().join(FILE), "[").unwrap();
        assert!(Provenance::read(dir.path()).is_err());
    }
}
