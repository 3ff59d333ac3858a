//! Reading one job's log until the job has ended, without polling.

use std::sync::Arc;

use super::{Error, READ_COUNT, READ_LIMIT};
use crate::core::{Event, Job, JobId};
use crate::store::{Entry, Found, Log, Store};

/// A reader of one job's log.
pub struct Follow {
    store: Arc<dyn Store>,
    id: JobId,
    after: String,
    /// Whether to look at the record before waiting: the newest entry says that the job has ended.
    may_have_ended: bool,
}

impl std::fmt::Debug for Follow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follow")
            .field("id", &self.id)
            .field("after", &self.after)
            .finish_non_exhaustive()
    }
}

/// What [`Follow::next`] found.
#[derive(Debug)]
pub enum Step {
    /// More of the log.
    Entries(Vec<Entry>),
    /// The job has ended and all of its log was read.
    Ended(Box<Job>),
}

impl Follow {
    pub(super) fn new(store: Arc<dyn Store>, id: JobId, after: String) -> Self {
        // The job may have ended long ago, and its log may be gone: look before waiting.
        Self { store, id, after, may_have_ended: true }
    }

    /// Waits for more of the log, or for the job's end. May be dropped at any time and called
    /// again: the position moves only with what was answered.
    ///
    /// A job that is retried after its end goes on in the same log, and a log may have been trimmed
    /// or have expired. So the record decides whether the job has ended, and it is asked *before*
    /// the log is found to have no more entries: then no retry can slip in between.
    pub async fn next(&mut self) -> Result<Step, Error> {
        let mut may_have_ended = self.may_have_ended;
        loop {
            if may_have_ended {
                let job = match self.store.get(self.id.as_str()).await? {
                    Found::One(job) if job.id == self.id => job,
                    _ => return Err(Error::NotFound(self.id.to_string())),
                };
                let entries = self.read(false).await?;
                if !entries.is_empty() {
                    return Ok(self.advance(entries));
                }
                if job.state.is_terminal() {
                    return Ok(Step::Ended(job));
                }
            }
            let entries = self.read(true).await?;
            if !entries.is_empty() {
                return Ok(self.advance(entries));
            }
            may_have_ended = true;
        }
    }

    async fn read(&self, is_waiting: bool) -> Result<Vec<Entry>, Error> {
        let wait = is_waiting.then_some(READ_LIMIT);
        let log = Log::Job(self.id.clone());
        Ok(self.store.read(&log, &self.after, READ_COUNT, wait).await?)
    }

    fn advance(&mut self, entries: Vec<Entry>) -> Step {
        if let Some(last) = entries.last() {
            self.after.clone_from(&last.id);
            self.may_have_ended =
                matches!(last.event, Event::State { state, .. } if state.is_terminal());
        }
        Step::Entries(entries)
    }
}
