//! `wake`: prompt, bounded, and free to be dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sortie::store::{Change, Control, Wake};

use crate::bench::{Bench, SUCCEEDED, id, ids};

const LONG: Duration = Duration::from_secs(30);
const PROMPT: Duration = Duration::from_secs(10);

/// Starts to wait, does `deed`, and asserts that the wait then ends well before its limit.
async fn wakes(bench: &Bench, wake: Wake, deed: impl Future<Output = ()>) {
    let store = Arc::clone(&bench.store);
    let waiting = tokio::spawn(async move { store.wake(&wake, LONG).await });
    deed.await;
    tokio::time::timeout(PROMPT, waiting).await.expect("woken").unwrap().unwrap();
}

pub async fn a_submitted_job_wakes_a_worker(bench: &Bench) {
    wakes(bench, Wake::Work, bench.submit_ids(&["a"])).await;
    let worker = bench.worker().await;
    worker.one().await;
}

pub async fn a_job_handed_back_wakes_a_worker(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    let claimed = worker.one().await;
    wakes(bench, Wake::Work, async {
        worker.end(&claimed, crate::bench::HANDED_BACK).await;
    })
    .await;
}

pub async fn work_that_is_there_already_is_not_waited_for(bench: &Bench) {
    bench.submit_ids(&["a"]).await;
    tokio::time::timeout(PROMPT, bench.store.wake(&Wake::Work, LONG))
        .await
        .expect("woken")
        .unwrap();
}

pub async fn a_wait_ends_in_time(bench: &Bench) {
    let worker = bench.worker().await;
    for wake in [Wake::Work, Wake::Poke(worker.id().clone()), Wake::Transition] {
        let start = Instant::now();
        bench.store.wake(&wake, Duration::from_millis(200)).await.unwrap();
        assert!(start.elapsed() < PROMPT, "{wake:?}");
    }
}

pub async fn a_wait_that_is_dropped_loses_no_job(bench: &Bench) {
    let worker = bench.worker().await;
    for round in 0..30 {
        let name = format!("j{round}");
        let dropped = bench.store.wake(&Wake::Work, LONG);
        let limit = Duration::from_micros(100 * round);
        drop(tokio::time::timeout(limit, dropped).await);
        bench.submit_ids(&[&name]).await;
        assert_eq!(bench.stats().await.pending, 1, "round {round}");
        let again = tokio::time::timeout(PROMPT, bench.store.wake(&Wake::Work, LONG)).await;
        again.expect("woken").unwrap();
        let claimed = worker.one().await;
        assert_eq!(claimed.token.id.as_str(), name);
        worker.end(&claimed, SUCCEEDED).await;
    }
}

pub async fn many_waiting_workers_are_all_served(bench: &Bench) {
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let worker = bench.worker().await;
        waiting.spawn(async move {
            let end = Instant::now() + LONG;
            while Instant::now() < end {
                worker.store.wake(&Wake::Work, LONG).await.unwrap();
                if let [claimed] = &worker.claim(1).await[..] {
                    return claimed.token.id.to_string();
                }
            }
            panic!("no job within {LONG:?}");
        });
    }
    for name in ["a", "b", "c", "d", "e", "f"] {
        bench.submit_ids(&[name]).await;
    }
    let mut got = tokio::time::timeout(LONG, waiting.join_all()).await.expect("each gets one");
    got.sort();
    assert_eq!(got, ["a", "b", "c", "d", "e", "f"]);
}

pub async fn a_poke_sent_before_the_wait_is_not_missed(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    worker.one().await;
    let cancel = Change::Cancel { by: "alice".into() };
    bench.store.change(&id("a"), &cancel).await.unwrap();
    let wait = Wake::Poke(worker.id().clone());
    tokio::time::timeout(PROMPT, bench.store.wake(&wait, LONG)).await.expect("woken").unwrap();
}

/// The queue of a paused fleet is not empty: its workers wait for the resume instead.
pub async fn a_resume_wakes_who_waits_for_a_transition(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    bench.store.control(&Control::Pause { by: "alice".into() }).await.unwrap();
    worker.none().await;
    // Not raced: what happened between the exchange and the wait must wake, too.
    bench.store.control(&Control::Resume).await.unwrap();
    tokio::time::timeout(PROMPT, bench.store.wake(&Wake::Transition, LONG))
        .await
        .expect("woken")
        .unwrap();
    assert_eq!(ids(&worker.claim(1).await), ["a"]);
}

/// So does a job that ends when the fleet runs as many as it may.
pub async fn a_free_place_wakes_who_waits_for_a_transition(bench: &Bench) {
    let (worker, other) = (bench.worker().await, bench.worker().await);
    bench.submit_ids(&["a", "b"]).await;
    crate::fleet::limit(bench, None, Some(1)).await;
    let claimed = worker.one().await;
    other.none().await;
    worker.end(&claimed, SUCCEEDED).await;
    tokio::time::timeout(PROMPT, bench.store.wake(&Wake::Transition, LONG))
        .await
        .expect("woken")
        .unwrap();
    assert_eq!(ids(&other.claim(1).await), ["b"]);
}
