//! Training a classifier: the loop in `training`, what ends an epoch in `epoch`, and the pieces they are made of.

pub mod augment;
mod epoch;
pub mod evaluate;
pub mod mix;
pub mod rand_augment;
pub mod settings;
pub mod training;

pub use epoch::{
    DATA_DIGEST, FORMAT, MODEL_BEST, PACKED_FROM, SUMMARY, TENSOR_FILES, TENSOR_FILES_EMA, TEST_DIGEST,
    model_metadata,
};
