//! Features and scores against the reference tools' figures.

use nestgen_fid::features::Features;
use nestgen_fid::frechet::{Spectrum, frechet_distance};
use nestgen_fid::inception_score::{inception_score, logits};
use nestgen_fid::kid::kid;
use nestgen_fid::precision_recall::precision_recall;
use nestgen_fid::{Ball, Extractor, Resize, Tap};

use crate::images::image;
use crate::oracle;

/// f32 networks whose sums run in another order differ by 4e-7 of the largest feature; two runs of the reference on
/// different numbers of threads differ by 1e-6 of the distance.
const RELATIVE: f64 = 1e-5;

fn assert_close(what: &str, got: f64, expected: f64, tolerance: f64) {
    assert!((got - expected).abs() <= tolerance * expected.abs(), "{what}: {got}, expected {expected}");
}

fn assert_row(what: &str, row: &[f32], expected: &[f64]) {
    for (i, (&got, &expected)) in row.iter().zip(expected).enumerate() {
        assert_close(&format!("{what}, feature {i}"), f64::from(got), expected, RELATIVE);
    }
}

fn features(
    extractor: &Extractor,
    resize: Resize,
    taps: &[Tap],
    kind: &str,
    seed: u64,
    count: usize,
) -> Vec<Features> {
    let read = |i: usize| Ok(image(kind, seed, i));
    extractor.extract(taps, resize, count, &read, false, &|_, _| {}).expect("images in memory").taps
}

fn classifier<'a>(extractor: &'a Extractor) -> (&'a [f32], &'a [f32]) {
    match extractor {
        Extractor::Inception { network, .. } => network.classifier(),
        Extractor::Custom { .. } => unreachable!("random-v1 is an Inception network"),
    }
}

#[test]
fn one_image_has_the_reference_features_at_all_taps_and_resize_rules() {
    let extractor = Extractor::random_v1().expect("the formula fits the network");
    let real = features(&extractor, Resize::Pytorch, &Tap::ALL, "real", 1, 1);
    assert_row("real 64", real[0].row(0), &oracle::REAL_64);
    assert_row("real 192", real[1].row(0), &oracle::REAL_192);
    assert_row("real 768", real[2].row(0), &oracle::REAL_768);
    assert_row("real 2048", real[3].row(0), &oracle::REAL_2048);
    let sum = |features: &Features| features.row(0).iter().map(|&x| f64::from(x)).sum::<f64>();
    assert_close("real sum", sum(&real[3]), oracle::REAL_SUM, 1e-6);
    let fake = features(&extractor, Resize::Pytorch, &[Tap::D64, Tap::D2048], "fake", 2, 1);
    assert_row("fake 64", fake[0].row(0), &oracle::FAKE_64);
    assert_row("fake 2048", fake[1].row(0), &oracle::FAKE_2048);
    assert_close("fake sum", sum(&fake[1]), oracle::FAKE_SUM, 1e-6);
    let logits = &logits(&fake[1], classifier(&extractor).0, None)[0];
    for (&got, &expected) in logits.iter().zip(&oracle::FAKE_LOGITS) {
        // The figure has five decimals.
        assert!((got - expected).abs() < 2e-5, "logit {got}, expected {expected}");
    }
    let tf1 = features(&extractor, Resize::Tf1, &[Tap::D2048], "fake", 2, 1);
    assert_row("tf1", tf1[0].row(0), &oracle::FAKE_TF1);
    let clean = features(&extractor, Resize::Clean, &[Tap::D2048], "fake", 2, 1);
    assert_row("clean", clean[0].row(0), &oracle::FAKE_CLEAN);
}

#[test]
fn features_are_the_same_bits_for_any_batch_and_number_of_threads() {
    let extractor = Extractor::random_v1().expect("the formula fits the network");
    let run = |threads: usize, count: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| features(&extractor, Resize::Pytorch, &Tap::ALL, "real", 1, count))
    };
    let (one, three, first) = (run(1, 7), run(3, 7), run(1, 1));
    assert_eq!(one, three);
    for (tap, first) in one.iter().zip(&first) {
        assert_eq!(tap.row(0), first.row(0));
    }
}

