//! `exchange`, the ending half: written once, by the newest attempt only.

use std::time::Duration;

use serde_json::json;
use sortie::core::retry::Count;
use sortie::core::{AttemptResult, Counters, Fault, Fence, Next, State};
use sortie::store::{Change, Finished, Supply, Token};

use crate::bench::{
    Bench, FAILED, HANDED_BACK, SUCCEEDED, WAITING, again, deferred, finish, id, ids,
};

pub async fn an_end_is_written_with_its_result(bench: &Bench) {
    let worker = bench.worker().await;
    let made = bench.submit(json!({})).await;
    let claimed = worker.one().await;
    let result = AttemptResult {
        exit_code: Some(3),
        message: Some("exited with \"3\"\nline".into()),
        head_sha: Some("abc".into()),
        commits: Some(2),
        output_bytes: u64::from(u32::MAX) + 1,
        phases_ms: [("run".to_owned(), 12)].into(),
        ..AttemptResult::default()
    };
    let fault = Some(Fault::AgentExit);
    let answer = worker.end_with(&claimed.token, FAILED, fault, result.clone()).await;
    assert_eq!(answer, Finished::Accepted);
    let job = bench.job(&made).await;
    assert_eq!((job.state, job.fault), (State::Failed, fault));
    assert_eq!(job.result, result);
    assert_eq!(job.counters, Counters { attempt: 1, charged: 1, ..Counters::default() });
    assert!(job.finished_at_ms >= job.started_at_ms && job.finished_at_ms.is_some());
    let stats = bench.stats().await;
    assert_eq!((stats.running, stats.done, stats.totals["failed"]), (0, 1, 1));
}

pub async fn each_terminal_state_is_kept(bench: &Bench) {
    let worker = bench.worker().await;
    for state in State::ALL.into_iter().filter(|state| state.is_terminal()) {
        let made = bench.submit(json!({})).await;
        worker.run(Next::End { state, count: Count::Nothing }).await;
        assert_eq!(bench.state(&made).await, state);
        assert_eq!(bench.stats().await.totals[state.as_str()], 1, "{state}");
    }
    let stats = bench.stats().await;
    assert_eq!((stats.done, stats.dead), (4, 1));
}

pub async fn a_repeated_end_is_accepted_once(bench: &Bench) {
    let worker = bench.worker().await;
    let made = bench.submit(json!({})).await;
    let claimed = worker.one().await;
    let call = worker.call(0, vec![finish(&claimed, FAILED)]);
    assert_eq!(worker.send(&call).await.finished, [Finished::Accepted]);
    assert_eq!(worker.send(&call).await.finished, [Finished::Accepted]);
    // Also in a later call, as when a worker does not know whether the first one arrived.
    assert_eq!(worker.end(&claimed, FAILED).await, Finished::Accepted);
    assert_eq!(bench.job(&made).await.counters.charged, 1);
    assert_eq!(bench.stats().await.totals["failed"], 1);
}

pub async fn a_repeated_end_is_accepted_whatever_came_after_it(bench: &Bench) {
    let worker = bench.worker().await;
    for next in [HANDED_BACK, deferred(Duration::from_secs(9)), WAITING] {
        let made = bench.submit(json!({})).await;
        let claimed = worker.one().await;
        assert_eq!(worker.end(&claimed, next).await, Finished::Accepted);
        bench.cancel(&made).await;
        assert_eq!(worker.end(&claimed, next).await, Finished::Accepted, "{next:?}");
        assert_eq!(bench.state(&made).await, State::Canceled);
    }
}

pub async fn the_first_end_of_an_attempt_stands(bench: &Bench) {
    let worker = bench.worker().await;
    let made = bench.submit(json!({})).await;
    let claimed = worker.one().await;
    worker.end(&claimed, SUCCEEDED).await;
    worker.end(&claimed, FAILED).await;
    let job = bench.job(&made).await;
    assert_eq!((job.state, job.counters.charged), (State::Succeeded, 0));
}

