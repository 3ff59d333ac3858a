//! `register`, `control` and `workers`: who belongs to the fleet, and how much it does.

use std::time::Duration;

use serde_json::json;
use sortie::core::{Fault, State};
use sortie::store::{Beat, Control, Finished, Kind, Supply, Wake, WorkerRecord};

use crate::bench::{Bench, HANDED_BACK, SUCCEEDED, Worker, id, ids, record};

pub async fn control(bench: &Bench, control: Control) {
    bench.store.control(&control).await.expect("control");
}

pub async fn limit(bench: &Bench, profile: Option<&str>, running: Option<u32>) {
    control(bench, Control::Limit { profile: profile.map(str::to_owned), running }).await;
}

async fn shown(bench: &Bench, worker: &Worker) -> WorkerRecord {
    let workers = bench.store.workers().await.unwrap();
    workers.into_iter().find(|record| record.id == *worker.id()).expect("the worker is known")
}

pub async fn a_registered_worker_is_shown(bench: &Bench) {
    let worker = bench.register(record("w-3", Some(3), 2)).await;
    bench.submit_ids(&["a"]).await;
    worker.one().await;
    let seen = shown(bench, &worker).await;
    assert!(seen.started_at_ms > 0 && seen.silent_ms < 60_000, "{seen:?}");
    let (started_at_ms, silent_ms) = (seen.started_at_ms, seen.silent_ms);
    assert_eq!(seen, WorkerRecord { running: 1, started_at_ms, silent_ms, ..worker.record });
}

pub async fn registering_again_refreshes_the_record(bench: &Bench) {
    let worker = bench.register(record("w-3", Some(3), 2)).await;
    bench.submit_ids(&["a", "b"]).await;
    let claimed = worker.one().await;
    let changed = WorkerRecord { slots: 5, ..worker.record.clone() };
    assert_eq!(bench.store.register(&changed, &[]).await.unwrap(), 0);
    assert_eq!(shown(bench, &worker).await.slots, 5);
    assert_eq!(bench.store.workers().await.unwrap().len(), 1);
    assert_eq!(worker.one().await.token.id.as_str(), "b");
    assert_eq!(worker.end(&claimed, SUCCEEDED).await, Finished::Accepted);
}

pub async fn a_new_incarnation_of_a_pod_takes_over_at_once(bench: &Bench) {
    let old = bench.register(record("w-0", Some(0), 3)).await;
    let bystander = bench.register(record("w-00", Some(1), 3)).await;
    bench.submit_ids(&["a", "b", "c"]).await;
    let held = old.claim(2).await;
    bystander.one().await;
    let record = record("w-0", Some(0), 3);
    assert_eq!(bench.store.register(&record, &[]).await.unwrap(), 2);
    assert_eq!(bench.store.register(&record, &[]).await.unwrap(), 0, "repeated");
    let job = bench.job(&id("a")).await;
    assert_eq!((job.state, job.fault), (State::Queued, Some(Fault::Lost)));
    assert_eq!(bench.state(&id("c")).await, State::Running, "another pod's");
    assert_eq!(old.end(&held[0], SUCCEEDED).await, Finished::Stale);
    assert_eq!(old.none().await, Supply::Unregistered);
    assert_eq!(bench.store.workers().await.unwrap().len(), 2);
}

/// The old process may still run for a moment: it must not push the new one out again.
pub async fn an_old_incarnation_does_not_come_back(bench: &Bench) {
    let old = bench.register(record("w-0", Some(0), 3)).await;
    let known = shown(bench, &old).await;
    let new = bench.register(record("w-0", Some(0), 3)).await;
    bench.submit_ids(&["a"]).await;
    let claimed = new.one().await;
    bench.store.register(&known, &[]).await.unwrap_err();
    assert_eq!(new.beat(&[&claimed]).await.verdicts, [sortie::store::Verdict::Keep]);
    assert_eq!(new.end(&claimed, SUCCEEDED).await, Finished::Accepted);
}

pub async fn workers_that_share_a_host_name_live_together(bench: &Bench) {
    let one = bench.register(record("laptop", None, 3)).await;
    bench.submit_ids(&["a", "b"]).await;
    let first = one.one().await;
    let other = bench.register(record("laptop", None, 3)).await;
    other.one().await;
    assert_eq!(one.end(&first, SUCCEEDED).await, Finished::Accepted);
    assert_eq!(bench.store.workers().await.unwrap().len(), 2);
}

pub async fn a_worker_known_to_be_dead_loses_its_jobs_at_once(bench: &Bench) {
    let dead = bench.worker().await;
    bench.submit_ids(&["a", "b"]).await;
    dead.claim(1).await;
    let record = record("laptop", None, 3);
    let gone = [dead.id().clone()];
    assert_eq!(bench.store.register(&record, &gone).await.unwrap(), 1);
    assert_eq!(bench.store.register(&record, &gone).await.unwrap(), 0, "repeated");
    let job = bench.job(&id("a")).await;
    assert_eq!((job.state, job.counters.lost), (State::Queued, 1));
    let workers = bench.store.workers().await.unwrap();
    assert_eq!(workers.iter().map(|worker| &worker.id).collect::<Vec<_>>(), [&record.id]);
}