/// 1536 images through the network: about 80 seconds on two quiet cores.
#[test]
#[ignore = "takes minutes; run with --ignored"]
fn all_figures_of_the_reference_tools() {
    let extractor = Extractor::random_v1().expect("the formula fits the network");
    let both = |resize, taps: &[Tap]| {
        let side = |kind, seed| features(&extractor, resize, taps, kind, seed, 256);
        (side("real", 1), side("fake", 2))
    };
    let (real, fake) = both(Resize::Pytorch, &Tap::ALL);
    for (tap, (real, fake)) in real.iter().zip(&fake).enumerate() {
        check_spread(real, oracle::SPREAD[tap].1);
        check_spread(fake, oracle::SPREAD[tap].2);
        let (dims, value, mean_term, standard_error) = oracle::FID[tap];
        let got = distance(real, fake);
        assert_close(&format!("FID at {dims}"), got.value, value, RELATIVE);
        assert_close(&format!("mean term at {dims}"), got.mean_term, mean_term, RELATIVE);
        assert_close(
            &format!("standard error at {dims}"),
            got.standard_error.expect("of images"),
            standard_error,
            RELATIVE,
        );
    }
    let (real, fake) = (&real[3], &fake[3]);
    let half = |images: std::ops::Range<usize>| real.select(&images.collect::<Vec<_>>());
    let (first, last) = (half(0..128), half(128..real.len()));
    assert_close("FID of the halves", distance(&first, &last).value, oracle::HALVES, RELATIVE);
    assert_close("KID", kid(real, fake).expect("images").value, oracle::KID, RELATIVE);
    check_inception_scores(&extractor, real, fake);
    for (k, expected) in oracle::PRDC {
        let got = precision_recall(real, fake, k, Ball::Closed).expect("images");
        let values = [got.precision, got.recall, got.density, got.coverage].map(|estimate| estimate.value);
        for (value, expected) in values.into_iter().zip(expected) {
            // Shares of 256 images: exact but for the rounding of a mean.
            assert_close(&format!("precision and recall, k = {k}"), value, expected, 1e-12);
        }
    }
    let (real, fake) = both(Resize::Tf1, &[Tap::D2048]);
    assert_close("FID tf1", distance(&real[0], &fake[0]).value, oracle::TF1.0, RELATIVE);
    assert_close("KID tf1", kid(&real[0], &fake[0]).expect("images").value, oracle::TF1.1, RELATIVE);
    let score = inception_score(&logits(&fake[0], classifier(&extractor).0, None), 1).expect("images");
    assert_close("IS tf1", score.value, oracle::TF1.2, RELATIVE);
    let (real, fake) = both(Resize::Clean, &[Tap::D2048]);
    assert_close("FID clean", distance(&real[0], &fake[0]).value, oracle::CLEAN.0, RELATIVE);
    assert_close("KID clean", kid(&real[0], &fake[0]).expect("images").value, oracle::CLEAN.1, RELATIVE);
}

fn distance(a: &Features, b: &Features) -> nestgen_fid::frechet::Frechet {
    let spectra = [Spectrum::new(a, "real").expect("images"), Spectrum::new(b, "fake").expect("images")];
    frechet_distance(&spectra[0], &spectra[1]).expect("converges")
}

fn check_spread(features: &Features, expected: [f64; 2]) {
    let count = features.data.len() as f64;
    let mean = features.data.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let variance = features.data.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
    assert_close("mean", mean, expected[0], RELATIVE);
    assert_close("deviation", variance.sqrt(), expected[1], RELATIVE);
}

fn check_inception_scores(extractor: &Extractor, real: &Features, fake: &Features) {
    let (weights, bias) = classifier(extractor);
    let (real, plain) = (logits(real, weights, None), logits(fake, weights, None));
    for (splits, fake_value, fake_spread, real_value, real_spread) in oracle::IS {
        let score = inception_score(&plain, splits).expect("images");
        assert_close("IS fake", score.value, fake_value, RELATIVE);
        assert!((score.splits_standard_deviation - fake_spread).abs() < 1e-6);
        let score = inception_score(&real, splits).expect("images");
        assert_close("IS real", score.value, real_value, RELATIVE);
        assert!((score.splits_standard_deviation - real_spread).abs() < 1e-6);
    }
    let biased = inception_score(&logits(fake, weights, Some(bias)), 1).expect("images");
    assert_close("IS with bias", biased.value, oracle::IS_WITH_BIAS, RELATIVE);
}
