//! Two processes under one name: only the newer one works.

use nix::sys::signal::Signal;
use sortie::core::State;

use crate::fleet::{Fleet, lives, told};
use crate::support::process::Process;
use crate::support::{SOON, eventually};
use crate::{go, patient, turns};

/// The exit code of a worker that the store refuses.
const UNAVAILABLE: i32 = 69;

/// Waits until the one worker that the store knows is another one than `older`.
async fn is_displaced(fleet: &Fleet, older: &str) {
    eventually(SOON, "the newer worker is known", async || {
        let workers = fleet.store.workers().await.expect("listing workers");
        matches!(&*workers, [one] if one.id.as_str() != older).then_some(())
    })
    .await;
}

async fn ends_refused(mut worker: Process) {
    let status = worker.wait(SOON).await;
    assert_eq!(status.code(), Some(UNAVAILABLE), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_worker_of_the_same_name_ends_the_older_one() {
    let fleet = Fleet::new().await;
    let older = fleet.process("w-0", &[]);
    fleet.push(&patient(&fleet, "j"));
    let pid = told(&fleet.path("pid.1")).await;
    let id = fleet.job("j").await.unwrap().worker.unwrap();
    let newer = fleet.process("w-0", &[]);
    is_displaced(&fleet, id.as_str()).await;
    ends_refused(older).await;
    assert!(!lives(&pid), "its job was killed");
    fleet.until("j", "is tried again", |job| job.counters.attempt == 2).await;
    go(&fleet);
    let job = fleet.ends("j", State::Succeeded, None).await;
    assert_eq!((job.counters.attempt, job.counters.charged), (2, 0));
    assert!(turns(&fleet).is_sorted());
    drop(newer);
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_wakes_up_after_days_does_not_displace_the_newer_one() {
    let fleet = Fleet::new().await;
    let older = fleet.process("w-0", &[]);
    fleet.push(&patient(&fleet, "j"));
    told(&fleet.path("pid.1")).await;
    let id = fleet.job("j").await.unwrap().worker.unwrap();
    older.signal(Signal::SIGSTOP);
    let mut newer = fleet.process("w-0", &[]);
    is_displaced(&fleet, id.as_str()).await;
    // What the store remembers of a displaced worker for an hour.
    let remembered = format!("{{{}}}:gone:{}", crate::fleet::QUEUE, id.as_str());
    assert_eq!(fleet.redis.ask::<u64>(&["DEL", &remembered]), 1);
    older.signal(Signal::SIGCONT);
    ends_refused(older).await;
    go(&fleet);
    let job = fleet.ends("j", State::Succeeded, None).await;
    assert_ne!(job.worker, Some(id));
    assert!(newer.exited().is_none());
    fleet.is_sound().await;
}
