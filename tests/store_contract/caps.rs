//! Concurrency keys and profile limits: never exceeded, never left occupied, order kept.

use std::time::Duration;

use serde_json::{Value, json};
use sortie::core::State;
use sortie::core::retry::Count;
use sortie::store::{Change, Control};

use crate::bench::{Bench, HANDED_BACK, SUCCEEDED, again, id, ids};
use crate::fleet::limit;

fn keyed(id: &str) -> Value {
    json!({ "id": id, "concurrency_key": "k" })
}

pub async fn one_job_of_a_key_runs_at_a_time(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_all(["a", "b", "c"].map(keyed)).await;
    bench.submit_ids(&["free"]).await;
    let held = worker.claim(9).await;
    assert_eq!(ids(&held), ["a", "free"]);
    let stats = bench.stats().await;
    assert_eq!((stats.pending, stats.parked, stats.running), (0, 2, 2));
    let job = bench.job(&id("b")).await;
    assert_eq!(job.state, State::Queued);
    assert!(job.held_by.as_deref().is_some_and(|cap| cap.contains('k')), "{:?}", job.held_by);
    for next in ["b", "c"] {
        let last = if next == "b" { held[0].clone() } else { bench_held(bench, "b").await };
        worker.end(&last, SUCCEEDED).await;
        assert_eq!(bench.stats().await.pending, 1, "one place, one job");
        assert_eq!(ids(&worker.claim(9).await), [next]);
        assert_eq!(bench.job(&id(next)).await.held_by, None);
    }
}

/// The running attempt of a job, as its worker knows it.
async fn bench_held(bench: &Bench, of: &str) -> sortie::store::Claimed {
    let job = bench.job(&id(of)).await;
    sortie::store::Claimed {
        token: sortie::store::Token { id: job.id, fence: job.fence },
        counters: job.counters,
        bytes: Vec::new(),
        previous: None,
    }
}

pub async fn a_key_may_allow_more_than_one(bench: &Bench) {
    let worker = bench.worker().await;
    let spec = |id| json!({ "id": id, "concurrency_key": "k", "concurrency_limit": 2 });
    bench.submit_all(["a", "b", "c"].map(spec)).await;
    let held = worker.claim(9).await;
    assert_eq!(ids(&held), ["a", "b"]);
    worker.end(&held[1], SUCCEEDED).await;
    assert_eq!(ids(&worker.claim(9).await), ["c"]);
}

pub async fn keys_do_not_disturb_each_other(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit(json!({ "id": "a", "concurrency_key": "x" })).await;
    bench.submit(json!({ "id": "b", "concurrency_key": "y" })).await;
    assert_eq!(ids(&worker.claim(9).await), ["a", "b"]);
}

pub async fn parked_jobs_keep_their_order(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_all(["a", "b", "c"].map(keyed)).await;
    bench.submit(json!({ "id": "urgent", "concurrency_key": "k", "priority": 5 })).await;
    let first = worker.one().await;
    assert_eq!(first.token.id.as_str(), "urgent");
    assert!(worker.claim(9).await.is_empty());
    bench.submit_ids(&["young"]).await;
    worker.end(&first, SUCCEEDED).await;
    assert_eq!(ids(&worker.claim(1).await), ["a"], "older than the one without a key");
    assert_eq!(ids(&worker.claim(9).await), ["young"]);
}

/// However the holder lets go of its place.
pub async fn a_place_is_free_when_its_holder_is_handed_back(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_all(["a", "b"].map(keyed)).await;
    let first = worker.claim(9).await.remove(0);
    worker.end(&first, again(false, Duration::from_mins(15), Count::Charged)).await;
    assert_eq!(ids(&worker.claim(9).await), ["b"]);
}

pub async fn a_handed_back_holder_runs_before_those_it_kept_waiting(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_all(["a", "b"].map(keyed)).await;
    let first = worker.claim(9).await.remove(0);
    worker.end(&first, HANDED_BACK).await;
    assert_eq!(ids(&worker.claim(9).await), ["a"]);
}

/// Run with short leases.
pub async fn a_place_is_free_when_its_holder_crashes(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_all(["a", "b"].map(keyed)).await;
    assert_eq!(ids(&worker.claim(9).await), ["a"]);
    bench.until_state(&id("a"), State::Queued).await;
    let other = bench.worker().await;
    let held = other.claim(9).await;
    assert_eq!(ids(&held), ["a"]);
    other.end(&held[0], SUCCEEDED).await;
    assert_eq!(ids(&other.claim(9).await), ["b"]);
}

pub async fn a_place_is_free_when_its_holder_leaves(bench: &Bench) {
    let (worker, other) = (bench.worker().await, bench.worker().await);
    bench.submit_all(["a", "b"].map(keyed)).await;
    worker.claim(9).await;
    bench.store.control(&Control::Leave { worker: worker.id().clone() }).await.unwrap();
    let held = other.claim(9).await;
    assert_eq!(ids(&held), ["a"]);
    other.end(&held[0], SUCCEEDED).await;
    assert_eq!(ids(&other.claim(9).await), ["b"]);
}

