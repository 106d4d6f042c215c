//! The reference tools' figures for formula weights and formula images.
//!
//! Features: pytorch-fid's network in float64 (image 0) or float32; tf1: torch-fidelity's extractor; clean:
//! clean-fid's resizer before pytorch-fid's network. Distances: numpy, float64, from the float32 features of 256 real
//! (seed 1) and 256 fake (seed 2) images.

/// First features of image 0: real and fake at a tap, then the sum of all features where it is known.
pub(crate) const REAL_2048: [f64; 8] = [
    0.2116257668225842,
    0.1427179804720008,
    0.1032956853068213,
    0.1499909628341821,
    0.6849695015001416,
    1.3834960182670821,
    0.0,
    1.1622902592299305,
];
pub(crate) const FAKE_2048: [f64; 8] = [
    0.1706805569073568,
    0.1637690909382118,
    0.0826063692794047,
    0.3575471772775055,
    0.9469017598227403,
    1.6784438758849007,
    0.0,
    1.3213583030817864,
];
pub(crate) const REAL_SUM: f64 = 740.3919165036602;
pub(crate) const FAKE_SUM: f64 = 914.1198592605617;
pub(crate) const REAL_64: [f64; 4] = [0.6298869817, 0.7097374756, 0.0135493569, 0.9311494137];
pub(crate) const FAKE_64: [f64; 4] = [1.0145985015, 1.1228921022, 0.0737764926, 1.5570935933];
pub(crate) const REAL_192: [f64; 8] =
    [0.00498913, 0.72123277, 0.01962459, 1.38462961, 0.37168580, 1.69897819, 0.09754318, 0.18102631];
pub(crate) const REAL_768: [f64; 8] =
    [1.49001575, 0.99665743, 0.01176648, 0.67364371, 0.67295855, 0.18782866, 0.07117859, 0.61255836];
pub(crate) const FAKE_LOGITS: [f64; 8] =
    [-8.86766, 6.47555, 7.57591, -10.35837, -0.20522, -2.45930, -8.71174, 15.09146];
pub(crate) const FAKE_TF1: [f64; 8] =
    [0.17373402, 0.16904578, 0.08409080, 0.34623537, 0.92724681, 1.67453647, 0.0, 1.30146635];
pub(crate) const FAKE_CLEAN: [f64; 8] =
    [0.15218088, 0.17930274, 0.08142434, 0.39227846, 0.99314928, 1.74455571, 0.0, 1.34283900];

/// Mean and standard deviation of all features over 256 images: (features, real, fake).
pub(crate) const SPREAD: [(usize, [f64; 2], [f64; 2]); 4] = [
    (64, [0.368644, 0.455506], [0.323993, 0.393424]),
    (192, [0.360259, 0.502369], [0.339378, 0.464234]),
    (768, [0.337215, 0.451350], [0.320089, 0.428389]),
    (2048, [0.430581, 0.580010], [0.411127, 0.553233]),
];

/// (features, distance, its mean term, its first-order standard error).
pub(crate) const FID: [(usize, f64, f64, f64); 4] = [
    (64, 0.5791998557, 0.4702951655, 0.1246943),
    (192, 0.9898037550, 0.7677047377, 0.2361318),
    (768, 1.0915991643, 0.8642820694, 0.3390499),
    (2048, 3.6045915971, 2.7765328668, 1.1379164),
];
/// The first 128 real images against the last 128.
pub(crate) const HALVES: f64 = 1.4973086518529897;
pub(crate) const KID: f64 = 0.0135052719;
/// Inception scores: splits, fake, its spread, real, its spread.
pub(crate) const IS: [(usize, f64, f64, f64, f64); 2] =
    [(1, 1.1432152373, 0.0, 1.1421936249, 0.0), (10, 1.1404764138, 0.0173518, 1.1371032623, 0.0157491)];
pub(crate) const IS_WITH_BIAS: f64 = 1.1445593130;
/// k, precision, recall, density, coverage.
pub(crate) const PRDC: [(usize, [f64; 4]); 2] =
    [(3, [0.8671875, 0.79296875, 0.87890625, 0.76953125]), (5, [0.953125, 0.9140625, 0.87890625, 0.9140625])];
pub(crate) const TF1: (f64, f64, f64) = (3.5434817641, 0.0131534293, 1.1434496247);
pub(crate) const CLEAN: (f64, f64) = (2.6537664815, 0.0087787965);
