//! Layer 2: the engine.
