//! Image sets from real files in temporary folders.

mod archives;
mod arrays;
mod bad_input;
mod identity;
mod listed;
mod make;
mod packs;
mod sources;
