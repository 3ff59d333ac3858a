//! Layer 3: what is said over the wire.

pub mod wire;
