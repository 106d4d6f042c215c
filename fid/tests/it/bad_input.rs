//! Inputs that cannot be scored: each ends in one clear line.

use std::path::Path;

use nestgen_fid::npz::{self, Statistics};
use nestgen_fid::{Error, Extractor, Input, Metric, Protocol, Report, Resize, ScoreConfig, Tap, score};

use crate::images::{image, write_png};
use crate::sources::{colour_space, of_another_tool, quiet};

/// A folder of fakes that is in order, and a place for the bad side.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write_png(&folder.path().join("good"), (0..6).map(|i| image("fake", 2, i)));
        Self { folder }
    }

    fn bad(&self) -> std::path::PathBuf {
        let path = self.folder.path().join("bad");
        std::fs::create_dir_all(&path).expect("a folder");
        path
    }

    fn score(&self, bad: &Path, config: &ScoreConfig) -> Result<Report, Error> {
        let real = Input::open(bad, &Default::default())?;
        let fake = Input::open(&self.folder.path().join("good"), &Default::default())?;
        score(&real, &fake, None, &colour_space(), config, &quiet)
    }

    fn refused(&self, bad: &Path, config: &ScoreConfig, words: &[&str]) {
        let text = self.score(bad, config).expect_err("bad input").to_string();
        assert!(!text.contains('\n'), "one line: {text}");
        for word in words {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
    }
}

#[test]
fn one_image_copies_of_one_image_or_none() {
    let bench = Bench::new();
    let config = ScoreConfig::default();
    bench.refused(&bench.bad(), &config, &["bad", "no images"]);
    write_png(&bench.bad(), [image("real", 1, 0)]);
    bench.refused(&bench.bad(), &config, &["at least 2 images, real has 1"]);
    write_png(&bench.bad(), (0..4).map(|_| image("real", 1, 0)));
    bench.refused(&bench.bad(), &config, &["all 4 real images", "copies of one image"]);
    bench.refused(Path::new("no/such/folder"), &config, &["no/such/folder"]);
}

#[test]
fn bad_files_stop_the_score_or_are_listed_and_left_out() {
    let bench = Bench::new();
    write_png(&bench.bad(), (0..5).map(|i| image("real", 1, i)));
    std::fs::write(bench.bad().join("00001.png"), "a text file").expect("written");
    let whole = std::fs::read(bench.bad().join("00003.png")).expect("read");
    std::fs::write(bench.bad().join("00003.png"), &whole[..whole.len() / 2]).expect("written");
    std::fs::write(bench.bad().join("notes.txt"), "not an image by its name").expect("written");
    let config = ScoreConfig::default();
    bench.refused(&bench.bad(), &config, &["00001.png"]);
    let report = bench.score(&bench.bad(), &ScoreConfig { skip_bad: true, ..config }).expect("three are left");
    assert_eq!(report.real.num_images, Some(3));
    let skipped: Vec<usize> = report.real.skipped.iter().map(|s| s.index).collect();
    assert_eq!(skipped, [1, 3]);
    assert!(report.real.skipped[1].reason.contains("00003.png"));
    assert!(report.warnings.iter().any(|w| w.to_string().contains("2 real images could not be read")));
}

#[test]
fn statistics_of_another_size_or_where_images_are_needed() {
    let bench = Bench::new();
    let path = bench.folder.path().join("ref.npz");
    npz::write(&path, &of_another_tool(4)).expect("written");
    let fid = ScoreConfig { metrics: Some(vec![Metric::Fid]), ..ScoreConfig::default() };
    bench.refused(&path, &fid, &["ref.npz", "4 features, this score uses 6"]);
    npz::write(&path, &of_another_tool(6)).expect("written");
    assert!(bench.score(&path, &fid).is_ok());
    std::fs::write(&path, "text").expect("written");
    bench.refused(&path, &fid, &["ref.npz", "not an .npz"]);
}

