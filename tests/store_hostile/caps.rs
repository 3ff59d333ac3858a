//! Places under caps: none is lost, none is given twice, and nobody calls a job runnable that is not.

use sortie::core::{JobSpec, State};
use sortie::store::{Change, Claimed};

use crate::rig::{Rig, SUCCEEDED, Worker, again, key};

fn keyed(key: &str, limit: u32) -> JobSpec {
    JobSpec {
        prompt: Some("p".into()),
        concurrency_key: Some(key.into()),
        concurrency_limit: Some(limit),
        ..JobSpec::default()
    }
}

fn of_profile(name: &str) -> JobSpec {
    JobSpec { prompt: Some("p".into()), profile: Some(name.into()), ..JobSpec::default() }
}

/// Claims whatever can be claimed, in as many calls as it takes.
async fn claim_all(worker: &Worker) -> Vec<Claimed> {
    let mut held = Vec::new();
    loop {
        let answer = worker.send(&worker.call(100, Vec::new())).await;
        held.extend(answer.claimed);
        if !matches!(
            answer.supply,
            sortie::store::Supply::Empty { next_due_ms: Some(0) } | sortie::store::Supply::Enough
        ) {
            return held;
        }
    }
}

/// P1: while all slots are busy, heartbeats must not turn parked jobs into runnable ones.
#[tokio::test]
async fn heartbeats_do_not_call_parked_jobs_runnable() {
    let rig = Rig::new().await;
    let worker = rig.worker("w", None, 1).await;
    rig.submit_many(50, &keyed("k", 1)).await;
    let held = claim_all(&worker).await;
    assert_eq!((held.len(), rig.pending()), (1, 0));
    worker.end(&held[0], SUCCEEDED).await;
    assert_eq!(rig.pending(), 1, "one has the place now");
    for _ in 0..20 {
        worker.beat(&[]).await;
    }
    assert_eq!(rig.pending(), 1, "and still one");
    rig.assert_sound().await;
    assert_eq!(claim_all(&worker).await.len(), 1);
}

#[tokio::test]
async fn canceled_parked_jobs_do_not_let_others_go() {
    let rig = Rig::new().await;
    let worker = rig.worker("w", None, 1).await;
    rig.submit_many(30, &keyed("k", 1)).await;
    let held = claim_all(&worker).await;
    let park: Vec<String> = rig.ask(&["ZRANGE", &key("park:k:k"), "0", "9"]);
    for id in &park {
        rig.cancel(&id.parse().unwrap()).await;
    }
    assert_eq!(rig.pending(), 0);
    rig.assert_sound().await;
    worker.end(&held[0], SUCCEEDED).await;
    assert_eq!((claim_all(&worker).await.len(), rig.store.stats().await.unwrap().parked), (1, 18));
}

#[tokio::test]
async fn a_place_promised_to_a_canceled_job_goes_to_the_next_at_once() {
    let rig = Rig::new().await;
    let worker = rig.worker("w", None, 1).await;
    for (spec, cap) in [(keyed("k", 1), "k:k"), (of_profile("q"), "p:q")] {
        rig.limit(Some("q"), Some(1)).await;
        rig.submit_many(5, &spec).await;
        let held = claim_all(&worker).await;
        assert_eq!(held.len(), 1, "{cap}");
        worker.end(&held[0], SUCCEEDED).await;
        let promised: Vec<String> = rig.ask(&["ZRANGE", &key("pending"), "0", "-1"]);
        assert_eq!(promised.len(), 1, "{cap}");
        rig.cancel(&promised[0].parse().unwrap()).await;
        assert_eq!(rig.pending(), 1, "{cap}");
        assert_eq!(claim_all(&worker).await.len(), 1, "{cap}");
        rig.assert_sound().await;
    }
}

/// More than one call can let go wait for a cap that is lifted: an idle fleet must not trickle.
#[tokio::test]
async fn a_lifted_limit_lets_all_go_soon() {
    let rig = Rig::new().await;
    let worker = rig.worker("w", None, 5000).await;
    rig.limit(Some("q"), Some(0)).await;
    rig.submit_many(3000, &of_profile("q")).await;
    assert!(claim_all(&worker).await.is_empty());
    assert_eq!(rig.store.stats().await.unwrap().parked, 3000);
    rig.limit(Some("q"), None).await;
    let mut running = 0;
    for _ in 0..40 {
        running += claim_all(&worker).await.len();
        worker.beat(&[]).await;
    }
    assert_eq!(running, 3000);
    assert_eq!(rig.ask::<u64>(&["EXISTS", &key("parks")]), 0);
}

