//! Sources of images end to end, with a small feature space that takes no time.

use nestgen_fid::npz::{self, Statistics};
use nestgen_fid::statistics::Moments;
use nestgen_fid::{Extractor, Input, Metric, Resize, ScoreConfig, score};
use nestgen_images::RgbImage8;

use crate::images::{image, write_png};

/// Mean colour, and mean colour of the upper half: six features, f32 in 0..1.
pub(crate) fn colours(images: &[RgbImage8]) -> Result<Vec<f32>, String> {
    let mut features = Vec::new();
    for image in images {
        for part in [image.data.len(), image.data.len() / 2] {
            for channel in 0..3 {
                let values: Vec<f32> =
                    image.data[..part].iter().skip(channel).step_by(3).map(|&b| f32::from(b)).collect();
                features.push(values.iter().sum::<f32>() / values.len() as f32 / 255.0);
            }
        }
    }
    Ok(features)
}

pub(crate) fn colour_space<'a>() -> Extractor<'a> {
    Extractor::Custom {
        name: "colours".into(),
        sha256: "c0".into(),
        dims: 6,
        features: Box::new(colours),
        on_device: false,
    }
}

pub(crate) fn quiet(_: &'static str, _: usize, _: usize) {}

/// Mean and covariance as pytorch-fid writes them: nothing tells how they were made.
pub(crate) fn of_another_tool(dims: usize) -> Statistics {
    let sigma = 0.01 * faer::Mat::<f64>::identity(dims, dims);
    Statistics { moments: Moments { num_images: None, mu: vec![0.5; dims], sigma }, protocol: None }
}

#[test]
fn folders_statistics_and_a_generator_give_one_score() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (real, fake) = (folder.path().join("real"), folder.path().join("fake"));
    write_png(&real, (0..30).map(|i| image("real", 1, i)));
    write_png(&fake, (0..20).map(|i| image("fake", 2, i)));
    let open = |path: &std::path::Path| Input::open(path, &Default::default()).expect("images");
    let stats = folder.path().join("ref.npz");
    let config = ScoreConfig {
        metrics: Some(vec![Metric::Fid, Metric::Kid, Metric::Prdc]),
        save_stats: Some(stats.clone()),
        floor: true,
        kid_subsets: Some((5, 10)),
        ..ScoreConfig::default()
    };
    let told = std::sync::Mutex::new(Vec::new());
    let progress =
        |side: &'static str, done: usize, total: usize| told.lock().expect("alone").push((side, done, total));
    let report = score(&open(&real), &open(&fake), None, &colour_space(), &config, &progress).expect("scored");
    let told = told.into_inner().expect("alone");
    assert!(told.contains(&("real", 30, 30)) && told.contains(&("fake", 20, 20)));
    let frechet = report.scores.frechet.expect("asked for");
    assert!(frechet.value > 0.0 && frechet.standard_error.is_some_and(|error| error > 0.0));
    assert_eq!(report.name, "FD-colours");
    assert_eq!((report.real.num_images, report.fake.num_images), (Some(30), Some(20)));

    let fid_only = ScoreConfig { metrics: Some(vec![Metric::Fid]), ..ScoreConfig::default() };
    let against_stats =
        score(&open(&stats), &open(&fake), None, &colour_space(), &fid_only, &quiet).expect("scored");
    let again = against_stats.scores.frechet.expect("asked for");
    assert!((again.value - frechet.value).abs() < 1e-9 * frechet.value);
    // They tell of how many images they are, and of what: no warning but the one that the images' score has too.
    assert_eq!((against_stats.real.num_images, against_stats.real.statistics), (Some(30), true));
    assert_eq!(against_stats.warnings, report.warnings);
    assert!(against_stats.to_string().contains("statistics of 30 images"), "{against_stats}");

    let generate = |range: std::ops::Range<usize>| Ok(range.map(|i| image("fake", 2, i)).collect());
    let generator = Input::Generator { name: "formula".into(), count: 20, generate: Box::new(generate) };
    let generated = score(&open(&real), &generator, None, &colour_space(), &fid_only, &quiet).expect("scored");
    assert_eq!(generated.scores.frechet, report.scores.frechet);

    let table = report.to_string();
    for word in ["FD-colours", "±", "KID-colours ", "real/real", "precision", "30 images", "network c0"] {
        assert!(table.contains(word), "{word} is not in\n{table}");
    }
    let json = serde_json::to_value(&report).expect("serialised");
    assert_eq!(json["scores"]["frechet"]["value"], frechet.value);
    assert_eq!(json["warnings"][0]["kind"], "unequal_counts");
}

