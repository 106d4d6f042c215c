//! The runs of a convergence study: in turn or side by side, and of those that tuning has chosen once more on other seeds.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use candle_core::{DType, Device};
use indicatif::{MultiProgress, ProgressDrawTarget};
use nestgen::config::{Launch, RunConfig, Start, launch, parse};
use nestgen::data::ImageData;
use nestgen::error::{Error, Result};
use nestgen::models::Generator;
use nestgen::ranks::Ranks;
use nestgen::rng::Rng;
use nestgen::sample::read_snapshot;
use nestgen::study::axis::Axis;
use nestgen::study::panels;
use nestgen::study::plan::Plan;
use nestgen::study::study_folder::CONFIRMED;
use nestgen::study::task::{Ended, Status, Task};
use nestgen::train::event::{Event, Outcome};

use super::over_ranks::{Concluded, conclude_together, open_and_deal};
use crate::cli::{train, ui};

/// Seeds that the plan does not have.
pub(super) fn fresh_seeds(plan: &Plan, count: u64) -> Vec<u64> {
    let first = plan.seeds.iter().max().map_or(0, |last| last + 1);
    (first..first + count).collect()
}

pub(super) fn listed(seeds: &[u64]) -> String {
    seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

/// What all runs of a study have in common.
#[derive(Clone, Copy)]
pub(super) struct Study<'a> {
    pub(super) configs: &'a [(String, RunConfig)],
    pub(super) data: &'a Arc<ImageData>,
    pub(super) device: &'a Device,
    pub(super) stop: &'a AtomicBool,
    /// Runs to train at once.
    pub(super) parallel: usize,
    /// What the page opens on.
    pub(super) axis: Axis,
}

