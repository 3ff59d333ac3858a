//! Layer 1: where records live. This file is the contract; `redis/` keeps it.
//!
//! ```text
//!               submit               exchange: claim              exchange: finish
//!  (nothing) ───────────▶ queued ───────────────────▶ running ─────────────────────▶ terminal
//!                          ▲  ▲ ▲                      │ │ │
//!                          │  │ └── lease ran out ─────┘ │ └── waiting ─▶ (answered) queued
//!                          │  └──── finish: again ───────┘
//!                          └─────── change: retry ◀── terminal
//! ```
//!
//! What every store promises (`P…` are the promises of ARCHITECTURE.md):
//!
//! * An acknowledged job is in exactly one place and ends in exactly one terminal state (P3).
//! * Each claim gets a [`Fence`] larger than any before it; a write that carries another fence than
//!   the newest is refused (P4). Time is the store's own (P6).
//! * Every method may be repeated until it is answered: the same call has the same effect once (P7).
//! * No lease runs out because the store itself was away (P9).
//! * Methods that change something must be awaited to completion by the caller; only [`Store::wake`]
//!   and [`Store::read`] may be raced and dropped.

use std::time::Duration;

use async_trait::async_trait;

use crate::core::{Event, Fence, Job, JobId, JobSpec, State, WorkerId};

mod people;
pub mod redis;
mod work;

pub use people::{
    BadAction, BadTicket, Change, Check, Control, Entry, Found, Level, Log, Query, Stats, Sweep,
};
pub use work::{
    Beat, Claimed, Exchange, Exchanged, Finish, Finished, Lock, LockAction, Pulse, Supply, Verdict,
    Wake, WorkerRecord,
};

/// A place where jobs wait, are leased and end. See the module's promises.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    // ── producers ──
    /// Queues jobs, all in one call. A job whose id or idempotency key is known already is answered
    /// with the known one.
    async fn submit(&self, jobs: &[NewJob]) -> Result<Vec<Submitted>>;

    // ── workers ──
    /// Makes a worker known. Leases of workers in `gone`, which the caller knows to be dead, and
    /// of older incarnations of the same exclusive pod are taken back at once (P14). Answers how many jobs
    /// were taken back. Repeating it refreshes the record. [`Kind::Misconfigured`]: a newer incarnation took
    /// over the pod's name, this one has nothing left and must end.
    async fn register(&self, worker: &WorkerRecord, gone: &[WorkerId]) -> Result<usize>;
    /// Ends attempts and claims new ones, in one round trip (P13).
    async fn exchange(&self, exchange: &Exchange) -> Result<Exchanged>;
    /// Renews the leases of everything a worker holds; answers with a verdict for each. Also takes
    /// back what other workers lost, and moves due jobs to the queue: there is no leader.
    async fn beat(&self, beat: &Beat) -> Result<Pulse>;
    /// Appends to a job's log, and drops older entries of it. Refused with [`Kind::Fenced`] when the
    /// attempt is not the current one. Answers the new entries' ids.
    async fn append(&self, token: &Token, events: &[Event], drop: &[String])
    -> Result<Vec<String>>;
    /// Waits until something may have changed, `limit` at most. May wake for nothing, may be late,
    /// carries no data (P8), may be dropped at any time.
    async fn wake(&self, wake: &Wake, limit: Duration) -> Result<()>;
    /// Takes, renews or releases a named lock. Answers the lock's fence while `owner` holds it.
    async fn lock(&self, lock: &Lock) -> Result<Option<Fence>>;

    // ── people ──
    /// Cancels, retries or deletes one job. Answers the state that the job has then.
    async fn change(&self, id: &JobId, change: &Change) -> Result<State>;
    /// Changes how the fleet works.
    async fn control(&self, control: &Control) -> Result<()>;
    /// Looks at, queues again or drops pushes that were not valid jobs.
    async fn bad(&self, action: &BadAction) -> Result<Vec<BadTicket>>;

    // ── readers ──
    /// Finds one job by its id, or by a prefix that only it has.
    async fn get(&self, id_or_prefix: &str) -> Result<Found>;
    /// Jobs, those not yet ended first, then newest first.
    async fn list(&self, query: &Query) -> Result<Vec<Job>>;
    /// Entries after `after` (`""` or `"0"`: from the start; `"$"`: only new ones). With `wait`,
    /// waits that long for the first one. May be dropped at any time (P10).
    async fn read(
        &self,
        log: &Log,
        after: &str,
        count: usize,
        wait: Option<Duration>,
    ) -> Result<Vec<Entry>>;
    async fn stats(&self) -> Result<Stats>;
    async fn workers(&self) -> Result<Vec<WorkerRecord>>;

    // ── upkeep ──
    /// Compares every record with the places it is in; answers what does not fit. Changes nothing.
    async fn fsck(&self) -> Result<Vec<String>>;
    /// Forgets what retention allows to forget, now instead of little by little.
    async fn sweep(&self, dry_run: bool) -> Result<Sweep>;
    /// What a person should know about the store's own state, each with its remedy.
    async fn health(&self) -> Result<Vec<Check>>;
}