#[tokio::test]
async fn limits_that_change_while_jobs_are_parked_hold_at_each_moment() {
    let rig = Rig::new().await;
    let worker = rig.worker("w", None, 5000).await;
    rig.submit_many(40, &of_profile("q")).await;
    let mut running: Vec<Claimed> = Vec::new();
    for limit in [3, 0, 7, 1, 12, 2, 40] {
        rig.limit(Some("q"), Some(limit)).await;
        let before = running.len();
        running.extend(claim_all(&worker).await);
        assert!(running.len() <= before.max(limit as usize), "{limit}: {}", running.len());
        rig.assert_sound().await;
        while running.len() > limit as usize / 2 {
            let one = running.pop().unwrap();
            worker.end(&one, again(State::Queued, std::time::Duration::ZERO, true)).await;
        }
        running.extend(claim_all(&worker).await);
        assert_eq!(running.len(), limit as usize, "all places are used");
        rig.assert_sound().await;
    }
}

/// Jobs of one key may disagree about its limit; each holds its own.
#[tokio::test]
async fn one_key_with_several_limits_never_stops() {
    let rig = Rig::new().await;
    let worker = rig.worker("w", None, 5000).await;
    for limit in [3, 1, 2, 5, 1, 4, 2, 1] {
        rig.submit_many(3, &keyed("k", limit)).await;
    }
    let mut left = 24;
    for _ in 0..200 {
        let held = claim_all(&worker).await;
        assert!(held.len() <= 5);
        for one in &held {
            left -= 1;
            worker.end(one, SUCCEEDED).await;
        }
        rig.assert_sound().await;
        worker.beat(&[]).await;
    }
    assert_eq!(left, 0);
    assert_eq!(rig.ask::<u64>(&["EXISTS", &key("parks")]), 0);
}

/// Random changes of everything that has to do with caps; at the end all jobs run, none twice.
#[tokio::test]
async fn no_order_of_events_loses_a_place() {
    for seed in 1..6 {
        let rig = Rig::new().await;
        let worker = rig.worker("w", None, 5000).await;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut held: Vec<Claimed> = Vec::new();
        for _ in 0..150 {
            match random.u8(..9) {
                0 | 1 => {
                    let mut spec = keyed(random.choice(["a", "b"]).unwrap(), random.u32(1..3));
                    spec.profile = random.choice([None, Some("q".to_owned())]).unwrap();
                    rig.submit_many(3, &spec).await;
                }
                2 => {
                    rig.limit(Some("q"), random.choice([None, Some(0), Some(1), Some(3)]).unwrap())
                        .await;
                }
                3 | 4 => held.extend(worker.claim(random.u32(1..4)).await),
                5 if !held.is_empty() => {
                    let one = held.swap_remove(random.usize(..held.len()));
                    let delay = std::time::Duration::from_millis(random.u64(..3));
                    let state = random.choice([State::Queued, State::Deferred]).unwrap();
                    worker.end(&one, again(state, delay, random.bool())).await;
                }
                6 if !held.is_empty() => {
                    let one = held.swap_remove(random.usize(..held.len()));
                    rig.end_lease(&one.token.id);
                    worker.beat(&[]).await;
                }
                7 | 8 => {
                    let jobs = rig.store.list(&sortie::store::Query::default()).await.unwrap();
                    let Some(job) = random.choice(&jobs) else { continue };
                    if job.state.is_terminal() {
                        rig.change(&job.id, Change::Retry { fresh: false }).await;
                    } else if job.state != State::Running {
                        rig.cancel(&job.id).await;
                    }
                }
                _ => {}
            }
            rig.assert_sound().await;
        }
        rig.limit(Some("q"), Some(2)).await;
        for _ in 0..400 {
            for one in std::mem::take(&mut held) {
                worker.end(&one, SUCCEEDED).await;
            }
            worker.beat(&[]).await;
            held = claim_all(&worker).await;
            let stats = rig.store.stats().await.unwrap();
            if stats.pending + stats.parked + stats.later + stats.running == 0 {
                break;
            }
        }
        let stats = rig.store.stats().await.unwrap();
        assert_eq!(
            (stats.pending, stats.parked, stats.later, stats.running),
            (0, 0, 0, 0),
            "seed {seed}"
        );
    }
}
