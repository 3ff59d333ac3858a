//! The supervisor with real processes. Every test marks its processes by an environment variable
//! and ends by looking through all of /proc for one that carries the mark.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "shim/ending.rs"]
mod ending;
#[path = "shim/lease.rs"]
mod lease;
#[path = "shim/place.rs"]
mod place;
#[path = "shim/starting.rs"]
mod starting;
#[path = "shim/template.rs"]
mod template;
