//! Layer 1: repositories. A shared, append-only object pool per repository, and for every job a
//! repository of its own that borrows from it (ARCHITECTURE.md).
//!
//! ```text
//!  upstream ──fetch (under a lock)──▶ pool ──checkout──▶ the job's repository
//!      ▲                             │   ▲                    │
//!      └────────────push─────────────┘   └─ checkpoint, commit_all
//! ```
//!
//! Whatever writes or talks to a network is the git program (`cli.rs`); what only reads is git2
//! (`inspect.rs`). The lock is the caller's business. A caller goes [`Git::find`]; if that finds
//! nothing: lock, `find` again, [`Git::fetch`], unlock, [`Git::resolve`]; then [`Git::checkout`].
//!
//! Submodules are checked out as empty directories. Git LFS works where the worker's user has it
//! installed, for reading; files that an agent adds to LFS are not uploaded.

use std::path::{Path, PathBuf};
use std::time::Duration;

mod checkout;
mod checkpoint;
mod cli;
mod inspect;
mod pool;
mod publish;
mod url;

pub use url::RepoUrl;

/// The repositories of one worker.
#[derive(Clone, Debug)]
pub struct Git {
    program: cli::Program,
    pools: PathBuf,
}

/// What went wrong. Never contains a password.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The job's fault: bad address, no such repository, branch or commit, no access, a ruined
    /// checkout. Another worker cannot help.
    #[error("{0}")]
    Invalid(String),
    /// This host's or network's fault.
    #[error("{0}")]
    Failed(String),
}

/// A job's own repository.
#[derive(Clone, Debug)]
pub struct Checkout {
    pub url: RepoUrl,
    pub path: PathBuf,
    /// Commit that the job's first attempt started from.
    pub base: String,
}

/// What an attempt changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The last commit.
    pub head: String,
    /// Commits from the base to `head` (100 000 at most are counted).
    pub commits: u32,
    /// Difference between the base and the files: `2 files, +10 -3`, or `none`.
    pub diffstat: String,
    /// Whether files differ from `head`. Ignored files do not count.
    pub is_dirty: bool,
}

impl Git {
    /// `pools`: directory of the object pools (shared by all workers of a host or fleet); made if
    /// missing. `timeout`: limit of one git call, a first clone included. [`Error::Failed`] when
    /// there is no usable git.
    pub async fn open(pools: &Path, timeout: Duration) -> Result<Self, Error> {
        let program = cli::Program::find(timeout).await?;
        let wanted = pools.to_owned();
        let pools = blocking(move || {
            std::fs::create_dir_all(&wanted).and_then(|()| wanted.canonicalize()).map_err(|error| {
                Error::Failed(format!("cannot use {} for pools: {error}", wanted.display()))
            })
        })
        .await?;
        Ok(Self { program, pools })
    }

    /// The commit that `reference` (default: the remote's HEAD) names in the pool, if the pool has
    /// it and was fetched no longer than `max_age` ago (a full commit id is good at any age). Takes
    /// no lock and starts no process.
    pub async fn find(
        &self,
        url: &RepoUrl,
        reference: Option<&str>,
        max_age: Duration,
    ) -> Result<Option<String>, Error> {
        let (pool, reference) = (self.pool(url), reference.map(str::to_owned));
        blocking(move || {
            let Some(age) = pool::age(&pool) else { return Ok(None) };
            if age > max_age && !reference.as_deref().is_some_and(inspect::is_full_id) {
                return Ok(None);
            }
            inspect::commit_named(&pool, reference.as_deref())
        })
        .await
    }

    /// Makes or updates the pool. Only under the repository's lock; `fence` (growing from holder to
    /// holder) names temporary files. Should the lock be lost meanwhile, the pool stays whole.
    pub async fn fetch(&self, url: &RepoUrl, fence: u64) -> Result<(), Error> {
        pool::fetch(&self.program, self.pools.join(url.key()), url, fence).await
    }

