//! An empty store, and workers that are driven call by call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use sortie::core::retry::Count;
use sortie::core::{AttemptResult, Fault, Fence, Job, JobId, JobSpec, Next, State, WorkerId};
use sortie::store::redis::{Role, Settings, connect};
use sortie::store::{
    Beat, Change, Claimed, Exchange, Exchanged, Finish, Finished, Found, NewJob, Pulse, Stats,
    Store, Submitted, Supply, Terms, Token, WorkerRecord,
};

use crate::support::redis::TestRedis;
use crate::support::{SOON, eventually};

pub const QUEUE: &str = "jobs";

/// Terms under which nothing expires while a test runs.
pub const PATIENT: Terms = Terms {
    lease: Duration::from_mins(1),
    job_ttl: Duration::from_hours(1),
    dead_ttl: Duration::from_hours(1),
    history: 1000,
};
/// Terms under which leases run out quickly.
pub const HASTY: Terms = Terms { lease: Duration::from_millis(300), ..PATIENT };
/// Terms under which ended jobs are soon forgotten.
pub const FORGETFUL: Terms =
    Terms { job_ttl: Duration::from_millis(300), dead_ttl: Duration::from_millis(300), ..PATIENT };
/// Terms under which few ended jobs are kept.
pub const FRUGAL: Terms = Terms { history: 3, ..PATIENT };

pub const SUCCEEDED: Next = Next::End { state: State::Succeeded, count: Count::Nothing };
pub const FAILED: Next = Next::End { state: State::Failed, count: Count::Charged };
pub const WAITING: Next = Next::Again {
    state: State::Waiting,
    delay: Duration::ZERO,
    head: false,
    count: Count::Nothing,
};
pub const HANDED_BACK: Next = again(true, Duration::ZERO, Count::Nothing);

pub const fn again(head: bool, delay: Duration, count: Count) -> Next {
    Next::Again { state: State::Queued, delay, head, count }
}

pub const fn deferred(delay: Duration) -> Next {
    Next::Again { state: State::Deferred, delay, head: false, count: Count::Nothing }
}

/// An empty store.
pub struct Bench {
    pub store: Arc<dyn Store>,
    pub terms: Terms,
    redis: Option<TestRedis>,
    pods: AtomicU32,
}

impl Bench {
    /// The store in Redis, on a server of its own.
    pub async fn on_redis(terms: Terms) -> Self {
        Self::on_server(TestRedis::start(), terms).await
    }

    pub async fn on_server(redis: TestRedis, terms: Terms) -> Self {
        let store = connect(settings(redis.url(), terms), Role::Engine).await.expect("connecting");
        Self { store, terms, redis: Some(redis), pods: AtomicU32::new(0) }
    }

    /// Another way to a store whose server belongs to another bench.
    pub fn over(store: Arc<dyn Store>, terms: Terms) -> Self {
        Self { store, terms, redis: None, pods: AtomicU32::new(1000) }
    }

    /// The server behind the store, for promises that only the Redis store makes.
    pub fn redis(&self) -> &TestRedis {
        self.redis.as_ref().expect("this promise is listed for the Redis store only")
    }

    pub async fn assert_consistent(&self) {
        let problems = self.store.fsck().await.expect("fsck");
        assert_eq!(problems, Vec::<String>::new(), "fsck after the test");
    }

    /// Submits one job; fields of `spec` are those of a pushed job, `prompt` may be missing.
    pub async fn submit(&self, spec: Value) -> JobId {
        let [submitted] = self.submit_all([spec]).await.try_into().expect("one answer");
        assert!(submitted.is_new, "{} was known before", submitted.id);
        submitted.id
    }

    pub async fn submit_all(&self, specs: impl IntoIterator<Item = Value>) -> Vec<Submitted> {
        let jobs: Vec<NewJob> = specs.into_iter().map(new_job).collect();
        self.store.submit(&jobs).await.expect("submit")
    }

    /// Submits jobs with these ids.
    pub async fn submit_ids(&self, ids: &[&str]) {
        self.submit_all(ids.iter().map(|id| serde_json::json!({ "id": id }))).await;
    }

    /// A registered worker with 100 slots on a pod of its own, without an ordinal.
    pub async fn worker(&self) -> Worker {
        let pod = format!("host{}", self.pods.fetch_add(1, Ordering::Relaxed));
        self.register(record(&pod, None, 100)).await
    }

    pub async fn register(&self, record: WorkerRecord) -> Worker {
        self.store.register(&record, &[]).await.expect("register");
        Worker { store: Arc::clone(&self.store), record, call: AtomicU64::new(0) }
    }

    pub async fn find(&self, id: &JobId) -> Option<Job> {
        match self.store.get(id.as_str()).await.expect("get") {
            Found::One(job) => Some(*job),
            Found::None => None,
            Found::Ambiguous(ids) => panic!("{id} is not unique: {ids:?}"),
        }
    }

    pub async fn job(&self, id: &JobId) -> Job {
        self.find(id).await.unwrap_or_else(|| panic!("there is no job {id}"))
    }

    pub async fn state(&self, id: &JobId) -> State {
        self.job(id).await.state
    }

