//! `nestgen fid REAL FAKE`: scores two image sets against each other.