pub async fn a_parked_job_can_be_canceled(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_all(["a", "b", "c"].map(keyed)).await;
    let first = worker.claim(9).await.remove(0);
    assert_eq!(bench.cancel(&id("b")).await, State::Canceled);
    assert_eq!(bench.job(&id("b")).await.held_by, None);
    worker.end(&first, SUCCEEDED).await;
    assert_eq!(ids(&worker.claim(9).await), ["c"]);
    assert_eq!(bench.stats().await.parked, 0);
}

/// A place was given to a job that is canceled before it runs: the next one must get it.
pub async fn a_place_is_not_lost_with_a_canceled_job(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_all(["a", "b", "c"].map(keyed)).await;
    let first = worker.claim(9).await.remove(0);
    worker.end(&first, SUCCEEDED).await;
    bench.cancel(&id("b")).await;
    bench.until("the next one has the place", async || !worker.claim(9).await.is_empty()).await;
    assert_eq!(bench.state(&id("c")).await, State::Running);
}

pub async fn a_parked_job_can_be_retried_after_its_cancel(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_all(["a", "b"].map(keyed)).await;
    let first = worker.claim(9).await.remove(0);
    bench.cancel(&id("b")).await;
    bench.store.change(&id("b"), &Change::Retry { fresh: false }).await.unwrap();
    assert!(worker.claim(9).await.is_empty());
    worker.end(&first, SUCCEEDED).await;
    assert_eq!(ids(&worker.claim(9).await), ["b"]);
}

pub async fn a_profile_runs_no_more_than_its_limit(bench: &Bench) {
    let worker = bench.worker().await;
    let spec = |id| json!({ "id": id, "profile": "claude" });
    bench.submit_all(["a", "b", "c", "d"].map(spec)).await;
    bench.submit_ids(&["other"]).await;
    let first = worker.one().await;
    // Those that ran before there was a limit count.
    limit(bench, Some("claude"), Some(2)).await;
    assert_eq!(ids(&worker.claim(9).await), ["b", "other"]);
    let stats = bench.stats().await;
    assert_eq!((stats.pending, stats.parked), (0, 2));
    worker.end(&first, SUCCEEDED).await;
    assert_eq!(ids(&worker.claim(9).await), ["c"]);
    limit(bench, Some("claude"), None).await;
    assert_eq!(ids(&worker.claim(9).await), ["d"]);
}

pub async fn a_raised_limit_lets_parked_jobs_go(bench: &Bench) {
    let worker = bench.worker().await;
    limit(bench, Some("command"), Some(1)).await;
    let spec = |id| json!({ "id": id, "command": ["true"] });
    bench.submit_all(["a", "b", "c", "d"].map(spec)).await;
    assert_eq!(ids(&worker.claim(9).await), ["a"]);
    limit(bench, Some("command"), Some(3)).await;
    assert_eq!(ids(&worker.claim(9).await), ["b", "c"]);
}

pub async fn a_limit_of_zero_stops_a_profile(bench: &Bench) {
    let worker = bench.worker().await;
    limit(bench, Some("claude"), Some(0)).await;
    bench.submit(json!({ "id": "a", "profile": "claude" })).await;
    bench.submit_ids(&["other"]).await;
    assert_eq!(ids(&worker.claim(9).await), ["other"]);
    limit(bench, Some("claude"), Some(1)).await;
    assert_eq!(ids(&worker.claim(9).await), ["a"]);
}

/// A job that gets a place of its key but finds its profile full must pass the place on.
pub async fn a_job_under_two_caps_does_not_sit_on_a_place(bench: &Bench) {
    let worker = bench.worker().await;
    limit(bench, Some("claude"), Some(1)).await;
    bench.submit(json!({ "id": "busy", "profile": "claude" })).await;
    bench.submit(keyed("first")).await;
    bench.submit(json!({ "id": "both", "profile": "claude", "concurrency_key": "k" })).await;
    bench.submit(keyed("last")).await;
    let held = worker.claim(9).await;
    assert_eq!(ids(&held), ["busy", "first"]);
    worker.end(&held[1], SUCCEEDED).await;
    bench
        .until("the last one runs", async || {
            worker.claim(9).await;
            bench.state(&id("last")).await == State::Running
        })
        .await;
    assert_eq!(bench.state(&id("both")).await, State::Queued);
    worker.end(&held[0], SUCCEEDED).await;
    worker.end(&bench_held(bench, "last").await, SUCCEEDED).await;
    bench
        .until("the one under two caps runs", async || {
            worker.claim(9).await;
            bench.state(&id("both")).await == State::Running
        })
        .await;
}

pub async fn a_profile_place_is_not_lost_with_a_canceled_job(bench: &Bench) {
    let worker = bench.worker().await;
    limit(bench, Some("claude"), Some(1)).await;
    bench.submit_all(["a", "b", "c"].map(|id| json!({ "id": id, "profile": "claude" }))).await;
    let first = worker.claim(9).await.remove(0);
    worker.end(&first, SUCCEEDED).await;
    bench.cancel(&id("b")).await;
    bench.until("the next one has the place", async || !worker.claim(9).await.is_empty()).await;
    assert_eq!(bench.state(&id("c")).await, State::Running);
}
