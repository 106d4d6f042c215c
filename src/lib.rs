//! Train unconditional image generators and find out, honestly, which one learns faster.

pub mod rng;
