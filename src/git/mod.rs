//! Layer 1: repositories. A shared, append-only object pool per repository, and for every job a
//! repository of its own that borrows from it (WORKSPACES.md).

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The repositories of one worker.
#[derive(Clone, Debug)]
pub struct Git {}

/// A repository's address, checked and normalised. Two spellings of one repository are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RepoUrl {}

/// What went wrong. Never contains a password.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The job's fault: bad address, no such repository, branch or commit. Another worker cannot help.
    #[error("{0}")]
    Invalid(String),
    /// This host's or network's fault.
    #[error("{0}")]
    Failed(String),
}

/// A job's own repository.
#[derive(Clone, Debug)]
pub struct Checkout {
    pub path: PathBuf,
    /// Commit the attempt started from.
    pub base: String,
}

/// What an attempt changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub head: String,
    pub commits: u32,
    /// `2 files, +10 -3`, or `none`.
    pub diffstat: String,
    pub is_dirty: bool,
}

impl RepoUrl {
    pub fn parse(_text: &str) -> Result<Self, Error> {
        unimplemented!()
    }
    /// Name of the repository's lock and pool directory: a hash of the normalised address.
    #[must_use]
    pub fn key(&self) -> String {
        unimplemented!()
    }
}

impl Git {
    /// `pools`: directory of the object pools (shared by all workers of a host or fleet).
    /// `timeout`: limit of one git call.
    pub async fn open(_pools: &Path, _timeout: Duration) -> Result<Self, Error> {
        unimplemented!()
    }
    /// The commit that `reference` (default: the remote's HEAD) names in the pool, if the pool has it and was fetched no longer than
    /// `max_age` ago (a full commit id is good at any age). Takes no lock.
    pub async fn find(
        &self,
        _url: &RepoUrl,
        _reference: Option<&str>,
        _max_age: Duration,
    ) -> Result<Option<String>, Error> {
        unimplemented!()
    }
    /// Makes or updates the pool. Only under the repository's lock; `fence` names temporary files.
    pub async fn fetch(&self, _url: &RepoUrl, _fence: u64) -> Result<(), Error> {
        unimplemented!()
    }
    /// A repository for one job at `dir`, on branch `sortie/<job>`, at `commit`.
    pub async fn checkout(
        &self,
        _url: &RepoUrl,
        _commit: &str,
        _dir: &Path,
        _job: &str,
    ) -> Result<Checkout, Error> {
        unimplemented!()
    }
    /// Commits the working tree as it is (nothing of it changes) to `refs/sortie/<job>/<attempt>` of the pool. Answers the ref.
    pub async fn checkpoint(
        &self,
        _url: &RepoUrl,
        _checkout: &Checkout,
        _job: &str,
        _attempt: u32,
    ) -> Result<String, Error> {
        unimplemented!()
    }
    /// What changed since the checkout's base.
    pub async fn changes(&self, _checkout: &Checkout) -> Result<Changes, Error> {
        unimplemented!()
    }
    /// Commits what is uncommitted, with `message`. Answers whether there was anything.
    pub async fn commit_all(&self, _checkout: &Checkout, _message: &str) -> Result<bool, Error> {
        unimplemented!()
    }
    /// Pushes the checkout's HEAD to branch `branch` of the real repository.
    pub async fn push(&self, _checkout: &Checkout, _branch: &str) -> Result<(), Error> {
        unimplemented!()
    }
}
