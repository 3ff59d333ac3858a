//! A queue on a server of its own, with both ways in: the store, and the bare keys.

use std::sync::Arc;
use std::time::Duration;

use redis::{FromRedisValue, ToRedisArgs};
use sortie::core::retry::Count;
use sortie::core::{AttemptResult, Job, JobId, JobSpec, Next, State, WorkerId};
use sortie::store::redis::{Role, Settings, connect};
use sortie::store::{
    Beat, Change, Claimed, Control, Exchange, Exchanged, Finish, Found, NewJob, Pulse, Store,
    Terms, WorkerRecord,
};

use crate::support::redis::TestRedis;

/// An odd name on purpose: every script must treat it as bytes.
pub const QUEUE: &str = "a queue*[?]\n%d:é";

pub const SUCCEEDED: Next = Next::End { state: State::Succeeded, count: Count::Nothing };

pub fn again(state: State, delay: Duration, head: bool) -> Next {
    Next::Again { state, delay, head, count: Count::Nothing }
}

pub struct Rig {
    pub redis: TestRedis,
    pub store: Arc<dyn Store>,
}

impl Rig {
    pub async fn new() -> Self {
        Self::with(Terms::default()).await
    }

    pub async fn with(terms: Terms) -> Self {
        let redis = TestRedis::start();
        let url = redis.url();
        let settings = Settings { url, queue: QUEUE.into(), terms, allow_eviction: false };
        let store = connect(settings, Role::Engine).await.expect("connecting");
        Self { redis, store }
    }

    /// Runs one command on the server, past the store.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.redis.ask(words)
    }

    /// Pushes bytes as any client may.
    pub fn push(&self, ticket: impl ToRedisArgs) {
        let client = redis::Client::open(self.redis.url()).expect("a URL");
        let mut connection = client.get_connection().expect("connecting");
        redis::cmd("RPUSH").arg(QUEUE).arg(ticket).query::<u64>(&mut connection).expect("pushing");
    }

    pub fn pending(&self) -> u64 {
        self.ask(&["LLEN", QUEUE])
    }

    pub async fn submit(&self, json: &str) -> JobId {
        let spec = JobSpec::from_json(json.as_bytes()).expect("a job");
        self.store.submit(&[NewJob::new(spec)]).await.expect("submit")[0].id.clone()
    }

    pub async fn submit_many(&self, count: usize, spec: &JobSpec) {
        let jobs: Vec<NewJob> = (0..count).map(|_| NewJob::new(spec.clone())).collect();
        self.store.submit(&jobs).await.expect("submit");
    }

    pub async fn worker(&self, pod: &str, ordinal: Option<u32>, slots: u32) -> Worker {
        let worker = Worker::new(&self.store, pod, ordinal, slots);
        worker.register().await.expect("register");
        worker
    }

    pub async fn job(&self, id: &JobId) -> Job {
        match self.store.get(id.as_str()).await.expect("get") {
            Found::One(job) => *job,
            other => panic!("{id}: {other:?}"),
        }
    }

    pub async fn change(&self, id: &JobId, change: Change) -> State {
        self.store.change(id, &change).await.expect("change")
    }

    pub async fn cancel(&self, id: &JobId) -> State {
        self.change(id, Change::Cancel { by: "x".into() }).await
    }

    pub async fn limit(&self, profile: Option<&str>, running: Option<u32>) {
        let profile = profile.map(str::to_owned);
        self.store.control(&Control::Limit { profile, running }).await.expect("limit");
    }

    /// What holds after everything: records and places agree, and nobody counts what does not run.
    pub async fn assert_sound(&self) {
        assert_eq!(self.store.fsck().await.expect("fsck"), Vec::<String>::new());
        let running: Vec<String> = self.ask(&["ZRANGE", &key("run"), "0", "-1"]);
        for set in self.keys().into_iter().filter(|key| key.contains("}:ckey:")) {
            for id in self.ask::<Vec<String>>(&["SMEMBERS", &set]) {
                assert!(running.contains(&id), "{set} counts {id}, which does not run");
            }
        }
    }

    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.ask(&["KEYS", "*"]);
        keys.sort();
        keys
    }

    /// Lets the lease of a job run out, without waiting for it.
    pub fn end_lease(&self, id: &JobId) {
        self.ask::<i64>(&["ZADD", &key("run"), "1", id.as_str()]);
        self.ask::<i64>(&["HSET", &key("meta"), "grace", "0"]);
    }

    pub fn last_contact_was_long_ago(&self) {
        self.ask::<i64>(&["HSET", &key("meta"), "tick", "1"]);
    }
}

/// A key of the queue beside its list.
pub fn key(suffix: &str) -> String {
    format!("{{{QUEUE}}}:{suffix}")
}

pub struct Worker {
    pub store: Arc<dyn Store>,
    pub record: WorkerRecord,
    call: std::sync::atomic::AtomicU64,
}

impl Worker {
    /// A worker that is not registered yet. With an ordinal it is the only one of its pod.
    pub fn new(store: &Arc<dyn Store>, pod: &str, ordinal: Option<u32>, slots: u32) -> Self {
        let record = WorkerRecord {
            id: WorkerId::boot(pod),
            ordinal,
            exclusive: ordinal.is_some(),
            slots,
            running: 0,
            draining: false,
            quarantine: None,
            version: "0".into(),
            host: "h".into(),
            pid: 1,
            pid_started: 1,
            started_at_ms: 0,
            silent_ms: 0,
            is_lost: false,
        };
        Self { store: Arc::clone(store), record, call: 0.into() }
    }

    pub async fn register(&self) -> sortie::store::Result<usize> {
        self.store.register(&self.record, &[]).await
    }

    pub fn call(&self, want: u32, finished: Vec<Finish>) -> Exchange {
        let call = self.call.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let (worker, ordinal) = (self.record.id.clone(), self.record.ordinal);
        Exchange { worker, ordinal, call, want, has_yielded: true, finished }
    }

    pub async fn send(&self, exchange: &Exchange) -> Exchanged {
        self.store.exchange(exchange).await.expect("exchange")
    }

    pub async fn claim(&self, want: u32) -> Vec<Claimed> {
        self.send(&self.call(want, Vec::new())).await.claimed
    }

    pub async fn one(&self) -> Claimed {
        let answer = self.send(&self.call(1, Vec::new())).await;
        let mut claimed = answer.claimed;
        claimed.pop().unwrap_or_else(|| panic!("nothing to claim: {:?}", answer.supply))
    }

    pub async fn end(&self, claimed: &Claimed, next: Next) -> sortie::store::Finished {
        self.send(&self.call(0, vec![finish(claimed, next)])).await.finished[0]
    }

    pub async fn beat(&self, held: &[&Claimed]) -> Pulse {
        let beat = Beat {
            worker: self.record.id.clone(),
            held: held.iter().map(|claimed| claimed.token.clone()).collect(),
            lease: Duration::from_secs(30),
            is_whole: true,
            quarantine: None,
        };
        self.store.beat(&beat).await.expect("beat")
    }
}

pub fn finish(claimed: &Claimed, next: Next) -> Finish {
    let result = AttemptResult::default();
    Finish { token: claimed.token.clone(), next, fault: None, result }
}
