//! Layer 2: the use cases. Every protocol (command line, HTTP, …) calls only these, so that all of
//! them mean the same by a job, a prefix of an id and the end of a log.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::core::{Job, JobId, JobSpec, SpecError, State};
use crate::store::{
    self, Change, Control, Entry, Found, Log, NewJob, Query, Stats, Store, Submitted, WorkerRecord,
};

mod follow;

pub use follow::{Follow, Step};

/// How long one blocking read may take before the record is looked at again. Bounds how late the
/// end of a job is noticed whose log was trimmed away.
const READ_LIMIT: Duration = Duration::from_secs(20);
/// Entries that are read at once.
const READ_COUNT: usize = 500;

/// Why a use case could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No job has the id, or an id starting so.
    #[error("there is no job {0:?}")]
    NotFound(String),
    /// Several jobs have ids starting so; these are the first of them.
    #[error("{prefix:?} is the start of several jobs' ids: {}", list(.ids))]
    Ambiguous { prefix: String, ids: Vec<JobId> },
    /// The job is not acceptable. `index` counts from 0 in the order in which they were given.
    #[error("{source}")]
    Spec { index: usize, source: SpecError },
    #[error(transparent)]
    Store(#[from] store::Error),
}

fn list(ids: &[JobId]) -> String {
    ids.iter().map(JobId::as_str).collect::<Vec<_>>().join(", ")
}

/// The use cases on jobs, over any store.
#[derive(Clone)]
pub struct Jobs {
    store: Arc<dyn Store>,
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs").finish_non_exhaustive()
    }
}

/// What became of waiting for one or several jobs.
#[derive(Debug)]
pub enum Waited {
    /// Those that have ended: all in the order in which they were asked for, or the first one.
    Ended(Vec<Job>),
    /// The time is over; the jobs go on.
    TimedOut,
}

impl Jobs {
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// The store itself, for upkeep.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Checks jobs and queues them, all or none. Answers one for each, in order.
    pub async fn submit(&self, specs: Vec<JobSpec>) -> Result<Vec<Submitted>, Error> {
        for (index, spec) in specs.iter().enumerate() {
            spec.check().map_err(|source| Error::Spec { index, source })?;
        }
        let jobs: Vec<_> = specs.into_iter().map(NewJob::new).collect();
        Ok(self.store.submit(&jobs).await?)
    }

    /// The one job with this id, or whose id alone starts so.
    pub async fn find(&self, id_or_prefix: &str) -> Result<Job, Error> {
        match self.store.get(id_or_prefix).await? {
            Found::One(job) => Ok(*job),
            Found::Ambiguous(ids) => Err(Error::Ambiguous { prefix: id_or_prefix.into(), ids }),
            Found::None => Err(Error::NotFound(id_or_prefix.into())),
        }
    }

    /// Jobs, those not yet ended first, then newest first.
    pub async fn list(&self, query: &Query) -> Result<Vec<Job>, Error> {
        Ok(self.store.list(query).await?)
    }

    /// Cancels, retries or deletes a job. Answers the job as it was before, and its state now.
    pub async fn change(&self, id: &str, change: &Change) -> Result<(Job, State), Error> {
        let job = self.find(id).await?;
        let state = self.store.change(&job.id, change).await?;
        Ok((job, state))
    }

    /// Reads a job's log from `after` (`""`: the start) until the job has ended.
    #[must_use]
    pub fn follow(&self, id: &JobId, after: &str) -> Follow {
        Follow::new(Arc::clone(&self.store), id.clone(), after.to_owned())
    }

    /// All entries that a job's log has now.
    pub async fn log(&self, id: &JobId) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        loop {
            let after = entries.last().map_or("", |last: &Entry| last.id.as_str()).to_owned();
            let more = self.store.read(&Log::Job(id.clone()), &after, READ_COUNT, None).await?;
            if more.is_empty() {
                return Ok(entries);
            }
            entries.extend(more);
        }
    }

    /// Waits until all of the jobs have ended, or any one of them.
    pub async fn wait(
        &self,
        ids: &[JobId],
        any: bool,
        timeout: Option<Duration>,
    ) -> Result<Waited, Error> {
        let wait = async {
            if any && ids.len() > 1 { self.wait_any(ids).await } else { self.wait_all(ids).await }
        };
        let Some(timeout) = timeout else { return Ok(Waited::Ended(wait.await?)) };
        // Nothing in here changes anything, so it may be dropped at any point.
        match tokio::time::timeout(timeout, wait).await {
            Ok(ended) => Ok(Waited::Ended(ended?)),
            Err(_) => Ok(Waited::TimedOut),
        }
    }

    /// One log after the other: a job that ends out of turn is seen as soon as its turn comes, and
    /// one connection is enough.
    async fn wait_all(&self, ids: &[JobId]) -> Result<Vec<Job>, Error> {
        let mut ended = Vec::with_capacity(ids.len());
        for id in ids {
            let mut follow = self.follow(id, "");
            loop {
                if let Step::Ended(job) = follow.next().await? {
                    ended.push(*job);
                    break;
                }
            }
        }
        Ok(ended)
    }

    /// Watches all transitions of the fleet. The position is taken before the jobs are looked at,
    /// so nothing that happens in between is missed.
    async fn wait_any(&self, ids: &[JobId]) -> Result<Vec<Job>, Error> {
        let mut after = self.fleet_position().await?;
        loop {
            for id in ids {
                let job = self.find(id.as_str()).await?;
                if job.state.is_terminal() {
                    return Ok(vec![job]);
                }
            }
            let look_again = Instant::now() + READ_LIMIT;
            loop {
                let entries = self.events(&after, Some(READ_LIMIT)).await?;
                if let Some(last) = entries.last() {
                    after.clone_from(&last.id);
                }
                if entries.iter().any(|entry| ids.contains(&entry.job))
                    || Instant::now() >= look_again
                {
                    break;
                }
            }
        }
    }

    /// Position of the newest transition of the fleet: what is read after it is new.
    pub async fn fleet_position(&self) -> Result<String, Error> {
        let mut after = String::from("0");
        loop {
            let entries = self.store.read(&Log::Fleet, &after, READ_COUNT, None).await?;
            let Some(last) = entries.last() else { return Ok(after) };
            after.clone_from(&last.id);
        }
    }

    /// Transitions of the fleet after a position; with `wait`, waits so long for the first one.
    pub async fn events(&self, after: &str, wait: Option<Duration>) -> Result<Vec<Entry>, Error> {
        Ok(self.store.read(&Log::Fleet, after, READ_COUNT, wait).await?)
    }

    pub async fn stats(&self) -> Result<Stats, Error> {
        Ok(self.store.stats().await?)
    }

    pub async fn workers(&self) -> Result<Vec<WorkerRecord>, Error> {
        Ok(self.store.workers().await?)
    }

    /// Changes how the fleet works.
    pub async fn control(&self, control: &Control) -> Result<(), Error> {
        Ok(self.store.control(control).await?)
    }
}
