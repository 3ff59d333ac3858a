//! Layer 2: the use cases. Every protocol calls only these.
