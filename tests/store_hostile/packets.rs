//! Calls that arrive twice, late, or after everything has changed.

use std::time::Duration;

use sortie::core::{Event, State};
use sortie::store::{Change, Control, Finished, Kind, Lock, LockAction, Supply, Verdict};

use crate::rig::{QUEUE, Rig, SUCCEEDED, Worker, again, finish, key};

const JOB: &str = r#"{"prompt":"p"}"#;

#[tokio::test]
async fn an_attempt_deferred_for_no_time_is_not_lost() {
    let rig = Rig::new().await;
    let worker = rig.worker("w-0", Some(0), 1).await;
    let id = rig.submit(JOB).await;
    for state in [State::Deferred, State::Queued] {
        let claimed = worker.one().await;
        worker.end(&claimed, again(state, Duration::from_micros(900), false)).await;
        rig.assert_sound().await;
        assert_eq!((rig.job(&id).await.state, rig.pending()), (State::Queued, 1));
    }
    assert_eq!(worker.one().await.token.id, id);
}

/// Every packet of an attempt, sent again at each later step of the job's life.
#[tokio::test]
async fn packets_of_an_old_attempt_change_nothing_ever() {
    let rig = Rig::new().await;
    let (old, new) = (rig.worker("a", None, 4).await, rig.worker("b", None, 4).await);
    let id =
        rig.submit(r#"{"id":"j","prompt":"p","concurrency_key":"k","idempotency_key":"i"}"#).await;
    let claim = old.call(1, Vec::new());
    let first = old.send(&claim).await.claimed.remove(0);
    let late = async |step: &str, ended: Finished| {
        let before = (rig.job(&id).await, rig.pending(), rig.keys());
        let mut call = old.call(0, vec![finish(&first, SUCCEEDED)]);
        call.call = claim.call;
        assert_eq!(old.send(&call).await.finished, [ended], "{step}");
        assert_eq!(old.send(&claim).await.claimed.len(), 0, "{step}");
        assert_eq!(old.beat(&[&first]).await.verdicts, [Verdict::Lost], "{step}");
        let event = Event::Progress { attempt: 1, message: "late".into() };
        let refused = rig.store.append(&first.token, &[event], &[]).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Fenced, "{step}");
        assert_eq!((rig.job(&id).await, rig.pending(), rig.keys()), before, "{step}");
        rig.assert_sound().await;
    };
    rig.end_lease(&id);
    new.beat(&[]).await;
    late("taken back", Finished::Stale).await;
    let second = new.one().await;
    assert!(second.token.fence > first.token.fence);
    late("claimed by another", Finished::Stale).await;
    new.end(&second, again(State::Queued, Duration::from_mins(9), false)).await;
    late("backing off", Finished::Stale).await;
    rig.cancel(&id).await;
    late("canceled", Finished::Stale).await;
    rig.change(&id, Change::Retry { fresh: true }).await;
    late("retried", Finished::Stale).await;
    let third = new.one().await;
    late("running again", Finished::Stale).await;
    new.end(&third, SUCCEEDED).await;
    late("over", Finished::Stale).await;
    rig.change(&id, Change::Delete).await;
    assert_eq!(old.end(&first, SUCCEEDED).await, Finished::Unknown);
    rig.submit(r#"{"id":"j","prompt":"other"}"#).await;
    late("another job of the same id", Finished::Stale).await;
    new.one().await;
    late("the other job runs", Finished::Stale).await;
}

#[tokio::test]
async fn a_cancel_during_a_backoff_leaves_nothing_behind() {
    let rig = Rig::new().await;
    let worker = rig.worker("w", None, 1).await;
    let id = rig.submit(JOB).await;
    let claimed = worker.one().await;
    worker.end(&claimed, again(State::Queued, Duration::from_mins(1), true)).await;
    rig.cancel(&id).await;
    // What an older program might have left there.
    rig.ask::<i64>(&["ZADD", &key("later"), "1", id.as_str()]);
    assert!(worker.claim(1).await.is_empty());
    assert_eq!((rig.job(&id).await.state, rig.pending()), (State::Canceled, 0));
    rig.assert_sound().await;
}

/// The server stood still while the old incarnation's call waited in its socket, and the new one came.
#[tokio::test]
async fn a_dead_incarnation_does_not_displace_its_successor() {
    let rig = Rig::new().await;
    let old = rig.worker("w-0", Some(0), 1).await;
    let new = rig.worker("w-0", Some(0), 1).await;
    rig.submit(JOB).await;
    let claimed = new.one().await;
    assert_eq!(old.register().await.unwrap_err().kind(), Kind::Misconfigured);
    let pulse = new.beat(&[&claimed]).await;
    assert_eq!((pulse.is_registered, &pulse.verdicts[..]), (true, &[Verdict::Keep][..]));
    rig.assert_sound().await;
}

#[tokio::test]
async fn a_worker_that_left_may_come_back() {
    let rig = Rig::new().await;
    let worker = rig.worker("w-3", Some(3), 1).await;
    rig.submit(JOB).await;
    let claimed = worker.one().await;
    let id = worker.record.id.clone();
    let within = Duration::MAX;
    rig.store.control(&Control::Drain { worker: id.clone(), within }).await.unwrap();
    let drain_in = worker.beat(&[&claimed]).await.drain_in.expect("told to drain, if not soon");
    assert!(drain_in > Duration::from_hours(24), "{drain_in:?}");
    assert_eq!(rig.ask::<u64>(&["LLEN", &key("floor")]), 0);
    rig.store.control(&Control::Leave { worker: id.clone() }).await.unwrap();
    let keys = rig.keys();
    rig.store.control(&Control::Leave { worker: id }).await.unwrap();
    assert_eq!(rig.keys(), keys);
    assert!(matches!(worker.send(&worker.call(1, vec![])).await.supply, Supply::Unregistered));
    assert_eq!(worker.beat(&[&claimed]).await.verdicts, [Verdict::Lost]);
    worker.register().await.unwrap();
    assert_eq!(worker.one().await.token.id, claimed.token.id);
    assert_eq!(rig.ask::<u64>(&["LLEN", &key("floor")]), 4);
    rig.assert_sound().await;
}

/// Names are bytes to the scripts: not patterns, not words.
#[tokio::test]
async fn odd_worker_names_and_huge_ordinals_do_no_harm() {
    let rig = Rig::new().await;
    for (pod, ordinal) in
        [("a b\nc", None), ("%w+[*?", Some(0)), ("\0'\"\\", Some(4)), ("é", Some(u32::MAX))]
    {
        let worker = rig.worker(pod, ordinal, 2).await;
        rig.submit_many(
            2,
            &sortie::core::JobSpec { prompt: Some("p".into()), ..Default::default() },
        )
        .await;
        let call = worker.call(2, Vec::new());
        let held = worker.send(&call).await.claimed;
        assert_eq!(worker.send(&call).await.claimed.len(), 2, "{pod:?}");
        assert_eq!(worker.beat(&[&held[0]]).await.others, [held[1].token.clone()]);
        assert!(rig.ask::<u64>(&["LLEN", &key("floor")]) <= 10_000, "{pod:?}");
        rig.assert_sound().await;
        let successor = rig.worker(pod, ordinal, 2).await;
        assert_eq!(
            successor.claim(2).await.len(),
            if ordinal.is_some() { 2 } else { 0 },
            "{pod:?}"
        );
        rig.assert_sound().await;
    }
}

#[tokio::test]
async fn many_old_log_entries_are_dropped_in_one_call() {
    let rig = Rig::new().await;
    let worker = rig.worker("w", None, 1).await;
    rig.submit(JOB).await;
    let claimed = worker.one().await;
    let event = |n: usize| Event::Progress { attempt: 1, message: n.to_string() };
    let events: Vec<Event> = (0..10_000).map(event).collect();
    let ids = rig.store.append(&claimed.token, &events, &[]).await.unwrap();
    rig.store.append(&claimed.token, &[event(0)], &ids).await.unwrap();
    let log = key(&format!("log:{}", claimed.token.id));
    assert_eq!(rig.ask::<u64>(&["XLEN", &log]), 2, "the claim, and the last entry");
}

#[tokio::test]
async fn a_lock_is_its_owners_whatever_it_is_called() {
    let rig = Rig::new().await;
    let hold = |owner: &str, name: &str| Lock {
        name: name.into(),
        owner: owner.into(),
        action: LockAction::Hold(Duration::from_mins(1)),
    };
    let mut last = sortie::core::Fence(0);
    for name in ["r", "a b 1", "\n", "*", "https://h/é.git?x=1 2"] {
        let fence = rig.store.lock(&hold("me", name)).await.unwrap().expect("free");
        assert!(fence > last);
        last = fence;
        assert_eq!(rig.store.lock(&hold("me", name)).await.unwrap(), Some(fence));
        assert_eq!(rig.store.lock(&hold("you", name)).await.unwrap(), None);
        let foreign = Lock { action: LockAction::Release, ..hold("you", name) };
        rig.store.lock(&foreign).await.unwrap();
        assert_eq!(rig.store.lock(&hold("you", name)).await.unwrap(), None);
    }
}

/// An idempotency key means the job whose record is kept, never another.
#[tokio::test]
async fn an_idempotency_key_is_free_with_its_job_and_only_then() {
    let rig = Rig::new().await;
    let worker = rig.worker("w", None, 9).await;
    let submit = async |id: &str| {
        rig.submit(&format!(r#"{{"id":"{id}","prompt":"p","idempotency_key":"k"}}"#))
            .await
            .to_string()
    };
    assert_eq!(submit("a").await, "a");
    rig.cancel(&"a".parse().unwrap()).await;
    assert_eq!(submit("b").await, "a");
    rig.change(&"a".parse().unwrap(), Change::Delete).await;
    assert_eq!(submit("b").await, "b");
    assert_eq!(submit("a").await, "b");
    rig.push(r#"{"id":"c","prompt":"p","idempotency_key":"k"}"#);
    let held = worker.claim(9).await;
    assert_eq!(held.len(), 1);
    worker.end(&held[0], SUCCEEDED).await;
    rig.change(&held[0].token.id, Change::Retry { fresh: false }).await;
    assert_eq!(rig.ask::<i64>(&["PTTL", &key("idem:k")]), -1);
    rig.assert_sound().await;
}

/// Neither is kept: with a life of nothing, an ended job leaves nothing.
#[tokio::test]
async fn a_job_that_is_kept_for_no_time_leaves_no_key() {
    let terms = sortie::store::Terms { job_ttl: Duration::ZERO, ..Default::default() };
    let rig = Rig::with(terms).await;
    let worker = rig.worker("w", None, 9).await;
    rig.submit(r#"{"id":"a","prompt":"p","idempotency_key":"k","concurrency_key":"c"}"#).await;
    let claimed = worker.one().await;
    assert_eq!(worker.end(&claimed, SUCCEEDED).await, Finished::Accepted);
    let left: Vec<_> =
        rig.keys().into_iter().filter(|key| key.ends_with(":a") || key.ends_with(":k")).collect();
    assert_eq!(left, Vec::<String>::new());
    rig.assert_sound().await;
}

/// A cancel of a push that is not opened yet, in each form that it may have.
#[tokio::test]
async fn unopened_pushes_are_canceled_wherever_they_are() {
    let rig = Rig::new().await;
    let worker = rig.worker("w", None, 99).await;
    for n in 0..50 {
        rig.push(format!(r#"{{"id":"raw-{n}","prompt":"about raw-7 and \"id\":\"raw-7\""}}"#));
        rig.push("{not a job, raw-7");
    }
    let id = "raw-7".parse().unwrap();
    assert_eq!(rig.cancel(&id).await, State::Canceled);
    assert_eq!(rig.cancel(&id).await, State::Canceled);
    assert_eq!(rig.pending(), 99);
    rig.assert_sound().await;
    let mut claimed = 0;
    for _ in 0..9 {
        claimed += worker.claim(99).await.len();
    }
    assert_eq!((claimed, rig.pending()), (49, 0));
    let stats = rig.store.stats().await.unwrap();
    assert_eq!(stats.bad, 50);
    assert_eq!(rig.ask::<u64>(&["EXISTS", QUEUE]), 0);
    rig.assert_sound().await;
}

/// A new worker that the store forgot while its call was under way.
#[tokio::test]
async fn a_worker_silent_for_long_is_told_to_register_before_it_claims() {
    let rig = Rig::new().await;
    let worker = rig.worker("w-1", Some(1), 1).await;
    rig.submit(JOB).await;
    rig.ask::<i64>(&["ZADD", &key("workers"), "1", worker.record.id.as_str()]);
    rig.last_contact_was_long_ago();
    let answer = worker.send(&worker.call(1, Vec::new())).await;
    assert_eq!((answer.claimed.len(), answer.supply), (0, Supply::Unregistered));
    assert!(!rig.keys().contains(&key(&format!("worker:{}", worker.record.id))));
    rig.assert_sound().await;
}

/// It has ended before anybody missed it: its work counts.
#[tokio::test]
async fn an_end_that_is_a_little_late_counts() {
    let rig = Rig::new().await;
    let worker = rig.worker("w", None, 1).await;
    rig.submit(JOB).await;
    let claimed = worker.one().await;
    rig.end_lease(&claimed.token.id);
    let now: Vec<String> = rig.ask(&["TIME"]);
    let a_second_ago = now[0].parse::<u64>().unwrap() * 1000 - 1000;
    rig.ask::<i64>(&["HSET", &key("meta"), "tick", &a_second_ago.to_string()]);
    assert_eq!(worker.end(&claimed, SUCCEEDED).await, Finished::Accepted);
    rig.assert_sound().await;
}

/// Two workers with one slot each swap all their jobs with late ends of each other's.
#[tokio::test]
async fn the_floor_is_right_after_every_kind_of_end() {
    let rig = Rig::new().await;
    let workers = [
        rig.worker("w-0", Some(0), 2).await,
        rig.worker("w-1", Some(1), 1).await,
        rig.worker("w-2", Some(2), 3).await,
    ];
    let mut seed = 7_u64;
    let mut next = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 40).expect("24 bits") % below
    };
    let mut held: Vec<(usize, sortie::store::Claimed)> = Vec::new();
    for _ in 0..300 {
        let who = next(3);
        let worker: &Worker = &workers[who];
        match next(6) {
            0 | 1 => {
                rig.submit(r#"{"prompt":"p","concurrency_key":"k","concurrency_limit":2}"#).await;
                rig.submit(JOB).await;
            }
            2 => held.extend(worker.claim(2).await.into_iter().map(|claimed| (who, claimed))),
            3 if !held.is_empty() => {
                let (of, claimed) = held.swap_remove(next(held.len()));
                let end = [SUCCEEDED, again(State::Queued, Duration::ZERO, true)][next(2)];
                workers[of].end(&claimed, end).await;
            }
            4 if !held.is_empty() => {
                let (of, claimed) = held.swap_remove(next(held.len()));
                rig.end_lease(&claimed.token.id);
                worker.beat(&[]).await;
                assert_ne!(workers[of].end(&claimed, SUCCEEDED).await, Finished::Accepted);
            }
            5 if !held.is_empty() => {
                let (of, claimed) = held.swap_remove(next(held.len()));
                rig.cancel(&claimed.token.id).await;
                workers[of].end(&claimed, again(State::Queued, Duration::ZERO, true)).await;
            }
            _ => {}
        }
        rig.assert_sound().await;
    }
    let stats = rig.store.stats().await.unwrap();
    assert!(stats.totals["reaped"] > 0 && stats.done > 0, "{stats:?}");
}
