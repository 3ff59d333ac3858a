//! Stores over an address, and a worker that runs jobs through one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sortie::core::retry::Count;
use sortie::core::{AttemptResult, JobSpec, Next, State, WorkerId};
use sortie::store::redis::{Role, Settings, connect};
use sortie::store::{
    Beat, Claimed, Error, Exchange, Exchanged, Finish, Finished, Kind, NewJob, Store, Terms, Token,
    WorkerRecord,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::redis::TestRedis;

pub const QUEUE: &str = "sortie:queue";
/// What "within about five seconds" is on a busy machine.
pub const SHORTLY: Duration = Duration::from_secs(9);

/// With `everysec` Redis acknowledges what it has not written yet while a slow fsync is under way.
pub const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

pub fn settings(url: &str) -> Settings {
    Settings {
        url: url.to_owned(),
        queue: QUEUE.into(),
        terms: Terms { lease: Duration::from_mins(1), ..Terms::default() },
        allow_eviction: false,
    }
}

pub async fn open(url: &str, role: Role) -> Arc<dyn Store> {
    connect(settings(url), role).await.unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// Connects in vain, as a worker and as a short caller; answers the one line that both are told.
pub async fn refused(url: &str) -> Error {
    let worker = refused_as(url, Role::Engine).await;
    let caller = refused_as(url, Role::Client).await;
    assert_eq!(worker.to_string(), caller.to_string());
    worker
}

async fn refused_as(url: &str, role: Role) -> Error {
    let start = Instant::now();
    let Err(error) = connect(settings(url), role).await else { panic!("{url} is accepted") };
    assert!(start.elapsed() < SHORTLY, "{role:?} waited {:?} for: {error}", start.elapsed());
    assert_is_line(&error);
    error
}

/// One line, without the password that all tests use.
pub fn assert_is_line(error: &Error) {
    let mut text = error.to_string();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    assert!(!text.contains('\n') && text.len() < 400, "{text}");
    while let Some(error) = cause {
        text = format!("{text} {error} {error:?}");
        cause = error.source();
    }
    assert!(!text.contains("secret"), "{text}");
}

pub fn assert_says(error: &Error, kind: Kind, words: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} is not in: {error}");
    }
}

/// How often the server was sent a command, by clients and by scripts.
pub fn sent(redis: &TestRedis, command: &str) -> u64 {
    let stats: String = redis.ask(&["INFO", "commandstats"]);
    let line = format!("cmdstat_{command}:calls=");
    stats
        .lines()
        .find_map(|stat| stat.strip_prefix(&line)?.split(',').next()?.parse().ok())
        .unwrap_or_default()
}

pub fn info(redis: &TestRedis, name: &str) -> u64 {
    let info: String = redis.ask(&["INFO"]);
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("INFO has no {name}")).trim().parse().unwrap()
}

/// How many connections the test's own questions have made is in it too: one each.
pub fn dialed(redis: &TestRedis) -> u64 {
    info(redis, "total_connections_received")
}

pub fn new_job(id: &str) -> NewJob {
    NewJob::new(JobSpec {
        id: Some(id.parse().unwrap()),
        prompt: Some("do it".into()),
        ..JobSpec::default()
    })
}

pub fn record(pod: &str, ordinal: Option<u32>) -> WorkerRecord {
    WorkerRecord {
        id: WorkerId::boot(pod),
        ordinal,
        exclusive: ordinal.is_some(),
        slots: 4,
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

/// A registered worker.
pub struct Worker {
    pub store: Arc<dyn Store>,
    pub record: WorkerRecord,
    call: AtomicU64,
}

impl Worker {
    pub async fn over(store: Arc<dyn Store>) -> Self {
        let record = record("pod", None);
        store.register(&record, &[]).await.unwrap();
        Self::of(store, record)
    }

    /// A worker that is registered already.
    pub fn of(store: Arc<dyn Store>, record: WorkerRecord) -> Self {
        Self { store, record, call: AtomicU64::new(0) }
    }

    pub fn exchange_of(&self, want: u32, finished: Vec<Finish>) -> Exchange {
        Exchange {
            worker: self.record.id.clone(),
            ordinal: self.record.ordinal,
            call: self.call.fetch_add(1, Ordering::Relaxed) + 1,
            want,
            has_yielded: true,
            finished,
        }
    }

    pub async fn exchange(&self, want: u32, finished: Vec<Finish>) -> Exchanged {
        self.store.exchange(&self.exchange_of(want, finished)).await.expect("exchange")
    }

    pub async fn beat(&self) {
        self.store.beat(&beat(&self.record.id, &[])).await.expect("beat");
    }

    /// Submits a job, claims it and ends it: nothing is lost, nothing is done twice.
    pub async fn run(&self, id: &str) {
        let submitted = self.store.submit(&[new_job(id)]).await.expect("submit");
        assert_eq!(submitted[0].id.as_str(), id);
        let answer = self.exchange(1, Vec::new()).await;
        let [claimed] = &answer.claimed[..] else { panic!("{id} is not there: {answer:?}") };
        assert_eq!((claimed.token.id.as_str(), claimed.counters.attempt), (id, 1));
        let ended = self.exchange(0, vec![success(claimed)]).await;
        assert_eq!(ended.finished, [Finished::Accepted]);
    }

    /// Runs jobs and beats, side by side, until told to stop; answers how many jobs it ran.
    pub async fn work_until(&self, stop: &AtomicBool) -> u64 {
        let run = async {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                self.run(&format!("j{count}")).await;
                count += 1;
            }
            count
        };
        let live = async {
            while !stop.load(Ordering::Relaxed) {
                self.beat().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::join!(run, live).0
    }
}

pub fn beat(worker: &WorkerId, held: &[Token]) -> Beat {
    Beat {
        worker: worker.clone(),
        held: held.to_vec(),
        lease: Duration::from_mins(1),
        is_whole: true,
        quarantine: None,
    }
}

pub fn success(claimed: &Claimed) -> Finish {
    let next = Next::End { state: State::Succeeded, count: Count::Nothing };
    finish(claimed, next)
}

pub fn finish(claimed: &Claimed, next: Next) -> Finish {
    Finish { token: claimed.token.clone(), next, fault: None, result: AttemptResult::default() }
}

/// A server that answers each piece it gets with what `answer` says; empty: it closes the connection;
/// nothing: an error for each command.
pub async fn answering(
    answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(length @ 1..) = client.read(&mut buffer).await {
                    let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    // `*` begins a command.
                    let errors = "-ERR unknown command\r\n".repeat(request.matches('*').count());
                    let answer = answer(&request).unwrap_or(errors);
                    if answer.is_empty() || client.write_all(answer.as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}
