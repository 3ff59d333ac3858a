//! `exchange`, the claiming half: order, and the same call twice.

use serde_json::json;
use sortie::core::{State, WorkerId};
use sortie::store::{Exchange, Supply};

use crate::bench::{Bench, HANDED_BACK, SUCCEEDED, fences, finish, id, ids, record};

pub async fn jobs_of_one_priority_run_in_the_order_of_their_submission(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a", "b", "c"]).await;
    assert_eq!(ids(&worker.claim(2).await), ["a", "b"]);
    bench.submit_ids(&["d"]).await;
    assert_eq!(ids(&worker.claim(9).await), ["c", "d"]);
}

pub async fn a_higher_priority_runs_first(bench: &Bench) {
    let worker = bench.worker().await;
    for (id, priority) in [("low", -10), ("normal", 0), ("high", 10), ("above", 1), ("top", 10)] {
        bench.submit(json!({ "id": id, "priority": priority })).await;
    }
    assert_eq!(ids(&worker.claim(9).await), ["high", "top", "above", "normal", "low"]);
}

pub async fn a_claim_says_whether_there_is_more(bench: &Bench) {
    let worker = bench.worker().await;
    assert_eq!(worker.none().await, Supply::Empty { next_due_ms: None });
    bench.submit_ids(&["a", "b"]).await;
    let enough = worker.send(&worker.call(2, Vec::new())).await;
    assert_eq!((ids(&enough.claimed), enough.supply), (vec!["a", "b"], Supply::Enough));
    bench.submit_ids(&["c"]).await;
    let fewer = worker.send(&worker.call(2, Vec::new())).await;
    assert_eq!(ids(&fewer.claimed), ["c"]);
    assert_eq!(fewer.supply, Supply::Empty { next_due_ms: None });
}

pub async fn a_claimed_job_runs_on_its_worker(bench: &Bench) {
    let worker = bench.worker().await;
    let made = bench.submit(json!({})).await;
    let claimed = worker.one().await;
    let job = bench.job(&made).await;
    assert_eq!((job.state, job.worker.as_ref()), (State::Running, Some(worker.id())));
    assert_eq!((job.fence, job.counters), (claimed.token.fence, claimed.counters));
    assert_eq!(claimed.counters.attempt, 1);
    assert!(job.started_at_ms >= Some(job.created_at_ms));
    assert!(claimed.previous.is_none());
    let stats = bench.stats().await;
    assert_eq!((stats.pending, stats.running, stats.totals["claimed"]), (0, 1, 1));
}

pub async fn a_repeated_call_gets_the_same_jobs(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a", "b", "c"]).await;
    let call = worker.call(2, Vec::new());
    let first = worker.send(&call).await;
    let second = worker.send(&call).await;
    assert_eq!(ids(&first.claimed), ["a", "b"]);
    assert_eq!(ids(&second.claimed), ["a", "b"]);
    assert_eq!(fences(&first.claimed), fences(&second.claimed));
    assert_eq!(second.claimed[0].counters.attempt, 1);
    assert_eq!(second.claimed[0].bytes, first.claimed[0].bytes);
    assert_eq!(bench.stats().await.pending, 1);
}

pub async fn a_repeated_call_that_got_nothing_gets_nothing(bench: &Bench) {
    let worker = bench.worker().await;
    let call = worker.call(1, Vec::new());
    assert!(worker.send(&call).await.claimed.is_empty());
    bench.submit_ids(&["a"]).await;
    assert!(worker.send(&call).await.claimed.is_empty());
    assert_eq!(worker.one().await.token.id.as_str(), "a");
}

pub async fn a_repeated_call_does_not_bring_back_what_has_ended(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a", "b"]).await;
    let call = worker.call(2, Vec::new());
    let claimed = worker.send(&call).await.claimed;
    worker.end(&claimed[0], SUCCEEDED).await;
    // The copy of an earlier call that the network delivers late.
    assert_eq!(ids(&worker.send(&call).await.claimed), ["b"]);
    assert_eq!(bench.state(&id("a")).await, State::Succeeded);
    assert_eq!(bench.job(&id("b")).await.counters.attempt, 1);
}

pub async fn an_old_call_never_claims(bench: &Bench) {
    let worker = bench.worker().await;
    let old = worker.call(5, Vec::new());
    bench.submit_ids(&["a"]).await;
    assert_eq!(worker.one().await.token.id.as_str(), "a");
    bench.submit_ids(&["b"]).await;
    assert!(worker.send(&old).await.claimed.is_empty());
    assert_eq!(bench.state(&id("b")).await, State::Queued);
    assert_eq!(worker.one().await.token.id.as_str(), "b");
}

/// A finish must not depend on whether its call is too old to claim.
pub async fn an_old_call_still_ends_attempts(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a", "b"]).await;
    let claimed = worker.one().await;
    let old = worker.call(1, vec![finish(&claimed, SUCCEEDED)]);
    worker.one().await;
    let answer = worker.send(&old).await;
    assert_eq!(answer.finished, [sortie::store::Finished::Accepted]);
    assert_eq!(bench.state(&id("a")).await, State::Succeeded);
}

pub async fn each_claim_has_a_larger_fence(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a", "b", "c"]).await;
    let mut seen = fences(&worker.claim(3).await);
    bench.submit_ids(&["d"]).await;
    for _ in 0..3 {
        let claimed = worker.one().await;
        seen.push(claimed.token.fence);
        worker.end(&claimed, HANDED_BACK).await;
    }
    assert!(seen.is_sorted_by(|one, next| one < next), "{seen:?}");
}

pub async fn no_job_is_claimed_twice_by_workers_at_the_same_time(bench: &Bench) {
    bench.submit_all((0..200).map(|n| json!({ "id": format!("j{n}") }))).await;
    let mut claims = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let worker = bench.worker().await;
        claims.spawn(async move {
            let mut got = Vec::new();
            for _ in 0..25 {
                got.extend(worker.claim(2).await.into_iter().map(|claimed| claimed.token));
            }
            got
        });
    }
    let mut tokens: Vec<_> = claims.join_all().await.concat();
    assert_eq!(tokens.len(), 200);
    tokens.sort_by_key(|token| token.fence);
    tokens.dedup_by_key(|token| token.fence);
    assert_eq!(tokens.len(), 200, "two claims have the same fence");
    tokens.sort_by(|one, next| one.id.cmp(&next.id));
    tokens.dedup_by(|one, next| one.id == next.id);
    assert_eq!(tokens.len(), 200, "two claims have the same job");
}

pub async fn a_stranger_gets_nothing(bench: &Bench) {
    bench.submit_ids(&["a"]).await;
    let call = Exchange {
        worker: WorkerId::boot("stranger"),
        ordinal: None,
        call: 1,
        want: 1,
        has_yielded: true,
        finished: Vec::new(),
    };
    let answer = bench.store.exchange(&call).await.unwrap();
    assert_eq!((answer.claimed.len(), answer.supply), (0, Supply::Unregistered));
    assert_eq!(bench.state(&id("a")).await, State::Queued);
}

/// A claim that wants nothing is how a worker without a free slot ends its attempts.
pub async fn who_wants_nothing_gets_nothing(bench: &Bench) {
    let worker = bench.register(record("w", None, 1)).await;
    bench.submit_ids(&["a"]).await;
    assert!(worker.claim(0).await.is_empty());
    assert_eq!(worker.one().await.token.id.as_str(), "a");
}
