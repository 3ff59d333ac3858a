//! What became of a request: states, faults, counters and the result of the last attempt.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Fence, JobId, JobSpec, WorkerId};

/// Where a job is in its life (docs/concepts.md, "A job's life").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Runnable, or held back by a delay, a retry's backoff or a concurrency cap.
    Queued,
    /// Leased by one worker.
    Running,
    /// Stopped for an answer from outside; holds no slot.
    Waiting,
    /// Held back until a provider's limit resets.
    Deferred,
    /// Terminal: the agent did it.
    Succeeded,
    /// Terminal: the agent said no, or a fault that another attempt would not mend.
    Failed,
    /// Terminal: somebody asked for it.
    Canceled,
    /// Terminal: attempts, or the budget of lost workers, are used up.
    Dead,
    /// Terminal: never ran, refused by a rule or invalid.
    Rejected,
}

impl State {
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Running,
        Self::Waiting,
        Self::Deferred,
        Self::Succeeded,
        Self::Failed,
        Self::Canceled,
        Self::Dead,
        Self::Rejected,
    ];

    /// Whether the job has ended. Only terminal records expire.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Running | Self::Waiting | Self::Deferred)
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Deferred => "deferred",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Dead => "dead",
            Self::Rejected => "rejected",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that names no state, or no fault.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown {what} {word:?}; one of: {known}")]
pub struct UnknownWord {
    what: &'static str,
    word: String,
    known: String,
}

impl FromStr for State {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|state| state.as_str() == word).ok_or_else(|| UnknownWord {
            what: "state",
            word: word.to_owned(),
            known: Self::ALL.map(Self::as_str).join(", "),
        })
    }
}

/// Why an attempt did not succeed; decides what happens next ([`super::retry`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The agent failed or crashed for its own reasons.
    AgentExit,
    /// Over the wall clock limit.
    Timeout,
    /// No sign of life for too long.
    Idle,
    /// Over its memory budget.
    Oom,
    /// The provider answered 5xx or 529, or the connection broke.
    Overloaded,
    /// The provider answered 429 or named a usage limit.
    RateLimited,
    /// Out of credit.
    Quota,
    /// Not logged in, or refused by the provider.
    Auth,
    /// Unknown model.
    Model,
    /// The conversation no longer fits.
    Context,
    /// A limit in dollars, tokens, turns or tool calls was reached.
    Budget,
    /// Our check after the agent failed.
    Verify,
    /// Changes were expected and there are none.
    NoChanges,
    /// Push or pull request failed.
    Publish,
    /// Refused by a rule of ours.
    Policy,
    /// Clone, checkout or disk.
    Workspace,
    /// The process could not be started.
    Spawn,
    /// The worker vanished.
    Lost,
    /// A drain handed the job back.
    Interrupted,
    /// Asked for.
    Canceled,
}

impl Fault {
    pub const ALL: [Self; 20] = [
        Self::AgentExit,
        Self::Timeout,
        Self::Idle,
        Self::Oom,
        Self::Overloaded,
        Self::RateLimited,
        Self::Quota,
        Self::Auth,
        Self::Model,
        Self::Context,
        Self::Budget,
        Self::Verify,
        Self::NoChanges,
        Self::Publish,
        Self::Policy,
        Self::Workspace,
        Self::Spawn,
        Self::Lost,
        Self::Interrupted,
        Self::Canceled,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AgentExit => "agent_exit",
            Self::Timeout => "timeout",
            Self::Idle => "idle",
            Self::Oom => "oom",
            Self::Overloaded => "overloaded",
            Self::RateLimited => "rate_limited",
            Self::Quota => "quota",
            Self::Auth => "auth",
            Self::Model => "model",
            Self::Context => "context",
            Self::Budget => "budget",
            Self::Verify => "verify",
            Self::NoChanges => "no_changes",
            Self::Publish => "publish",
            Self::Policy => "policy",
            Self::Workspace => "workspace",
            Self::Spawn => "spawn",
            Self::Lost => "lost",
            Self::Interrupted => "interrupted",
            Self::Canceled => "canceled",
        }
    }

    /// Whether the worker's surroundings failed, not the job. Three in a row and a worker stops
    /// claiming for a while.
    #[must_use]
    pub const fn is_infrastructure(self) -> bool {
        matches!(self, Self::Workspace | Self::Spawn)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Fault {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|fault| fault.as_str() == word).ok_or_else(|| UnknownWord {
            what: "fault",
            word: word.to_owned(),
            known: Self::ALL.map(Self::as_str).join(", "),
        })
    }
}

/// What a job's attempts have cost it so far. Each counter has its own cap ([`super::retry`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Claims, this one included. Names branches and checkpoints.
    pub attempt: u32,
    /// Failures the job is blamed for; bounded by `max_attempts`.
    pub charged: u32,
    /// Workers that vanished under it.
    pub lost: u32,
    /// Provider overloads.
    pub overloaded: u32,
    /// Failures of a worker's surroundings (clone, disk, fork).
    pub infrastructure: u32,
}

/// What the last attempt reported. Stored as JSON next to the record; fields are only ever added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttemptResult {
    /// The process's exit code, where it exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended it, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// One line for a person: why the attempt ended as it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Commit that the attempt's checkout started from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_sha: Option<String>,
    /// Commit at the attempt's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_sha: Option<String>,
    /// Branch that was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Commits between the two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commits: Option<u32>,
    /// Diffstat in words (`2 files, +10 -3`), or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<String>,
    /// Ref in the repository's pool that the next attempt continues from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// Bytes the process wrote to stdout and stderr.
    pub output_bytes: u64,
    /// Bytes of them that are no longer in the log.
    pub output_dropped: u64,
    /// Milliseconds spent in each phase: `prepare`, `run`, `publish`.
    pub phases_ms: BTreeMap<String, u64>,
}

/// The durable record of one request. Times are milliseconds since the Unix epoch by the store's
/// clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub id: JobId,
    /// What was asked. [`JobSpec::default`] when the stored bytes are not a valid job.
    pub spec: JobSpec,
    pub state: State,
    pub counters: Counters,
    /// Fence of the newest attempt; 0 before the first.
    pub fence: Fence,
    /// Worker of the newest attempt.
    pub worker: Option<WorkerId>,
    pub fault: Option<Fault>,
    /// Who asked for a cancel that has not ended the job yet, or that ended it.
    pub cancel: Option<String>,
    /// Why a queued job is not runnable now: `delayed`, or the cap it waits for.
    pub held_by: Option<String>,
    pub created_at_ms: u64,
    pub started_at_ms: Option<u64>,
    pub finished_at_ms: Option<u64>,
    /// When a delayed or deferred job becomes runnable.
    pub due_at_ms: Option<u64>,
    pub result: AttemptResult,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        for fault in Fault::ALL {
            assert_eq!(fault.as_str().parse(), Ok(fault));
            assert_eq!(serde_json::to_value(fault).unwrap(), fault.as_str());
        }
        assert!("cancelled".parse::<State>().unwrap_err().to_string().contains("canceled"));
    }

    #[test]
    fn results_of_newer_versions_can_be_read() {
        let result: AttemptResult =
            serde_json::from_str(r#"{"exit_code":3,"from_the_future":[1]}"#).unwrap();
        assert_eq!(result.exit_code, Some(3));
    }
}