    pub async fn stats(&self) -> Stats {
        self.store.stats().await.expect("stats")
    }

    pub async fn cancel(&self, id: &JobId) -> State {
        let cancel = Change::Cancel { by: "alice".into() };
        self.store.change(id, &cancel).await.expect("cancel")
    }

    /// Keeps the store's upkeep going, as any live worker does, until `condition` holds.
    pub async fn until(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let bystander = self.worker().await;
        eventually(SOON, what, async || {
            bystander.beat(&[]).await;
            condition().await.then_some(())
        })
        .await;
    }

    pub async fn until_state(&self, id: &JobId, state: State) {
        self.until(&format!("{id} is {state}"), async || self.state(id).await == state).await;
    }
}

pub fn settings(url: String, terms: Terms) -> Settings {
    Settings { url, queue: QUEUE.into(), terms, allow_eviction: false }
}

pub fn new_job(spec: Value) -> NewJob {
    let mut spec: JobSpec = serde_json::from_value(spec).expect("a job spec");
    if spec.prompt.is_none() && spec.command.is_empty() {
        spec.prompt = Some("do it".into());
    }
    NewJob::new(spec)
}

pub fn id(text: &str) -> JobId {
    text.parse().expect("a job id")
}

/// A worker of pod `pod`; with an ordinal it is the only one of its pod.
pub fn record(pod: &str, ordinal: Option<u32>, slots: u32) -> WorkerRecord {
    WorkerRecord {
        id: WorkerId::boot(pod),
        ordinal,
        exclusive: ordinal.is_some(),
        slots,
        running: 0,
        draining: false,
        quarantine: None,
        version: "0.0.0-test".into(),
        host: format!("host-of-{pod}"),
        pid: 4711,
        pid_started: 17,
        started_at_ms: 0,
        silent_ms: 0,
        is_lost: false,
    }
}

/// A worker whose calls the test makes one by one.
pub struct Worker {
    pub store: Arc<dyn Store>,
    pub record: WorkerRecord,
    call: AtomicU64,
}

impl Worker {
    pub fn id(&self) -> &WorkerId {
        &self.record.id
    }

    /// The next call, not sent yet. The worker does not step back for others unless the test says.
    pub fn call(&self, want: u32, finished: Vec<Finish>) -> Exchange {
        Exchange {
            worker: self.record.id.clone(),
            ordinal: self.record.ordinal,
            call: self.call.fetch_add(1, Ordering::Relaxed) + 1,
            want,
            has_yielded: true,
            finished,
        }
    }

    pub async fn send(&self, exchange: &Exchange) -> Exchanged {
        self.store.exchange(exchange).await.expect("exchange")
    }

    pub async fn claim(&self, want: u32) -> Vec<Claimed> {
        self.send(&self.call(want, Vec::new())).await.claimed
    }

    /// Claims exactly one job.
    pub async fn one(&self) -> Claimed {
        let answer = self.send(&self.call(1, Vec::new())).await;
        let supply = answer.supply;
        let [claimed] = answer.claimed.try_into().unwrap_or_else(|got| {
            panic!("wanted one job, got {got:?}, because of {supply:?}");
        });
        claimed
    }

    /// Asserts that nothing can be claimed, and says why.
    pub async fn none(&self) -> Supply {
        let answer = self.send(&self.call(1, Vec::new())).await;
        assert_eq!(ids(&answer.claimed), Vec::<&str>::new(), "claimed");
        answer.supply
    }

    pub async fn end(&self, claimed: &Claimed, next: Next) -> Finished {
        self.end_with(&claimed.token, next, None, AttemptResult::default()).await
    }

    pub async fn end_with(
        &self,
        token: &Token,
        next: Next,
        fault: Option<Fault>,
        result: AttemptResult,
    ) -> Finished {
        let finish = Finish { token: token.clone(), next, fault, result };
        self.send(&self.call(0, vec![finish])).await.finished[0]
    }

    /// Claims one job and ends it.
    pub async fn run(&self, next: Next) -> JobId {
        let claimed = self.one().await;
        assert_eq!(self.end(&claimed, next).await, Finished::Accepted);
        claimed.token.id
    }

    /// A heartbeat for all that the worker holds.
    pub async fn beat(&self, held: &[&Claimed]) -> Pulse {
        self.store.beat(&self.heartbeat(held)).await.expect("beat")
    }

    pub fn heartbeat(&self, held: &[&Claimed]) -> Beat {
        Beat {
            worker: self.record.id.clone(),
            held: held.iter().map(|claimed| claimed.token.clone()).collect(),
            lease: Duration::from_millis(300),
            is_whole: true,
            quarantine: None,
        }
    }
}

pub fn finish(claimed: &Claimed, next: Next) -> Finish {
    let token = claimed.token.clone();
    Finish { token, next, fault: None, result: AttemptResult::default() }
}

pub fn ids(claimed: &[Claimed]) -> Vec<&str> {
    claimed.iter().map(|claimed| claimed.token.id.as_str()).collect()
}

pub fn fences(claimed: &[Claimed]) -> Vec<Fence> {
    claimed.iter().map(|claimed| claimed.token.fence).collect()
}
