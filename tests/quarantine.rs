//! A worker whose surroundings are broken stops taking jobs, and others do them.

mod fleet;
mod support;

use serde_json::json;
use sortie::core::{Fault, State};
use support::{SOON, eventually};

use fleet::{Fleet, LEASE};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_broken_surroundings_leaves_the_queue_to_others() {
    let fleet = Fleet::new().await;
    let mut broken = fleet.settings("w-0");
    broken.slots = 1;
    let worktrees = broken.worktrees.clone();
    let _broken = fleet.work(broken).await;
    eventually(SOON, "the worker is there", async || {
        (fleet.store.workers().await.unwrap().len() == 1).then_some(())
    })
    .await;
    // From now on no job gets a directory.
    std::fs::remove_dir_all(&worktrees).unwrap();
    std::fs::write(&worktrees, "in the way").unwrap();
    fleet.push(&json!({"id": "unlucky", "command": ["true"]}));
    let reason = eventually(SOON, "the worker says what is wrong", async || {
        fleet.store.workers().await.unwrap()[0].quarantine.clone()
    })
    .await;
    assert!(reason.contains("3 faults") && reason.contains("w-0"), "{reason}");

    let job = fleet.job("unlucky").await.unwrap();
    assert_eq!((job.state, job.fault), (State::Queued, Some(Fault::Workspace)));
    assert_eq!((job.counters.infrastructure, job.counters.charged), (3, 0));
    // It goes on beating, and claims nothing: not within the time in which a lost lease would have
    // been noticed either.
    tokio::time::sleep(LEASE).await;
    assert_eq!(fleet.job("unlucky").await.unwrap().counters.attempt, 3);
    assert!(!fleet.store.workers().await.unwrap()[0].is_lost);

    let sound = fleet.settings("w-1");
    let _sound = fleet.work(sound).await;
    let job = fleet.ends("unlucky", State::Succeeded, None).await;
    assert_eq!(job.worker.unwrap().pod(), "w-1");
    fleet.is_sound().await;
}