pub async fn a_repeated_hand_back_is_one(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    let first = worker.one().await;
    let hand_back = worker.call(0, vec![finish(&first, HANDED_BACK)]);
    assert_eq!(worker.send(&hand_back).await.finished, [Finished::Accepted]);
    assert_eq!(worker.send(&hand_back).await.finished, [Finished::Accepted]);
    assert_eq!(bench.stats().await.pending, 1);
    let second = worker.one().await;
    // The late copy must not take the job from its second attempt.
    assert_ne!(worker.send(&hand_back).await.claimed.len(), 1);
    assert_eq!(bench.job(&id("a")).await.fence, second.token.fence);
    assert_eq!(bench.state(&id("a")).await, State::Running);
}

pub async fn an_older_attempt_cannot_end_a_newer_one(bench: &Bench) {
    let (worker, other) = (bench.worker().await, bench.worker().await);
    let made = bench.submit(json!({})).await;
    let old = worker.one().await;
    worker.end(&old, HANDED_BACK).await;
    let new = other.one().await;
    assert!(new.token.fence > old.token.fence);
    let forged = Token { id: made.clone(), fence: Fence(old.token.fence.0 - 1) };
    let late = worker.end_with(&forged, SUCCEEDED, None, AttemptResult::default()).await;
    assert_eq!(late, Finished::Stale);
    assert_eq!(bench.state(&made).await, State::Running);
    assert_eq!(bench.stats().await.totals["stale"], 1);
    assert_eq!(other.end(&new, SUCCEEDED).await, Finished::Accepted);
}

pub async fn the_end_of_a_deleted_job_is_unknown(bench: &Bench) {
    let worker = bench.worker().await;
    let made = bench.submit(json!({})).await;
    let claimed = worker.one().await;
    worker.end(&claimed, SUCCEEDED).await;
    bench.store.change(&made, &Change::Delete).await.unwrap();
    assert_eq!(worker.end(&claimed, SUCCEEDED).await, Finished::Unknown);
}

pub async fn ends_and_claims_share_one_call(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a", "b", "c", "d"]).await;
    let held = worker.claim(2).await;
    let finished = vec![finish(&held[0], SUCCEEDED), finish(&held[1], FAILED)];
    let answer = worker.send(&worker.call(2, finished)).await;
    assert_eq!(answer.finished, [Finished::Accepted, Finished::Accepted]);
    assert_eq!((ids(&answer.claimed), answer.supply), (vec!["c", "d"], Supply::Enough));
    assert_eq!(bench.state(&id("b")).await, State::Failed);
}

pub async fn handed_back_jobs_run_before_all_others_of_their_priority(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a", "b", "c", "d"]).await;
    bench.submit(json!({ "id": "urgent", "priority": 1 })).await;
    let held = worker.claim(4).await;
    assert_eq!(ids(&held), ["urgent", "a", "b", "c"]);
    // Not in the order of their age: the older one must be first all the same.
    for claimed in [&held[3], &held[1], &held[2]] {
        worker.end(claimed, HANDED_BACK).await;
    }
    bench.submit(json!({ "id": "later", "priority": 1 })).await;
    assert_eq!(ids(&worker.claim(9).await), ["later", "a", "b", "c", "d"]);
}

pub async fn a_job_to_be_tried_again_is_queued(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    worker.run(again(false, Duration::ZERO, Count::Charged)).await;
    let job = bench.job(&id("a")).await;
    assert_eq!((job.state, job.finished_at_ms, job.due_at_ms), (State::Queued, None, None));
    let claimed = worker.one().await;
    assert_eq!((claimed.counters.attempt, claimed.counters.charged), (2, 1));
}