#[test]
fn statistics_get_the_frechet_distance_and_the_error_of_the_images_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (images, stats) = (folder.path().join("images"), folder.path().join("ref.npz"));
    write_png(&images, (0..20).map(|i| image("fake", 2, i)));
    npz::write(&stats, &of_another_tool(6)).expect("written");
    let run = |real: &std::path::Path, fake: &std::path::Path| {
        let open = |path| Input::open(path, &Default::default()).expect("a source");
        score(&open(real), &open(fake), None, &colour_space(), &ScoreConfig::default(), &quiet).expect("scored")
    };
    for (report, side, other) in
        [(run(&stats, &images), "real", "fakes"), (run(&images, &stats), "fake", "reals")]
    {
        assert!(report.scores.frechet.is_some() && report.scores.kid.is_none());
        let table = report.to_string();
        assert!(table.contains(&format!("; ± of the {other} alone")), "{table}");
        let note =
            format!("warning: KID was left out: it needs the images, and {side} is given as statistics only");
        assert!(table.lines().any(|line| line == note), "{table}");
        let note = format!("warning: the {side} statistics do not tell their network and resize rule");
        assert!(table.lines().any(|line| line.starts_with(&note)), "{table}");
    }
    let report = run(&stats, &stats);
    assert_eq!(report.scores.frechet.expect("asked for").value, 0.0);
    assert!(!report.to_string().contains('±'), "{report}");
    let json = serde_json::to_value(&report).expect("serialised");
    assert!(json["scores"]["frechet"]["standard_error"].is_null(), "{json}");
    // Nothing is left out of two sides of images.
    assert!(run(&images, &images).scores.kid.is_some());
}

#[test]
fn the_cache_gives_the_same_score_without_reading_pixels() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (real, fake) = (folder.path().join("real"), folder.path().join("fake"));
    write_png(&real, (0..8).map(|i| image("real", 1, i)));
    write_png(&fake, (0..8).map(|i| image("fake", 2, i)));
    let config = ScoreConfig { cache: Some(folder.path().join("cache")), ..ScoreConfig::default() };
    let run = || {
        let open = |path: &std::path::Path| Input::open(path, &Default::default()).expect("images");
        score(&open(&real), &open(&fake), None, &colour_space(), &config, &quiet).expect("scored")
    };
    let (first, second) = (run(), run());
    assert!(!first.real.from_cache && second.real.from_cache && second.fake.from_cache);
    assert_eq!(first.scores, second.scores);
    // Another image under the same name is another set.
    write_png(&fake, [image("fake", 3, 0)]);
    let third = run();
    assert!(third.real.from_cache && !third.fake.from_cache);
    assert_ne!(third.scores, first.scores);
}

#[test]
fn a_folder_against_itself_scores_zero_and_pixels_in_memory_give_its_features() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_png(folder.path(), (0..6).map(|i| image("real", 1, i)));
    let extractor = Extractor::random_v1().expect("the formula fits the network");
    let open = || Input::open(folder.path(), &Default::default()).expect("images");
    let config =
        ScoreConfig { metrics: Some(vec![Metric::Fid]), tap: nestgen_fid::Tap::D64, ..ScoreConfig::default() };
    let report = score(&open(), &open(), None, &extractor, &config, &quiet).expect("scored");
    assert_eq!(report.scores.frechet.expect("asked for").value, 0.0);
    assert_eq!(report.name, "FD-random-v1-64");

    let pixels: Vec<u8> = (0..6).flat_map(|i| image("real", 1, i).data).collect();
    let nothing = |_, _| {};
    let features =
        extractor.extract_pixels(config.tap, Resize::Pytorch, &pixels, 64, 64, &nothing).expect("whole images");
    let input = Input::Features { name: "memory".into(), features };
    let report = score(&open(), &input, None, &extractor, &config, &quiet).expect("scored");
    assert_eq!(report.scores.frechet.expect("asked for").value, 0.0);
    assert!(extractor.extract_pixels(config.tap, Resize::Pytorch, &pixels[1..], 64, 64, &nothing).is_err());
}
