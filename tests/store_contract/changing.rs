//! `change`: what a person may do to a job, in every state it can be in.

use std::time::Duration;

use serde_json::json;
use sortie::core::retry::Count;
use sortie::core::{AttemptResult, Counters, JobId, Next, State};
use sortie::store::{Change, Finished, Kind, Supply, Verdict, Wake};

use crate::bench::{Bench, FAILED, HANDED_BACK, SUCCEEDED, WAITING, Worker, deferred, id, ids};

/// One job in each place a job can be in, named after it.
async fn one_of_each(bench: &Bench, worker: &Worker) -> Vec<JobId> {
    for state in State::ALL.into_iter().filter(|state| state.is_terminal()) {
        bench.submit_ids(&[state.as_str()]).await;
        worker.run(Next::End { state, count: Count::Nothing }).await;
    }
    bench.submit_ids(&["waiting"]).await;
    worker.run(WAITING).await;
    bench.submit_ids(&["deferred"]).await;
    worker.run(deferred(Duration::from_mins(15))).await;
    bench.submit(json!({ "id": "running", "concurrency_key": "k" })).await;
    worker.one().await;
    bench.submit(json!({ "id": "parked", "concurrency_key": "k" })).await;
    assert!(worker.claim(1).await.is_empty());
    bench.submit(json!({ "id": "delayed", "delay_ms": 900_000 })).await;
    bench.submit_ids(&["queued"]).await;
    ["waiting", "deferred", "running", "parked", "delayed", "queued"]
        .into_iter()
        .chain(State::ALL.iter().filter(|state| state.is_terminal()).map(|state| state.as_str()))
        .map(id)
        .collect()
}

pub async fn a_cancel_ends_what_does_not_run(bench: &Bench) {
    let worker = bench.worker().await;
    for job in one_of_each(bench, &worker).await {
        let before = bench.state(&job).await;
        let after = bench.cancel(&job).await;
        let expected = match before {
            State::Running => State::Running,
            ended if ended.is_terminal() => ended,
            _ => State::Canceled,
        };
        assert_eq!(after, expected, "{job}");
        assert_eq!(bench.state(&job).await, expected, "{job}");
        assert_eq!(bench.cancel(&job).await, expected, "{job}, again");
        bench.assert_consistent().await;
    }
    let stats = bench.stats().await;
    assert_eq!((stats.pending, stats.later, stats.parked, stats.waiting), (0, 0, 0, 0));
    assert_eq!((stats.running, stats.totals["canceled"]), (1, 6));
    assert_eq!(worker.none().await, Supply::Empty { next_due_ms: None });
    let job = bench.job(&id("queued")).await;
    assert_eq!((job.cancel.as_deref(), job.worker), (Some("alice"), None));
    assert!(job.finished_at_ms.is_some());
}

pub async fn a_cancel_takes_only_its_own_job(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a", "b", "c"]).await;
    bench.cancel(&id("b")).await;
    assert_eq!(bench.stats().await.pending, 2);
    assert_eq!(ids(&worker.claim(9).await), ["a", "c"]);
}

pub async fn a_cancel_reaches_a_running_job_at_once(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    let claimed = worker.one().await;
    let wait = Wake::Poke(worker.id().clone());
    let store = worker.store.clone();
    let woken = tokio::spawn(async move { store.wake(&wait, Duration::from_secs(30)).await });
    assert_eq!(bench.cancel(&id("a")).await, State::Running);
    tokio::time::timeout(Duration::from_secs(10), woken)
        .await
        .expect("the worker is woken")
        .unwrap()
        .unwrap();
    let verdict = Verdict::Cancel { by: "alice".into() };
    assert_eq!(worker.beat(&[&claimed]).await.verdicts, [verdict]);
    let job = bench.job(&id("a")).await;
    assert_eq!((job.state, job.cancel.as_deref()), (State::Running, Some("alice")));
    let canceled = Next::End { state: State::Canceled, count: Count::Nothing };
    assert_eq!(worker.end(&claimed, canceled).await, Finished::Accepted);
    assert_eq!(bench.state(&id("a")).await, State::Canceled);
}

