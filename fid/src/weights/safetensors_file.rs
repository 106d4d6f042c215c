//! Weights in a `.safetensors` file.

use safetensors::{Dtype, SafeTensors};

use super::pickle::Parsed;
use super::{Array, StateDict};

/// Reads a whole file.
pub(super) fn read(bytes: &[u8]) -> Parsed<StateDict> {
    let file =
        SafeTensors::deserialize(bytes).map_err(|e| format!("damaged or cut-off safetensors file: {e}"))?;
    let mut tensors = StateDict::new();
    for (name, view) in file.tensors() {
        let dims = view.shape().to_vec();
        let array = match view.dtype() {
            Dtype::F32 => {
                let values = view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b));
                Array::F32 { dims, data: values.collect() }
            }
            Dtype::I64 => {
                let values = view.data().as_chunks().0.iter().map(|&b| i64::from_le_bytes(b));
                Array::I64 { dims, data: values.collect() }
            }
            other => return Err(format!("tensor `{name}` holds {other:?}, not f32 or i64")),
        };
        tensors.insert(name.to_owned(), array);
    }
    Ok(tensors)
}
