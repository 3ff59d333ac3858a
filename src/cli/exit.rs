//! How a command ends: its exit code, and what it says when it fails. One table for both the code
//! and the reference page (`docs/exit-codes.md`).

use std::process::ExitCode;

use crate::core::{Fault, Job, State};
use crate::{config, service, store};

/// Exit codes. Stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Success,
    Failed,
    Usage,
    NotFound,
    /// `drain` handed jobs back. The same number as [`Exit::NotFound`].
    HandedBack,
    Limit,
    Dead,
    Canceled,
    Refused,
    Unavailable,
    StillRunning,
    Interrupted,
    /// The agent's own code, where that was asked for.
    Agent(u8),
}

/// Code and meaning, in order.
pub(super) const TABLE: &[(Exit, &str)] = &[
    (Exit::Success, "the job succeeded, or the command did what it was asked to"),
    (Exit::Failed, "the job failed, or the command could not do what it was asked to"),
    (Exit::Usage, "the command line, a setting or a file of jobs is wrong"),
    (Exit::NotFound, "no such job, or several with that prefix; `drain`: jobs were handed back"),
    (Exit::Limit, "a limit ended the job: timeout, idle time or budget"),
    (Exit::Dead, "the job is dead: its attempts, or its workers, are used up"),
    (Exit::Canceled, "the job was canceled"),
    (Exit::Refused, "the job was refused: policy, quota or authentication"),
    (Exit::Unavailable, "the store cannot be reached, or is not fit for use"),
    (Exit::StillRunning, "waiting took too long; the job goes on"),
    (Exit::Interrupted, "interrupted while waiting; the job goes on"),
];

impl Exit {
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound | Self::HandedBack => 3,
            Self::Limit => 4,
            Self::Dead => 5,
            Self::Canceled => 6,
            Self::Refused => 7,
            Self::Unavailable => 69,
            Self::StillRunning => 75,
            Self::Interrupted => 130,
            Self::Agent(code) => code,
        }
    }

    /// How a command that waited for a job ends. With `agent`, the agent's own code where it has
    /// one that a process can exit with.
    #[must_use]
    pub fn of(job: &Job, agent: bool) -> Self {
        if agent && let Some(Ok(code)) = job.result.exit_code.map(u8::try_from) {
            return Self::Agent(code);
        }
        match job.state {
            State::Succeeded => Self::Success,
            State::Dead => Self::Dead,
            State::Canceled => Self::Canceled,
            State::Rejected => Self::Refused,
            _ => match job.fault {
                Some(Fault::Timeout | Fault::Idle | Fault::Budget) => Self::Limit,
                Some(Fault::Quota | Fault::Auth | Fault::Policy) => Self::Refused,
                _ => Self::Failed,
            },
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The reference page, in Markdown.
#[must_use]
pub(super) fn reference() -> String {
    let rows = TABLE.iter().map(|(exit, meaning)| format!("| {} | {meaning} |", exit.code()));
    format!(
        "# Exit codes\n\nThey are stable: scripts may rely on them.\n\n\
         | Code | Meaning |\n| --- | --- |\n{}\n\n\
         `run`, `wait` and `submit --wait` end as their job ends; of several jobs, as the first\n\
         one (in the order given) that did not succeed. With `--agent-exit-code` the agent's own\n\
         code is passed on, where the agent ended by itself. Where the reader of their output leaves\n\
         (`sortie run … | head -1`), waiting ends too: 130.\n",
        rows.collect::<Vec<_>>().join("\n")
    )
}

/// Why a command could not do what it was asked to: what and why, and what to do next.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    /// What to do next, where the message does not say it.
    pub next: Option<String>,
}

/// How every command ends.
pub type Outcome = Result<Exit, Failure>;

impl Failure {
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), next: None }
    }

    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// The reader of our output has gone; that is no failure of ours.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        self.exit == Exit::Success
    }
}

impl From<std::io::Error> for Failure {
    /// Of writing to standard output or standard error.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Success, "");
        }
        Self::new(Exit::Failed, format!("cannot write the output: {error}"))
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        let next = "`sortie config` shows the settings, `sortie help environment` explains them";
        Self::usage(error.to_string()).next(next)
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        let message = error.to_string();
        match &error {
            store::Error::Misconfigured(_) | store::Error::Unavailable { .. } => {
                Self::new(Exit::Unavailable, message)
                    .next("`sortie doctor` checks the store, `sortie config` shows which one it is")
            }
            store::Error::NotFound(_) => Self::new(Exit::NotFound, message),
            store::Error::Conflict { id, state, .. } => {
                let failure = Self::new(Exit::Failed, message);
                if state.is_terminal() {
                    failure.next(format!("`sortie retry {id}` queues it again"))
                } else {
                    failure.next(format!("`sortie cancel {id}` ends it first"))
                }
            }
            store::Error::Fenced(_) | store::Error::Corrupt(_) => {
                Self::new(Exit::Failed, message).next("`sortie fsck` checks the store's records")
            }
        }
    }
}

impl From<service::Error> for Failure {
    fn from(error: service::Error) -> Self {
        let message = error.to_string();
        match error {
            service::Error::Store(error) => error.into(),
            service::Error::NotFound(_) => {
                Self::new(Exit::NotFound, message).next("`sortie jobs` lists those that are kept")
            }
            service::Error::Ambiguous { .. } => {
                Self::new(Exit::NotFound, message).next("give more characters of the one you mean")
            }
            service::Error::Spec { .. } => Self::usage(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{AttemptResult, Counters, Fence, JobSpec};

    #[test]
    fn the_published_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/exit-codes.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        let published = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(published, reference(), "run the tests with UPDATE_DOCS=1 and commit the file");
    }

    #[test]
    fn a_jobs_end_decides_the_code() {
        let mut job = Job {
            id: "a".parse().unwrap(),
            spec: JobSpec::default(),
            state: State::Failed,
            counters: Counters::default(),
            fence: Fence(1),
            worker: None,
            fault: None,
            cancel: None,
            held_by: None,
            created_at_ms: 0,
            started_at_ms: None,
            finished_at_ms: None,
            due_at_ms: None,
            result: AttemptResult { exit_code: Some(42), ..AttemptResult::default() },
        };
        for (state, fault, code) in [
            (State::Succeeded, None, 0),
            (State::Failed, Some(Fault::AgentExit), 1),
            (State::Failed, Some(Fault::Timeout), 4),
            (State::Failed, Some(Fault::Auth), 7),
            (State::Dead, Some(Fault::Timeout), 5),
            (State::Canceled, Some(Fault::Canceled), 6),
            (State::Rejected, Some(Fault::Policy), 7),
        ] {
            (job.state, job.fault) = (state, fault);
            assert_eq!(Exit::of(&job, false).code(), code, "{state} {fault:?}");
        }
        assert_eq!(Exit::of(&job, true).code(), 42);
        job.result.exit_code = None;
        assert_eq!(Exit::of(&job, true).code(), 7);
    }
}