pub async fn a_backoff_is_waited_for(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    worker.run(again(false, Duration::from_millis(300), Count::Charged)).await;
    let job = bench.job(&id("a")).await;
    assert_eq!((job.state, job.held_by.as_deref()), (State::Queued, Some("delayed")));
    let due = job.due_at_ms.expect("it is known when it is due");
    assert!(matches!(worker.none().await, Supply::Empty { next_due_ms: Some(_) }));
    bench.until("the job is due", async || bench.stats().await.pending == 1).await;
    worker.one().await;
    assert!(bench.job(&id("a")).await.started_at_ms >= Some(due));
}

pub async fn a_delayed_hand_back_goes_to_the_head(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["old", "young"]).await;
    let held = worker.claim(2).await;
    worker.end(&held[1], again(true, Duration::from_millis(50), Count::Infrastructure)).await;
    worker.end(&held[0], again(false, Duration::ZERO, Count::Nothing)).await;
    bench.until("both wait", async || bench.stats().await.pending == 2).await;
    assert_eq!(ids(&worker.claim(2).await), ["young", "old"]);
}

pub async fn each_count_has_its_counter(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    let counts = [Count::Charged, Count::Overloaded, Count::Infrastructure, Count::Nothing];
    for count in counts {
        worker.run(again(false, Duration::ZERO, count)).await;
    }
    let counters = Counters { attempt: 4, charged: 1, lost: 0, overloaded: 1, infrastructure: 1 };
    assert_eq!(bench.job(&id("a")).await.counters, counters);
}

pub async fn a_deferred_job_comes_back_when_it_is_due(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    let claimed = worker.one().await;
    let next = deferred(Duration::from_millis(200));
    let fault = Some(Fault::RateLimited);
    worker.end_with(&claimed.token, next, fault, AttemptResult::default()).await;
    let job = bench.job(&id("a")).await;
    assert_eq!((job.state, job.fault), (State::Deferred, fault));
    assert!(job.due_at_ms.is_some());
    assert_eq!(bench.stats().await.later, 1);
    bench.until_state(&id("a"), State::Queued).await;
    assert_eq!(worker.one().await.counters.attempt, 2);
}

pub async fn a_waiting_job_holds_nothing(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit(json!({ "id": "a", "concurrency_key": "k" })).await;
    bench.submit(json!({ "id": "b", "concurrency_key": "k" })).await;
    worker.run(WAITING).await;
    assert_eq!(bench.state(&id("a")).await, State::Waiting);
    let stats = bench.stats().await;
    assert_eq!((stats.waiting, stats.running), (1, 0));
    assert_eq!(worker.one().await.token.id.as_str(), "b");
    assert_eq!(worker.none().await, Supply::Empty { next_due_ms: None });
}

pub async fn the_next_attempt_knows_what_the_last_one_reported(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    let claimed = worker.one().await;
    let checkpoint = Some("refs/sortie/a/1".to_owned());
    let result = AttemptResult { checkpoint, ..AttemptResult::default() };
    worker.end_with(&claimed.token, HANDED_BACK, Some(Fault::Interrupted), result.clone()).await;
    assert_eq!(bench.job(&id("a")).await.fault, Some(Fault::Interrupted));
    assert_eq!(worker.one().await.previous, Some(result));
}

pub async fn a_canceled_attempt_is_not_tried_again(bench: &Bench) {
    let worker = bench.worker().await;
    for next in [HANDED_BACK, deferred(Duration::from_secs(9)), WAITING] {
        let made = bench.submit(json!({})).await;
        let claimed = worker.one().await;
        bench.cancel(&made).await;
        assert_eq!(worker.end(&claimed, next).await, Finished::Accepted);
        let job = bench.job(&made).await;
        assert_eq!((job.state, job.cancel.as_deref()), (State::Canceled, Some("alice")));
    }
}

/// Who was faster: the agent that succeeded while it was being canceled has succeeded.
pub async fn an_end_that_beats_a_cancel_stands(bench: &Bench) {
    let worker = bench.worker().await;
    let made = bench.submit(json!({})).await;
    let claimed = worker.one().await;
    bench.cancel(&made).await;
    worker.end(&claimed, SUCCEEDED).await;
    assert_eq!(bench.state(&made).await, State::Succeeded);
}
