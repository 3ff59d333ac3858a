//! Sortie: a fleet of identical workers that runs coding agents on git repositories.
//!
//! ```text
//! 4  cli      one file per subcommand
//! 3  api      what is said over the wire
//! 2  worker   the engine            service  the use cases
//! 1  store    records   git  repositories   exec  processes      (never import each other)
//! 0  core     the domain: ids, Job, states, Fault, Profile, retry. No I/O, no runtime
//!    config   telemetry   env    leaves
//! ```
//!
//! Arrows only point downwards; `tests/architecture.rs` keeps it so. Read `core/job.rs`, then
//! `store/mod.rs` and its Lua files, then `worker/slot.rs`, `exec/shim.rs` and `git/mod.rs`.

pub mod api;
pub mod cli;
pub mod config;
pub mod core;
pub mod env;
pub mod exec;
pub mod git;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod worker;
