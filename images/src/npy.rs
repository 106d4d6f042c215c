//! The header of numpy's `.npy` format (numpy.lib.format): magic, version, length, and a Python dictionary as text.

/// What the header says of the array that follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NpyHeader {
    /// The type of the elements, as `<f8` or `|u1`.
    pub descr: String,
    /// Whether the first index changes fastest.
    pub fortran_order: bool,
    /// The array's shape.
    pub shape: Vec<usize>,
    /// Bytes before the first element.
    pub len: usize,
}

/// The header of an array that is not in Fortran's order, padded to a multiple of `multiple` bytes: numpy's is one of 64.
pub fn npy_header(descr: &str, shape: &[usize], multiple: usize) -> Vec<u8> {
    let shape: String = shape.iter().map(|size| format!("{size},")).collect();
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    while !(text.len() + 11).is_multiple_of(multiple) {
        text.push(' ');
    }
    text.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

/// The most bytes that a header of the array files that are read here has; numpy pads them to a multiple of 64.
pub(crate) const NPY_HEADER_BYTES: usize = 4096;

impl NpyHeader {
    /// Parses the beginning of a file, which must hold the whole header.
    ///
    /// # Errors
    /// The reason, as text.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (start, len) = match bytes {
            [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _, low, high, ..] => {
                (10, 10 + usize::from(u16::from_le_bytes([*low, *high])))
            }
            [0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, _, a, b, c, d, ..] => {
                (12, (u32::from_le_bytes([*a, *b, *c, *d]) as usize).saturating_add(12))
            }
            _ => return Err("not in numpy's format".into()),
        };
        let text = bytes.get(start..len).ok_or("cut off in its header")?;
        let text = String::from_utf8_lossy(text).replace(' ', "");
        let field = |name: &str| {
            let key = format!("'{name}':");
            let at = text.find(&key).ok_or_else(|| format!("its header has no {name}"))?;
            Ok::<_, String>(text.get(at + key.len()..).unwrap_or_default())
        };
        let descr = field("descr")?.strip_prefix('\'').and_then(|rest| rest.split('\'').next());
        let shape = field("shape")?.strip_prefix('(').and_then(|rest| rest.split(')').next());
        let shape = shape.ok_or("its header has no shape")?;
        let sizes = shape.split(',').filter(|size| !size.is_empty()).map(str::parse::<usize>);
        Ok(Self {
            // A dictionary or list of fields is no type of numbers.
            descr: descr.unwrap_or("of several fields").to_owned(),
            fortran_order: field("fortran_order")?.starts_with("True"),
            shape: sizes.collect::<Result<_, _>>().map_err(|_| format!("shape ({shape})"))?,
            len,
        })
    }

    /// How many elements there are; `None` beyond what can be counted.
    pub fn count(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes
    }

    #[test]
    fn both_versions_are_read_and_damage_is_told() {
        let text = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 4, 4, 3), }   \n";
        for version in [1, 2, 3] {
            let bytes = file(version, text);
            let header = NpyHeader::parse(&bytes).unwrap();
            assert_eq!((header.descr.as_str(), header.fortran_order), ("|u1", false));
            assert_eq!((header.shape.as_slice(), header.len), (&[2, 4, 4, 3][..], bytes.len()));
            assert_eq!(header.count(), Some(96));
            assert!(NpyHeader::parse(&bytes[..bytes.len() - 1]).unwrap_err().contains("cut off"));
        }
        assert_eq!(
            NpyHeader::parse(&file(1, "{'descr':'<f8','fortran_order':True,'shape':(7,)}")).unwrap().shape,
            [7]
        );
        for (header, says) in [
            ("{'fortran_order': False, 'shape': (2,)}", "no descr"),
            ("{'descr': '<f8', 'shape': (2,)}", "no fortran_order"),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (2,-1)}", "shape (2,-1)"),
            ("{'descr': '<f8', 'fortran_order': False}", "no shape"),
        ] {
            assert!(NpyHeader::parse(&file(1, header)).unwrap_err().contains(says), "{header}");
        }
        let huge = NpyHeader::parse(&file(
            1,
            "{'descr':'|u1','fortran_order':False,'shape':(9999999999999,9999999999999)}",
        ));
        assert_eq!(huge.unwrap().count(), None);
    }
}