/// A job to be queued: its id, what is asked, and the exact bytes that are kept.
#[derive(Clone, Debug)]
pub struct NewJob {
    pub id: JobId,
    pub spec: JobSpec,
    pub bytes: Vec<u8>,
}

impl NewJob {
    /// Names a job (once, so that a repeated submit is the same job) and renders its bytes.
    #[must_use]
    pub fn new(spec: JobSpec) -> Self {
        let id = spec.id.clone().unwrap_or_else(JobId::random);
        Self { id, bytes: spec.to_json(), spec }
    }
}

/// Answer to one submitted job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The job that now stands for the request.
    pub id: JobId,
    /// Whether this call made it; otherwise it was known already.
    pub is_new: bool,
}

/// One attempt, as every write of it is signed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    pub id: JobId,
    pub fence: Fence,
}

/// Times that the store itself applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Life of a lease that is not renewed.
    pub lease: Duration,
    /// How long an ended job is kept.
    pub job_ttl: Duration,
    /// How long a dead job is kept.
    pub dead_ttl: Duration,
    /// Most ended jobs that are kept.
    pub history: u64,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            job_ttl: Duration::from_hours(24),
            dead_ttl: Duration::from_hours(30 * 24),
            history: 1_000_000,
        }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed store call. Only its [`Kind`] is a basis for decisions.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another attempt of the job is the current one.
    #[error("attempt {0} is not the current one any more")]
    Fenced(Fence),
    #[error("there is no job {0}")]
    NotFound(String),
    /// The record's state does not allow the change.
    #[error("job {id} is {state}: {problem}")]
    Conflict { id: JobId, state: State, problem: &'static str },
    /// Wrong address, password, version or setting: trying again does not help.
    #[error("{0}")]
    Misconfigured(String),
    /// Not reachable, or no answer in time.
    #[error("{message}")]
    Unavailable {
        message: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// An answer that no version of this program gives.
    #[error("unexpected answer of the store: {0}")]
    Corrupt(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Fenced,
    NotFound,
    Conflict,
    Misconfigured,
    Unavailable,
    Corrupt,
}

impl Error {
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Fenced(_) => Kind::Fenced,
            Self::NotFound(_) => Kind::NotFound,
            Self::Conflict { .. } => Kind::Conflict,
            Self::Misconfigured(_) => Kind::Misconfigured,
            Self::Unavailable { .. } => Kind::Unavailable,
            Self::Corrupt(_) => Kind::Corrupt,
        }
    }
}

/// May an attempt do something that cannot be undone (push, open a pull request)? Extends its lease
/// to cover the deed.
pub async fn gate(
    store: &dyn Store,
    worker: &WorkerId,
    token: &Token,
    cover: Duration,
) -> Result<bool> {
    let beat = Beat {
        worker: worker.clone(),
        held: vec![token.clone()],
        lease: cover,
        is_whole: false,
        quarantine: None,
    };
    let pulse = store.beat(&beat).await?;
    Ok(matches!(pulse.verdicts.first(), Some(Verdict::Keep)))
}
