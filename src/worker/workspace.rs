//! A job's own directory: `<worktrees>/<job>/` with `home/`, `tmp/` and `repo/` (or `work/` for jobs
//! without a repository). The path is the same on every worker, so that an agent that keys its
//! sessions by directory can go on elsewhere.

use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::Context;
use super::lease::{Order, Orders};
use super::output::Log;
use crate::core::{Fence, JobSpec};
use crate::exec::stale;
use crate::git::{self, Checkout, RepoUrl};
use crate::store::{Claimed, Lock, LockAction};

/// A branch that was fetched this recently is not fetched again: bursts of jobs share one fetch.
const FRESH: Duration = Duration::from_secs(5);
/// Life of a repository's lock, and how often it is renewed.
const LOCK_LIFE: Duration = Duration::from_mins(1);
const LOCK_RENEWAL: Duration = Duration::from_secs(20);
/// How often somebody who waits for the lock looks.
const LOCK_LOOK: Duration = Duration::from_millis(200);
/// Longest wait for the lock. Nobody ever works without it.
const LOCK_WAIT: Duration = Duration::from_mins(15);

/// Why there is no workspace.
#[derive(Debug)]
pub(super) enum Problem {
    /// The job's fault; another worker could do no better.
    Job(String),
    /// This worker's surroundings.
    Surroundings(String),
    /// The attempt has to end.
    Ordered(Order),
}

impl From<git::Error> for Problem {
    fn from(error: git::Error) -> Self {
        match error {
            git::Error::Invalid(message) => Self::Job(message),
            git::Error::Failed(message) => Self::Surroundings(message),
        }
    }
}

/// The directory of one attempt. Goes to the trash when dropped.
pub(super) struct Workspace {
    pub dir: PathBuf,
    /// Working directory of the process.
    pub cwd: PathBuf,
    pub prompt: Option<PathBuf>,
    inode: u64,
    fence: Fence,
    trash: mpsc::UnboundedSender<Rubbish>,
    owner: Option<stale::Owner>,
}

/// A directory to be removed, and the proof, until then, that it is in use.
#[derive(Debug)]
pub(super) struct Rubbish {
    path: PathBuf,
    _owner: Option<stale::Owner>,
}

impl Workspace {
    /// Makes the directory. A few quick system calls, so it does not leave the task's thread.
    pub(super) fn create(cx: &Context, claimed: &Claimed, spec: &JobSpec) -> io::Result<Self> {
        let dir = cx.settings.worktrees.join(claimed.token.id.as_str());
        let fence = claimed.token.fence;
        match make_dir(&dir) {
            // Of an older attempt on this host, whose worker may be frozen. Its processes keep
            // what they have open and never come to see the new directory.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let path = aside(&dir, fence, "old");
                fs::rename(&dir, &path)?;
                cx.trash.send(Rubbish { path, _owner: None }).ok();
                make_dir(&dir)?;
            }
            other => other?,
        }
        let inode = fs::metadata(&dir)?.ino();
        let owner = Some(stale::own(&dir)?);
        let trash = cx.trash.clone();
        let cwd = dir.join(if spec.repo.is_some() { "repo" } else { "work" });
        let mut workspace = Self { dir, cwd, prompt: None, inode, fence, trash, owner };
        make_dir(&workspace.dir.join("home"))?;
        make_dir(&workspace.dir.join("tmp"))?;
        if spec.repo.is_none() {
            make_dir(&workspace.cwd)?;
        }
        if let Some(prompt) = &spec.prompt {
            let path = workspace.dir.join("prompt");
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o600).open(&path)?;
            io::Write::write_all(&mut file, prompt.as_bytes())?;
            workspace.prompt = Some(path);
        }
        Ok(workspace)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Another worker of this host may have the job, and the path, by now.
        if fs::metadata(&self.dir).is_ok_and(|now| now.ino() == self.inode) {
            let path = aside(&self.dir, self.fence, "end");
            match fs::rename(&self.dir, &path) {
                Ok(()) => {
                    let rubbish = Rubbish { path, _owner: self.owner.take() };
                    self.trash.send(rubbish).ok();
                }
                Err(error) => warn!(%error, "cannot put {} aside", self.dir.display()),
            }
        }
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

/// A name next to `dir` that no job has: ids do not start with a dot.
fn aside(dir: &Path, fence: Fence, why: &str) -> PathBuf {
    let id = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!(".{id}.{fence}.{why}"))
}

/// Removes rubbish, one directory after the other, until the worker has left.
pub(super) async fn sweep(mut rubbish: mpsc::UnboundedReceiver<Rubbish>) {
    while let Some(first) = rubbish.recv().await {
        let mut batch = vec![first];
        while let Ok(more) = rubbish.try_recv() {
            batch.push(more);
        }
        let removed = tokio::task::spawn_blocking(move || {
            for Rubbish { path, .. } in &batch {
                if let Err(error) = fs::remove_dir_all(path) {
                    // The next start of a worker tries again.
                    warn!(%error, "cannot remove {}", path.display());
                }
            }
        });
        if removed.await.is_err() {
            warn!("removing job directories failed");
        }
    }
}

