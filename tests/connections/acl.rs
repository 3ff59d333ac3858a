//! The users of docs/redis.md: each right is needed, and no right is missing.

use std::sync::Arc;
use std::time::Duration;

use sortie::core::retry::Count;
use sortie::core::{Event, JobSpec, Next, State};
use sortie::store::redis::{Role, connect};
use sortie::store::{
    BadAction, Change, Control, Error, Kind, Level, Lock, LockAction, Log, NewJob, Query, Store,
    Wake,
};

use crate::bench::{QUEUE, Worker, assert_says, beat, dialed, finish, open, settings, success};
use crate::support::SOON;
use crate::support::redis::TestRedis;

const SHORT: Duration = Duration::from_millis(1);

/// The rules of a user as docs/redis.md gives them, from `on` on.
fn rules(user: &str) -> Vec<String> {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/redis.md");
    let docs = std::fs::read_to_string(docs).unwrap().replace("\\\n", " ");
    let start = format!("redis-cli ACL SETUSER {user} ");
    let line = docs.lines().find_map(|line| line.strip_prefix(&start));
    let words = line.unwrap_or_else(|| panic!("docs/redis.md has no user {user}"));
    let words = words.split_whitespace().map(|word| word.trim_matches('\''));
    words.map(|word| if word.starts_with('>') { ">secret" } else { word }.to_owned()).collect()
}

/// Makes the user anew with these rules; answers its URL.
fn user(redis: &TestRedis, name: &str, rules: &[String]) -> String {
    redis.ask::<()>(&["FLUSHALL"]);
    redis.ask::<()>(&["SCRIPT", "FLUSH"]);
    redis.ask::<u64>(&["ACL", "DELUSER", name]);
    let words = ["ACL", "SETUSER", name].into_iter();
    redis.ask::<()>(&words.chain(rules.iter().map(String::as_str)).collect::<Vec<_>>());
    format!("unix://{}?user={name}&pass=secret", redis.socket().display())
}

/// Runs `day` with all rights, then with each one taken away: that must be told.
async fn is_exact(
    name: &str,
    role: Role,
    day: impl AsyncFn(&TestRedis, Arc<dyn Store>) -> Result<(), Error>,
) {
    let redis = TestRedis::start();
    let rules = rules(name);
    let url = user(&redis, name, &rules);
    let store = connect(settings(&url), role).await.unwrap();
    let dials = dialed(&redis);
    if let Err(error) = day(&redis, store).await {
        let log: redis::Value = redis.ask(&["ACL", "LOG", "1"]);
        panic!("{name}: {error}: {log:?}");
    }
    assert!(dialed(&redis) - dials < 20, "{name} dialed {} times", dialed(&redis) - dials);
    let mut needless = Vec::new();
    // Without `+info` the server is used unseen, which is told by `health`; without `+ping +unwatch`
    // the pool dials for each call.
    let can_do_without = ["+info", "+ping", "+unwatch"];
    let rights = rules.iter().filter(|rule| rule.starts_with('+'));
    for right in rights.filter(|right| !can_do_without.contains(&right.as_str())) {
        let rest: Vec<String> = rules.iter().filter(|rule| *rule != right).cloned().collect();
        let url = user(&redis, name, &rest);
        let outcome = match connect(settings(&url), role).await {
            Ok(store) => day(&redis, store).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => needless.push(right.clone()),
            Err(error) => assert_says(&error, Kind::Misconfigured, &["ACL", "docs/redis.md"]),
        }
    }
    assert_eq!(needless, Vec::<String>::new(), "rights that {name} does not need");
}

fn push(redis: &TestRedis, json: &str) {
    redis.ask::<u64>(&["RPUSH", QUEUE, json]);
}

fn again(state: State, delay: Duration, head: bool) -> Next {
    Next::Again { state, delay, head, count: Count::Charged }
}

