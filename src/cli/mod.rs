//! The command line: one file a verb. Only this module prints, and only it chooses exit codes.
//!
//! 0: done. 1: the user can fix it; the message says how. 2: a defect of this program. 130: told to stop; the same command, or
//! `--resume`, goes on (0 under MPI, see [`interrupt::exit_code`]).

mod classify;
mod compare;
mod data;
mod device;
mod dry_run;
mod fid;
mod interrupt;
mod memory;
mod network;
pub(crate) mod panic_hook;
mod ranks;
mod report;
mod sample;
mod score;
mod study;
pub(crate) mod threads;
mod train;
mod ui;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Train unconditional image generators and find out, honestly, which one learns faster
#[derive(Parser)]
#[command(name = "nestgen", version, propagate_version = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Train(Box<train::TrainArgs>),
    Sample(sample::SampleArgs),
    Interpolate(sample::interpolate::InterpolateArgs),
    Fid(Box<fid::FidArgs>),
    Score(score::ScoreArgs),
    /// Pack, check and make image sets
    #[command(subcommand)]
    Data(data::DataVerb),
    /// Train, test and explain classifiers
    #[command(subcommand)]
    Classify(classify::ClassifyVerb),
    Compare(compare::Compare),
    /// Studies of several arms and seeds
    #[command(subcommand)]
    Study(study::StudyVerb),
    /// Print a completion script for a shell
    Completions {
        /// The shell to complete in
        shell: clap_complete::Shell,
    },
}

/// Parses the command line and runs the verb.
pub(crate) fn main() -> ExitCode {
    let parsed = command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return report::usage(&error),
    };
    match run(&cli.verb) {
        Ok(code) => code,
        Err(error) => report::failure(&error),
    }
}

/// All flags, each of which takes `-1` for a value: what is wrong with it is said by whoever knows what it is for.
fn command() -> clap::Command {
    fn with_negative(command: clap::Command) -> clap::Command {
        let taking = |arg: clap::Arg| match arg.get_action().takes_values() {
            true => arg.allow_negative_numbers(true),
            false => arg,
        };
        command.mut_args(taking).mut_subcommands(with_negative)
    }
    with_negative(Cli::command())
}

fn run(verb: &Verb) -> anyhow::Result<ExitCode> {
    let several = matches!(
        verb,
        Verb::Train(_) | Verb::Fid(_) | Verb::Study(_) | Verb::Classify(classify::ClassifyVerb::Train(_))
    );
    if !several {
        nestgen::ranks::refuse_several()?;
    }
    match verb {
        Verb::Train(args) => train::run(args),
        Verb::Sample(args) => sample::run(args),
        Verb::Interpolate(args) => sample::interpolate::run(args),
        Verb::Fid(args) => fid::run(args),
        Verb::Score(args) => score::run(args),
        Verb::Data(verb) => data::run(verb),
        Verb::Classify(verb) => classify::run(verb),
        Verb::Compare(args) => compare::run(args),
        Verb::Study(verb) => study::run(verb),
        Verb::Completions { shell } => {
            // Into memory first: the library panics where it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "nestgen", &mut script);
            std::io::stdout().write_all(&script)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
