//! Layer 2: the engine. It claims jobs, runs each in a slot, and keeps their leases alive.
//!
//! ```text
//!  run ─┬─ stage::conduct    signals and drains → the stage
//!       ├─ lease::run        a heartbeat a tick for all that is held → orders to the slots
//!       ├─ lease::listen     pokes → a heartbeat now
//!       ├─ workspace::sweep  removes the directories of ended jobs
//!       └─ claim::run        ends and claims in one call ──▶ slot::run, a task for each job
//! ```
//!
//! A worker leaves in one order: claim nothing, wait for the slots (or stop them), report their
//! ends, say good-bye. If it cannot, the leases of what it held run out and others take over;
//! nothing here has to survive a kill.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use self::claim::Done;
use self::lease::{Held, Order};
use self::quarantine::Quarantine;
use self::stage::{Stage, Stages};
use self::workspace::Rubbish;
use crate::core::WorkerId;
use crate::exec::stale;
use crate::git::Git;
use crate::store::{self, Control, Kind, Store, WorkerRecord};

mod backlog;
mod claim;
pub mod identity;
pub mod init;
mod lease;
mod output;
mod plan;
mod publish;
mod quarantine;
mod settings;
mod slot;
mod stage;
mod workspace;

pub use settings::Settings;
pub use stage::drain_within;

/// Longest wait, at the start, for what dead workers of this host left running.
const STALE_WAIT: Duration = Duration::from_secs(20);
/// Limit of one git call.
const GIT_LIMIT: Duration = Duration::from_mins(10);
/// Longest good-bye.
const LEAVE_WAIT: Duration = Duration::from_secs(5);
/// How long stopped jobs may take to be handed back, beside their grace.
const HAND_BACK_WAIT: Duration = Duration::from_secs(20);

/// Why a worker left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to, and holds nothing.
    Drained,
    /// It was asked to, and handed so many jobs back.
    HandedBack(u32),
}

/// Why a worker could not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that cannot work; says which, and what to do.
    #[error("{0}")]
    Settings(String),
    /// A directory cannot be used.
    #[error("cannot use {path}: {source}")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Git(#[from] crate::git::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A part of the worker that runs as long as the worker does has stopped.
    #[error("the worker's {0} stopped unexpectedly; its jobs were handed back, start it again")]
    Internal(&'static str),
    /// The store was away until the very end.
    #[error(
        "left with jobs that could not be handed back ({0}): the store does not answer; others take them \
         over when their leases run out"
    )]
    Abandoned(usize),
}

/// What the parts of a worker share.
struct Context {
    settings: Settings,
    store: Arc<dyn Store>,
    git: Git,
    record: WorkerRecord,
    stages: Stages,
    held: Held,
    quarantine: Quarantine,
    done: mpsc::UnboundedSender<Done>,
    trash: mpsc::UnboundedSender<Rubbish>,
    /// Asks for a heartbeat now.
    beat_now: Notify,
    /// Counts the beginnings and the ends of exchanges: odd while one is on its way.
    exchanges: AtomicU64,
    handed_back: AtomicU32,
    /// Slots whose attempt has not ended.
    running: AtomicU32,
    /// Why the store does not take this worker back.
    refused: Mutex<Option<store::Error>>,
}

impl Context {
    fn me(&self) -> &WorkerId {
        &self.record.id
    }

    /// Until when a lease holds that a call made at `sent` began or renewed.
    fn lease_until(&self, sent: Instant) -> Instant {
        sent + self.settings.lease.saturating_sub(self.settings.margin)
    }

    /// Reports to the exchange, which listens for as long as there is a slot.
    fn send(&self, done: Done) {
        self.done.send(done).ok();
    }

