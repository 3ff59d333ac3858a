//! What workers do for all of them, under meddling hands, long rests and bad memories.

use std::time::Duration;

use sortie::core::retry::Count;
use sortie::core::{JobSpec, Next, State};
use sortie::store::{BadAction, Terms};

use crate::rig::{QUEUE, Rig, SUCCEEDED, key};

const JOB: &str = r#"{"prompt":"p"}"#;

fn plain() -> JobSpec {
    JobSpec { prompt: Some("p".into()), ..JobSpec::default() }
}

/// `DEL` of the list, or a foreign consumer's `LPOP`: the records are still there.
#[tokio::test]
async fn jobs_whose_tickets_were_taken_get_new_ones() {
    let rig = Rig::new().await;
    let worker = rig.worker("w", None, 100).await;
    rig.submit_many(20, &plain()).await;
    rig.ask::<Vec<String>>(&["LPOP", QUEUE, "3"]);
    worker.beat(&[]).await;
    rig.assert_sound().await;
    rig.ask::<u64>(&["DEL", QUEUE]);
    worker.beat(&[]).await;
    rig.assert_sound().await;
    assert_eq!((rig.pending(), worker.claim(100).await.len()), (20, 20));
}

#[tokio::test]
async fn tickets_that_stand_for_nothing_are_dropped() {
    let rig = Rig::new().await;
    let worker = rig.worker("w", None, 100).await;
    rig.submit_many(2, &plain()).await;
    for _ in 0..100 {
        rig.push(".");
    }
    let mut claimed = 0;
    for _ in 0..5 {
        claimed += worker.claim(9).await.len();
    }
    assert_eq!((claimed, rig.pending()), (2, 0));
    rig.assert_sound().await;
}

/// The script must not stop the server for as long as a million entries take.
#[tokio::test]
async fn old_history_goes_piece_by_piece() {
    let rig = Rig::new().await;
    let worker = rig.worker("w", None, 1).await;
    let fill = "for i = 1, 20000 do redis.call('ZADD', KEYS[1], 1, 'gone-' .. i) end";
    for place in ["done", "dead"] {
        rig.ask::<Option<u64>>(&["EVAL", fill, "1", &key(place)]);
    }
    let mut beats = 0;
    while rig.ask::<u64>(&["ZCARD", &key("done")]) > 0 {
        let before: u64 = rig.ask(&["ZCARD", &key("done")]);
        worker.beat(&[]).await;
        let gone = before - rig.ask::<u64>(&["ZCARD", &key("done")]);
        assert!((1..=1000).contains(&gone), "{gone}");
        beats += 1;
    }
    assert!(beats >= 20, "{beats}");
    assert_eq!(rig.ask::<u64>(&["ZCARD", &key("dead")]), 0);
}

