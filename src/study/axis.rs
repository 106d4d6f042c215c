//! What convergence is measured against.

use serde::Serialize;

/// The horizontal axis of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// Thousands of real images shown to the discriminator, or of training images to the classifier.
    Kimg,
    /// Steps of the generator or classifier.
    Steps,
    /// Seconds of training, without scores, pictures and saving.
    Seconds,
    /// Floating-point operations of training, counted from the architectures.
    Flops,
    /// Passes over the training images.
    Epochs,
}

impl Axis {
    /// Every axis, the usual one first.
    pub const ALL: [Self; 5] = [Self::Kimg, Self::Steps, Self::Seconds, Self::Flops, Self::Epochs];

    /// Its name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kimg => "kimg",
            Self::Steps => "steps",
            Self::Seconds => "seconds",
            Self::Flops => "flops",
            Self::Epochs => "epochs",
        }
    }

    /// What a plot writes below it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Kimg => "kimg (thousand real images shown)",
            Self::Steps => "training steps",
            Self::Seconds => "training seconds",
            Self::Flops => "training FLOPs (counted)",
            Self::Epochs => "epochs (passes over the training images)",
        }
    }
}

impl std::str::FromStr for Axis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|axis| axis.name() == text).ok_or_else(|| format!("one of {}", names()))
    }
}
