//! Files of statistics as pytorch-fid writes and reads them: a zip with `mu.npy` `[D]` and `sigma.npy` `[D, D]`.
//!
//! Ours have a third entry, which other tools pass over: `protocol.json` says of which network, resize rule and number of
//! images they are. Without it nothing tells a file of another protocol, and its distance looks like any other.

// Reads what may be hostile: nothing in it may end the program.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::io::{Read, Write};
use std::path::Path;

use faer::Mat;
use nestgen_images::{NpyHeader, is_array_of_images, npy_header};

use crate::error::{Error, Result};
use crate::files::{beside, write_atomic};
use crate::protocol::Protocol;
use crate::statistics::Moments;

/// More features than any network here has; a larger array is a damaged or hostile file.
const MAX_DIMS: usize = 4096;

/// Largest difference between a covariance and its transpose, as a share of its largest element: f32 rounding.
const SYMMETRY: f64 = 1e-6;

/// An array of an `.npy` file, row-major.
struct Npy {
    dims: Vec<usize>,
    data: Vec<f64>,
}

/// The entry that says how the statistics were made.
const PROTOCOL: &str = "protocol.json";

/// More bytes than that entry ever has.
const MAX_PROTOCOL: u64 = 1 << 16;

/// What `protocol.json` holds.
#[derive(serde::Serialize, serde::Deserialize)]
struct Made {
    #[serde(flatten)]
    protocol: Protocol,
    num_images: Option<usize>,
}

/// What a file of statistics holds.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// Mean and covariance.
    pub moments: Moments,
    /// How they were made; `None` in other tools' files, which do not tell.
    pub protocol: Option<Protocol>,
}

/// Reads mean and covariance, and how they were made where the file tells.
///
/// # Errors
/// Another container, other keys, wrong shapes, numbers that are not finite, a matrix that is no covariance.
pub fn read(path: &Path) -> Result<Statistics> {
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    let wrong = |reason: String| Error::Statistics { path: path.to_owned(), reason };
    parse(file).map_err(wrong)
}

fn parse(file: std::fs::File) -> std::result::Result<Statistics, String> {
    let mut archive =
        zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(|e| format!("not an .npz: {e}"))?;
    let keys: Vec<String> = archive.file_names().map(|name| name.trim_end_matches(".npy").to_owned()).collect();
    let mut array = |key: &str| {
        let missing = || format!("no array `{key}` (it has: {})", keys.join(", "));
        let entry = archive.by_name(&format!("{key}.npy")).map_err(|_| missing())?;
        let limit = (MAX_DIMS * MAX_DIMS * 8 + 4096) as u64;
        parse_npy(entry.take(limit)).map_err(|reason| format!("array `{key}`: {reason}"))
    };
    let (mu, sigma) = (array("mu")?, array("sigma")?);
    let made = match archive.by_name(PROTOCOL) {
        Err(zip::result::ZipError::FileNotFound) => None,
        Err(e) => return Err(format!("`{PROTOCOL}`: {e}")),
        Ok(entry) => {
            let made: Made =
                serde_json::from_reader(entry.take(MAX_PROTOCOL)).map_err(|e| format!("`{PROTOCOL}`: {e}"))?;
            Some(made)
        }
    };
    let &[dims] = mu.dims.as_slice() else { return Err(format!("`mu` has shape {:?}, expected [D]", mu.dims)) };
    if sigma.dims != [dims, dims] {
        return Err(format!("`sigma` has shape {:?}, expected [{dims}, {dims}]", sigma.dims));
    }
    for (key, data) in [("mu", &mu.data), ("sigma", &sigma.data)] {
        if let Some((at, x)) = data.iter().enumerate().find(|(_, x)| !x.is_finite()) {
            return Err(format!("`{key}` holds {x} at element {at}"));
        }
        if let Some((at, x)) = data.iter().enumerate().find(|(_, x)| x.abs() > LARGEST) {
            return Err(format!("`{key}` holds {x:e} at element {at}, which no features have"));
        }
    }
    let sigma = faer::MatRef::from_row_major_slice(&sigma.data, dims, dims).to_owned();
    check_covariance(&sigma)?;
    let (num_images, protocol) = made.map_or((None, None), |made| (made.num_images, Some(made.protocol)));
    Ok(Statistics { moments: Moments { num_images, mu: mu.data, sigma }, protocol })
}