/// Checks out the job's repository at `dir`.
pub(super) async fn check_out(
    cx: &Context,
    claimed: &Claimed,
    spec: &JobSpec,
    repo: &str,
    dir: &Path,
    orders: &mut watch::Receiver<Orders>,
    log: &mut Log,
) -> Result<Checkout, Problem> {
    let url = RepoUrl::parse(repo)?;
    let reference = spec.reference.as_deref();
    let commit = match cx.git.find(&url, reference, FRESH).await? {
        Some(commit) => commit,
        None => fetch(cx, repo, &url, reference, orders, log).await?,
    };
    let id = claimed.token.id.as_str();
    // Without a former result this is the first attempt, or one that is asked to start over.
    let checkpoint = match claimed.previous {
        Some(_) => cx.git.newest_checkpoint(&url, id).await?,
        None => None,
    };
    let resume = checkpoint.as_ref().map(|(_, commit)| commit.as_str());
    match &checkpoint {
        Some((attempt, _)) => log.progress(format!("continuing from attempt {attempt}")),
        None => log.progress(format!("checkout at {commit}")),
    }
    let checkout = cx.git.checkout(&url, &commit, dir, id, resume);
    Ok(unless_ordered(orders, log, checkout).await??)
}

/// Makes the pool have the commit, under the repository's lock.
async fn fetch(
    cx: &Context,
    repo: &str,
    url: &RepoUrl,
    reference: Option<&str>,
    orders: &mut watch::Receiver<Orders>,
    log: &mut Log,
) -> Result<String, Problem> {
    let (name, owner) = (format!("repo:{}", url.key()), uuid::Uuid::new_v4().to_string());
    let hold =
        Lock { name: name.clone(), owner: owner.clone(), action: LockAction::Hold(LOCK_LIFE) };
    let since = Instant::now();
    let fence = loop {
        if let Some(fence) = lock(cx, &hold).await? {
            break fence;
        }
        if since.elapsed() > LOCK_WAIT {
            let message = format!("waited {LOCK_WAIT:?} for the lock {name}; see who holds it");
            return Err(Problem::Surroundings(message));
        }
        unless_ordered(orders, log, sleep(LOCK_LOOK.mul_f64(0.5 + fastrand::f64()))).await?;
        // Whoever held the lock may have fetched for all.
        if let Some(commit) = cx.git.find(url, reference, FRESH).await? {
            return Ok(commit);
        }
    };
    let fetched = fetch_locked(cx, repo, url, reference, &hold, fence, orders, log).await;
    let release = Lock { name, owner, action: LockAction::Release };
    if let Err(problem) = lock(cx, &release).await {
        warn!(?problem, "a repository's lock was not released; it ends by itself");
    }
    fetched
}

#[expect(clippy::too_many_arguments, reason = "the second half of `fetch`, which has one caller")]
async fn fetch_locked(
    cx: &Context,
    repo: &str,
    url: &RepoUrl,
    reference: Option<&str>,
    hold: &Lock,
    fence: Fence,
    orders: &mut watch::Receiver<Orders>,
    log: &mut Log,
) -> Result<String, Problem> {
    if let Some(commit) = cx.git.find(url, reference, FRESH).await? {
        return Ok(commit);
    }
    log.progress(format!("fetching {repo}"));
    let mut fetch = std::pin::pin!(cx.git.fetch(url, fence.0));
    loop {
        // A dropped fetch kills its git; what it has written is not looked at by anybody.
        let step = unless_ordered(orders, log, async {
            tokio::select! {
                done = &mut fetch => Some(done),
                () = sleep(LOCK_RENEWAL) => None,
            }
        });
        match step.await? {
            Some(done) => break done?,
            None if lock(cx, hold).await?.is_some() => {}
            None => {
                let message = format!("lost the lock {} while fetching", hold.name);
                return Err(Problem::Surroundings(message));
            }
        }
    }
    Ok(cx.git.resolve(url, reference).await?)
}

async fn lock(cx: &Context, lock: &Lock) -> Result<Option<Fence>, Problem> {
    cx.store.lock(lock).await.map_err(|error| {
        Problem::Surroundings(format!("cannot ask for the lock {}: {error}", lock.name))
    })
}

/// Does `work` unless the attempt is told to end first, and writes the log meanwhile. `work` must
/// not mind being dropped.
async fn unless_ordered<T>(
    orders: &mut watch::Receiver<Orders>,
    log: &mut Log,
    work: impl Future<Output = T>,
) -> Result<T, Problem> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            Ok(orders) = orders.wait_for(|orders| orders.stop.is_some()) => {
                let order = orders.stop.clone().expect("waited until there is one");
                return Err(Problem::Ordered(order));
            }
            done = &mut work => return Ok(done),
            () = log.turn() => {}
        }
    }
}
