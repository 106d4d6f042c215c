//! Image sets from real files in temporary folders.

mod arrays;
mod bad_input;
mod make;
mod packs;
mod sources;