/// Of any mean or covariance; squares and sums of such numbers are finite.
const LARGEST: f64 = 1e100;

fn check_covariance(sigma: &Mat<f64>) -> std::result::Result<(), String> {
    let dims = sigma.nrows();
    let largest = (0..dims).map(|i| sigma[(i, i)].abs()).fold(0.0, f64::max);
    let rounding = SYMMETRY * largest;
    for column in 0..dims {
        if sigma[(column, column)] < -rounding {
            return Err(format!("`sigma` has a negative variance at feature {column}"));
        }
        for row in 0..column {
            let [one, other] = [sigma[(row, column)], sigma[(column, row)]];
            if (one - other).abs() > rounding {
                return Err(format!("`sigma` is not symmetric at ({row}, {column})"));
            }
            // Of two features that vary by less than they vary together, one would have to vary by less than nothing.
            let most = (sigma[(row, row)].max(0.0) * sigma[(column, column)].max(0.0)).sqrt();
            if one.abs() > most * (1.0 + SYMMETRY) + rounding {
                return Err(format!(
                    "`sigma` is no covariance: {one} at ({row}, {column}), where {most} is possible"
                ));
            }
        }
    }
    Ok(())
}

fn parse_npy(mut file: impl Read) -> std::result::Result<Npy, String> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|e| format!("cut off or damaged: {e}"))?;
    let header = NpyHeader::parse(&bytes)?;
    let element_bytes = match header.descr.as_str() {
        "<f8" => 8,
        "<f4" => 4,
        other => return Err(format!("elements {other}, expected f8 or f4")),
    };
    let NpyHeader { shape: dims, fortran_order, len: header_len, .. } = header;
    if dims.len() > 2 || dims.iter().any(|&d| d == 0 || d > MAX_DIMS) {
        return Err(format!("shape {dims:?}"));
    }
    let count: usize = dims.iter().product();
    let body = bytes.get(header_len..).unwrap_or_default();
    if body.len() != count * element_bytes {
        return Err(format!("{} bytes for shape {dims:?}: cut off or damaged", body.len()));
    }
    let mut data: Vec<f64> = match element_bytes {
        8 => body.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
        _ => body.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
    };
    if let (true, &[rows, _]) = (fortran_order, dims.as_slice()) {
        data = (0..rows).flat_map(|row| data.iter().skip(row).step_by(rows).copied()).collect();
    }
    Ok(Npy { dims, data })
}

/// Writes mean, covariance and how they were made, compressed; pytorch-fid and clean-fid read the file. A reader sees the
/// old file or the whole new one.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, statistics: &Statistics) -> Result<()> {
    write_atomic(path, &archive(statistics).map_err(Error::io(path))?)
}

/// An error where [`write`] could not make `path`, or would replace something else, for whoever has hours of work to do before.
///
/// # Errors
/// The path is a folder, or a file that holds no statistics, or no file can be made beside it.
pub fn writable(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::io(path)(std::io::ErrorKind::IsADirectory.into()));
    }
    if path.exists() && !may_be_replaced(path) {
        return Err(Error::NotReplaced { path: path.to_owned() });
    }
    beside(path).map(drop)
}

/// Whether there are statistics, and no images beside them, as in the reference files of diffusion models; or nothing yet.
fn may_be_replaced(path: &Path) -> bool {
    // Somebody has kept the name for them.
    if std::fs::metadata(path).is_ok_and(|there| there.is_file() && there.len() == 0) {
        return true;
    }
    let file = (path.is_file() && !is_array_of_images(path)).then(|| std::fs::File::open(path).ok()).flatten();
    let archive = file.and_then(|file| zip::ZipArchive::new(file).ok());
    archive.is_some_and(|archive| {
        ["mu.npy", "sigma.npy"].iter().all(|&name| archive.file_names().any(|n| n == name))
    })
}

