//! Layer 4: the command line.

pub mod bench;
