//! Those who want something: jobs by the store and by raw pushes, and cancels of some of them.
//!
//! Each repeats what it asks for until it is acknowledged, and remembers it then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use sortie::core::JobSpec;
use sortie::store::redis::Role;
use sortie::store::{Change, NewJob, Store};
use tokio::task::JoinHandle;

use crate::agent::Plan;
use crate::fleet::{ATTEMPTS, Fleet, QUEUE};

/// Jobs waiting at which producers hold back.
const CROWD: u64 = 60;

/// An acknowledged job.
#[derive(Clone, Debug)]
pub struct Asked {
    pub plan: Plan,
    pub key: Option<String>,
    /// Whether its cancel was asked for, too.
    pub is_canceled: bool,
}

pub type AskedFor = BTreeMap<String, Asked>;

pub struct Producing {
    is_over: Arc<AtomicBool>,
    producers: Vec<JoinHandle<AskedFor>>,
}

impl Producing {
    /// Waits until all that is on its way is acknowledged; answers everything that was.
    pub async fn stop(self) -> AskedFor {
        self.is_over.store(true, Ordering::SeqCst);
        let mut all = AskedFor::new();
        for producer in self.producers {
            let one = tokio::time::timeout(Duration::from_mins(1), producer).await;
            all.extend(one.expect("a producer gets its last answer").expect("no panic"));
        }
        all
    }
}

pub async fn start(fleet: &Fleet, seed: u64) -> Producing {
    let is_over = Arc::new(AtomicBool::new(false));
    let mut producers = Vec::new();
    for number in 0..3_u64 {
        let producer = Producer {
            number,
            random: Rng::with_seed(seed * 1000 + number),
            store: fleet.store(Role::Engine).await,
            url: fleet.redis.url(),
            journal: fleet.journal().display().to_string(),
            asked: AskedFor::new(),
        };
        producers.push(tokio::spawn(producer.run(Arc::clone(&is_over))));
    }
    Producing { is_over, producers }
}

struct Producer {
    number: u64,
    random: Rng,
    store: Arc<dyn Store>,
    url: String,
    journal: String,
    asked: AskedFor,
}

impl Producer {
    async fn run(mut self, is_over: Arc<AtomicBool>) -> AskedFor {
        let mut count = 0;
        while !is_over.load(Ordering::SeqCst) {
            // The pace of the demand; nothing is waited for.
            tokio::time::sleep(Duration::from_millis(self.random.u64(30..250))).await;
            if self.store.stats().await.is_ok_and(|stats| stats.pending > CROWD) {
                continue;
            }
            let mut batch = Vec::new();
            for _ in 0..self.random.usize(1..4) {
                count += 1;
                batch.push(self.job(count));
            }
            if self.number == 0 {
                for (_, _, spec) in &batch {
                    push(&self.url, &spec.to_string()).await;
                }
            } else {
                submit(&*self.store, &batch).await;
            }
            for (name, asked, _) in batch {
                if self.random.u8(..100) < 4 {
                    cancel(&*self.store, &name).await;
                    self.asked.insert(name, Asked { is_canceled: true, ..asked });
                } else {
                    self.asked.insert(name, asked);
                }
            }
        }
        self.asked
    }

    fn job(&mut self, count: u64) -> (String, Asked, Value) {
        // Most are over soon; some run for longer than a lease, so that they are caught by a fault.
        let is_long = self.random.u8(..100) < 12;
        let plan = Plan {
            lines: if is_long { self.random.u32(100..250) } else { self.random.u32(2..20) },
            fails: self.random.u8(..100) < 10,
            leaves_child: self.random.u8(..100) < 10,
        };
        let name = format!("p{}-{count}", self.number);
        let mut spec = plan.spec(&self.journal);
        spec["id"] = name.clone().into();
        spec["max_attempts"] = ATTEMPTS.into();
        let key = (self.random.u8(..100) < 20).then(|| format!("key{}", self.random.u8(..2)));
        if let Some(key) = &key {
            spec["concurrency_key"] = key.clone().into();
        }
        if self.random.u8(..100) < 20 {
            spec["priority"] = json!(self.random.i64(-2..3));
        }
        if self.random.u8(..100) < 10 {
            spec["delay_ms"] = json!(self.random.u64(..800));
        }
        (name, Asked { plan, key, is_canceled: false }, spec)
    }
}

/// The store itself repeats a call until it is answered; this only gets over its giving up.
async fn submit(store: &dyn Store, batch: &[(String, Asked, Value)]) {
    let parse = |spec: &Value| JobSpec::from_json(spec.to_string().as_bytes()).expect("valid");
    let jobs: Vec<NewJob> = batch.iter().map(|(_, _, spec)| NewJob::new(parse(spec))).collect();
    while store.submit(&jobs).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn cancel(store: &dyn Store, name: &str) {
    let id = name.parse().expect("a job id");
    let cancel = Change::Cancel { by: "chaos".into() };
    while store.change(&id, &cancel).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// As any client may do it: the id makes a repeated push harmless.
async fn push(url: &str, ticket: &str) {
    let client = redis::Client::open(url).expect("a valid address");
    loop {
        let connection = client.get_multiplexed_async_connection().await;
        if let Ok(connection) = connection
            && pushed(connection, ticket).await
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn pushed(mut connection: MultiplexedConnection, ticket: &str) -> bool {
    let push = redis::cmd("RPUSH").arg(QUEUE).arg(ticket).to_owned();
    push.query_async::<u64>(&mut connection).await.is_ok()
}
