//! The fleet under test: worker processes, each behind a network of its own, and their Redis.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sortie::store::redis::{Role, Settings, connect};
use sortie::store::{Store, Terms};
use tempfile::TempDir;

use crate::support::process::{Process, sortie};
use crate::support::proxy::Proxy;
use crate::support::redis::{AOF, TestRedis};

pub const QUEUE: &str = "chaos";
pub const WORKERS: usize = 3;
pub const LEASE: Duration = Duration::from_secs(2);
/// Failures after which a job is dead, for those that are told to fail.
pub const ATTEMPTS: u32 = 2;

pub struct Fleet {
    pub redis: TestRedis,
    pub workers: Vec<Worker>,
    /// What was done to it, with the time.
    pub log: Vec<String>,
    pub problems: Vec<String>,
    start: Instant,
    directory: Option<TempDir>,
}

pub struct Worker {
    pub process: Process,
    pub network: Proxy,
}

impl Fleet {
    pub async fn start(seed: u64) -> Self {
        let redis = TestRedis::with(AOF);
        let directory = tempfile::Builder::new().prefix("chaos-").tempdir();
        let directory = directory.expect("making a temporary directory");
        let mut networks = Vec::new();
        for _ in 0..WORKERS {
            networks.push(Proxy::start(&redis).await);
        }
        let mut fleet = Self {
            redis,
            workers: Vec::new(),
            log: Vec::new(),
            problems: Vec::new(),
            start: Instant::now(),
            directory: Some(directory),
        };
        fleet.note(&format!("seed {seed}"));
        for (number, network) in networks.into_iter().enumerate() {
            let process = fleet.spawn(number, &network.url());
            fleet.workers.push(Worker { process, network });
        }
        fleet
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.as_ref().expect("kept until the end").path().join(name)
    }

    /// The file that all jobs write to.
    pub fn journal(&self) -> PathBuf {
        self.path("journal")
    }

    pub fn note(&mut self, what: &str) {
        self.log.push(format!("{:>8.3} s  {what}", self.start.elapsed().as_secs_f64()));
    }

    /// A store that reaches Redis without any of the workers' networks.
    pub async fn store(&self, role: Role) -> Arc<dyn Store> {
        let terms = Terms { lease: LEASE, ..Terms::default() };
        let url = self.redis.url();
        let settings = Settings { url, queue: QUEUE.into(), terms, allow_eviction: false };
        connect(settings, role).await.expect("connecting")
    }

    fn spawn(&self, number: usize, url: &str) -> Process {
        let log =
            File::options().create(true).append(true).open(self.path(&format!("log-{number}")));
        let log = log.expect("opening a worker's log");
        let mut command = sortie(&self.path("home"));
        command
            .args(["worker", "--redis", url, "--queue", QUEUE, "--slots", "3"])
            .args(["--lease", "2s", "--beat", "400ms", "--freeze-margin", "500ms", "--grace", "1s"])
            .args(["--retry-base", "20ms", "--retry-cap", "100ms", "--drain-timeout", "5s"])
            .arg("--worktrees")
            .arg(self.path(&format!("worktrees-{number}")))
            .arg("--shared")
            .arg(self.path("shared"))
            // As in a StatefulSet: a restarted worker proves the old one dead.
            .env("POD_NAME", format!("chaos-{number}"))
            .stdout(Stdio::null())
            .stderr(log);
        Process::spawn(&mut command)
    }

    /// Starts worker `number` again, whose process has ended.
    pub fn respawn(&mut self, number: usize) {
        let url = self.workers[number].network.url();
        self.workers[number].process = self.spawn(number, &url);
        self.note(&format!("worker {number} started"));
    }

    /// Starts what has ended by itself, as whatever runs workers does. A panic is a problem.
    pub fn respawn_ended(&mut self, but: impl Fn(usize) -> bool) {
        for number in (0..self.workers.len()).filter(|number| !but(*number)) {
            if let Some(status) = self.workers[number].process.exited() {
                self.note(&format!("worker {number} had ended: {status}"));
                if status.code() == Some(101) {
                    self.problems.push(format!("worker {number} panicked"));
                }
                self.respawn(number);
            }
        }
    }

    /// Asks all workers to leave, and waits until they have.
    pub async fn leave(&mut self) {
        for worker in &self.workers {
            worker.process.signal(Signal::SIGTERM);
        }
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let status = worker.process.wait(Duration::from_secs(30)).await;
            if !status.success() {
                self.problems.push(format!("worker {number} left with {status}"));
            }
        }
    }

    /// Panics with all that is known if there are problems, and then keeps the directory.
    pub fn assert_none(&mut self, seed: u64, found: &[String]) {
        let problems = [&self.problems[..], found].concat();
        if problems.is_empty() {
            return;
        }
        let kept = self.directory.take().expect("kept until the end").keep();
        panic!(
            "CHAOS_SEED={seed}: {} problems\n{}\n\nwhat was done:\n{}\n\nlogs are in {}",
            problems.len(),
            problems.join("\n"),
            self.log.join("\n"),
            kept.display()
        );
    }
}
