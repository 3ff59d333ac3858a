//! What the Redis store promises to those who look at the keys: autoscalers, operators, clusters.

use std::time::Duration;

use serde_json::json;
use sortie::core::State;
use sortie::core::retry::Count;
use sortie::store::redis::{Role, connect};
use sortie::store::{Change, Control, Finished, Kind};

use crate::bench::{
    Bench, FAILED, HANDED_BACK, PATIENT, QUEUE, SUCCEEDED, WAITING, again, deferred, id, ids,
    record, settings,
};
use crate::support::redis::{AOF, TestRedis};

fn pending(bench: &Bench) -> u64 {
    bench.redis().ask(&["LLEN", QUEUE])
}

fn key(suffix: &str) -> String {
    format!("{{{QUEUE}}}:{suffix}")
}

fn keys(redis: &TestRedis) -> Vec<String> {
    let mut keys: Vec<String> = redis.ask(&["KEYS", "*"]);
    keys.sort();
    keys
}

/// P1: the length of the list is what an autoscaler that knows nothing of Sortie goes by.
pub async fn the_length_of_the_list_is_the_number_of_runnable_jobs(bench: &Bench) {
    let worker = bench.worker().await;
    let expect = async |expected: u64, after: &str| {
        assert_eq!(pending(bench), expected, "after {after}");
        assert_eq!(bench.stats().await.pending, expected, "after {after}");
    };
    expect(0, "nothing").await;
    bench.submit_ids(&["a", "b", "c"]).await;
    bench.submit(json!({ "id": "high", "priority": 3 })).await;
    expect(4, "four submits").await;
    bench.submit(json!({ "id": "late", "delay_ms": 900_000 })).await;
    expect(4, "a delayed submit").await;
    bench.redis().ask::<u64>(&["RPUSH", QUEUE, r#"{"id":"raw","prompt":"p"}"#]);
    expect(5, "a push").await;
    let held = worker.claim(2).await;
    assert_eq!(ids(&held), ["high", "a"]);
    expect(3, "two claims").await;
    worker.end(&held[0], HANDED_BACK).await;
    expect(4, "a hand-back").await;
    worker.end(&held[1], again(false, Duration::from_mins(15), Count::Charged)).await;
    expect(4, "a backoff").await;
    worker.run(WAITING).await;
    expect(3, "a job that waits").await;
    worker.run(deferred(Duration::from_mins(15))).await;
    expect(2, "a job that is deferred").await;
    bench.cancel(&id("c")).await;
    expect(1, "a cancel").await;
    bench.store.change(&id("c"), &Change::Retry { fresh: false }).await.unwrap();
    expect(2, "a retry").await;
    bench.store.control(&Control::Pause { by: "x".into() }).await.unwrap();
    worker.none().await;
    expect(2, "a pause").await;
    bench.store.control(&Control::Resume).await.unwrap();
    assert_eq!(ids(&worker.claim(9).await), ["raw", "c"]);
    expect(0, "the last claims").await;
}

/// What `keda/` reads, under the names that it uses.
pub async fn autoscalers_can_count_what_runs_and_what_comes(bench: &Bench) {
    let worker = bench.register(record("w-2", Some(2), 5)).await;
    let count = |command: &str, suffix: &str| bench.redis().ask::<u64>(&[command, &key(suffix)]);
    bench.submit_ids(&["a", "b"]).await;
    bench.submit(json!({ "id": "late", "delay_ms": 900_000 })).await;
    let held = worker.claim(2).await;
    assert_eq!((count("ZCARD", "run"), count("ZCARD", "later")), (2, 1));
    assert_eq!(count("LLEN", "floor"), 3);
    worker.end(&held[0], deferred(Duration::from_mins(15))).await;
    worker.end(&held[1], SUCCEEDED).await;
    assert_eq!((count("ZCARD", "run"), count("ZCARD", "later")), (0, 2));
    assert_eq!(count("LLEN", "floor"), 0);
}

/// One of everything that leaves a key somewhere.
async fn use_everything(bench: &Bench) {
    let worker = bench.register(record("w-1", Some(1), 9)).await;
    bench.submit(json!({ "id": "a", "idempotency_key": "i", "concurrency_key": "k" })).await;
    bench.submit(json!({ "id": "b", "concurrency_key": "k", "profile": "x" })).await;
    bench.submit(json!({ "id": "late", "delay_ms": 900_000 })).await;
    bench
        .store
        .control(&Control::Limit { profile: Some("x".into()), running: Some(1) })
        .await
        .unwrap();
    bench.redis().ask::<u64>(&["RPUSH", QUEUE, "{bad"]);
    let claimed = worker.claim(2).await.remove(0);
    let event = sortie::core::Event::Progress { attempt: 1, message: "m".into() };
    bench.store.append(&claimed.token, &[event], &[]).await.unwrap();
    bench.cancel(&id("a")).await;
    let lock = sortie::store::Lock {
        name: "repo".into(),
        owner: "o".into(),
        action: sortie::store::LockAction::Hold(Duration::from_mins(1)),
    };
    bench.store.lock(&lock).await.unwrap();
    worker.end(&claimed, FAILED).await;
    worker.one().await;
    bench.submit_ids(&["queued"]).await;
}

/// The slot of a key is that of its part in braces; of a key without braces, that of all of it.
pub async fn all_keys_share_one_hash_slot(bench: &Bench) {
    use_everything(bench).await;
    let keys = keys(bench.redis());
    assert!(keys.len() > 15, "{keys:?}");
    let foreign: Vec<_> = keys
        .iter()
        .filter(|key| *key != QUEUE && !key.starts_with(&format!("{{{QUEUE}}}:")))
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

/// P11: a key of a living job that expires is a lost job.
pub async fn only_ended_jobs_expire(bench: &Bench) {
    use_everything(bench).await;
    let redis = bench.redis();
    let expiring: Vec<String> = keys(redis)
        .into_iter()
        .filter(|key| redis.ask::<i64>(&["PTTL", key]) >= 0)
        .map(|key| key.rsplit_once("}:").expect("not the queue").1.to_owned())
        .collect();
    assert_eq!(expiring, ["idem:i", "job:a", "lock:repo", "log:a", "result:a", "spec:a"]);
    bench.store.change(&id("a"), &Change::Retry { fresh: false }).await.unwrap();
    let lasting = ["idem:i", "job:a", "log:a", "result:a", "spec:a"];
    let ttl = lasting.map(|suffix| redis.ask::<i64>(&["PTTL", &key(suffix)]));
    assert!(ttl.iter().all(|ttl| *ttl < 0), "{ttl:?}");
}

pub async fn a_deleted_job_leaves_nothing(bench: &Bench) {
    let worker = bench.worker().await;
    let log = [key("events"), key("meta")];
    let run = async |name: &str| {
        bench.submit(json!({ "id": name, "idempotency_key": name, "concurrency_key": name })).await;
        let claimed = worker.one().await;
        let event = sortie::core::Event::Progress { attempt: 1, message: "m".into() };
        bench.store.append(&claimed.token, &[event], &[]).await.unwrap();
        worker.end(&claimed, FAILED).await;
        bench.store.change(&id(name), &Change::Delete).await.unwrap();
    };
    run("first").await;
    let before = keys(bench.redis());
    assert!(log.iter().all(|key| before.contains(key)), "{before:?}");
    for name in ["second", "third"] {
        run(name).await;
    }
    assert_eq!(keys(bench.redis()), before);
    assert!(!before.iter().any(|key| key.contains("first")), "{before:?}");
}

pub async fn a_worker_that_left_leaves_nothing(bench: &Bench) {
    let before = keys(bench.redis());
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    worker.run(SUCCEEDED).await;
    let within = Duration::from_secs(9);
    bench.store.control(&Control::Drain { worker: worker.id().clone(), within }).await.unwrap();
    bench.store.control(&Control::Leave { worker: worker.id().clone() }).await.unwrap();
    bench.store.change(&id("a"), &Change::Delete).await.unwrap();
    let left: Vec<_> =
        keys(bench.redis()).into_iter().filter(|key| !before.contains(key)).collect();
    assert!(!left.iter().any(|key| key.contains(worker.id().pod())), "{left:?}");
}

pub async fn scripts_are_loaded_again_when_they_are_gone(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    let flush = || bench.redis().ask::<String>(&["SCRIPT", "FLUSH"]);
    flush();
    let claimed = worker.one().await;
    flush();
    worker.beat(&[&claimed]).await;
    flush();
    assert_eq!(worker.end(&claimed, SUCCEEDED).await, Finished::Accepted);
    flush();
    bench.submit_ids(&["b"]).await;
    flush();
    assert_eq!(bench.stats().await.pending, 1);
}

pub async fn a_store_survives_the_kill_of_its_server(bench: &Bench) {
    let bench = Bench::on_server(TestRedis::with(AOF), bench.terms).await;
    let worker = bench.worker().await;
    bench.submit_ids(&["a", "b"]).await;
    let claimed = worker.one().await;
    bench.redis().restart();
    assert_eq!(worker.beat(&[&claimed]).await.verdicts, [sortie::store::Verdict::Keep]);
    assert_eq!(worker.end(&claimed, SUCCEEDED).await, Finished::Accepted);
    assert_eq!(bench.state(&id("a")).await, State::Succeeded);
    assert_eq!(ids(&worker.claim(1).await), ["b"]);
    bench.assert_consistent().await;
}

/// A call is repeated by the store until it is answered, with the effect of one.
pub async fn a_lost_reply_changes_nothing(bench: &Bench) {
    let proxy = crate::support::proxy::Proxy::start(bench.redis()).await;
    let store = connect(settings(proxy.url(), bench.terms), Role::Engine).await.unwrap();
    let cut = Bench::over(store, bench.terms);
    let worker = cut.worker().await;
    for round in 0..5 {
        let name = format!("j{round}");
        proxy.lose_replies(1);
        let job = crate::bench::new_job(json!({ "id": name }));
        let answer = cut.store.submit(&[job]).await.unwrap();
        assert_eq!(answer[0].id, id(&name));
        proxy.lose_replies(1);
        let claimed = worker.one().await;
        assert_eq!((claimed.token.id.as_str(), claimed.counters.attempt), (name.as_str(), 1));
        proxy.lose_replies(1);
        assert_eq!(worker.end(&claimed, FAILED).await, Finished::Accepted);
        assert_eq!(proxy.replies_to_lose(), 0, "the replies really were lost");
        assert_eq!(bench.job(&id(&name)).await.counters.charged, 1);
    }
    assert_eq!(bench.stats().await.totals["claimed"], 5);
    assert_eq!(bench.stats().await.totals["failed"], 5);
}

/// A reader of the log tells output that was sent twice by its offset; nothing else has one.
pub async fn a_lost_reply_appends_nothing_twice(bench: &Bench) {
    let proxy = crate::support::proxy::Proxy::start(bench.redis()).await;
    let store = connect(settings(proxy.url(), bench.terms), Role::Engine).await.unwrap();
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    let token = worker.one().await.token;
    let event = |n: u32| sortie::core::Event::Progress { attempt: 1, message: n.to_string() };
    store.append(&token, &[event(0)], &[]).await.unwrap();
    for n in 1..4 {
        proxy.lose_replies(1);
        store.append(&token, &[event(n)], &[]).await.unwrap();
        assert_eq!(proxy.replies_to_lose(), 0, "the reply really was lost");
    }
    let log = sortie::store::Log::Job(token.id);
    let entries = bench.store.read(&log, "", 100, None).await.unwrap();
    let seen: Vec<_> = entries.into_iter().map(|entry| entry.event).collect();
    assert_eq!(seen[1..], [0, 1, 2, 3].map(event));
}

pub async fn a_server_that_may_evict_jobs_is_refused(bench: &Bench) {
    let redis = bench.redis();
    redis.ask::<String>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let refused =
        connect(settings(redis.url(), PATIENT), Role::Engine).await.err().expect("refused");
    assert_eq!(refused.kind(), Kind::Misconfigured);
    assert!(refused.to_string().contains("noeviction"), "{refused}");
    let mut allowed = settings(redis.url(), PATIENT);
    allowed.allow_eviction = true;
    connect(allowed, Role::Engine).await.unwrap();
}

pub async fn a_client_is_told_when_there_is_no_server(bench: &Bench) {
    bench.redis().sigkill();
    let error = connect(settings(bench.redis().url(), PATIENT), Role::Client).await.err();
    assert_eq!(error.expect("there is no server").kind(), Kind::Unavailable);
    bench.redis().restart();
}

pub async fn a_wrong_password_is_a_wrong_setting(bench: &Bench) {
    let redis = TestRedis::on_tcp(&[]);
    redis.ask::<String>(&["CONFIG", "SET", "requirepass", "right"]);
    let port = redis.url().replace("redis://127.0.0.1:", "");
    for user in ["", ":wrong@"] {
        let url = format!("redis://{user}127.0.0.1:{port}");
        let error = connect(settings(url, bench.terms), Role::Client).await.err().expect("refused");
        assert_eq!(error.kind(), Kind::Misconfigured, "{error}");
        assert!(!error.to_string().contains("wrong@"), "{error}");
    }
    let url = format!("redis://:right@127.0.0.1:{port}");
    connect(settings(url, bench.terms), Role::Client).await.unwrap();
}
