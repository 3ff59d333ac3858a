//! The store in Redis: every transition is one Lua script (`lua/`), run atomically on the server with
//! the server's clock.
//!
//! `keys` names everything that is stored; `scripts` are the transitions; `work` calls them for
//! workers and `people` for everybody else; `records` reads jobs, `log` their logs, `survey` the
//! whole; `wait` blocks; `address` makes connections and `conn` keeps them alive; `health` judges
//! the server.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, FromRedisValue, Value};

use self::address::Address;
use self::conn::{Calls, Request};
use self::keys::Keys;
use self::scripts::Call;
use super::{
    BadAction, BadTicket, Beat, Change, Check, Control, Entry, Error, Exchange, Exchanged, Found,
    Lock, Log, NewJob, Pulse, Query, Result, Stats, Store, Submitted, Sweep, Terms, Token, Wake,
    WorkerRecord,
};
use crate::core::{Event, Fence, Job, JobId, State, WorkerId};

mod address;
mod conn;
mod health;
mod keys;
mod log;
mod people;
mod records;
mod scripts;
mod survey;
mod wait;
mod work;

/// How to reach the queue.
#[derive(Clone)]
pub struct Settings {
    /// `redis://`, `rediss://`, `unix://` or `redis+sentinel://` URL; may contain a password.
    pub url: String,
    /// Name of the list, e.g. `sortie:queue`.
    pub queue: String,
    pub terms: Terms,
    /// Use the server in spite of an eviction policy that may lose jobs.
    pub allow_eviction: bool,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        f.debug_struct("Settings")
            .field("queue", &self.queue)
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A worker: connections of its own; calls are repeated until they are answered.
    Engine,
    /// A short caller (CLI, API): pooled connections; calls fail after a few seconds.
    Client,
}

/// Connects and checks that the server is fit for a queue.
pub async fn connect(settings: Settings, role: Role) -> Result<Arc<dyn Store>> {
    if settings.queue.is_empty()
        || settings.queue.len() > 200
        || settings.queue.contains(['{', '}', '\0'])
    {
        return Err(Error::Misconfigured(format!(
            "the queue name {:?} cannot be used: 1 to 200 bytes without braces (they would split the keys over several hash slots)",
            settings.queue
        )));
    }
    let address = Address::parse(&settings.url)?;
    let store = RedisStore {
        keys: Keys::new(&settings.queue),
        terms: settings.terms,
        calls: Calls::new(&address, role),
        logs: Calls::new(&address, role),
        waits: wait::Waits::new(&address, role),
        address,
        appends: AtomicU64::new(1),
    };
    store.demand_fitness(settings.allow_eviction).await?;
    Ok(Arc::new(store))
}

pub(super) struct RedisStore {
    keys: Keys,
    terms: Terms,
    calls: Calls,
    /// Output of jobs, apart from the calls: a heartbeat never queues behind it.
    logs: Calls,
    waits: wait::Waits,
    address: Address,
    /// Numbers the calls that append to logs.
    appends: AtomicU64,
}

impl RedisStore {
    fn call(&self, script: &'static std::sync::LazyLock<scripts::Script>) -> Call {
        Call::new(script, &self.keys, &self.terms)
    }

    /// Runs a script: until it is answered for a worker, for a few seconds for a short caller.
    async fn run<T: FromRedisValue>(&self, call: Call) -> Result<T> {
        self.calls.run(&call).await
    }

    /// Sends a reading command.
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        self.calls.answer(&Request::Command(command)).await
    }

    /// Sends reading commands together; one answer each.
    async fn ask_all(&self, commands: &[Cmd]) -> Result<Vec<Value>> {
        let mut pipeline = redis::pipe();
        for command in commands {
            pipeline.add_command(command.clone());
        }
        self.calls.answer(&Request::Commands(&pipeline, commands.len())).await
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn submit(&self, jobs: &[NewJob]) -> Result<Vec<Submitted>> {
        self.submit_all(jobs).await
    }

    async fn register(&self, worker: &WorkerRecord, gone: &[WorkerId]) -> Result<usize> {
        self.register_worker(worker, gone).await
    }

    async fn exchange(&self, exchange: &Exchange) -> Result<Exchanged> {
        self.exchange_jobs(exchange).await
    }

    async fn beat(&self, beat: &Beat) -> Result<Pulse> {
        self.beat_once(beat).await
    }

    async fn append(
        &self,
        token: &Token,
        events: &[Event],
        drop: &[String],
    ) -> Result<Vec<String>> {
        self.append_events(token, events, drop).await
    }

    async fn wake(&self, wake: &Wake, limit: Duration) -> Result<()> {
        self.waits.wake(&self.keys, wake, limit).await.map_err(|error| self.address.explain(error))
    }

    async fn lock(&self, lock: &Lock) -> Result<Option<Fence>> {
        self.take_lock(lock).await
    }

    async fn change(&self, id: &JobId, change: &Change) -> Result<State> {
        self.change_job(id, change).await
    }

    async fn control(&self, control: &Control) -> Result<()> {
        self.control_fleet(control).await
    }

    async fn bad(&self, action: &BadAction) -> Result<Vec<BadTicket>> {
        self.bad_tickets(action).await
    }

    async fn get(&self, id_or_prefix: &str) -> Result<Found> {
        self.find_job(id_or_prefix).await
    }

    async fn list(&self, query: &Query) -> Result<Vec<Job>> {
        self.list_jobs(query).await
    }

    async fn read(
        &self,
        log: &Log,
        after: &str,
        count: usize,
        wait: Option<Duration>,
    ) -> Result<Vec<Entry>> {
        self.read_log(log, after, count, wait).await
    }

    async fn stats(&self) -> Result<Stats> {
        self.read_stats().await
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>> {
        self.read_workers().await
    }

    async fn fsck(&self) -> Result<Vec<String>> {
        self.check_records().await
    }

    async fn sweep(&self, dry_run: bool) -> Result<Sweep> {
        self.sweep_history(dry_run).await
    }

    async fn health(&self) -> Result<Vec<Check>> {
        self.judge().await
    }
}