async fn a_day_of_a_worker(redis: &TestRedis, store: Arc<dyn Store>) -> Result<(), Error> {
    let boss = open(&redis.url(), Role::Client).await;
    boss.control(&Control::Limit { profile: Some("p".into()), running: Some(1) }).await?;
    let record = crate::bench::record("pod-0", Some(0));
    store.register(&record, &[crate::bench::record("gone", None).id]).await?;
    let newer = crate::bench::record("pod-0", Some(0));
    store.register(&newer, &[]).await?;
    let worker = Worker::of(Arc::clone(&store), newer.clone());

    push(redis, "not a job");
    push(redis, r#"{"id":"kept","prompt":"x","concurrency_key":"k","idempotency_key":"i"}"#);
    push(redis, r#"{"id":"parked","prompt":"x","concurrency_key":"k"}"#);
    push(redis, r#"{"id":"twin","prompt":"x","idempotency_key":"i"}"#);
    push(redis, r#"{"prompt":"x","profile":"p"}"#);
    push(redis, r#"{"id":"later","prompt":"x","delay_ms":1}"#);
    let exchange = |want, finished| {
        let exchange = worker.exchange_of(want, finished);
        let store = Arc::clone(&store);
        async move { store.exchange(&exchange).await }
    };
    store.wake(&Wake::Work, SOON).await?;
    let claimed = exchange(4, Vec::new()).await?.claimed;
    assert!(claimed.len() >= 2, "{claimed:?}");
    let tokens: Vec<_> = claimed.iter().map(|claimed| claimed.token.clone()).collect();
    let mut beat = beat(&newer.id, &tokens);
    beat.quarantine = Some("a bad disk".into());
    store.beat(&beat).await?;
    beat.quarantine = None;
    store.beat(&beat).await?;
    let ids = store
        .append(&tokens[0], &[Event::Progress { attempt: 1, message: "x".into() }], &[])
        .await?;
    store.append(&tokens[0], &[], &ids).await?;
    boss.change(&tokens[0].id, &Change::Cancel { by: "alice".into() }).await?;
    store.wake(&Wake::Poke(newer.id.clone()), SOON).await?;
    for action in
        [LockAction::Hold(Duration::from_secs(9)), LockAction::Hold(SHORT), LockAction::Release]
    {
        let lock = Lock { name: "clone".into(), owner: "me".into(), action };
        store.lock(&lock).await?;
    }
    let ended = claimed.iter().map(success).collect();
    let more = exchange(4, ended).await?.claimed;
    let back = more.iter().map(|more| finish(more, again(State::Queued, Duration::ZERO, true)));
    exchange(0, back.collect()).await?;
    let more = exchange(4, Vec::new()).await?.claimed;
    let wait = more.iter().map(|more| finish(more, again(State::Waiting, Duration::ZERO, false)));
    exchange(0, wait.collect()).await?;
    boss.control(&Control::Pause { by: "alice".into() }).await?;
    exchange(1, Vec::new()).await?;
    boss.control(&Control::Resume).await?;
    store.wake(&Wake::Transition, SOON).await?;
    store.workers().await?;
    store.control(&Control::Leave { worker: newer.id.clone() }).await?;
    assert_eq!(boss.fsck().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_worker_has_the_rights_it_needs() {
    is_exact("sortie-worker", Role::Engine, a_day_of_a_worker).await;
}

async fn a_day_of_a_person(redis: &TestRedis, store: Arc<dyn Store>) -> Result<(), Error> {
    let worker = Worker::over(open(&redis.url(), Role::Engine).await).await;
    let spec = |json: &str| NewJob::new(JobSpec::from_json(json.as_bytes()).unwrap());
    let jobs = [
        spec(r#"{"id":"a","prompt":"x","concurrency_key":"k","idempotency_key":"i"}"#),
        spec(r#"{"id":"b","prompt":"x","concurrency_key":"k","delay_ms":60000}"#),
        spec(r#"{"id":"c","prompt":"x","profile":"p"}"#),
        spec(r#"{"id":"d","prompt":"x","profile":"p"}"#),
        spec(r#"{"id":"twin","prompt":"x","idempotency_key":"i"}"#),
    ];
    store.submit(&jobs).await?;
    push(redis, r#"{"id":"raw","prompt":"x"}"#);
    store.change(&"raw".parse().unwrap(), &Change::Cancel { by: "alice".into() }).await?;
    let limit = |running| Control::Limit { profile: Some("p".into()), running };
    store.control(&limit(Some(1))).await?;
    push(redis, "not a job");
    let claimed = worker.exchange(4, Vec::new()).await.claimed;
    assert_eq!(claimed.len(), 2, "{claimed:?}");
    store.control(&limit(Some(1))).await?;
    store.stats().await?;
    store.fsck().await?;
    store.control(&limit(None)).await?;
    for control in [Control::Pause { by: "alice".into() }, Control::Resume] {
        store.control(&control).await?;
    }
    let id = worker.record.id.clone();
    store.control(&Control::Drain { worker: id.clone(), within: SHORT }).await?;
    for id in ["b", "d", "a"] {
        store.change(&id.parse().unwrap(), &Change::Cancel { by: "alice".into() }).await?;
    }
    worker.exchange(0, claimed.iter().map(success).collect()).await;
    store.change(&"a".parse().unwrap(), &Change::Retry { fresh: true }).await?;
    store.change(&"c".parse().unwrap(), &Change::Delete).await?;
    assert_eq!(store.bad(&BadAction::List).await?.len(), 1);
    store.bad(&BadAction::Requeue(Vec::new())).await?;
    store.control(&Control::Leave { worker: id }).await?;
    let other = Worker::over(open(&redis.url(), Role::Engine).await).await;
    assert_eq!(other.exchange(1, Vec::new()).await.claimed.len(), 1);
    store.control(&Control::Leave { worker: other.record.id.clone() }).await?;
    for (log, wait) in [(Log::Fleet, None), (Log::Fleet, Some(SHORT))] {
        assert!(!store.read(&log, "0", 10, wait).await?.is_empty());
    }
    store.get("b").await?;
    store.get("no-such").await?;
    store.list(&Query::default()).await?;
    store.workers().await?;
    store.sweep(true).await?;
    store.sweep(false).await?;
    store.health().await?;
    assert_eq!(store.fsck().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_person_has_the_rights_that_commands_need() {
    is_exact("sortie-cli", Role::Client, a_day_of_a_person).await;
}

#[tokio::test]
async fn without_info_a_server_is_used_unseen() {
    let redis = TestRedis::with(&["--maxmemory-policy", "allkeys-lru"]);
    for (name, role) in [("sortie-worker", Role::Engine), ("sortie-cli", Role::Client)] {
        let mut rest = rules(name);
        rest.retain(|rule| rule != "+info");
        let store = connect(settings(&user(&redis, name, &rest)), role).await.unwrap();
        let checks = store.health().await.unwrap();
        assert_eq!((checks.len(), checks[0].level), (1, Level::Warning));
        assert!(checks[0].message.contains("+info"), "{}", checks[0].message);
    }
}

#[tokio::test]
async fn another_database_is_a_right_of_its_own() {
    let redis = TestRedis::start();
    let mut rules = rules("sortie-worker");
    let url = format!("{}&db=2", user(&redis, "sortie-worker", &rules));
    let error = crate::bench::refused(&url).await;
    assert_says(&error, Kind::Misconfigured, &["select", "ACL"]);
    rules.push("+select".into());
    Worker::over(
        open(&format!("{}&db=2", user(&redis, "sortie-worker", &rules)), Role::Engine).await,
    )
    .await;
}

#[tokio::test]
async fn a_producer_only_pushes() {
    let redis = TestRedis::start();
    let rights = rules("sortie-producer");
    let url = user(&redis, "sortie-producer", &rights);
    let mut producer = redis::Client::open(url).unwrap().get_connection().unwrap();
    let mut say = |words: &[&str]| redis::cmd(words[0]).arg(&words[1..]).exec(&mut producer);
    say(&["RPUSH", QUEUE, r#"{"prompt":"x"}"#]).unwrap();
    say(&["LPUSH", QUEUE, r#"{"prompt":"y"}"#]).unwrap();
    for refused in [&["LPOP", QUEUE][..], &["RPUSH", "other", "x"], &["KEYS", "*"]] {
        assert_eq!(say(refused).unwrap_err().code(), Some("NOPERM"), "{refused:?}");
    }
}

/// What KEDA's scaler sends, reduced to its parts.
#[tokio::test]
async fn keda_counts_whatever_it_is_pointed_at() {
    let redis = TestRedis::start();
    let url = user(&redis, "sortie-keda", &rules("sortie-keda"));
    let worker = Worker::over(open(&redis.url(), Role::Engine).await).await;
    push(&redis, r#"{"id":"x","prompt":"x"}"#);
    push(&redis, r#"{"id":"y","prompt":"y"}"#);
    worker.exchange(1, Vec::new()).await;
    let count = "local kind = redis.call('type', KEYS[1]).ok \
                 if kind == 'list' then return redis.call('llen', KEYS[1]) end \
                 if kind == 'zset' then return redis.call('zcard', KEYS[1]) end return 0";
    let mut keda = redis::Client::open(url).unwrap().get_connection().unwrap();
    redis::cmd("PING").exec(&mut keda).unwrap();
    for (key, expected) in
        [("sortie:queue", 1), ("{sortie:queue}:run", 1), ("{sortie:queue}:later", 0)]
    {
        let counted: u64 = redis::cmd("EVAL").arg(count).arg(1).arg(key).query(&mut keda).unwrap();
        assert_eq!(counted, expected, "{key}");
    }
    let push = redis::cmd("RPUSH").arg(QUEUE).arg("x").exec(&mut keda);
    assert_eq!(push.unwrap_err().code(), Some("NOPERM"));
}