pub async fn a_paused_fleet_claims_nothing_and_finishes_what_runs(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a", "b"]).await;
    let claimed = worker.one().await;
    control(bench, Control::Pause { by: "alice".into() }).await;
    control(bench, Control::Pause { by: "alice".into() }).await;
    let Supply::Closed { reason } = worker.none().await else { panic!("not closed") };
    assert!(reason.contains("alice"), "{reason}");
    let stats = bench.stats().await;
    assert_eq!((stats.paused_by.as_deref(), stats.pending), (Some("alice"), 1));
    assert_eq!(worker.beat(&[&claimed]).await.verdicts, [sortie::store::Verdict::Keep]);
    assert_eq!(worker.end(&claimed, SUCCEEDED).await, Finished::Accepted);
    control(bench, Control::Resume).await;
    assert_eq!(bench.stats().await.paused_by, None);
    assert_eq!(worker.one().await.token.id.as_str(), "b");
}

pub async fn the_fleet_runs_no_more_than_its_limit(bench: &Bench) {
    let (one, other) = (bench.worker().await, bench.worker().await);
    bench.submit_ids(&["a", "b", "c", "d"]).await;
    limit(bench, None, Some(2)).await;
    assert_eq!(bench.stats().await.limits["fleet"], 2);
    let first = one.one().await;
    assert_eq!(ids(&other.claim(5).await), ["b"]);
    let Supply::Closed { reason } = one.none().await else { panic!("not closed") };
    assert!(reason.contains('2'), "{reason}");
    assert_eq!(bench.stats().await.pending, 2, "what waits for the limit is runnable");
    assert_eq!(one.end(&first, SUCCEEDED).await, Finished::Accepted);
    assert_eq!(one.one().await.token.id.as_str(), "c");
    limit(bench, None, None).await;
    assert!(bench.stats().await.limits.is_empty());
    assert_eq!(other.one().await.token.id.as_str(), "d");
}

pub async fn a_draining_worker_claims_nothing_more(bench: &Bench) {
    let (worker, other) = (bench.worker().await, bench.worker().await);
    bench.submit_ids(&["a", "b"]).await;
    let claimed = worker.one().await;
    let drain = |within| Control::Drain { worker: worker.id().clone(), within };
    control(bench, drain(Duration::from_secs(30))).await;
    assert_eq!(worker.none().await, Supply::Draining);
    assert!(shown(bench, &worker).await.draining);
    let left = worker.beat(&[&claimed]).await.drain_in.expect("the worker is told");
    assert!(left <= Duration::from_secs(30) && left > Duration::from_secs(10), "{left:?}");
    // Asking again does not put off what was promised to whoever asked first.
    control(bench, drain(Duration::from_mins(5))).await;
    let left = worker.beat(&[&claimed]).await.drain_in.expect("the worker is told");
    assert!(left <= Duration::from_secs(30), "{left:?}");
    assert_eq!(worker.end(&claimed, HANDED_BACK).await, Finished::Accepted);
    assert_eq!(ids(&other.claim(2).await), ["a", "b"]);
}

pub async fn a_drain_wakes_the_worker(bench: &Bench) {
    let worker = bench.worker().await;
    let wait = Wake::Poke(worker.id().clone());
    let store = worker.store.clone();
    let woken = tokio::spawn(async move { store.wake(&wait, Duration::from_secs(30)).await });
    let within = Duration::from_mins(1);
    control(bench, Control::Drain { worker: worker.id().clone(), within }).await;
    tokio::time::timeout(Duration::from_secs(10), woken)
        .await
        .expect("the worker is woken")
        .unwrap()
        .unwrap();
}

pub async fn nobody_can_drain_an_unknown_worker(bench: &Bench) {
    let worker = sortie::core::WorkerId::boot("stranger");
    let drain = Control::Drain { worker, within: Duration::ZERO };
    assert_eq!(bench.store.control(&drain).await.unwrap_err().kind(), Kind::NotFound);
}

pub async fn who_leaves_hands_back_what_is_left(bench: &Bench) {
    let (worker, other) = (bench.worker().await, bench.worker().await);
    bench.submit_ids(&["a", "b"]).await;
    let claimed = worker.one().await;
    let leave = Control::Leave { worker: worker.id().clone() };
    control(bench, leave.clone()).await;
    control(bench, leave).await;
    let job = bench.job(&id("a")).await;
    assert_eq!((job.state, job.fault), (State::Queued, Some(Fault::Interrupted)));
    assert_eq!((job.counters.lost, job.counters.charged), (0, 0));
    assert_eq!(bench.store.workers().await.unwrap().len(), 1);
    assert_eq!(worker.end(&claimed, SUCCEEDED).await, Finished::Stale);
    assert_eq!(ids(&other.claim(2).await), ["a", "b"]);
}

pub async fn a_quarantine_is_shown_until_it_is_over(bench: &Bench) {
    let worker = bench.worker().await;
    let reason = Some("the disk is full".to_owned());
    let ill = Beat { quarantine: reason.clone(), ..worker.heartbeat(&[]) };
    bench.store.beat(&ill).await.unwrap();
    assert_eq!(shown(bench, &worker).await.quarantine, reason);
    let part = Beat { is_whole: false, ..worker.heartbeat(&[]) };
    bench.store.beat(&part).await.unwrap();
    assert_eq!(shown(bench, &worker).await.quarantine, reason, "a part says nothing about it");
    worker.beat(&[]).await;
    assert_eq!(shown(bench, &worker).await.quarantine, None);
}

pub async fn limits_are_shown_by_name(bench: &Bench) {
    limit(bench, None, Some(9)).await;
    limit(bench, Some("claude"), Some(4)).await;
    let limits = json!(bench.stats().await.limits);
    assert_eq!(limits, json!({ "fleet": 9, "profile:claude": 4 }));
}
