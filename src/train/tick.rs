//! What happens between steps: statistics, pictures, scores, snapshots, states.

use std::path::PathBuf;

use candle_core::{Device, Tensor};

use super::adversarial::Training;
use super::event::Event;
use super::fakes::{generate, seed_latent};
use super::folder::{BEST, snapshot_name};
use super::grid::{Picture, diversity};
use super::guard::{Judged, Signs, Trouble};
use super::held_out::Opinions;
use super::resources;
use super::schedule::Length;
use super::score::{self, Score};
use super::state::{self, Best, CONFIG, FORMAT, Position, StateTensors};
use super::stats::{STATS, append_line, clock_time, unix_secs};
use super::tensorboard::EventFile;
use super::tensors::{self, Metadata};
use crate::error::{Error, Result};

/// Images that are drawn at once for pictures.
const PICTURE_BATCH: usize = 16;

impl Training<'_> {
    /// Fills the folder of a new run, or rewinds the files of a resumed one to where it goes on.
    pub(super) fn open(&mut self) -> Result<()> {
        let (config, folder) = (self.session.config, self.session.folder);
        let events = EventFile::create(folder.path(), unix_secs());
        self.events = Some(events.map_err(Error::io("write", folder.path()))?);
        folder.write(CONFIG, self.session.config_text.as_bytes())?;
        if self.session.evaluate.as_ref().is_some_and(|(evaluate, _)| !evaluate.ranks_generators()) {
            self.say("scores in random features choose no best snapshot and end no run".into())?;
        }
        if config.snap_ticks > 0 && config.tick_kimg * (config.snap_ticks as f64) < 1.0 {
            self.say(
                "snapshots and states are named in whole kimg: those closer together replace one another"
                    .into(),
            )?;
        }
        if let Some((_, every_kimg)) = &self.session.evaluate
            && *every_kimg < config.tick_kimg
        {
            self.say(format!("scores are taken where a tick ends, every {} kimg", config.tick_kimg))?;
        }
        if config.minutes > 0.0 {
            self.length = self.timed(config.minutes * 60.0);
        }
        let guess = (config.kimg * 1e3) as u64;
        self.position.total_nimg =
            self.length.total_nimg(self.position.cur_nimg, self.position.elapsed_secs, guess);

        let cells = config.grid.iter().product::<usize>();
        let reals = self.session.real_images.first_images(cells)?;
        self.real_diversity = diversity(&reals)?;
        folder.write_picture("reals.png", &Picture::grid(&reals, config.grid[0])?)?;
        if self.position.cur_nimg == 0 {
            if let Some(augmented) = config.augment.preview(&reals)? {
                folder.write_picture("reals_augmented.png", &Picture::grid(&augmented, config.grid[0])?)?;
            }
            let fakes = self.fixed_fakes()?;
            folder.write_picture("fakes_init.png", &Picture::grid(&fakes, config.grid[0])?)?;
        } else {
            self.rewind()?;
            self.say(format!("resumed at {:.3} kimg", self.position.kimg()))?;
            let over = self.length.is_over(self.position.cur_nimg, self.position.elapsed_secs);
            if over && !self.tick_is_due(over) {
                self.say(
                    "it is as long as it was to be: nothing is trained without a longer --kimg or --minutes"
                        .into(),
                )?;
            }
            let beyond = folder.set_aside_beyond(&self.position)?;
            if beyond > 0 {
                self.say(format!("{beyond} files of later kimg are now called abandoned-…"))?;
            }
        }
        Ok(())
    }

    /// Whether a tick is to be ended before the next step: where it is as long as it should be, or the run is over.
    pub(super) fn tick_is_due(&self, over: bool) -> bool {
        let tick_nimg = self.position.cur_nimg - self.position.tick_start_nimg;
        tick_nimg as f64 >= self.session.config.tick_kimg * 1e3 || over && tick_nimg > 0
    }

    /// Ends a tick; `over` at the end of the run, which has everything a tick can have. A tick that is stopped while it is scored stays due:
    /// the run ends it when it is resumed.
    pub(super) fn tick(&mut self, over: bool) -> Result<Option<Trouble>> {
        let config = self.session.config;
        let maintenance_start_secs = self.clock.elapsed_secs();
        let train_secs = maintenance_start_secs - self.clock.tick_start_secs;
        let Some(scores) = self.scores_if_due(over)? else {
            // No time of training.
            self.clock.tick_start_secs += self.clock.elapsed_secs() - maintenance_start_secs;
            return Ok(None);
        };
        self.position.tick += 1;
        let due = |every: u64| over || (every > 0 && self.position.tick.is_multiple_of(every));
        let (picture_due, snap_due) = (due(config.image_ticks), due(config.snap_ticks));

        let mut signs = Signs {
            kimg: self.position.kimg(),
            diversity: None,
            logit_gap: self.position.collected.mean("Logits/real")
                - self.position.collected.mean("Logits/fake"),
            score: None,
        };
        if picture_due {
            let fakes = self.fixed_fakes()?;
            // One image, or real ones that are all the same, have no spread to compare with.
            if self.real_diversity > 0.0 {
                let share = diversity(&fakes)? / self.real_diversity;
                self.position.collected.report("Fakes/diversity", share);
                signs.diversity = Some(share);
            }
            self.look_for_overfitting(&fakes)?;
            self.write_fakes(&fakes)?;
        }
        signs.score = self.judge(&scores)?;
        self.write_statistics(train_secs)?;

        let mut trouble = self.position.guard.judge(&config.guard, &signs);
        self.position.tick_start_nimg = self.position.cur_nimg;
        if snap_due {
            trouble = self.broken_weights()?.or(trouble);
        }
        if snap_due && !over && trouble.as_ref().is_none_or(|trouble| self.goes_on(trouble)) {
            self.save()?;
        }
        let now_secs = self.clock.elapsed_secs();
        self.clock.maintenance_secs = now_secs - maintenance_start_secs;
        self.clock.longest_maintenance_secs =
            self.clock.longest_maintenance_secs.max(self.clock.maintenance_secs);
        self.clock.tick_start_secs = now_secs;
        self.stretch(now_secs);
        Ok(trouble)
    }

    /// Fits a timed run to its speed, leaving time for the last score and save.
    fn stretch(&mut self, now_secs: f64) {
        if let Length::Seconds { total_secs, .. } = self.length {
            self.length = self.timed(total_secs);
            self.position.total_nimg =
                self.length.total_nimg(self.position.cur_nimg, now_secs, self.position.total_nimg);
        }
    }

    /// A length in time, of which as much is kept for the end as the end of a tick has taken at most.
    fn timed(&self, total_secs: f64) -> Length {
        let reserve_secs = self.clock.longest_maintenance_secs.max(least_reserve_secs(total_secs));
        Length::Seconds { total_secs, reserve_secs: reserve_secs.min(total_secs / 2.0) }
    }

    /// The averaged generator's images of seeds 0, 1, ...
    fn fixed_fakes(&self) -> Result<Tensor> {
        let (generator, cells) =
            (&self.networks.generator_ema, self.session.config.grid.iter().product::<usize>());
        let z_dim = generator.z_dim();
        let rows = (0..cells as u64).flat_map(|seed| seed_latent(seed, z_dim)).collect::<Vec<f32>>();
        let latents = Tensor::from_vec(rows, (cells, z_dim), &Device::Cpu)?;
        Ok(generate(generator, &latents, PICTURE_BATCH)?)
    }

    fn write_fakes(&mut self, fakes: &Tensor) -> Result<()> {
        let picture = Picture::grid(fakes, self.session.config.grid[0])?;
        let name = format!("fakes{:06}.png", self.position.cur_nimg / 1000);
        let png = self.session.folder.write_picture(&name, &picture)?;
        let size = [picture.width, picture.height];
        let step = self.position.cur_nimg / 1000;
        if let Some(events) = &mut self.events {
            let written = events.image(unix_secs(), step, "Fakes", size, &png);
            written.map_err(Error::io("write", self.session.folder.path()))?;
        }
        Ok(())
    }

    /// What D thinks of as many images it trains on, never saw, and must refuse; nothing of it changes training.
    fn look_for_overfitting(&mut self, fakes: &Tensor) -> Result<()> {
        let Some(held_out) = &self.session.held_out else { return Ok(()) };
        let count = fakes.dims().first().copied().unwrap_or(0).min(held_out.len());
        let (seen, unseen) = (self.session.real_images.first_images(count)?, held_out.images(count)?);
        let opinions = Opinions::of(&self.networks.discriminator, &seen, &unseen, fakes)?;
        for (key, value) in [
            ("Overfitting/seen", opinions.seen),
            ("Overfitting/held_out", opinions.held_out),
            ("Overfitting/fake", opinions.fake),
            ("Overfitting/share", opinions.share()),
        ] {
            self.position.collected.report(key, value);
        }
        Ok(())
    }

    fn write_statistics(&mut self, train_secs: f64) -> Result<()> {
        let tick_nimg = self.position.cur_nimg - self.position.tick_start_nimg;
        let elapsed_secs = self.clock.elapsed_secs();
        let sec_per_kimg = train_secs / (tick_nimg.max(1) as f64 / 1e3);
        let lr_factor = self.lr_factor();
        let position = &mut self.position;
        for (key, value) in [
            ("Progress/tick", position.tick as f64),
            ("Progress/kimg", position.cur_nimg as f64 / 1e3),
            ("Progress/augment", position.augment.probability),
            ("Progress/lr_factor", lr_factor),
            ("Timing/total_sec", elapsed_secs),
            ("Timing/sec_per_tick", train_secs),
            ("Timing/sec_per_kimg", sec_per_kimg),
            // Of the tick before, as in StyleGAN's files: this one's is not over.
            ("Timing/maintenance_sec", self.clock.maintenance_secs),
        ] {
            position.collected.report(key, value);
        }
        let device = self.networks.generator.params().device();
        let used = resources::report(&mut position.collected, &device, self.session.ranks);
        let mean = |key| position.collected.mean(key);
        let memory = used.memory_gib;
        let gpu_memory = used.gpu_peak_gib.map_or_else(String::new, |gib| format!("gpumem {gib:<6.2} "));
        let text = format!(
            "tick {:<5} kimg {:<9.1} time {:<9} sec/tick {:<8.1} sec/kimg {:<8.2} cpumem {memory:<6.2} {gpu_memory}augment {:<6.3} \
             D {:.3} G {:.3} real {:+.2} fake {:+.2}",
            position.tick,
            position.cur_nimg as f64 / 1e3,
            clock_time(elapsed_secs),
            train_secs,
            sec_per_kimg,
            position.augment.probability,
            mean("Loss/D"),
            mean("Loss/G"),
            mean("Logits/real"),
            mean("Logits/fake"),
        );
        let step = position.cur_nimg / 1000;
        if let Some(events) = &mut self.events {
            let written = events.scalars(unix_secs(), step, &position.collected.means());
            written.map_err(Error::io("write", self.session.folder.path()))?;
        }
        let line = position.collected.line(unix_secs());
        append_line(&self.session.folder.file(STATS), &line)?;
        self.say(text)
    }

    /// Scores of the averaged generator when their time has come, else none; `None` when it was stopped.
    fn scores_if_due(&mut self, over: bool) -> Result<Option<Vec<Score>>> {
        match &mut self.session.evaluate {
            Some((evaluate, every_kimg)) if is_scored(&self.position, *every_kimg, over) => {
                evaluate.score(&self.networks.generator_ema, self.session.stop)
            }
            _ => Ok(Some(Vec::new())),
        }
    }

    /// Writes scores down, keeps the best generator, and gives the first score beside the best one so far.
    fn judge(&mut self, scores: &[Score]) -> Result<Option<Judged>> {
        for score in scores {
            self.write_score(score)?;
        }
        // What does not tell better from worse chooses no best and ends no run.
        let ranks = self.session.evaluate.as_ref().is_some_and(|(evaluate, _)| evaluate.ranks_generators());
        let Some(first) = scores.first().filter(|_| ranks).cloned() else { return Ok(None) };
        let before = self.position.best.take().filter(|best| best.is_of(&first));
        if before.is_none() {
            self.position.guard.forget_scores();
        }
        let (best, is_new) = Best::of(&first, self.position.kimg()).after(before);
        let lowest = best.score;
        self.position.best = Some(best);
        if is_new {
            self.write_snapshot(BEST)?;
        }
        Ok(Some(Judged {
            score: first.value,
            best: lowest,
            standard_error: first.standard_error.unwrap_or(0.0),
        }))
    }

    fn write_score(&mut self, score: &Score) -> Result<()> {
        let kimg = self.position.kimg();
        let snapshot = snapshot_name(self.position.cur_nimg);
        let file = self.session.folder.file(&score::file_name(&score.metric));
        append_line(&file, &score.line(kimg, &snapshot, unix_secs()))?;
        self.position.collected.report(&format!("Metrics/{}", score.metric), score.value);
        self.say(score.at(kimg))
    }

    /// Saves a snapshot and a training state, which the first rank does; says where they are.
    pub(super) fn save(&mut self) -> Result<(PathBuf, PathBuf)> {
        let name = snapshot_name(self.position.cur_nimg);
        let snapshot = self.session.folder.file(&name);
        if self.session.ranks.is_first() {
            self.write_snapshot(&name)?;
        }
        Ok((snapshot, self.save_state()?))
    }

    /// Saves what a run that was told to stop goes on from. A snapshot of the same kimg in its name, which may have been scored, stays.
    pub(super) fn save_stopped(&mut self) -> Result<PathBuf> {
        let name = snapshot_name(self.position.cur_nimg);
        if self.session.ranks.is_first() && !self.session.folder.file(&name).exists() {
            self.write_snapshot(&name)?;
        }
        self.save_state()
    }

    fn save_state(&mut self) -> Result<PathBuf> {
        if !self.session.ranks.is_first() {
            return Ok(state::state_path(self.session.folder.path(), self.position.cur_nimg));
        }
        self.position.elapsed_secs = self.clock.elapsed_secs();
        self.position.longest_maintenance_secs = self.clock.longest_maintenance_secs;
        let in_a_tick = self.position.cur_nimg > self.position.tick_start_nimg;
        self.position.tick_secs =
            if in_a_tick { self.position.elapsed_secs - self.clock.tick_start_secs } else { 0.0 };
        let networks = &self.networks;
        let tensors = StateTensors::from([
            ("generator", networks.generator.params().tensors()),
            ("discriminator", networks.discriminator.params().tensors()),
            ("generator-ema", networks.generator_ema.params().tensors()),
            ("generator-adam", self.adam_g.state()?),
            ("discriminator-adam", self.adam_d.state()?),
        ]);
        let run = self.session.folder.path();
        let state = state::save(run, &self.position, self.session.config_text, &tensors)?;
        state::prune(run, self.session.config.keep_states)?;
        self.say(format!("saved {:.3} kimg", self.position.kimg()))?;
        Ok(state)
    }

    pub(super) fn write_snapshot(&self, name: &str) -> Result<PathBuf> {
        let mut metadata = Metadata::from([
            ("format".into(), FORMAT.into()),
            ("weights".into(), "ema".into()),
            ("kimg".into(), format!("{:.3}", self.position.kimg())),
            ("config".into(), self.session.config_text.to_owned()),
        ]);
        if let Some(Best { metric, score, kimg, of, .. }) = &self.position.best {
            let best = format!("{metric} {score:.6} at {kimg:.3} kimg, best of {of}");
            metadata.insert("best".into(), best);
        }
        let path = self.session.folder.file(name);
        let tensors = self.networks.generator_ema.params().tensors();
        super::files::write_atomic(&path, |file| tensors::write(file, &metadata, &tensors))?;
        Ok(path)
    }

    fn say(&mut self, line: String) -> Result<()> {
        self.session.folder.log(&line)?;
        (self.session.on_event)(Event::Line(line));
        Ok(())
    }
}

/// Whether the tick that ends here is scored, as every so many kimg and the last one are.
pub(super) fn is_scored(position: &Position, every_kimg: f64, over: bool) -> bool {
    let every_nimg = (every_kimg * 1e3).max(1.0);
    let count = |nimg: u64| (nimg as f64 / every_nimg).floor();
    over || count(position.cur_nimg) != count(position.tick_start_nimg)
}

/// What a timed run keeps for its end at least: ticks that save and score nothing do not tell what that takes.
fn least_reserve_secs(total_secs: f64) -> f64 {
    (0.02 * total_secs).min(30.0)
}
