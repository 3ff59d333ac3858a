//! `get`, `list`, `stats`, `sweep`, `health` and locks.

use std::time::Duration;

use serde_json::json;
use sortie::core::{JobId, State};
use sortie::store::{BadAction, Found, Level, Lock, LockAction, Query, Sweep};

use crate::bench::{Bench, FAILED, SUCCEEDED, id};

async fn list(bench: &Bench, query: Query) -> Vec<String> {
    let jobs = bench.store.list(&query).await.unwrap();
    jobs.into_iter().map(|job| job.id.to_string()).collect()
}

pub async fn a_job_is_found_by_a_prefix_that_only_it_has(bench: &Bench) {
    bench.submit_ids(&["abc-1", "abc-2", "abd", "a"]).await;
    let found = async |text: &str| match bench.store.get(text).await.unwrap() {
        Found::One(job) => Ok(job.id.to_string()),
        Found::Ambiguous(mut ids) => {
            ids.sort();
            Err(ids.iter().map(JobId::to_string).collect())
        }
        Found::None => Err(Vec::new()),
    };
    assert_eq!(found("abc-1").await, Ok("abc-1".to_owned()));
    assert_eq!(found("abd").await, Ok("abd".to_owned()));
    assert_eq!(found("a").await, Ok("a".to_owned()), "the whole id wins over its being a prefix");
    assert_eq!(found("abc").await, Err(vec!["abc-1".to_owned(), "abc-2".to_owned()]));
    assert_eq!(found("x").await, Err(Vec::new()));
    for odd in ["a*", "a[b]c", "a?c-1", "a\\", "{jobs}", "a b", ""] {
        let answer = found(odd).await;
        assert!(answer.is_err(), "{odd:?} is no prefix of a single job: {answer:?}");
        if !odd.is_empty() {
            assert_eq!(answer, Err(Vec::new()), "{odd:?} is taken literally");
        }
    }
}

pub async fn an_ended_job_is_found_by_a_prefix_too(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["0123-4567"]).await;
    worker.run(SUCCEEDED).await;
    let Found::One(job) = bench.store.get("0123").await.unwrap() else { panic!("not found") };
    assert_eq!(job.id, id("0123-4567"));
}

