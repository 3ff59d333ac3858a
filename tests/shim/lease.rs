//! No process runs without a lease or without a worker.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sortie::exec::{Running, local};

use crate::place::{
    MARK, Place, a_second_ago, children, eventually, finish, finish_exit, in_ms, said, state,
};

#[tokio::test]
async fn the_tree_freezes_at_the_deadline_and_thaws_on_a_newer_one() {
    let place = Place::new();
    // Forking all the time, in the group and outside of it.
    let script = "setsid sh -c 'while :; do (/bin/true &); /bin/true; done' &
                  while :; do /bin/true; echo tick; done";
    let mut request = place.request(&["sh", "-c", script]);
    request.lease_until = in_ms(300);
    let mut running = local::start(request).await.unwrap();
    for _ in 0..3 {
        said(&mut running, "tick").await;
        eventually("a frozen tree", || {
            while running.output.try_recv().is_ok() {}
            place.is_frozen()
        })
        .await;
        running.extend(in_ms(300));
    }
    drop(running);
    eventually("nothing left", || place.is_empty()).await;
}

#[tokio::test]
async fn a_frozen_tree_dies_with_its_worker() {
    let place = Place::new();
    let mut request = place.request(&["sh", "-c", "setsid sleep 1000 & wait"]);
    request.lease_until = in_ms(200);
    let running = local::start(request).await.unwrap();
    eventually("a frozen tree", || place.processes().len() == 2 && place.is_frozen()).await;
    drop(running);
    eventually("nothing left", || place.is_empty()).await;
}

#[tokio::test]
async fn who_had_stopped_by_itself_is_not_continued() {
    let place = Place::new();
    let script = "sleep 1000 & kill -STOP $!; echo up; while :; do sleep 0.01; echo tick; done";
    let mut request = place.request(&["sh", "-c", script]);
    request.lease_until = in_ms(300);
    let mut running = local::start(request).await.unwrap();
    said(&mut running, "up").await;
    eventually("a frozen tree", || place.is_frozen()).await;
    while running.output.try_recv().is_ok() {}
    running.extend(in_ms(60_000));
    said(&mut running, "tick").await;
    assert!(place.processes().iter().any(|(_, state)| *state == 'T'));
    running.kill();
    finish(&place, running).await;
}

#[tokio::test]
async fn a_frozen_tree_can_be_killed_and_is_not_asked_politely() {
    for ask in [Running::kill, Running::stop] {
        let place = Place::new();
        let script = "trap 'touch thawed; exit' INT TERM; while :; do sleep 0.01; done";
        let mut request = place.request(&["sh", "-c", script]);
        request.lease_until = in_ms(100);
        let running = local::start(request).await.unwrap();
        eventually("a frozen tree", || place.is_frozen()).await;
        ask(&running);
        assert_eq!(finish_exit(&place, running).await.signal, Some(9));
        assert!(!place.path("thawed").exists());
    }
}

#[tokio::test]
async fn the_lease_bounds_a_polite_end() {
    let place = Place::new();
    let script = "trap '' INT TERM; echo up; while :; do sleep 0.01; done";
    let mut request = place.request(&["sh", "-c", script]);
    request.lease_until = in_ms(500);
    let mut running = local::start(request).await.unwrap();
    said(&mut running, "up").await;
    running.stop();
    assert_eq!(finish_exit(&place, running).await.signal, Some(9));
}

#[tokio::test]
async fn without_a_lease_nothing_starts() {
    let place = Place::new();
    let mut request = place.request(&["touch", "started"]);
    request.lease_until = a_second_ago();

    let running = local::start(request.clone()).await.unwrap();
    let pid = running.pid();
    // It sleeps in its loop: the request has been read, and nothing was started.
    let is_waiting = || fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap().contains("poll");
    eventually("a waiting supervisor", is_waiting).await;
    running.extend(a_second_ago());
    running.stop();
    let exit = finish_exit(&place, running).await;
    assert!(exit.not_started.unwrap().is_infrastructure);
    assert!(!place.path("started").exists());

    let running = local::start(request).await.unwrap();
    running.extend(in_ms(60_000));
    assert_eq!(finish_exit(&place, running).await.code, Some(0));
    assert!(place.path("started").exists());
}

/// Not a test: the worker of the two tests below, in a process of its own.
#[tokio::test]
#[ignore = "started by the tests that stop or kill it"]
async fn a_worker() {
    let Some(dir) = std::env::var_os("SORTIE_TEST_WORKER_DIR") else { return };
    let place = Place::new();
    let mut request = place.request(&["sh", "-c", "setsid sleep 1000 & wait"]);
    let dir = dir.into_string().unwrap();
    request.env.insert(MARK.into(), dir.clone());
    (request.dir, request.cwd) = (dir.clone().into(), dir.into());
    request.lease_until = in_ms(500);
    let running = local::start(request).await.unwrap();
    // Bounded, lest it stay behind when its test fails.
    for _ in 0..1000 {
        running.extend(in_ms(500));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn start_worker(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lease::a_worker", "--ignored"])
        .env("SORTIE_TEST_WORKER_DIR", dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_killed_worker_leaves_nothing() {
    let place = Place::new();
    let mut worker = start_worker(place.dir());
    eventually("two processes", || place.processes().len() == 2).await;
    let templates = children(worker.id());
    assert_eq!(templates.len(), 1);
    let supervisors = children(templates[0]);
    assert_eq!(supervisors.len(), 1);
    worker.kill().unwrap();
    worker.wait().unwrap();
    eventually("nothing left", || place.is_empty()).await;
    for pid in [templates[0], supervisors[0]] {
        eventually("it ends", || state(pid).is_none_or(|state| state == 'Z')).await;
    }
}

#[tokio::test]
async fn a_stopped_worker_freezes_its_tree() {
    let place = Place::new();
    let mut worker = start_worker(place.dir());
    let pid = Pid::from_raw(worker.id().cast_signed());
    eventually("two processes", || place.processes().len() == 2).await;
    kill(pid, Signal::SIGSTOP).unwrap();
    eventually("a frozen tree", || place.is_frozen()).await;
    kill(pid, Signal::SIGCONT).unwrap();
    let runs = || place.processes().iter().all(|(_, state)| *state == 'S');
    eventually("a running tree", runs).await;
    kill(pid, Signal::SIGSTOP).unwrap();
    eventually("a frozen tree", || place.is_frozen()).await;
    worker.kill().unwrap();
    worker.wait().unwrap();
    eventually("nothing left", || place.is_empty()).await;
}
