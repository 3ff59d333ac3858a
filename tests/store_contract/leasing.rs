//! `beat` and the leases: kept while renewed, taken back when not. Run with short leases.

use std::time::Duration;

use serde_json::json;
use sortie::core::{Event, Fault, State};
use sortie::store::{Beat, Finished, Kind, Verdict, gate};

use crate::bench::{Bench, SUCCEEDED, id, ids};

const LONG: Duration = Duration::from_mins(1);

pub async fn a_renewed_lease_lasts(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    let claimed = worker.one().await;
    let beat = Beat { lease: LONG, ..worker.heartbeat(&[&claimed]) };
    let pulse = bench.store.beat(&beat).await.unwrap();
    assert_eq!((pulse.verdicts, pulse.is_registered), (vec![Verdict::Keep], true));
    // Long enough for the lease that the claim gave, and for a grace that a slow test may cause.
    elapse(bench, 3 * bench.terms.lease).await;
    assert_eq!(bench.job(&id("a")).await.fence, claimed.token.fence);
    assert_eq!(worker.end(&claimed, SUCCEEDED).await, Finished::Accepted);
}

pub async fn a_lease_that_is_not_renewed_is_taken_back(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a", "b"]).await;
    let old = worker.one().await;
    bench.until_state(&id("a"), State::Queued).await;
    let job = bench.job(&id("a")).await;
    assert_eq!((job.fault, job.counters.lost), (Some(Fault::Lost), 1));
    assert_eq!(bench.stats().await.totals["reaped"], 1);

    let other = bench.worker().await;
    let new = other.one().await;
    assert_eq!(new.token.id.as_str(), "a", "a job that was lost runs before younger ones");
    assert!(new.token.fence > old.token.fence);
    assert_eq!((new.counters.attempt, new.counters.lost, new.counters.charged), (2, 1, 0));

    assert_eq!(worker.beat(&[&old]).await.verdicts, [Verdict::Lost]);
    assert_eq!(worker.end(&old, SUCCEEDED).await, Finished::Stale);
    assert!(!gate(&*bench.store, worker.id(), &old.token, LONG).await.unwrap());
    let event = Event::Progress { attempt: 1, message: "late".into() };
    let error = bench.store.append(&old.token, &[event], &[]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced);
    assert_eq!(other.end(&new, SUCCEEDED).await, Finished::Accepted);
}

/// The refusal must not depend on somebody having claimed the job already.
pub async fn a_lost_attempt_is_refused_while_its_job_waits(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    let old = worker.one().await;
    bench.until_state(&id("a"), State::Queued).await;
    assert_eq!(worker.end(&old, SUCCEEDED).await, Finished::Stale);
    assert_eq!(worker.beat(&[&old]).await.verdicts, [Verdict::Lost]);
    assert_eq!(bench.state(&id("a")).await, State::Queued);
}

pub async fn a_job_that_loses_four_workers_is_dead(bench: &Bench) {
    bench.submit_ids(&["poison"]).await;
    let worker = bench.worker().await;
    for lost in 1..=3 {
        worker.one().await;
        bench.until_state(&id("poison"), State::Queued).await;
        assert_eq!(bench.job(&id("poison")).await.counters.lost, lost);
    }
    worker.one().await;
    bench.until_state(&id("poison"), State::Dead).await;
    let job = bench.job(&id("poison")).await;
    assert_eq!((job.fault, job.counters.lost, job.counters.attempt), (Some(Fault::Lost), 4, 4));
    assert_eq!(bench.stats().await.dead, 1);
}

pub async fn a_canceled_job_whose_worker_vanishes_is_canceled(bench: &Bench) {
    let worker = bench.worker().await;
    let made = bench.submit(json!({})).await;
    worker.one().await;
    assert_eq!(bench.cancel(&made).await, State::Running);
    bench.until_state(&made, State::Canceled).await;
    assert_eq!(worker.none().await, sortie::store::Supply::Empty { next_due_ms: None });
}