pub async fn a_retry_starts_an_ended_job_anew(bench: &Bench) {
    let worker = bench.worker().await;
    for job in one_of_each(bench, &worker).await {
        let before = bench.state(&job).await;
        let answer = bench.store.change(&job, &Change::Retry { fresh: false }).await;
        match (before, answer) {
            (State::Queued, Ok(State::Queued)) => {}
            (ended, Ok(State::Queued)) if ended.is_terminal() => {
                let job = bench.job(&job).await;
                let counters = Counters { attempt: 1, ..Counters::default() };
                assert_eq!((job.state, job.counters), (State::Queued, counters), "{}", job.id);
                assert_eq!((job.fault, job.cancel, job.finished_at_ms), (None, None, None));
            }
            (State::Running | State::Waiting | State::Deferred, Err(error)) => {
                assert_eq!(error.kind(), Kind::Conflict, "{job}: {error}");
                assert_eq!(bench.state(&job).await, before, "{job}");
            }
            (_, answer) => panic!("{job}: {answer:?}"),
        }
        bench.assert_consistent().await;
    }
    let stats = bench.stats().await;
    assert_eq!((stats.done, stats.dead, stats.pending), (0, 0, 6));
}

pub async fn a_retried_job_waits_its_turn(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["old", "young"]).await;
    worker.run(FAILED).await;
    let retry = Change::Retry { fresh: false };
    bench.store.change(&id("old"), &retry).await.unwrap();
    bench.store.change(&id("old"), &retry).await.unwrap();
    let held = worker.claim(9).await;
    assert_eq!(ids(&held), ["young", "old"]);
    assert_eq!((held[1].counters.charged, held[1].counters.attempt), (0, 2));
}

pub async fn a_retry_continues_unless_it_is_to_start_afresh(bench: &Bench) {
    let worker = bench.worker().await;
    let result = AttemptResult { checkpoint: Some("refs/x".into()), ..AttemptResult::default() };
    for (fresh, previous) in [(false, Some(result.clone())), (true, None)] {
        let made = bench.submit(json!({})).await;
        let claimed = worker.one().await;
        worker.end_with(&claimed.token, FAILED, None, result.clone()).await;
        bench.store.change(&made, &Change::Retry { fresh }).await.unwrap();
        let claimed = worker.one().await;
        assert_eq!(claimed.previous, previous, "fresh: {fresh}");
        // From the second attempt after it on there is something to continue from again.
        worker.end_with(&claimed.token, HANDED_BACK, None, result.clone()).await;
        let claimed = worker.one().await;
        assert_eq!(claimed.previous, Some(result.clone()), "fresh: {fresh}, next attempt");
        worker.end(&claimed, SUCCEEDED).await;
    }
}

pub async fn an_end_of_before_a_retry_is_not_one_after_it(bench: &Bench) {
    let worker = bench.worker().await;
    let made = bench.submit(json!({})).await;
    let claimed = worker.one().await;
    worker.end(&claimed, FAILED).await;
    bench.store.change(&made, &Change::Retry { fresh: false }).await.unwrap();
    // The delayed copy of the old end changes nothing.
    worker.end(&claimed, FAILED).await;
    let job = bench.job(&made).await;
    assert_eq!((job.state, job.counters.charged), (State::Queued, 0));
    let second = worker.one().await;
    worker.end(&claimed, FAILED).await;
    assert_eq!(bench.state(&made).await, State::Running);
    assert_eq!(worker.end(&second, SUCCEEDED).await, Finished::Accepted);
}

pub async fn only_ended_jobs_can_be_deleted(bench: &Bench) {
    let worker = bench.worker().await;
    for job in one_of_each(bench, &worker).await {
        let before = bench.state(&job).await;
        match bench.store.change(&job, &Change::Delete).await {
            Ok(state) => {
                assert!(before.is_terminal() && state == before, "{job}: {state}");
                assert!(bench.find(&job).await.is_none(), "{job}");
                let again = bench.store.change(&job, &Change::Delete).await.unwrap_err();
                assert_eq!(again.kind(), Kind::NotFound);
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::Conflict, "{job}");
                assert!(!before.is_terminal(), "{job}: {error}");
                assert!(error.to_string().contains(before.as_str()), "{error}");
            }
        }
        bench.assert_consistent().await;
    }
    let stats = bench.stats().await;
    assert_eq!((stats.done, stats.dead), (0, 0));
}

pub async fn a_deleted_job_leaves_its_id(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    worker.run(FAILED).await;
    bench.store.change(&id("a"), &Change::Delete).await.unwrap();
    bench.submit_ids(&["a"]).await;
    let claimed = worker.one().await;
    assert_eq!((claimed.counters.attempt, claimed.counters.charged), (1, 0));
    assert_eq!(claimed.previous, None);
}

pub async fn nobody_can_change_an_unknown_job(bench: &Bench) {
    let by = "alice".to_owned();
    for change in [Change::Cancel { by }, Change::Retry { fresh: true }, Change::Delete] {
        let error = bench.store.change(&id("nothing"), &change).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{change:?}");
        assert!(error.to_string().contains("nothing"), "{error}");
    }
}