#[test]
fn what_needs_images_is_refused_before_features_are_made() {
    let bench = Bench::new();
    let stats = bench.folder.path().join("ref.npz");
    npz::write(&stats, &of_another_tool(6)).expect("written");
    let open = |path: &Path| Input::open(path, &Default::default()).expect("a source");
    let (images, statistics) = (open(&bench.folder.path().join("good")), open(&stats));
    let untouched = Extractor::Custom {
        name: "untouched".into(),
        sha256: "c0".into(),
        dims: 6,
        features: Box::new(|_| panic!("features were made")),
        on_device: false,
    };
    let refused = |real, fake, held_out, config: &ScoreConfig, words: [&str; 2]| {
        let error = score(real, fake, held_out, &untouched, config, &quiet).expect_err("no images").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?} are not in: {error}");
    };
    let (of_real, of_fake) = ("real is given as statistics", "fake is given as statistics");
    let with = |metric| ScoreConfig { metrics: Some(vec![Metric::Fid, metric]), ..ScoreConfig::default() };
    for (metric, name) in [(Metric::Kid, "KID needs"), (Metric::Prdc, "precision and recall needs")] {
        refused(&statistics, &images, None, &with(metric), [name, of_real]);
        refused(&images, &statistics, None, &with(metric), [name, of_fake]);
    }
    refused(&images, &statistics, None, &with(Metric::FidInfinity), ["FID-infinity needs", of_fake]);
    refused(&images, &statistics, None, &with(Metric::Is), ["Inception score needs", of_fake]);
    refused(&images, &images, None, &with(Metric::Is), ["needs the Inception", "network"]);
    let subsets = ScoreConfig { kid_subsets: Some((2, 3)), ..ScoreConfig::default() };
    refused(&statistics, &images, None, &subsets, ["KID needs", of_real]);
    let floor = ScoreConfig { floor: true, ..ScoreConfig::default() };
    refused(&statistics, &images, None, &floor, ["floor needs", of_real]);
    let default = ScoreConfig::default();
    refused(&statistics, &images, Some(&images), &default, ["memorisation check needs", of_real]);
    refused(&images, &images, Some(&statistics), &default, ["memorisation check needs", "held-out is given"]);
    // Statistics that do not fit are found before the other side's features, too.
    npz::write(&stats, &of_another_tool(4)).expect("written");
    refused(&images, &statistics, None, &default, ["ref.npz", "4 features, this score uses 6"]);
    // Made by the same tool in another space, or by another rule.
    let made = |change: &dyn Fn(&mut Protocol)| {
        let mut protocol = untouched.protocol(default.tap, default.resize);
        change(&mut protocol);
        npz::write(&stats, &Statistics { protocol: Some(protocol), ..of_another_tool(6) }).expect("written");
    };
    made(&|protocol| protocol.network_sha256 = "c1".into());
    let networks = "it is of FD-untouched (network c1), this score of FD-untouched (network c0)";
    refused(&images, &statistics, None, &default, ["ref.npz", networks]);
    made(&|protocol| protocol.resize = Some(Resize::Tf1));
    let rules = "its images were resized by tf1, this score's by the network's own";
    refused(&statistics, &images, None, &default, ["ref.npz", rules]);
    // Too few images, and nowhere to write.
    refused(
        &images,
        &images,
        None,
        &ScoreConfig { k: 6, ..with(Metric::Prdc) },
        ["at least 7 images", "real has 6"],
    );
    let subsets = ScoreConfig { kid_subsets: Some((2, 9)), ..ScoreConfig::default() };
    refused(&images, &images, None, &subsets, ["subset size needs at least 9", "real has 6"]);
    refused(&images, &images, None, &with(Metric::FidInfinity), ["at least 30 images", "fake has 6"]);
    let nowhere = bench.folder.path().join("nowhere").join("ref.npz");
    let saved = |path: &Path| ScoreConfig { save_stats: Some(path.to_owned()), ..ScoreConfig::default() };
    refused(&images, &images, None, &saved(&nowhere), ["nowhere", "No such file"]);
    let folder = bench.folder.path();
    refused(&images, &images, None, &saved(folder), [folder.to_str().expect("UTF-8"), "directory"]);
    refused(&images, &images, None, &saved(&folder.join("ref")), ["ref", "must end in .npz"]);
    let other = folder.join("images.npz");
    std::fs::write(&other, "images").expect("written");
    refused(&images, &images, None, &saved(&other), ["images.npz", "holds no statistics"]);
    assert_eq!(std::fs::read(&other).expect("there"), b"images");
    // Statistics beside the images that they are of.
    let both = folder.join("both.npz");
    let mut archive = zip::ZipWriter::new(std::fs::File::create(&both).expect("a file"));
    for name in ["arr_0.npy", "mu.npy", "sigma.npy"] {
        archive.start_file(name, zip::write::SimpleFileOptions::default()).expect("an entry");
    }
    archive.finish().expect("written");
    nestgen_fid::npz::writable(&both).expect_err("images are in it");
    let placeholder = folder.join("placeholder.npz");
    std::fs::write(&placeholder, "").expect("written");
    nestgen_fid::npz::writable(&placeholder).expect("nothing is lost");
    refused(&statistics, &images, None, &saved(&stats), ["saving statistics needs the images", of_real]);
}

#[test]
fn settings_and_metrics_that_do_not_fit() {
    let bench = Bench::new();
    write_png(&bench.bad(), (0..4).map(|i| image("real", 1, i)));
    let with = |metric| ScoreConfig { metrics: Some(vec![metric]), ..ScoreConfig::default() };
    bench.refused(
        &bench.bad(),
        &ScoreConfig { k: 5, ..with(Metric::Prdc) },
        &["at least 6 images, real has 4"],
    );
    bench.refused(&bench.bad(), &with(Metric::FidInfinity), &["at least 30 images"]);
    bench.refused(&bench.bad(), &with(Metric::Is), &["needs the Inception network"]);
    assert!("fdi".parse::<Metric>().is_err() && "linear".parse::<nestgen_fid::Resize>().is_err());
    assert!(Tap::try_from(100).is_err());
}

#[test]
fn missing_weights_say_what_to_get() {
    let error = Error::NoWeights { looked: "NESTGEN_INCEPTION (not set)".into() };
    let hint = error.hint().expect("a hint");
    for word in ["pt_inception-2015-12-05-6726825d.pth", "6726825d0af5f729", "scenes-v1"] {
        assert!(hint.contains(word), "{hint}");
    }
}