/// P9: a store that nobody could reach cannot tell the dead from the cut off.
pub async fn no_lease_runs_out_because_the_store_was_away(bench: &Bench) {
    let (worker, other) = (bench.worker().await, bench.worker().await);
    bench.submit_ids(&["a"]).await;
    let claimed = worker.one().await;
    other.beat(&[]).await;
    // Nobody calls for longer than the lease: time itself is what this promise is about.
    tokio::time::sleep(2 * bench.terms.lease).await;
    other.beat(&[]).await;
    assert_eq!(other.none().await, sortie::store::Supply::Empty { next_due_ms: None });
    assert_eq!(worker.beat(&[&claimed]).await.verdicts, [Verdict::Keep]);
    assert_eq!(bench.job(&id("a")).await.counters.lost, 0);
    // And a worker that did not come back is noticed all the same, a lease later.
    bench.until_state(&id("a"), State::Queued).await;
}

pub async fn a_gate_covers_the_deed(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    let claimed = worker.one().await;
    assert!(gate(&*bench.store, worker.id(), &claimed.token, LONG).await.unwrap());
    // A heartbeat of an ordinary length does not shorten it.
    assert_eq!(worker.beat(&[&claimed]).await.verdicts, [Verdict::Keep]);
    elapse(bench, 3 * bench.terms.lease).await;
    assert_eq!(bench.job(&id("a")).await.counters.lost, 0);
    assert_eq!(worker.beat(&[&claimed]).await.verdicts, [Verdict::Keep]);
}

pub async fn a_repeated_claim_renews_the_lease(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    let call = worker.call(1, Vec::new());
    let claimed = worker.send(&call).await.claimed.remove(0);
    let bystander = bench.worker().await;
    let end = std::time::Instant::now() + 4 * bench.terms.lease;
    while std::time::Instant::now() < end {
        assert_eq!(ids(&worker.send(&call).await.claimed), ["a"]);
        bystander.beat(&[]).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(worker.end(&claimed, SUCCEEDED).await, Finished::Accepted);
}

pub async fn a_heartbeat_names_what_else_the_worker_holds(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a", "b"]).await;
    let held = worker.claim(2).await;
    let pulse = worker.beat(&[&held[0]]).await;
    assert_eq!(pulse.verdicts, [Verdict::Keep]);
    assert_eq!(pulse.others, [held[1].token.clone()]);
    let part = Beat { is_whole: false, ..worker.heartbeat(&[&held[0]]) };
    assert_eq!(bench.store.beat(&part).await.unwrap().others, []);
}

pub async fn a_verdict_is_given_for_each_attempt(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a", "b", "c"]).await;
    let held = worker.claim(3).await;
    bench.cancel(&id("b")).await;
    worker.end(&held[2], SUCCEEDED).await;
    let pulse = worker.beat(&[&held[0], &held[1], &held[2]]).await;
    let cancel = Verdict::Cancel { by: "alice".into() };
    assert_eq!(pulse.verdicts, [Verdict::Keep, cancel, Verdict::Lost]);
    assert_eq!(pulse.drain_in, None);
}

pub async fn a_canceled_attempt_keeps_its_lease_until_it_has_stopped(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    let claimed = worker.one().await;
    bench.cancel(&id("a")).await;
    let beat = Beat { lease: LONG, ..worker.heartbeat(&[&claimed]) };
    bench.store.beat(&beat).await.unwrap();
    elapse(bench, 3 * bench.terms.lease).await;
    assert_eq!(bench.state(&id("a")).await, State::Running);
}

pub async fn a_stranger_is_told_to_register(bench: &Bench) {
    let beat = Beat {
        worker: sortie::core::WorkerId::boot("stranger"),
        held: Vec::new(),
        lease: LONG,
        is_whole: true,
        quarantine: None,
    };
    let pulse = bench.store.beat(&beat).await.unwrap();
    assert!(!pulse.is_registered);
    assert_eq!(bench.store.workers().await.unwrap(), []);
}

pub async fn a_silent_worker_is_shown_as_lost(bench: &Bench) {
    let worker = bench.worker().await;
    bench
        .until("it is lost", async || {
            let workers = bench.store.workers().await.unwrap();
            workers.iter().any(|record| record.id == *worker.id() && record.is_lost)
        })
        .await;
    worker.beat(&[]).await;
    let workers = bench.store.workers().await.unwrap();
    let shown = workers.iter().find(|record| record.id == *worker.id()).expect("it is known");
    assert!(!shown.is_lost && shown.silent_ms < 300, "{shown:?}");
}

/// Lets time pass while another worker keeps the upkeep going.
async fn elapse(bench: &Bench, time: Duration) {
    let end = std::time::Instant::now() + time;
    bench.until("time has passed", async || std::time::Instant::now() > end).await;
}
