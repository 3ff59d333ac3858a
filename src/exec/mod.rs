//! Layer 1: processes. The worker starts one small supervisor per attempt, `sortie __shim`
//! (`shim.rs`), which starts the agent and outlives neither it nor the worker.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

pub mod local;
pub mod shim;

/// What to run.
#[derive(Clone, Debug)]
pub struct Request {
    /// Program and arguments. Arguments may be of any size (see [`local::start`]).
    pub argv: Vec<String>,
    /// The whole environment of the process; nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: PathBuf,
    /// File to read standard input from; `/dev/null` without one.
    pub stdin: Option<PathBuf>,
    /// Existing private directory of the attempt; exit report and oversized arguments are put there.
    pub dir: PathBuf,
    /// How long the process may take between a polite signal and SIGKILL.
    pub grace: Duration,
    /// Until when the worker is sure to hold the lease. The supervisor freezes the process tree at
    /// this instant unless [`Running::extend`] moved it.
    pub lease_until: Instant,
}

/// A started process tree. Dropping it kills the tree.
pub struct Running {
    /// What the processes write; closes a bounded time after the process has exited.
    pub output: mpsc::Receiver<Chunk>,
}

/// Some output.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub stream: crate::core::event::OutputStream,
    pub bytes: Vec<u8>,
}

/// How the process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// Processes that were still there after the leader's exit, and were killed.
    pub leaked: u32,
    /// The program could not be started: why.
    pub not_started: Option<String>,
    /// CPU time of the tree in microseconds.
    pub cpu_us: u64,
    /// Largest resident set of one process of the tree, in KiB.
    pub max_rss_kib: u64,
}

/// The supervisor could not be started (fork, file, or an argument no kernel takes).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "argument {index} is {bytes} bytes; a single argument may have {max} at most: pass it as the prompt (standard input) or in a file"
    )]
    ArgumentTooLarge { index: usize, bytes: usize, max: usize },
    #[error("cannot start the supervisor: {0}")]
    Spawn(#[source] std::io::Error),
    #[error("cannot write {path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
}

impl Running {
    /// The lease holds until `until`: thaws the tree if it was frozen for an older deadline.
    pub fn extend(&self, _until: Instant) {
        unimplemented!()
    }
    /// Asks the process to end: SIGINT, then SIGTERM, then SIGKILL to all of it within the grace.
    pub fn stop(&self) {
        unimplemented!()
    }
    /// SIGKILL to the whole tree.
    pub fn kill(&self) {
        unimplemented!()
    }
    /// Waits until the leader has exited and nothing of the tree is left. Cancel-safe.
    pub async fn exit(&mut self) -> Exit {
        unimplemented!()
    }
}
