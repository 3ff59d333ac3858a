//! What workers and a store say to each other.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Token;
use crate::core::{AttemptResult, Counters, Fault, Next, WorkerId};

/// A worker as the fleet sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    pub id: WorkerId,
    /// Number of the pod in its StatefulSet; workers with a low one are filled first.
    pub ordinal: Option<u32>,
    /// Whether only one incarnation of this pod can be alive (a StatefulSet's promise).
    pub exclusive: bool,
    pub slots: u32,
    /// Jobs held now. Set by the store.
    pub running: u32,
    pub draining: bool,
    /// Why the worker claims nothing at the moment, where it decided so itself.
    pub quarantine: Option<String>,
    pub version: String,
    /// Identity of the host and process namespace, and the process in it: lets another worker on the
    /// same host see that this one is dead.
    pub host: String,
    pub pid: u32,
    /// Start time of the process in clock ticks since boot (`/proc/<pid>/stat` field 22).
    pub pid_started: u64,
    /// When it was first registered, by the store's clock. 0 in a first registration: only that one
    /// may displace another incarnation of an exclusive pod.
    pub started_at_ms: u64,
    /// Milliseconds since the last heartbeat. Set by the store.
    pub silent_ms: u64,
    /// Whether it has been silent for longer than a lease. Set by the store.
    pub is_lost: bool,
}

/// A worker's call: these attempts have ended, and so many new ones are wanted.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub worker: WorkerId,
    pub ordinal: Option<u32>,
    /// Number of the call, growing; a repeated call has the same number and gets the same jobs.
    pub call: u64,
    pub want: u32,
    /// Whether the worker has already stepped back for peers with lower ordinals.
    pub has_yielded: bool,
    pub finished: Vec<Finish>,
}

/// How one attempt ended.
#[derive(Clone, Debug)]
pub struct Finish {
    pub token: Token,
    pub next: Next,
    pub fault: Option<Fault>,
    pub result: AttemptResult,
}

/// What the store did with one [`Finish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// Written, now or by an earlier delivery of the same call.
    Accepted,
    /// Another attempt is the current one, or the job has ended: nothing was written.
    Stale,
    /// There is no such job any more.
    Unknown,
}

#[derive(Clone, Debug)]
pub struct Exchanged {
    /// One for each of [`Exchange::finished`].
    pub finished: Vec<Finished>,
    pub claimed: Vec<Claimed>,
    /// Why there are not more jobs in `claimed`.
    pub supply: Supply,
}

/// Why a claim got no more than it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Supply {
    /// As many as were wanted.
    Enough,
    /// Nothing more is runnable; the next delayed job is due in so many milliseconds.
    Empty { next_due_ms: Option<u64> },
    /// Peers with lower ordinals have room for all that waits: ask again in a moment.
    Yield,
    /// The fleet is paused, or runs as many jobs as it may. Wait for an event, not for work.
    Closed { reason: String },
    /// This worker is draining.
    Draining,
    /// The store does not know this worker (any more): register again.
    Unregistered,
}

/// A claimed job: a lease of it until it is finished, or not renewed.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub token: Token,
    /// With the current attempt counted in `attempt`.
    pub counters: Counters,
    /// The exact bytes that were submitted or pushed.
    pub bytes: Vec<u8>,
    /// What the previous attempt reported.
    pub previous: Option<AttemptResult>,
}

/// A heartbeat.
#[derive(Clone, Debug)]
pub struct Beat {
    pub worker: WorkerId,
    pub held: Vec<Token>,
    /// How long each lease lasts from now on; a lease is never shortened.
    pub lease: Duration,
    /// Whether `held` is all that the worker holds. If not, [`Pulse::others`] stays empty and
    /// `quarantine` is not looked at.
    pub is_whole: bool,
    /// Reason for which the worker claims nothing, shown to people.
    pub quarantine: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Pulse {
    /// One for each of [`Beat::held`].
    pub verdicts: Vec<Verdict>,
    /// Attempts that the store counts as held by this worker and that are not in [`Beat::held`].
    pub others: Vec<Token>,
    /// Set when somebody asked the worker to drain: how long its jobs may still run.
    pub drain_in: Option<Duration>,
    /// Whether the store knows the worker; if not it must register again.
    pub is_registered: bool,
}

/// What the store says of one held attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    /// Somebody asked for the job to be canceled.
    Cancel {
        by: String,
    },
    /// The attempt is not the current one any more: stop it, write nothing.
    Lost,
}

/// What to wait for.
#[derive(Clone, Debug)]
pub enum Wake {
    /// The queue is not empty.
    Work,
    /// Somebody changed something that concerns this worker (cancel, drain).
    Poke(WorkerId),
    /// Any transition in the fleet after the one that the last exchange saw.
    Transition,
}

/// A named lock with a life. Protects the shared clone.
#[derive(Clone, Debug)]
pub struct Lock {
    pub name: String,
    /// Random, so that nobody releases what is not theirs.
    pub owner: String,
    pub action: LockAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockAction {
    /// Take it for this long, or renew it if `owner` has it.
    Hold(Duration),
    Release,
}
