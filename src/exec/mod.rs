//! Layer 1: processes. The worker has one small supervisor forked per attempt, by `sortie __shim`
//! (`template.rs`), which starts the agent and outlives neither it nor the worker (`shim.rs`).

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, watch};

mod agent;
pub mod local;
pub mod shim;
pub mod stale;
mod template;
mod tree;
mod wire;

const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;

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
    /// Existing private directory of the attempt; the supervisor's lock and oversized arguments are
    /// put there.
    pub dir: PathBuf,
    /// How long the process may take between a polite signal and SIGKILL.
    pub grace: Duration,
    /// Until when the worker is sure to hold the lease. The supervisor freezes the process tree at
    /// this instant unless [`Running::extend`] moved it.
    pub lease_until: Instant,
}

/// A started process tree. Dropping it kills the tree.
#[derive(Debug)]
pub struct Running {
    /// What the processes write; closes a bounded time after the process has exited. It is small:
    /// while nobody takes from it, a process that writes much waits.
    pub output: mpsc::Receiver<Chunk>,
    pid: u32,
    /// The worker's half of the supervisor's standard input, non-blocking. Its end kills the tree.
    lifeline: Mutex<Option<OwnedWriteHalf>>,
    exit: watch::Receiver<Option<Exit>>,
}

/// Some output.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub stream: crate::core::event::OutputStream,
    pub bytes: Vec<u8>,
}

/// How the process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// Processes that were still there after the leader's exit, and were killed.
    pub leaked: u32,
    /// The program was never started: why. `code` and `signal` are then empty.
    pub not_started: Option<NotStarted>,
    /// CPU time of the tree in microseconds.
    pub cpu_us: u64,
    /// Largest resident set of one process of the tree, in KiB.
    pub max_rss_kib: u64,
}

/// Why a program was never started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotStarted {
    /// For a person: what, why, what next.
    pub reason: String,
    /// Whether this host is to blame (no memory, no processes, no lease) and another attempt may
    /// work. Otherwise the request is: no such program, not executable, arguments too large.
    pub is_infrastructure: bool,
}

/// The supervisor could not be started (fork, file, or an argument no kernel takes).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "argument {index} is {bytes} bytes; a single argument may have {max} at most: pass it as the prompt (standard input) or in a file"
    )]
    ArgumentTooLarge { index: usize, bytes: usize, max: usize },
    #[error("cannot start the supervisor: {0}")]
    Spawn(#[source] io::Error),
    #[error("cannot write {path}: {source}")]
    File { path: PathBuf, source: io::Error },
}

impl Running {
    /// Process id of the supervisor, for logs.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The lease holds until `until`: thaws the tree if it was frozen for an older deadline. An
    /// earlier instant than a former one changes nothing.
    pub fn extend(&self, until: Instant) {
        // What a supervisor that reads nothing misses, the next call says again.
        let _may_be_missed = self.tell(wire::Order::Lease(local::until_ns(until)));
    }

    /// Asks the process to end: SIGINT to its group at once, SIGTERM to all of the tree after a
    /// third of the grace, SIGKILL after the grace. Without a lease (or when it ends meanwhile) it
    /// is SIGKILL at once, because a process that ends politely is one that runs.
    pub fn stop(&self) {
        self.insist(wire::Order::Stop);
    }

    /// SIGKILL to the whole tree.
    pub fn kill(&self) {
        self.insist(wire::Order::Kill);
    }

    /// Waits until the leader has exited and nothing of the tree is left. Cancel-safe, and may be
    /// called again.
    pub async fn exit(&mut self) -> Exit {
        match self.exit.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(exit)) => exit.clone(),
            // The task that waits is gone only with the runtime, and the lifeline with it.
            _ => Exit { signal: Some(SIGKILL), ..Exit::default() },
        }
    }

    /// Writes one order, without waiting: the socket has room for hundreds of them.
    fn tell(&self, order: wire::Order) -> io::Result<()> {
        let lifeline = self.lifeline.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lifeline) = &*lifeline else { return Ok(()) };
        let line = order.to_string();
        // Not by the runtime, which says that a new socket is full until it has asked the kernel.
        let stream: &UnixStream = lifeline.as_ref();
        match nix::unistd::write(stream, line.as_bytes())? {
            count if count == line.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// An order that must not get lost: if it cannot be written, the end of the lifeline, which
    /// kills everything, says what is left to say.
    fn insist(&self, order: wire::Order) {
        if self.tell(order).is_err() {
            drop(self.lifeline.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}
