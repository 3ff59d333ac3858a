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

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::core::{
    AttemptResult, Counters, Event, Fault, Fence, Job, JobId, JobSpec, Next, State, WorkerId,
};

pub mod redis;

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

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Ends a job that is not running; asks for the end of one that is.
    Cancel { by: String },
    /// Queues an ended job again with fresh counters. `fresh`: from the start, not from where the
    /// last attempt stopped.
    Retry { fresh: bool },
    /// Forgets an ended job.
    Delete,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    Pause {
        by: String,
    },
    Resume,
    /// At most this many running jobs: of the fleet, or of one profile. `None`: no limit.
    Limit {
        profile: Option<String>,
        running: Option<u32>,
    },
    /// The worker claims nothing more; after `within` it hands back what still runs.
    Drain {
        worker: WorkerId,
        within: Duration,
    },
    /// A drained worker says good-bye. Whatever it still holds is handed back.
    Leave {
        worker: WorkerId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadAction {
    List,
    /// Puts the tickets with these ids (empty: all) on the queue again.
    Requeue(Vec<String>),
    Drop(Vec<String>),
}

/// A push that was not a valid job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadTicket {
    /// Names the ticket in [`BadAction`].
    pub id: String,
    pub at_ms: u64,
    pub reason: String,
    /// The bytes exactly as they were pushed.
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
pub enum Found {
    One(Box<Job>),
    /// Several jobs have the prefix; these are the first of them.
    Ambiguous(Vec<JobId>),
    None,
}

/// Which jobs to list. An empty field does not restrict.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    pub states: Vec<State>,
    pub repo: Option<String>,
    pub profile: Option<String>,
    pub labels: Vec<(String, String)>,
    /// Pod name or worker id.
    pub worker: Option<String>,
    /// Only jobs created at or after this time (milliseconds since the epoch).
    pub since_ms: Option<u64>,
    /// At most so many (0: 50).
    pub limit: usize,
}

impl Query {
    /// Whether the query wants this job.
    #[must_use]
    pub fn wants(&self, job: &Job) -> bool {
        (self.states.is_empty() || self.states.contains(&job.state))
            && self.repo.as_ref().is_none_or(|repo| {
                job.spec.repo.as_ref().is_some_and(|of_job| of_job.contains(repo.as_str()))
            })
            && self.profile.as_deref().is_none_or(|name| job.spec.profile_name() == Some(name))
            && self.labels.iter().all(|(key, value)| job.spec.labels.get(key) == Some(value))
            && self.worker.as_ref().is_none_or(|name| {
                job.worker.as_ref().is_some_and(|id| id.as_str() == name || id.pod() == name)
            })
            && self.since_ms.is_none_or(|since| job.created_at_ms >= since)
    }
}

/// A log to read.
#[derive(Clone, Debug)]
pub enum Log {
    /// One job's events.
    Job(JobId),
    /// All transitions of the fleet.
    Fleet,
}

/// One log entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Position; reading after it goes on where this stopped.
    pub id: String,
    pub at_ms: u64,
    /// The job it belongs to.
    pub job: JobId,
    pub event: Event,
}

/// The queue in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Runnable now.
    pub pending: u64,
    /// Of those, pushed by others and not opened yet.
    pub unopened: u64,
    pub running: u64,
    /// Delayed, backing off or deferred.
    pub later: u64,
    /// Held back by a concurrency cap.
    pub parked: u64,
    pub waiting: u64,
    /// Ended, and still kept.
    pub done: u64,
    pub dead: u64,
    /// Pushes that were not valid jobs.
    pub bad: u64,
    /// Highest busy ordinal + 1.
    pub busy_floor: u64,
    /// Who paused the fleet.
    pub paused_by: Option<String>,
    /// Running-job limits: `fleet`, or a profile's name after `profile:`.
    pub limits: BTreeMap<String, u64>,
    /// Everything counted since the store was made: `submitted`, `adopted`, `claimed`, `reaped`,
    /// `stale`, `duplicate`, `bad`, and one for each terminal state.
    pub totals: BTreeMap<String, u64>,
    /// Age of the opened job that runs next.
    pub oldest_ms: Option<u64>,
}

/// What a sweep removed, or would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sweep {
    pub records: u64,
    pub workers: u64,
}

/// One thing looked at by [`Store::health`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: String,
    pub level: Level,
    /// What was found and, where it is not good, what to do about it.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Ok,
    Warning,
    Error,
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