impl Study<'_> {
    /// Trains what a plan has left, and writes its page. Its folder is this process's until the file is dropped.
    pub(super) fn train_all(
        &self,
        plan: &Plan,
        outdir: &Path,
        ranks: &Ranks,
    ) -> anyhow::Result<(Concluded, Option<File>)> {
        let (tasks, held) = open_and_deal(plan, outdir, ranks)?;
        let trained = match self.parallel {
            1 => self.train_in_turn(&tasks, ranks),
            _ => self.train_side_by_side(tasks),
        };
        Ok((conclude_together(trained, plan, outdir, self.axis, ranks)?, held))
    }

    /// Trains the arms that tuning has chosen on seeds that had no part in the choice.
    pub(super) fn confirm(
        &self,
        plan: &Plan,
        chosen: &[usize],
        seeds: u64,
        outdir: &Path,
        ranks: &Ranks,
    ) -> anyhow::Result<ExitCode> {
        let arms = chosen.iter().map(|&arm| plan.arms[arm].clone()).collect();
        let configs: Vec<_> = chosen.iter().map(|&arm| self.configs[arm].clone()).collect();
        let confirming = Plan { seeds: fresh_seeds(plan, seeds), arms, ..plan.clone() };
        if ranks.is_first() {
            let names = confirming.arms.iter().map(|arm| arm.name.as_str()).collect::<Vec<_>>().join(", ");
            ui::note(&format!("confirming {names} on seeds {}", listed(&confirming.seeds)));
        }
        let study = Study { configs: &configs, ..*self };
        Ok(study.train_all(&confirming, &outdir.join(CONFIRMED), ranks)?.0.exit)
    }

    /// Trains runs one after the other; `false` if one was interrupted. Other ranks hear that this one is at work.
    fn train_in_turn(&self, tasks: &[Task], ranks: &Ranks) -> anyhow::Result<bool> {
        let lines = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        for task in tasks {
            if !self.train(task, &lines, &|| ranks.at_work())? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Trains several runs at a time; `false` if one was interrupted. An error stops the other runs as Ctrl-C does, with
    /// their states saved.
    fn train_side_by_side(&self, tasks: Vec<Task>) -> anyhow::Result<bool> {
        let lines = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let threads = (rayon::current_num_threads() / self.parallel).max(1);
        let queue = Mutex::new(tasks.into_iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || -> anyhow::Result<bool> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            while let Some(task) = next() {
                let trained = pool.install(|| self.train(&task, &lines, &|| {}));
                if !matches!(trained, Ok(true)) {
                    self.stop.store(true, Ordering::Relaxed);
                    return trained;
                }
            }
            Ok(true)
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.parallel).map(|_| scope.spawn(work)).collect();
            let mut all = true;
            for worker in workers {
                // A panic has been reported by its hook.
                all &= worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            Ok(all)
        })
    }

    /// Trains one run, or goes on with it; `false` if it was interrupted. An error has its name.
    fn train(&self, task: &Task, lines: &MultiProgress, at_work: &dyn Fn()) -> anyhow::Result<bool> {
        let (name, config) = &self.configs[task.arm];
        self.train_one(task, name, config, lines, at_work)
            .with_context(|| format!("{name}, seed {}", task.seed))
    }

    fn train_one(
        &self,
        task: &Task,
        name: &str,
        config: &RunConfig,
        lines: &MultiProgress,
        at_work: &dyn Fn(),
    ) -> anyhow::Result<bool> {
        let (start, going_on) = match task.status()? {
            Status::Ended(_) => return Ok(true),
            Status::Interrupted(point) => (Start::Resume(point), ", going on"),
            Status::New => {
                task.begin_anew()?;
                (Start::New, "")
            }
        };
        ui::note(&format!("{name}, seed {}{going_on}", task.seed));
        let mut config = config.clone();
        config.train.seed = task.seed;
        let line = lines.add(train::progress_line());
        let mut on_event = |event: Event| {
            at_work();
            match event {
                Event::Progress(progress) => {
                    line.set_message(format!("{name} seed {}: {}", task.seed, train::describe(&progress)))
                }
                Event::Line(text) => line.suspend(|| ui::note(&text)),
                Event::Trouble { trouble, action } => {
                    line.suspend(|| ui::warn(&format!("{trouble}; {action}")))
                }
            }
        };
        let launched = launch(Launch {
            config: &config,
            data: self.data.clone(),
            device: self.device,
            outdir: &task.outdir,
            name,
            start,
            ranks: &Ranks::alone(),
            stop: self.stop,
            on_start: &mut |_| {},
            on_event: &mut on_event,
        });
        line.finish_and_clear();
        let (folder, outcome) = launched?;
        let run = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match outcome {
            Outcome::Interrupted { .. } => return Ok(false),
            Outcome::Finished { snapshot } => {
                // What it never saw, it cannot have learnt by heart.
                let (seen, _) = config.data.parts(self.data.clone())?;
                draw_panels(&config, &seen, self.device, &folder, &snapshot)?;
                task.end(&Ended { run, diverged: None })?;
            }
            Outcome::Diverged { trouble, .. } => {
                task.end(&Ended { run, diverged: Some(trouble.to_string()) })?
            }
        }
        Ok(true)
    }
}

/// Writes the pictures of a finished run that the page shows beside its samples.
fn draw_panels(
    config: &RunConfig,
    data: &ImageData,
    device: &Device,
    folder: &Path,
    snapshot: &Path,
) -> Result<()> {
    let read = read_snapshot(snapshot)?;
    let saved = parse(&snapshot.display().to_string(), &read.config)?;
    let generator = Generator::new(&saved.model, &Rng::new(0), DType::F32, &Device::Cpu)?;
    generator.params().load(&read.tensors.into_iter().collect())?;
    generator.params().move_to(device)?;
    let pictures = [
        ("interpolation.png", panels::interpolations(&generator)?),
        ("nearest.png", panels::nearest(&generator, data, config.data.mirror)?),
    ];
    for (name, picture) in pictures {
        let path = folder.join(name);
        let png = picture.png().map_err(Error::io("write", &path))?;
        nestgen::train::files::write_atomic(&path, |file| file.write_all(&png))?;
    }
    Ok(())
}
