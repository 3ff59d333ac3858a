//! What people ask of a store, and what it shows them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::core::{Event, Job, JobId, State, WorkerId};

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

/// One thing looked at by [`super::Store::health`].
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