    /// The commit that `reference` names in the pool as it is, however old. [`Error::Invalid`],
    /// with the names that come near, when there is none: what to say when `find` finds nothing
    /// even after a fetch.
    pub async fn resolve(&self, url: &RepoUrl, reference: Option<&str>) -> Result<String, Error> {
        let (pool, reference) = (self.pool(url), reference.map(str::to_owned));
        let url = url.clone();
        blocking(move || {
            if let Some(commit) = inspect::commit_named(&pool, reference.as_deref())? {
                return Ok(commit);
            }
            let Some(name) = reference else {
                return Err(Error::Invalid(format!(
                    "HEAD of {url} names no commit; push a first commit, or give a `ref`"
                )));
            };
            let near = inspect::names_near(&pool, &name)?;
            let near = if near.is_empty() {
                "it has none at all".to_owned()
            } else {
                format!("nearest: {}", near.join(", "))
            };
            Err(Error::Invalid(format!("{url} has no branch, tag or commit `{name}`; {near}")))
        })
        .await
    }

    /// The newest checkpoint of a job: attempt and commit.
    pub async fn newest_checkpoint(
        &self,
        url: &RepoUrl,
        job: &str,
    ) -> Result<Option<(u32, String)>, Error> {
        let (pool, job) = (self.pool(url), job.to_owned());
        blocking(move || {
            if !pool.join("refs/sortie").join(&job).is_dir() {
                return Ok(None);
            }
            inspect::newest_checkpoint(&pool, &job)
        })
        .await
    }

    /// Deletes the job's checkpoints from the pool (their names; objects stay).
    pub async fn forget(&self, url: &RepoUrl, job: &str) -> Result<(), Error> {
        // Checkpoints are always loose files (`pool.rs`), so this needs none of git's locks, which
        // a crash would leave behind.
        let dir = self.pool(url).join("refs/sortie").join(job);
        blocking(move || match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Failed(format!("cannot remove {}: {error}", dir.display())))
            }
            _ => Ok(()),
        })
        .await
    }

    /// A repository for one job at `dir` (which must not exist), on branch `sortie/<job>`, at
    /// `commit`. With `resume`, a checkpoint's commit, the files are as they were then, uncommitted
    /// where they were uncommitted, and `base` is the commit that the first attempt started from.
    pub async fn checkout(
        &self,
        url: &RepoUrl,
        commit: &str,
        dir: &Path,
        job: &str,
        resume: Option<&str>,
    ) -> Result<Checkout, Error> {
        checkout::checkout(&self.program, &self.pool(url), url, commit, dir, job, resume).await
    }

    /// Commits the working tree as it is (nothing of it changes) to `refs/sortie/<job>/<attempt>`
    /// of the pool. Answers the ref. May run while the agent works.
    pub async fn checkpoint(
        &self,
        checkout: &Checkout,
        job: &str,
        attempt: u32,
    ) -> Result<String, Error> {
        checkpoint::checkpoint(&self.program, &self.pool(&checkout.url), checkout, job, attempt)
            .await
    }

    /// What changed since the checkout's base, committed or not.
    pub async fn changes(&self, checkout: &Checkout) -> Result<Changes, Error> {
        publish::changes(&self.program, &self.pool(&checkout.url), checkout).await
    }

    /// Takes what the attempt made into the pool; what is uncommitted is committed with `message`
    /// (in the pool: the checkout is not written to). `head` of the answer is what to [`push`].
    ///
    /// [`push`]: Self::push
    pub async fn commit_all(&self, checkout: &Checkout, message: &str) -> Result<Changes, Error> {
        publish::commit_all(&self.program, &self.pool(&checkout.url), checkout, message).await
    }

    /// Pushes `commit`, the `head` that [`Self::commit_all`] answered, to branch `branch` of the
    /// real repository. Doing it again is harmless. A branch below `sortie/` is replaced, any other
    /// is only moved forward.
    pub async fn push(&self, checkout: &Checkout, commit: &str, branch: &str) -> Result<(), Error> {
        publish::push(&self.program, &self.pool(&checkout.url), checkout, commit, branch).await
    }

    fn pool(&self, url: &RepoUrl) -> PathBuf {
        self.pools.join(url.key()).join("repo")
    }
}

/// Runs what blocks on another thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Failed(format!("a git task did not end: {error}")))?
}