#[tokio::test]
async fn no_more_ended_jobs_are_kept_than_asked_for() {
    let rig = Rig::with(Terms { history: 5, ..Terms::default() }).await;
    let worker = rig.worker("w", None, 100).await;
    let mut last = None;
    for n in 0..12 {
        let id = rig.submit(&format!(r#"{{"prompt":"p","idempotency_key":"{n}"}}"#)).await;
        let claimed = worker.one().await;
        worker.end(&claimed, SUCCEEDED).await;
        last = Some(id);
    }
    worker.beat(&[]).await;
    rig.assert_sound().await;
    for prefix in ["job:", "spec:", "log:", "result:", "idem:"] {
        let kept = rig.keys().iter().filter(|name| name.starts_with(&key(prefix))).count();
        assert_eq!(kept, 5, "{prefix}");
    }
    assert_eq!(rig.job(&last.unwrap()).await.state, State::Succeeded);
}

/// I10: after retention the keys are those of before.
#[tokio::test]
async fn after_retention_no_key_is_left() {
    let life = Duration::from_millis(1);
    let rig = Rig::with(Terms { job_ttl: life, dead_ttl: life, ..Terms::default() }).await;
    let worker = rig.worker("w-1", Some(1), 9).await;
    let round = async || {
        for n in 0..6 {
            let job = |kind: &str| {
                format!(
                    r#"{{"prompt":"p","concurrency_key":"{kind}{n}","idempotency_key":"{kind}{n}","profile":"q"}}"#
                )
            };
            rig.submit(&job("a")).await;
            rig.push(job("b"));
        }
        rig.limit(Some("q"), Some(2)).await;
        let mut ended = 0;
        for _ in 0..100 {
            for claimed in worker.claim(9).await {
                let state = [State::Dead, State::Succeeded, State::Canceled][ended % 3];
                if state == State::Canceled {
                    rig.cancel(&claimed.token.id).await;
                }
                let end = Next::End { state, count: Count::Charged };
                worker.end(&claimed, end).await;
                ended += 1;
            }
            worker.beat(&[]).await;
        }
        assert_eq!(ended, 12);
        rig.limit(Some("q"), None).await;
        crate::support::eventually(crate::support::SOON, "all records are forgotten", async || {
            worker.beat(&[]).await;
            let left = rig
                .keys()
                .into_iter()
                .filter(|name| name.contains(":job:") || name.contains(":spec:"));
            (left.count() == 0 && rig.ask::<u64>(&["EXISTS", &key("done"), &key("dead")]) == 0)
                .then_some(())
        })
        .await;
        rig.assert_sound().await;
        rig.keys()
    };
    let first = round().await;
    assert_eq!(round().await, first);
}

#[tokio::test]
async fn a_dead_workers_job_comes_back_in_a_fleet_of_one_other() {
    let rig = Rig::with(Terms { lease: Duration::from_millis(400), ..Terms::default() }).await;
    let dead = rig.worker("dead", None, 1).await;
    let live = rig.worker("live", None, 1).await;
    let id = rig.submit(JOB).await;
    dead.one().await;
    crate::support::eventually(crate::support::SOON, "it is claimed again", async || {
        live.beat(&[]).await;
        live.claim(1).await.pop()
    })
    .await;
    assert_eq!(rig.job(&id).await.counters.lost, 1);
}

/// A sweep must not hand back the jobs of a worker that came back in the meantime.
#[tokio::test]
async fn a_sweep_forgets_only_who_holds_nothing() {
    let rig = Rig::new().await;
    let silent = rig.worker("silent", None, 1).await;
    let gone = rig.worker("gone", None, 1).await;
    rig.submit(JOB).await;
    let claimed = silent.one().await;
    for worker in [&silent, &gone] {
        rig.ask::<i64>(&["ZADD", &key("workers"), "1", worker.record.id.as_str()]);
    }
    assert_eq!(rig.store.sweep(false).await.unwrap().workers, 1);
    assert_eq!(silent.beat(&[&claimed]).await.verdicts, [sortie::store::Verdict::Keep]);
    assert!(!gone.beat(&[]).await.is_registered);
    rig.assert_sound().await;
}

#[tokio::test]
async fn bad_pushes_are_kept_in_number_and_come_back_whole() {
    let rig = Rig::new().await;
    let worker = rig.worker("w", None, 1).await;
    for n in 0..1100 {
        rig.push(format!("{{\"\n\0{n}"));
    }
    for _ in 0..60 {
        worker.claim(1).await;
    }
    assert_eq!(rig.pending(), 0);
    let bad = rig.store.bad(&BadAction::List).await.unwrap();
    assert_eq!((bad.len(), bad[999].bytes.as_slice()), (1000, &b"{\"\n\x001099"[..]));
    assert_eq!(rig.store.bad(&BadAction::Requeue(vec![bad[0].id.clone()])).await.unwrap().len(), 1);
    assert_eq!(rig.ask::<Vec<Vec<u8>>>(&["LRANGE", QUEUE, "0", "-1"]), [bad[0].bytes.clone()]);
}
