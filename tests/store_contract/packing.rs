//! Low ordinals first: who steps back for whom, and what an autoscaler sees of it.

use std::time::Duration;

use sortie::store::{Beat, Control, Exchange, Supply};

use crate::bench::{Bench, SUCCEEDED, Worker, record};

async fn worker(bench: &Bench, ordinal: u32, slots: u32) -> Worker {
    bench.register(record(&format!("w-{ordinal}"), Some(ordinal), slots)).await
}

/// What a worker gets that has not stepped back yet.
async fn ask(worker: &Worker) -> (usize, Supply) {
    let call = Exchange { has_yielded: false, ..worker.call(1, Vec::new()) };
    let answer = worker.send(&call).await;
    (answer.claimed.len(), answer.supply)
}

pub async fn a_worker_steps_back_once_for_lower_ordinals_with_room(bench: &Bench) {
    let (low, high) = (worker(bench, 0, 1).await, worker(bench, 1, 1).await);
    bench.submit_ids(&["a", "b"]).await;
    low.one().await;
    assert_eq!(ask(&high).await, (1, Supply::Enough), "the lower one is full");
    let third = worker(bench, 2, 1).await;
    bench.submit_ids(&["c"]).await;
    low.store.control(&Control::Leave { worker: high.id().clone() }).await.unwrap();
    let again = worker(bench, 1, 5).await;
    assert_eq!(ask(&third).await, (0, Supply::Yield));
    assert_eq!(third.claim(1).await.len(), 1, "it steps back only once");
    assert_eq!(again.claim(5).await.len(), 1);
}

pub async fn a_worker_does_not_step_back_when_there_is_more_than_others_can_take(bench: &Bench) {
    let (_low, high) = (worker(bench, 0, 1).await, worker(bench, 1, 1).await);
    bench.submit_ids(&["a", "b"]).await;
    assert_eq!(ask(&high).await, (1, Supply::Enough));
}

pub async fn the_lowest_worker_never_steps_back(bench: &Bench) {
    let (low, _high) = (worker(bench, 0, 1).await, worker(bench, 1, 9).await);
    bench.submit_ids(&["a"]).await;
    assert_eq!(ask(&low).await, (1, Supply::Enough));
}

pub async fn nobody_steps_back_from_an_empty_queue(bench: &Bench) {
    let (_low, high) = (worker(bench, 0, 1).await, worker(bench, 1, 1).await);
    assert_eq!(ask(&high).await, (0, Supply::Empty { next_due_ms: None }));
}

pub async fn nobody_steps_back_for_who_will_not_claim(bench: &Bench) {
    let (draining, ill) = (worker(bench, 0, 3).await, worker(bench, 1, 3).await);
    let high = worker(bench, 2, 3).await;
    bench.submit_ids(&["a"]).await;
    let within = Duration::from_secs(9);
    let drain = Control::Drain { worker: draining.id().clone(), within };
    bench.store.control(&drain).await.unwrap();
    assert_eq!(ask(&high).await, (0, Supply::Yield), "one of them is well");
    let beat = Beat { quarantine: Some("no disk".into()), ..ill.heartbeat(&[]) };
    bench.store.beat(&beat).await.unwrap();
    assert_eq!(ask(&high).await, (1, Supply::Enough));
}

/// With short leases: a peer that may be dead is not waited for.
pub async fn nobody_steps_back_for_who_is_silent(bench: &Bench) {
    let (_silent, high) = (worker(bench, 0, 3).await, worker(bench, 1, 3).await);
    bench.submit_ids(&["a"]).await;
    bench.until("it is not waited for", async || ask(&high).await.0 == 1).await;
}

pub async fn the_busy_floor_is_the_highest_busy_ordinal_and_one(bench: &Bench) {
    let (low, high) = (worker(bench, 0, 3).await, worker(bench, 4, 3).await);
    let floor = async || bench.stats().await.busy_floor;
    assert_eq!(floor().await, 0);
    bench.submit_ids(&["a", "b", "c"]).await;
    let first = high.one().await;
    assert_eq!(floor().await, 5);
    let second = low.one().await;
    let third = high.one().await;
    assert_eq!(floor().await, 5);
    high.end(&first, SUCCEEDED).await;
    assert_eq!(floor().await, 5, "one of two has ended");
    high.end(&third, SUCCEEDED).await;
    assert_eq!(floor().await, 1);
    low.end(&second, SUCCEEDED).await;
    assert_eq!(floor().await, 0);
}

pub async fn a_draining_worker_does_not_hold_the_fleet_up(bench: &Bench) {
    let (low, high) = (worker(bench, 0, 3).await, worker(bench, 4, 3).await);
    bench.submit_ids(&["a", "b"]).await;
    low.one().await;
    high.one().await;
    let within = Duration::from_secs(9);
    let drain = Control::Drain { worker: high.id().clone(), within };
    bench.store.control(&drain).await.unwrap();
    assert_eq!(bench.stats().await.busy_floor, 1);
}

pub async fn the_busy_floor_falls_when_a_worker_is_replaced(bench: &Bench) {
    let high = worker(bench, 4, 3).await;
    bench.submit_ids(&["a"]).await;
    high.one().await;
    worker(bench, 4, 3).await;
    assert_eq!(bench.stats().await.busy_floor, 0);
}