    /// Makes the worker known again, after the store forgot it. If another process has its name by
    /// now, all that it held is lost: it kills its jobs and leaves.
    async fn register(&self) {
        match self.store.register(&self.record, &[]).await {
            Ok(_) => info!(worker.id = %self.me(), "registered again"),
            Err(error) if error.kind() == Kind::Misconfigured => {
                error!(%error, "the store refuses this worker: killing its jobs and leaving");
                *self.refused() = Some(error);
                self.stages.leave();
                stage::stop(self);
                self.held.order_all(&Order::Lost);
            }
            Err(error) => warn!(%error, "cannot register; trying again soon"),
        }
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, Option<store::Error>> {
        // Whoever panics, the value is whole.
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Works until a signal or a drain ends it. Answers when nothing is held any more.
///
/// Handles SIGTERM and SIGINT of the whole process: the first drains, the second stops the jobs
/// now and hands them back, the third ends the process at once.
pub async fn run(mut settings: Settings, store: Arc<dyn Store>) -> Result<Ended, Error> {
    settings.check()?;
    if settings.once {
        settings.slots = 1;
    }
    for directory in [&settings.worktrees, &settings.pools] {
        make(directory)?;
    }
    let unusable = |source| Error::Directory { path: settings.worktrees.clone(), source };
    let stale = stale::clear(&settings.worktrees, STALE_WAIT).await.map_err(unusable)?;
    if !stale.is_empty() {
        info!(directories = stale.len(), "removed what dead workers left behind");
    }
    let git = Git::open(&settings.pools, GIT_LIMIT).await?;
    let mut record = identity::record(&settings);
    let gone = identity::dead_peers(&record, &store.workers().await?);
    let taken_back = store.register(&record, &gone).await?;
    // Not 0: from now on it is no first registration, which could displace a newer incarnation.
    record.started_at_ms = 1;
    info!(worker.id = %record.id, slots = settings.slots, taken_back, "working");

    let (done, ended) = mpsc::unbounded_channel();
    let (trash, rubbish) = mpsc::unbounded_channel();
    let cx = Arc::new(Context {
        settings,
        store,
        git,
        record,
        stages: Stages::new(),
        held: Held::default(),
        quarantine: Quarantine::default(),
        done,
        trash,
        beat_now: Notify::new(),
        exchanges: AtomicU64::new(0),
        handed_back: AtomicU32::new(0),
        running: AtomicU32::new(0),
        refused: Mutex::default(),
    });
    let sweeper = tokio::spawn(workspace::sweep(rubbish));
    let outcome = work(&cx, ended).await;
    // Leaving hands back what is held. What still runs must not be another worker's before it is
    // dead: it is killed with this process, and its lease runs out.
    if cx.running.load(Ordering::SeqCst) == 0 {
        let leave = Control::Leave { worker: cx.me().clone() };
        let is_known = matches!(timeout(LEAVE_WAIT, cx.store.control(&leave)).await, Ok(Ok(())));
        info!(is_known, "left");
    }
    drop(cx);
    // Ends when the last sender is gone, with `cx`.
    timeout(LEAVE_WAIT, sweeper).await.ok();
    outcome
}

/// Runs the tasks of the worker until the exchange has nothing more to do.
async fn work(cx: &Arc<Context>, ended: mpsc::UnboundedReceiver<Done>) -> Result<Ended, Error> {
    let mut tasks = JoinSet::new();
    let conducting = stage::conduct(Arc::clone(cx));
    tasks.spawn(async {
        if let Err(problem) = conducting.await {
            error!(%problem, "cannot listen for signals");
        }
        "signal listener"
    });
    let beating = lease::run(Arc::clone(cx));
    tasks.spawn(async {
        beating.await;
        "heartbeat"
    });
    let listening = lease::listen(Arc::clone(cx));
    tasks.spawn(async {
        listening.await;
        "poke listener"
    });
    let mut exchange = tokio::spawn(claim::run(Arc::clone(cx), ended));
    let mut late = std::pin::pin!(gave_up(cx));
    let mut broken = None;
    let result = loop {
        tokio::select! {
            end = &mut exchange => break end.map_err(|_| Error::Internal("exchange")),
            Some(task) = tasks.join_next() => {
                let name = task.unwrap_or("background task");
                error!("the {name} stopped, which it never should: handing back and leaving");
                broken = Some(name);
                cx.stages.leave();
                stage::stop(cx);
            }
            () = &mut late => break Err(Error::Abandoned(cx.held.tokens().len())),
        }
    };
    if let Some(error) = cx.refused().take() {
        return Err(Error::Store(error));
    }
    result?;
    match (broken, cx.handed_back.load(Ordering::Relaxed)) {
        (Some(name), _) => Err(Error::Internal(name)),
        (None, 0) => Ok(Ended::Drained),
        (None, count) => Ok(Ended::HandedBack(count)),
    }
}

/// Waits until a worker that leaves has tried for long enough to hand back what it holds.
async fn gave_up(cx: &Context) {
    let mut progress = cx.stages.subscribe();
    let leaving = progress.wait_for(|now| now.leaves && now.stage == Stage::Stopping);
    leaving.await.expect("the stage is kept as long as the worker runs");
    sleep(cx.settings.grace + HAND_BACK_WAIT).await;
}

fn make(directory: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| Error::Directory { path: directory.to_path_buf(), source })
}
