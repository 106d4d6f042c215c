//! What ends an epoch: the test, statistics, `summary.csv`, the best model, the state to resume from.

use std::path::PathBuf;

use candle_core::Tensor;

use super::evaluate::{Evaluation, evaluate};
use super::training::{Event, Position, Training};
use crate::error::{Error, Result};
use crate::models::Classifier;
use crate::train::grid::Picture;
use crate::train::parallel::check_same;
use crate::train::resources;
use crate::train::score;
use crate::train::state::{self, Best, CONFIG, LAST, SavedState, StateTensors};
use crate::train::stats::{STATS, append_line, rewind_lines, unix_secs};
use crate::train::tensors::{self, Metadata};

/// The weights of the best epoch, under timm's names.
pub const MODEL_BEST: &str = "model_best.safetensors";

/// The images of the first step as the classifier sees them, augmented and mixed; on several ranks the first one's share.
const FIRST_BATCH: &str = "first_batch.png";
/// Most of them that are shown, and in a row.
const SHOWN: usize = 64;
const COLUMNS: usize = 8;

/// The format tag of saved classifiers.
pub const FORMAT: &str = "nestgen classifier 1";

/// Where a saved classifier says which images it was trained on: their digest.
pub const DATA_DIGEST: &str = "data_digest";
/// The digest of the set that their pack was made of.
pub const PACKED_FROM: &str = "packed_from";
/// Where it says which images it was tested on: those of the same digest were held out of the set.
pub const TEST_DIGEST: &str = "test_digest";

/// The tensors of a state.
pub const TENSOR_FILES: [&str; 2] = ["classifier", "adam"];
/// The same with averaged weights.
pub const TENSOR_FILES_EMA: [&str; 3] = ["classifier", "adam", "classifier-ema"];

/// timm's columns, then ours.
pub const SUMMARY: &str = "summary.csv";
const SUMMARY_HEADER: &str =
    "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr,images_per_sec,train_secs,wall_secs\n";

/// What a file of a classifier says of itself; `None` if it is not one of ours.
pub fn model_metadata(metadata: &Metadata) -> Option<(&str, Vec<String>)> {
    let ours = metadata.get("format").is_some_and(|format| format == FORMAT);
    let classes = serde_json::from_str(metadata.get("classes")?).ok()?;
    Some((metadata.get("config").filter(|_| ours)?, classes))
}

