//! Scores one folder (or archive, pack, `.npz`) of images against another.
//!
//! `cargo run --release -p nestgen-fid --example score_folders -- REAL FAKE [WEIGHTS | random-v1] [pytorch|tf1|clean] [json]`
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::Path;

use nestgen_fid::{Error, Extractor, Input, Metric, ScoreConfig, score, weights};

fn run(arguments: &[String]) -> Result<(), Error> {
    let [_, real, fake, options @ ..] = arguments else {
        eprintln!("usage: score_folders REAL FAKE [WEIGHTS | random-v1] [pytorch|tf1|clean] [json]");
        return Ok(());
    };
    let extractor = match options.first().map(String::as_str) {
        Some("random-v1") => Extractor::random_v1()?,
        given => Extractor::inception(&weights::find(given.map(Path::new))?)?,
    };
    let resize = options.get(1).map_or(Ok(Default::default()), |text| text.parse())?;
    // Statistics carry no images: the Frechet distance is all there is, and what is computed unless asked otherwise.
    let statistics = [real, fake].into_iter().any(|path| path.ends_with(".npz"));
    let metrics = (!statistics).then(|| vec![Metric::Fid, Metric::Kid, Metric::Is, Metric::Prdc]);
    let config = ScoreConfig { metrics, resize, ..ScoreConfig::default() };
    let open = |path: &String| Input::open(path.as_ref(), &Default::default());
    let progress = |side: &str, done: usize, total: usize| eprint!("\r{side}: {done} of {total} images ");
    let report = score(&open(real)?, &open(fake)?, None, &extractor, &config, &progress)?;
    eprintln!();
    if options.get(2).is_some_and(|option| option == "json") {
        println!("{}", serde_json::json!(report));
        return Ok(());
    }
    print!("{report}");
    Ok(())
}

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match run(&arguments) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            std::process::ExitCode::FAILURE
        }
    }
}
