//! How features were made: only numbers made alike can be compared.

use crate::preprocess::Resize;

/// What decides which features an image has.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Protocol {
    /// Name of the Frechet distance in this space: `FID`, `FID-768`, `FD-random-v1`, ...
    pub features: String,
    /// SHA-256 of the network.
    pub network_sha256: String,
    /// Number of features.
    pub dims: usize,
    /// The resize rule; `None`: the network's own.
    pub resize: Option<Resize>,
}

impl Protocol {
    /// The first thing in which `wanted` differs, in words; `None`: the two can be compared.
    pub(crate) fn difference(&self, wanted: &Self) -> Option<String> {
        if self.dims != wanted.dims {
            return Some(format!("it has {} features, this score uses {}", self.dims, wanted.dims));
        }
        if self.network_sha256 != wanted.network_sha256 {
            return Some(format!("it is of {}, this score of {}", self.network(), wanted.network()));
        }
        (self.resize != wanted.resize).then(|| {
            let name = |resize: Option<Resize>| resize.map_or("the network's own", Resize::name);
            format!("its images were resized by {}, this score's by {}", name(self.resize), name(wanted.resize))
        })
    }

    fn network(&self) -> String {
        let hash = self.network_sha256.get(..12).unwrap_or(&self.network_sha256);
        format!("{} (network {hash})", self.features)
    }
}