impl Training<'_> {
    /// Opens the run on the first rank; makes sure that all have the same network.
    pub(super) fn open_together(&mut self) -> Result<()> {
        if self.session.ranks.is_first() {
            self.open()?;
        }
        check_same(self.session.ranks, "the classifier", self.classifier.params())
    }

    /// Fills the folder of a new run, or rewinds the files of a resumed one to where it goes on.
    fn open(&mut self) -> Result<()> {
        let (folder, position) = (self.session.folder, &self.position);
        folder.write(CONFIG, self.session.config_text.as_bytes())?;
        if position.cur_nimg == 0 {
            folder.write(SUMMARY, SUMMARY_HEADER.as_bytes())?;
        } else {
            self.rewind_summary()?;
            for name in [STATS.to_owned(), score::file_name("top1"), score::file_name("top5")] {
                rewind_lines(&folder.file(&name), position.cur_nimg as f64 / 1e3)?;
            }
            let position = &self.position;
            let into_the_next = position.cur_nimg - position.epoch_start_nimg;
            let more = if into_the_next > 0 { format!(" and {into_the_next} images") } else { String::new() };
            self.say(format!("resumed after {} epochs{more}", position.epoch))?;
            if self.position.epoch >= self.session.config.epochs {
                self.say("it is as long as it was to be: nothing is trained without more --epochs".into())?;
            }
        }
        Ok(())
    }

    pub(super) fn write_first_batch(&self, images: &Tensor) -> Result<()> {
        let shown = self.session.normalise.undo(&images.narrow(0, 0, images.dim(0)?.min(SHOWN))?)?;
        self.session.folder.write_picture(FIRST_BATCH, &Picture::grid(&shown, COLUMNS)?)?;
        Ok(())
    }

    /// Cuts off the lines of epochs that will be trained again.
    fn rewind_summary(&self) -> Result<()> {
        let path = self.session.folder.file(SUMMARY);
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let before = |line: &&str| {
            let epoch = line.split(',').next().and_then(|epoch| epoch.parse::<u64>().ok());
            epoch.is_some_and(|epoch| epoch < self.position.epoch) && line.split(',').count() == 9
        };
        let kept: String = text.lines().filter(before).flat_map(|line| [line, "\n"]).collect();
        self.session.folder.write(SUMMARY, format!("{SUMMARY_HEADER}{kept}").as_bytes())
    }

    /// Tests, which all ranks do; the first one writes everything down and saves. `lr` is that of the last step.
    pub(super) fn end_epoch(&mut self, lr: f64) -> Result<()> {
        let (config, ranks) = (self.session.config, self.session.ranks);
        check_same(ranks, "the classifier", self.classifier.params())?;
        self.position.epoch += 1;
        let epoch = self.position.epoch;
        let tested = if epoch.is_multiple_of(config.eval_epochs) || epoch == config.epochs {
            let model = self.ema.as_ref().unwrap_or(&self.classifier);
            Some(evaluate(model, &self.session.test, self.session.normalise, ranks, &mut |_| {})?)
        } else {
            None
        };
        self.position.wall_secs = self.before_secs + self.session_start.elapsed().as_secs_f64();
        if ranks.is_first() {
            if let Some(tested) = &tested {
                self.write_scores(tested)?;
                self.keep_best(tested)?;
            }
            self.write_epoch(tested.as_ref(), lr)?;
        }
        self.position.train_secs += self.position.epoch_secs;
        self.position.epoch_secs = 0.0;
        self.position.epoch_start_nimg = self.position.cur_nimg;
        self.save()?;
        Ok(())
    }

    /// A line of `stats.jsonl`, of `summary.csv`, and for people.
    fn write_epoch(&mut self, tested: Option<&Evaluation>, lr: f64) -> Result<()> {
        let position = &mut self.position;
        let shown = position.cur_nimg - position.epoch_start_nimg;
        let images_per_sec = shown as f64 / position.epoch_secs.max(1e-9);
        let train_secs = position.train_secs + position.epoch_secs;
        let mut report = vec![
            ("Progress/tick", position.epoch as f64),
            ("Progress/epoch", position.epoch as f64),
            ("Progress/kimg", position.cur_nimg as f64 / 1e3),
            ("Progress/lr", lr),
            ("Timing/sec_per_tick", position.epoch_secs),
            ("Timing/sec_per_kimg", 1e3 / images_per_sec),
            ("Timing/total_sec", position.wall_secs),
            ("Timing/images_per_sec", images_per_sec),
        ];
        if let Some(tested) = tested {
            report.extend([
                ("Loss/test", tested.loss),
                ("Accuracy/top1", tested.top1),
                ("Accuracy/top5", tested.top5),
            ]);
        }
        report.iter().for_each(|&(key, value)| position.collected.report(key, value));
        let device = self.classifier.params().device();
        let used = resources::report(&mut position.collected, &device, self.session.ranks);
        let train_loss = position.collected.mean("Loss/train");
        let step = position.epoch;
        if let Some(events) = &mut self.events {
            let written = events.scalars(unix_secs(), step, &position.collected.means());
            written.map_err(Error::io("write", self.session.folder.path()))?;
        }
        let line = position.collected.line(unix_secs());
        append_line(&self.session.folder.file(STATS), &line)?;

        let (wall_secs, epoch) = (self.position.wall_secs, self.position.epoch);
        let columns = match tested {
            Some(t) => format!("{},{},{}", t.loss, t.top1, t.top5),
            None => ",,".into(),
        };
        // timm counts epochs from 0.
        let row = format!(
            "{},{train_loss},{columns},{lr},{images_per_sec:.2},{train_secs:.2},{wall_secs:.2}",
            epoch - 1
        );
        append_line(&self.session.folder.file(SUMMARY), &row)?;
        let scores = tested.map_or(String::new(), |t| {
            format!(
                "  test loss {:.4}  top-1 {:.2} ± {:.2} %  top-5 {:.2} %",
                t.loss,
                t.top1,
                t.standard_error(),
                t.top5
            )
        });
        let gpu_memory = used.gpu_peak_gib.map_or_else(String::new, |gib| format!("  {gib:.2} GiB of the GPU"));
        self.say(format!(
            "epoch {epoch:<4} loss {train_loss:.4}{scores}  lr {lr:.2e}  {images_per_sec:.1} img/s  {:.2} GiB{gpu_memory}",
            used.memory_gib
        ))
    }

    /// A line of each metric's file, with everything that must be known to compare it.
    fn write_scores(&self, tested: &Evaluation) -> Result<()> {
        for (metric, value, standard_error) in [
            ("top1", tested.top1, tested.standard_error()),
            ("top5", tested.top5, tested.top5_standard_error()),
        ] {
            let line = serde_json::json!({
                "results": { metric: value },
                "metric": metric,
                "kimg": self.position.cur_nimg as f64 / 1e3,
                "standard_error": standard_error,
                "unit": "per cent",
                "test_images": tested.count,
                "test_data": self.session.test.data().digest(),
                "weights": if self.ema.is_some() { "ema" } else { "raw" },
                "timestamp": unix_secs(),
            });
            let file = self.session.folder.file(&score::file_name(metric));
            append_line(&file, &line.to_string())?;
        }
        Ok(())
    }

    /// Writes the model if it is the best so far.
    fn keep_best(&mut self, tested: &Evaluation) -> Result<()> {
        let kimg = self.position.cur_nimg as f64 / 1e3;
        let error = 100.0 - tested.top1;
        let now = Best { metric: "top1 error".into(), features: String::new(), score: error, kimg, of: 1 };
        let (best, is_now) = now.after(self.position.best.take());
        if is_now {
            self.write_model(tested, best.of)?;
        }
        self.position.best = Some(best);
        Ok(())
    }

    fn write_model(&self, tested: &Evaluation, of: u64) -> Result<()> {
        let model = self.ema.as_ref().unwrap_or(&self.classifier);
        let data = self.session.train.data();
        let classes = serde_json::json!(data.class_names()).to_string();
        let mut metadata = Metadata::from([
            ("format".into(), FORMAT.into()),
            ("weights".into(), if self.ema.is_some() { "ema" } else { "raw" }.into()),
            ("epoch".into(), self.position.epoch.to_string()),
            (
                "test".into(),
                format!("top-1 {:.2} % of {} images, best of {of} tests", tested.top1, tested.count),
            ),
            ("classes".into(), classes),
            (DATA_DIGEST.into(), data.digest().to_owned()),
            (TEST_DIGEST.into(), self.session.test.data().digest().to_owned()),
            ("config".into(), self.session.config_text.to_owned()),
        ]);
        metadata.extend(data.packed_from().map(|digest| (PACKED_FROM.into(), digest.to_owned())));
        let path = self.session.folder.file(MODEL_BEST);
        let tensors = model.timm_tensors()?;
        crate::train::files::write_atomic(&path, |file| tensors::write(file, &metadata, &tensors))
    }

    /// Saves the state, replacing the one before, which the first rank does; says where it is.
    pub(super) fn save(&mut self) -> Result<PathBuf> {
        let path = self.session.folder.file(LAST);
        if !self.session.ranks.is_first() {
            return Ok(path);
        }
        self.position.wall_secs = self.before_secs + self.session_start.elapsed().as_secs_f64();
        let named = |model: &Classifier| model.params().tensors();
        let mut tensors =
            StateTensors::from([("classifier", named(&self.classifier)), ("adam", self.adam.state()?)]);
        tensors.extend(self.ema.as_ref().map(|ema| ("classifier-ema", named(ema))));
        state::save_as(&path, &self.position, self.session.config_text, &tensors)?;
        Ok(path)
    }

    /// Goes to a saved state.
    pub(super) fn restore(&mut self, state: &SavedState<Position>) -> Result<()> {
        let tensors =
            |name: &str| state.tensors.get(name).map(Vec::as_slice).unwrap_or_default().iter().cloned();
        self.classifier.params().load(&tensors("classifier").collect())?;
        if let Some(ema) = &self.ema {
            ema.params().load(&tensors("classifier-ema").collect())?;
        }
        self.adam.load_state(&tensors("adam").collect())?;
        let class_names = std::mem::take(&mut self.position.class_names);
        self.position = Position { class_names, ..state.position.clone() };
        Ok(())
    }

    fn say(&mut self, line: String) -> Result<()> {
        self.session.folder.log(&line)?;
        (self.session.on_event)(Event::Line(line));
        Ok(())
    }
}