pub async fn lists_have_the_living_first_and_then_the_newest_end(bench: &Bench) {
    let worker = bench.worker().await;
    for name in ["old-end", "new-end"] {
        bench.submit_ids(&[name]).await;
        worker.run(SUCCEEDED).await;
        // Two ends in one millisecond would have no order.
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    bench.submit_ids(&["alive-1", "alive-2"]).await;
    let mut all = list(bench, Query::default()).await;
    all[..2].sort();
    assert_eq!(all, ["alive-1", "alive-2", "new-end", "old-end"]);
    let three = Query { limit: 3, ..Query::default() };
    let mut three = list(bench, three).await;
    three[..2].sort();
    assert_eq!(three, ["alive-1", "alive-2", "new-end"]);
}

pub async fn lists_are_restricted_by_each_field(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit(json!({ "id": "repo", "repo": "https://github.com/acme/tool" })).await;
    bench.submit(json!({ "id": "profile", "profile": "claude" })).await;
    bench.submit(json!({ "id": "command", "command": ["true"] })).await;
    bench.submit(json!({ "id": "labels", "labels": { "team": "a", "x": "1" } })).await;
    worker.run(FAILED).await;
    let claimed = worker.one().await.token.id;
    assert_eq!(claimed.as_str(), "profile");
    let all = Query::default;
    let one = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let queries = [
        (Query { repo: Some("acme/tool".into()), ..all() }, vec!["repo"]),
        (Query { profile: Some("claude".into()), ..all() }, vec!["profile"]),
        (Query { profile: Some("command".into()), ..all() }, vec!["command"]),
        (Query { labels: vec![one("team", "a"), one("x", "1")], ..all() }, vec!["labels"]),
        (Query { labels: vec![one("team", "b")], ..all() }, vec![]),
        (Query { states: vec![State::Failed], ..all() }, vec!["repo"]),
        (Query { states: vec![State::Failed, State::Running], ..all() }, vec!["profile", "repo"]),
        (
            Query { worker: Some(worker.id().to_string()), states: vec![State::Running], ..all() },
            vec!["profile"],
        ),
        (Query { worker: Some(worker.id().pod().to_owned()), ..all() }, vec!["profile", "repo"]),
        (Query { worker: Some("other".into()), ..all() }, vec![]),
        (Query { since_ms: Some(u64::MAX >> 12), ..all() }, vec![]),
    ];
    for (query, expected) in queries {
        assert_eq!(list(bench, query.clone()).await, expected, "{query:?}");
    }
    let since = Query { since_ms: Some(bench.job(&id("labels")).await.created_at_ms), ..all() };
    assert!(list(bench, since).await.contains(&"labels".to_owned()));
}

/// A filter must not stop at the first page of jobs that it does not want.
pub async fn a_list_finds_the_one_among_many(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit(json!({ "id": "needle", "profile": "rare" })).await;
    worker.run(SUCCEEDED).await;
    bench.submit_all((0..700).map(|n| json!({ "id": format!("hay{n}") }))).await;
    for _ in 0..7 {
        for claimed in worker.claim(50).await {
            worker.end(&claimed, SUCCEEDED).await;
        }
    }
    let query = Query { profile: Some("rare".into()), ..Query::default() };
    assert_eq!(list(bench, query).await, ["needle"]);
    assert_eq!(list(bench, Query::default()).await.len(), 50, "no limit asked for is 50");
    let many = Query { limit: 1000, ..Query::default() };
    assert_eq!(list(bench, many).await.len(), 701);
}

pub async fn an_empty_store_has_nothing(bench: &Bench) {
    let stats = bench.stats().await;
    assert_eq!((stats.pending, stats.running, stats.later, stats.oldest_ms), (0, 0, 0, None));
    assert!(list(bench, Query::default()).await.is_empty());
    assert!(bench.store.workers().await.unwrap().is_empty());
    assert!(matches!(bench.store.get("a").await.unwrap(), Found::None));
    assert_eq!(bench.store.bad(&BadAction::List).await.unwrap(), []);
    assert_eq!(bench.store.sweep(false).await.unwrap(), Sweep::default());
    let worst = bench.store.health().await.unwrap().into_iter().map(|check| check.level).max();
    assert!(worst < Some(Level::Error), "{worst:?}");
}

pub async fn the_age_of_the_oldest_waiting_job_is_known(bench: &Bench) {
    bench.submit_ids(&["a"]).await;
    bench
        .until("it is some milliseconds old", async || {
            bench.stats().await.oldest_ms.is_some_and(|age| age >= 5)
        })
        .await;
    let worker = bench.worker().await;
    worker.one().await;
    assert_eq!(bench.stats().await.oldest_ms, None);
}

fn lock(owner: &str, action: LockAction) -> Lock {
    Lock { name: "repo-1".into(), owner: owner.into(), action }
}

pub async fn a_lock_has_one_owner(bench: &Bench) {
    let hold = LockAction::Hold(Duration::from_mins(1));
    let fence = bench.store.lock(&lock("a", hold)).await.unwrap().expect("it was free");
    assert_eq!(bench.store.lock(&lock("b", hold)).await.unwrap(), None);
    assert_eq!(bench.store.lock(&lock("a", hold)).await.unwrap(), Some(fence), "renewed");
    bench.store.lock(&lock("b", LockAction::Release)).await.unwrap();
    assert_eq!(
        bench.store.lock(&lock("b", hold)).await.unwrap(),
        None,
        "released by its owner only"
    );
    let other = Lock { name: "repo-2".into(), ..lock("b", hold) };
    assert!(bench.store.lock(&other).await.unwrap().is_some());
    assert_eq!(bench.store.lock(&lock("a", LockAction::Release)).await.unwrap(), None);
    let next = bench.store.lock(&lock("b", hold)).await.unwrap().expect("it is free again");
    assert!(next > fence);
    bench.store.lock(&lock("a", LockAction::Release)).await.unwrap();
    assert_eq!(bench.store.lock(&lock("b", hold)).await.unwrap(), Some(next));
}

pub async fn a_lock_that_is_not_renewed_is_free(bench: &Bench) {
    let brief = LockAction::Hold(Duration::from_millis(100));
    let first = bench.store.lock(&lock("a", brief)).await.unwrap().expect("it was free");
    let second = crate::support::eventually(crate::support::SOON, "the lock is free", async || {
        bench.store.lock(&lock("b", LockAction::Hold(Duration::from_mins(1)))).await.unwrap()
    })
    .await;
    assert!(second > first);
    assert_eq!(bench.store.lock(&lock("a", brief)).await.unwrap(), None);
}

/// Run with terms under which jobs are soon forgotten.
pub async fn ended_jobs_are_forgotten_in_time(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit(json!({ "id": "gone", "idempotency_key": "k" })).await;
    worker.run(SUCCEEDED).await;
    bench.submit_ids(&["kept"]).await;
    bench.until("the record is gone", async || bench.find(&id("gone")).await.is_none()).await;
    bench.until("it is not counted either", async || bench.stats().await.done == 0).await;
    assert_eq!(bench.state(&id("kept")).await, State::Queued);
    bench.submit(json!({ "id": "gone", "idempotency_key": "k" })).await;
}

/// Run with terms under which three ended jobs are kept.
pub async fn no_more_ended_jobs_are_kept_than_wanted(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["alive"]).await;
    worker.one().await;
    bench.submit_all((0..8).map(|n| json!({ "id": format!("j{n}") }))).await;
    let held = worker.claim(8).await;
    let finished = held.iter().map(|claimed| crate::bench::finish(claimed, SUCCEEDED)).collect();
    worker.send(&worker.call(0, finished)).await;
    let would = bench.store.sweep(true).await.unwrap();
    let did = bench.store.sweep(false).await.unwrap();
    assert_eq!((did, bench.stats().await.done), (would, 3));
    assert!(bench.find(&id("j0")).await.is_none(), "the oldest go first");
    assert_eq!(bench.state(&id("alive")).await, State::Running);
    assert_eq!(bench.store.sweep(false).await.unwrap().records, 0, "nothing is left to do");
}

pub async fn a_dry_sweep_changes_nothing(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    worker.run(SUCCEEDED).await;
    bench.store.sweep(true).await.unwrap();
    bench.store.sweep(false).await.unwrap();
    assert_eq!(bench.state(&id("a")).await, State::Succeeded, "it is kept as long as promised");
}
