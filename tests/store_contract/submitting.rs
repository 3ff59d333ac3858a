//! `submit`: what is acknowledged is kept, once, byte for byte.

use std::time::Duration;

use serde_json::json;
use sortie::core::{Counters, Fence, JobSpec, State};
use sortie::store::{Change, NewJob, Supply};

use crate::bench::{Bench, SUCCEEDED, id, ids, new_job};

pub async fn a_submitted_job_is_queued_as_it_was_asked_for(bench: &Bench) {
    let made = new_job(json!({ "prompt": "p", "repo": "r", "labels": { "team": "a" } }));
    let answers = bench.store.submit(std::slice::from_ref(&made)).await.unwrap();
    assert_eq!(answers.len(), 1);
    assert_eq!((&answers[0].id, answers[0].is_new), (&made.id, true));
    let job = bench.job(&made.id).await;
    assert_eq!(job.spec, made.spec);
    assert_eq!(job.state, State::Queued);
    assert_eq!((job.counters, job.fence), (Counters::default(), Fence(0)));
    assert_eq!((job.worker, job.fault, job.cancel, job.held_by), (None, None, None, None));
    assert!(job.created_at_ms > 0);
    assert_eq!((job.started_at_ms, job.finished_at_ms, job.due_at_ms), (None, None, None));
}

pub async fn a_known_id_is_answered_with_the_known_job(bench: &Bench) {
    bench.submit(json!({ "id": "a", "prompt": "first" })).await;
    let again = bench.submit_all([json!({ "id": "a", "prompt": "second" })]).await;
    assert_eq!((again[0].id.as_str(), again[0].is_new), ("a", false));
    assert_eq!(bench.job(&id("a")).await.spec.prompt.as_deref(), Some("first"));
    let stats = bench.stats().await;
    assert_eq!((stats.pending, stats.totals["submitted"]), (1, 1));
    assert_eq!(stats.totals["duplicate"], 1);
}

pub async fn an_id_stays_known_in_every_state(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit(json!({ "id": "a" })).await;
    let claimed = worker.one().await;
    assert!(!bench.submit_all([json!({ "id": "a" })]).await[0].is_new, "while it runs");
    worker.end(&claimed, SUCCEEDED).await;
    assert!(!bench.submit_all([json!({ "id": "a" })]).await[0].is_new, "after its end");
    assert_eq!(bench.state(&id("a")).await, State::Succeeded);
}

pub async fn a_known_idempotency_key_is_answered_with_the_first_job(bench: &Bench) {
    let worker = bench.worker().await;
    let first = bench.submit(json!({ "id": "a", "idempotency_key": "k" })).await;
    let again = bench.submit_all([json!({ "id": "b", "idempotency_key": "k" })]).await;
    assert_eq!((&again[0].id, again[0].is_new), (&first, false));
    worker.run(SUCCEEDED).await;
    let after = bench.submit_all([json!({ "id": "c", "idempotency_key": "k" })]).await;
    assert_eq!((&after[0].id, after[0].is_new), (&first, false));
    assert!(bench.find(&id("b")).await.is_none());
    assert_eq!(ids(&worker.claim(5).await), Vec::<&str>::new());
}

pub async fn an_idempotency_key_is_free_when_its_record_is_gone(bench: &Bench) {
    let worker = bench.worker().await;
    let first = bench.submit(json!({ "idempotency_key": "k" })).await;
    worker.run(SUCCEEDED).await;
    bench.store.change(&first, &Change::Delete).await.unwrap();
    bench.submit(json!({ "id": "b", "idempotency_key": "k" })).await;
}

pub async fn one_call_queues_many_in_order(bench: &Bench) {
    let worker = bench.worker().await;
    let specs = ["a", "b", "a", "c"].map(|id| json!({ "id": id }));
    let answers = bench.submit_all(specs).await;
    let answers: Vec<_> = answers.iter().map(|one| (one.id.as_str(), one.is_new)).collect();
    assert_eq!(answers, [("a", true), ("b", true), ("a", false), ("c", true)]);
    assert_eq!(ids(&worker.claim(10).await), ["a", "b", "c"]);
}

pub async fn an_empty_call_does_nothing(bench: &Bench) {
    assert_eq!(bench.store.submit(&[]).await.unwrap(), []);
    assert_eq!(bench.stats().await.pending, 0);
}

/// Some hundred jobs in one call: no limit of arguments or of a script's stack is in the way.
pub async fn a_large_call_is_one_call(bench: &Bench) {
    let worker = bench.worker().await;
    let answers = bench.submit_all((0..2500).map(|n| json!({ "id": format!("j{n}") }))).await;
    assert!(answers.iter().all(|answer| answer.is_new));
    assert_eq!(bench.stats().await.pending, 2500);
    assert_eq!(ids(&worker.claim(3).await), ["j0", "j1", "j2"]);
}

pub async fn bytes_are_kept_exactly(bench: &Bench) {
    let worker = bench.worker().await;
    // What a decoder and encoder on the way would change: space, order, escapes, large numbers.
    let bytes = " {\"prompt\" :\t\"\\u00e9\\/ \u{e9} \\ud83d\\ude00\",\n \"env\":{ \"B\":\"2\", \"A\":\"\" } } ";
    let spec = JobSpec::from_json(bytes.as_bytes()).unwrap();
    let job = NewJob { id: id("a"), spec, bytes: bytes.into() };
    bench.store.submit(&[job]).await.unwrap();
    assert_eq!(String::from_utf8(worker.one().await.bytes).unwrap(), bytes);
}

pub async fn a_prompt_may_have_a_megabyte(bench: &Bench) {
    let worker = bench.worker().await;
    let prompt = "0123456789abcde\n".repeat(1 << 16);
    let made = bench.submit(json!({ "prompt": prompt })).await;
    assert_eq!(bench.job(&made).await.spec.prompt.as_ref(), Some(&prompt));
    let claimed = worker.one().await;
    assert_eq!(JobSpec::from_json(&claimed.bytes).unwrap().prompt, Some(prompt));
}

pub async fn a_delayed_job_runs_when_it_is_due(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit(json!({ "id": "late", "delay_ms": 400 })).await;
    let job = bench.job(&id("late")).await;
    assert_eq!((job.state, job.held_by.as_deref()), (State::Queued, Some("delayed")));
    assert_eq!(job.due_at_ms, Some(job.created_at_ms + 400));
    let stats = bench.stats().await;
    assert_eq!((stats.pending, stats.later), (0, 1));
    let Supply::Empty { next_due_ms: Some(due) } = worker.none().await else {
        panic!("the worker is not told when the next job is due");
    };
    assert!(due <= 400, "{due}");
    bench.until("the job is due", async || bench.stats().await.pending == 1).await;
    let claimed = worker.one().await;
    let job = bench.job(&id("late")).await;
    assert!(job.started_at_ms >= Some(job.created_at_ms + 400), "{job:?}");
    assert_eq!((claimed.counters.attempt, job.held_by, job.due_at_ms), (1, None, None));
}

pub async fn a_claim_finds_what_is_due_without_a_heartbeat(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit(json!({ "id": "late", "delay_ms": 50 })).await;
    crate::support::eventually(Duration::from_secs(20), "a claim gets it", async || {
        (ids(&worker.claim(1).await) == ["late"]).then_some(())
    })
    .await;
}
