//! From a pickled tensor and its storage to a contiguous array: strides honoured, bounds checked.

use std::collections::BTreeMap;

use super::pickle::{FLOAT_STORAGE, Id, LONG_STORAGE, Parsed, Pickles, Value};
use super::{Array, StateDict};

/// More elements than all tensors of the network together (24 million): tensors may share a storage, so a small file can
/// describe many large ones.
const MAX_ELEMENTS: usize = 1 << 26;
/// More dimensions than any tensor has.
const MAX_RANK: usize = 8;

/// What a storage holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    I64,
}

impl Element {
    pub(super) fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::I64 => 8,
        }
    }
}

/// A tensor's description in the pickle.
pub(super) struct Description {
    pub(super) storage: String,
    pub(super) element: Element,
    /// Elements of the storage.
    pub(super) count: usize,
    offset: usize,
    dims: Vec<usize>,
    strides: Vec<usize>,
}

/// The tensors that a pickled dictionary describes.
pub(super) fn describe(pickles: &Pickles, root: Id) -> Parsed<BTreeMap<String, Description>> {
    let mut described = BTreeMap::new();
    for &(key, value) in pickles.dict(root)? {
        let name = pickles.text(key)?;
        let Value::Tensor(arguments) = pickles.get(value) else {
            return Err(format!("entry `{name}` is not a tensor"));
        };
        let description =
            description(pickles, arguments).map_err(|reason| format!("tensor `{name}`: {reason}"))?;
        described.insert(name.to_owned(), description);
    }
    Ok(described)
}

fn description(pickles: &Pickles, arguments: &[Id]) -> Parsed<Description> {
    let &[storage, offset, dims, strides, ..] = arguments else { return Err("too few arguments".into()) };
    let Value::Persistent(storage) = pickles.get(storage) else { return Err("it has no storage".into()) };
    let &[kind, element, key, _device, count, ..] = pickles.tuple(*storage)? else {
        return Err("its storage has too few arguments".into());
    };
    if pickles.text(kind)? != "storage" {
        return Err("its storage is of an unknown kind".into());
    }
    let element = match pickles.get(element) {
        Value::Global(FLOAT_STORAGE) => Element::F32,
        Value::Global(LONG_STORAGE) => Element::I64,
        other => return Err(format!("its elements are {other}, not f32 or i64")),
    };
    let sizes = |id| match pickles.tuple(id)? {
        sizes if sizes.len() <= MAX_RANK => {
            sizes.iter().map(|&id| pickles.count(id)).collect::<Parsed<Vec<_>>>()
        }
        sizes => Err(format!("{} dimensions", sizes.len())),
    };
    Ok(Description {
        storage: pickles.text(key)?.to_owned(),
        element,
        count: pickles.count(count)?,
        offset: pickles.count(offset)?,
        dims: sizes(dims)?,
        strides: sizes(strides)?,
    })
}

/// All tensors, given a way to find the bytes of a storage.
pub(super) fn gather<'a>(
    described: &BTreeMap<String, Description>,
    storage: impl Fn(&Description) -> Parsed<&'a [u8]>,
) -> Parsed<StateDict> {
    let mut tensors = StateDict::new();
    let mut left = MAX_ELEMENTS;
    for (name, description) in described {
        let array = storage(description).and_then(|bytes| rebuild(description, bytes, &mut left));
        tensors.insert(name.clone(), array.map_err(|reason| format!("tensor `{name}`: {reason}"))?);
    }
    Ok(tensors)
}

/// One tensor; `left` is how many elements there may still be.
fn rebuild(description: &Description, bytes: &[u8], left: &mut usize) -> Parsed<Array> {
    let Description { offset, dims, strides, element, .. } = description;
    if dims.len() != strides.len() {
        return Err(format!("shape {dims:?} with strides {strides:?}"));
    }
    let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let rest = count.and_then(|n| left.checked_sub(n));
    let (Some(count), Some(rest)) = (count, rest) else {
        return Err(format!("shape {dims:?} is too large"));
    };
    *left = rest;
    let reach = dims.iter().zip(strides).try_fold(*offset, |at, (&d, &s)| {
        d.saturating_sub(1).checked_mul(s).and_then(|step| at.checked_add(step))
    });
    let available = bytes.len() / element.bytes();
    if count > 0 && reach.is_none_or(|last| last >= available) {
        return Err(format!(
            "shape {dims:?}, strides {strides:?}, offset {offset} reach past its {available} elements"
        ));
    }
    let indices = (0..count).map(|i| {
        // Row-major index i, as a place in the storage.
        let mut rest = i;
        dims.iter().zip(strides).rev().fold(*offset, |at, (&d, &s)| {
            let place = rest % d;
            rest /= d;
            at + place * s
        })
    });
    let dims = dims.clone();
    Ok(match element {
        Element::F32 => {
            Array::F32 { dims, data: indices.map(|i| f32::from_le_bytes(element_at(bytes, i))).collect() }
        }
        Element::I64 => {
            Array::I64 { dims, data: indices.map(|i| i64::from_le_bytes(element_at(bytes, i))).collect() }
        }
    })
}

/// The bytes of element `i`.
#[expect(clippy::indexing_slicing, reason = "`rebuild` checked that the last element is inside")]
fn element_at<const N: usize>(bytes: &[u8], i: usize) -> [u8; N] {
    std::array::from_fn(|b| bytes[i * N + b])
}