/// The bytes of the file. Made in memory: the archive writer complains on stderr when it is dropped on a full disk.
fn archive(statistics: &Statistics) -> std::io::Result<Vec<u8>> {
    let moments = &statistics.moments;
    let dims = moments.dims();
    let sigma = (0..dims * dims).map(|i| moments.sigma[(i / dims, i % dims)]);
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    archive.start_file("mu.npy", options)?;
    archive.write_all(&npy(&[dims], moments.mu.iter().copied()))?;
    archive.start_file("sigma.npy", options)?;
    archive.write_all(&npy(&[dims, dims], sigma))?;
    if let Some(protocol) = &statistics.protocol {
        archive.start_file(PROTOCOL, options)?;
        let made = Made { protocol: protocol.clone(), num_images: moments.num_images };
        archive.write_all(&serde_json::to_vec(&made)?)?;
    }
    Ok(archive.finish()?.into_inner())
}

fn npy(dims: &[usize], data: impl Iterator<Item = f64>) -> Vec<u8> {
    let mut bytes = npy_header("<f8", dims, 64);
    data.for_each(|x| bytes.extend(x.to_le_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::Resize;

    fn statistics(protocol: Option<Protocol>) -> Statistics {
        let num_images = protocol.as_ref().map(|_| 70);
        let sigma = faer::mat![[2.0, 0.5], [0.5, 1.0]];
        Statistics { moments: Moments { num_images, mu: vec![1.0, -2.5], sigma }, protocol }
    }

    fn protocol() -> Protocol {
        let features = "FID-64".to_owned();
        Protocol { features, network_sha256: "ab".into(), dims: 64, resize: Some(Resize::Tf1) }
    }

    /// Writes an archive of the given arrays and reads it back.
    fn reread(arrays: &[(&str, Vec<u8>)]) -> Result<Statistics> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut archive = zip::ZipWriter::new(file.as_file());
        for (name, bytes) in arrays {
            archive.start_file(*name, zip::write::SimpleFileOptions::default()).expect("an entry");
            archive.write_all(bytes).expect("written");
        }
        archive.finish().expect("written");
        read(file.path())
    }

    #[test]
    fn what_was_written_is_read_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("ref.npz");
        for statistics in [statistics(None), statistics(Some(protocol()))] {
            write(&path, &statistics).expect("written");
            let back = read(&path).expect("read");
            assert_eq!(
                (&back.moments.mu, &back.moments.sigma),
                (&statistics.moments.mu, &statistics.moments.sigma)
            );
            assert_eq!(back.protocol, statistics.protocol);
            assert_eq!(back.moments.num_images, statistics.moments.num_images);
        }
    }

    #[test]
    fn bad_files_are_refused_with_their_reason() {
        let mu = || ("mu.npy", npy(&[2], [0.0; 2].into_iter()));
        let sigma = |data: [f64; 4]| ("sigma.npy", npy(&[2, 2], data.into_iter()));
        let cases: Vec<(Vec<(&str, Vec<u8>)>, &str)> = vec![
            (vec![("mean.npy", mu().1), sigma([1.0, 0.0, 0.0, 1.0])], "no array `mu` (it has: mean, sigma)"),
            (vec![mu(), ("sigma.npy", npy(&[3, 3], [0.0; 9].into_iter()))], "shape [3, 3], expected [2, 2]"),
            (vec![mu(), sigma([1.0, f64::NAN, 0.0, 1.0])], "holds NaN at element 1"),
            (vec![mu(), sigma([1e300, 0.0, 0.0, 1.0])], "holds 1e300 at element 0, which no features have"),
            (vec![mu(), sigma([1.0, 0.9, 0.0, 1.0])], "not symmetric"),
            (vec![mu(), sigma([-1.0, 0.0, 0.0, 1.0])], "negative variance"),
            (vec![mu(), ("sigma.npy", mu().1[..90].to_vec())], "cut off"),
            (vec![mu(), sigma([1.0, 0.0, 0.0, 1.0]), (PROTOCOL, b"{".to_vec())], "`protocol.json`"),
        ];
        for (arrays, reason) in cases {
            let error = reread(&arrays).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error} does not say {reason}");
        }
    }

    #[test]
    fn a_text_file_is_not_statistics() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "mu = 3").expect("written");
        assert!(read(file.path()).expect_err("text").to_string().contains("not an .npz"));
    }
}
