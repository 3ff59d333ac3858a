//! A queue of one test's own, and workers on it: inside the test, or as processes to be killed.
#![expect(dead_code, unreachable_pub, reason = "every test binary uses another part of this")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sortie::core::event::OutputStream;
use sortie::core::{Event, Fault, Job, RetryPolicy, State};
use sortie::exec::local::supervise_with;
use sortie::store::redis::{Role, Settings as Connection, connect};
use sortie::store::{Found, Log, Store, Terms};
use sortie::worker::{self, Settings};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::support::process::{Process, sortie};
use crate::support::redis::TestRedis;
use crate::support::{SOON, eventually};

pub const QUEUE: &str = "fleet";
/// Short enough for a test to outwait, long enough for a busy machine to keep.
pub const LEASE: Duration = Duration::from_secs(3);
const BEAT: Duration = Duration::from_millis(300);
const MARGIN: Duration = Duration::from_millis(700);
const GRACE: Duration = Duration::from_secs(2);

pub struct Fleet {
    pub redis: TestRedis,
    pub store: Arc<dyn Store>,
    directory: TempDir,
}

/// A worker inside the test; it stops with the test's runtime.
pub struct Inside(pub JoinHandle<Result<worker::Ended, worker::Error>>);

impl Fleet {
    pub async fn new() -> Self {
        Self::on(TestRedis::start()).await
    }

    pub async fn on(redis: TestRedis) -> Self {
        // Shown for tests that fail.
        let log = tracing_subscriber::fmt().with_test_writer().with_ansi(false);
        log.try_init().ok();
        supervise_with(env!("CARGO_BIN_EXE_sortie").into());
        let directory = TempDir::new().expect("making a temporary directory");
        let store = open(&redis, Role::Client).await;
        Self { redis, store, directory }
    }

    /// A place for what jobs leave behind for the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn settings(&self, name: &str) -> Settings {
        Settings {
            name: name.into(),
            exclusive: true,
            slots: 2,
            worktrees: self.path(&format!("worktrees-{name}")),
            pools: self.path("pools"),
            lease: LEASE,
            beat: BEAT,
            margin: MARGIN,
            grace: GRACE,
            retry: RetryPolicy {
                max_attempts: 2,
                base: Duration::from_millis(50),
                cap: Duration::from_millis(100),
            },
            ..Settings::default()
        }
    }

    /// Starts a worker inside the test.
    pub async fn work(&self, settings: Settings) -> Inside {
        let store = open(&self.redis, Role::Engine).await;
        Inside(tokio::spawn(async move {
            let ended = worker::run(settings, store).await;
            tracing::info!(?ended, "worker ended");
            ended
        }))
    }

    /// Starts a worker as a process of its own.
    pub fn process(&self, name: &str, more: &[&str]) -> Process {
        Process::spawn(&mut self.command(name, more))
    }

    /// The command that is a worker.
    pub fn command(&self, name: &str, more: &[&str]) -> Command {
        let mut command = sortie(self.directory.path());
        command
            .arg("worker")
            .args(["--redis", &self.redis.url(), "--queue", QUEUE, "--name", name])
            // In the environment, so that a test's own flags outweigh them.
            .env("SORTIE_SLOTS", "2")
            .env("SORTIE_LEASE", "3s")
            .env("SORTIE_BEAT", "300ms")
            .env("SORTIE_FREEZE_MARGIN", "700ms")
            .env("SORTIE_GRACE", "2s")
            .env("SORTIE_RETRY_BASE", "50ms")
            .env("SORTIE_RETRY_CAP", "100ms")
            .arg("--worktrees")
            .arg(self.path(&format!("worktrees-{name}")))
            .arg("--shared")
            .arg(self.path("pools"))
            .args(more)
            .stdout(Stdio::null());
        command
    }

    /// Pushes a job as any client would.
    pub fn push(&self, job: &Value) {
        self.redis.ask::<u64>(&["RPUSH", QUEUE, &job.to_string()]);
    }

    pub async fn job(&self, id: &str) -> Option<Job> {
        match self.store.get(id).await.expect("reading a job") {
            Found::One(job) => Some(*job),
            _ => None,
        }
    }

    /// Waits until the job is as the test wants it.
    pub async fn until(&self, id: &str, what: &str, mut wanted: impl FnMut(&Job) -> bool) -> Job {
        let what = format!("job {id} {what}");
        eventually(SOON * 2, &what, async || self.job(id).await.filter(|job| wanted(job))).await
    }

    pub async fn ended(&self, id: &str) -> Job {
        self.until(id, "ends", |job| job.state.is_terminal()).await
    }

    /// Waits for a job's end, which has to be this one.
    pub async fn ends(&self, id: &str, state: State, fault: Option<Fault>) -> Job {
        let job = self.ended(id).await;
        assert_eq!((job.state, job.fault), (state, fault), "{:?}", job.result);
        job
    }

    pub async fn events(&self, id: &str) -> Vec<Event> {
        let log = Log::Job(id.parse().expect("a valid id"));
        let entries = self.store.read(&log, "", 100_000, None).await.expect("reading a log");
        entries.into_iter().map(|entry| entry.event).collect()
    }

    /// What the job's processes wrote, as far as it is kept.
    pub async fn output(&self, id: &str, wanted: OutputStream) -> String {
        let events = self.events(id).await;
        let texts = events.into_iter().filter_map(|event| match event {
            Event::Output { stream, text, .. } if stream == wanted => Some(text),
            _ => None,
        });
        texts.collect()
    }

    /// What `fsck` finds; a test's last look.
    pub async fn is_sound(&self) {
        assert_eq!(self.store.fsck().await.expect("looking at everything"), Vec::<String>::new());
    }
}

async fn open(redis: &TestRedis, role: Role) -> Arc<dyn Store> {
    let connection = Connection {
        url: redis.url(),
        queue: QUEUE.into(),
        terms: Terms { lease: LEASE, ..Terms::default() },
        allow_eviction: false,
    };
    connect(connection, role).await.expect("connecting")
}

/// Waits until a file says something, and returns it.
pub async fn told(path: &Path) -> String {
    eventually(SOON, &format!("{} is written", path.display()), async || {
        std::fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'))
    })
    .await
    .trim()
    .to_owned()
}

/// Whether a process is there and could run.
pub fn lives(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z')
    })
}
