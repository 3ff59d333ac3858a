//! How workers end, well or badly, and what becomes of their jobs.

mod fleet;
mod support;
#[path = "drain/takeover.rs"]
mod takeover;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sortie::core::event::OutputStream::Stdout;
use sortie::core::{Fault, Job, State};
use sortie::store::Control;
use support::process::Process;
use support::repo::TestRepo;
use support::{SOON, eventually};

use fleet::{Fleet, LEASE, QUEUE, lives, told};

/// A job that runs until the test makes the file `go`, and tells its process id and every turn of
/// its loop.
fn patient(fleet: &Fleet, id: &str) -> Value {
    let script = "echo $$ > pid.$SORTIE_ATTEMPT
        until [ -e go ]; do echo $SORTIE_FENCE >> turns; sleep 0.02; done; echo done";
    let script = format!("cd {} && {script}", fleet.path("").display());
    json!({"id": id, "command": ["sh", "-c", script], "max_attempts": 2})
}

fn go(fleet: &Fleet) {
    std::fs::write(fleet.path("go"), "").expect("writing a file of the test");
}

fn turns(fleet: &Fleet) -> Vec<u64> {
    let text = std::fs::read_to_string(fleet.path("turns")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Waits until the job's process has gone on for a while.
async fn goes_on(fleet: &Fleet) {
    let before = turns(fleet).len();
    eventually(SOON, "the job goes on", async || (turns(fleet).len() > before + 3).then_some(()))
        .await;
}

/// A process that is stopped or frozen, as `/proc` has it.
fn is_frozen(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('T'))
}

async fn runs_on(fleet: &Fleet, id: &str, pod: &str) -> Job {
    fleet
        .until(id, &format!("runs on {pod}"), |job| {
            job.state == State::Running && job.worker.as_ref().is_some_and(|w| w.pod() == pod)
        })
        .await
}

async fn both_are_known(fleet: &Fleet) {
    eventually(SOON, "both are known", async || {
        (fleet.store.workers().await.expect("listing workers").len() == 2).then_some(())
    })
    .await;
}

/// Waits until readers see that the worker drains.
async fn drains(fleet: &Fleet) {
    eventually(SOON, "a worker drains", async || {
        fleet
            .store
            .workers()
            .await
            .expect("listing workers")
            .iter()
            .any(|w| w.draining)
            .then_some(())
    })
    .await;
}

async fn leaves(mut worker: Process) {
    let status = worker.wait(SOON).await;
    assert_eq!(status.code(), Some(0), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_workers_job_is_finished_by_another() {
    let fleet = Fleet::new().await;
    let mut first = fleet.process("w-0", &[]);
    fleet.push(&patient(&fleet, "j"));
    let pid = told(&fleet.path("pid.1")).await;
    let _second = fleet.process("w-1", &[]);
    both_are_known(&fleet).await;
    first.sigkill();
    let job = fleet.until("j", "is tried again", |job| job.counters.attempt == 2).await;
    assert!(!lives(&pid), "the agent died with its worker");
    go(&fleet);
    let ended = fleet.ends("j", State::Succeeded, None).await;
    assert_eq!((ended.counters.lost, ended.counters.charged), (1, 0));
    assert!(ended.fence >= job.fence);
    let fences = turns(&fleet);
    assert!(fences.is_sorted(), "no line of the first attempt after one of the second");
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_worker_of_the_same_name_takes_over_at_once() {
    let fleet = Fleet::new().await;
    // Too long to be what the test waits for.
    let mut first = fleet.process("w-0", &["--lease", "60s"]);
    fleet.push(&patient(&fleet, "j"));
    told(&fleet.path("pid.1")).await;
    first.sigkill();
    let since = Instant::now();
    let _second = fleet.process("w-0", &["--lease", "60s"]);
    fleet.until("j", "is tried again", |job| job.counters.attempt == 2).await;
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    go(&fleet);
    fleet.ends("j", State::Succeeded, None).await;
    assert!(turns(&fleet).is_sorted());
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_for_long_freezes_the_job_and_costs_no_attempt() {
    let fleet = Fleet::new().await;
    let _worker = fleet.process("w-0", &[]);
    fleet.push(&patient(&fleet, "j"));
    let pid = told(&fleet.path("pid.1")).await;
    goes_on(&fleet).await;
    fleet.redis.sigstop();
    eventually(SOON, "the job is frozen", async || is_frozen(&pid).then_some(())).await;
    // Longer than a lease from here on: it must not run, and must not be given up.
    tokio::time::sleep(LEASE).await;
    assert!(is_frozen(&pid));
    fleet.redis.sigcont();
    goes_on(&fleet).await;
    go(&fleet);
    let job = fleet.ends("j", State::Succeeded, None).await;
    assert_eq!((job.counters.attempt, job.counters.lost), (1, 0));
    assert_eq!(fleet.output("j", Stdout).await, "done\n");
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_worker_loses_its_job_and_does_not_run_it_beside_the_next() {
    let fleet = Fleet::new().await;
    let first = fleet.process("w-0", &[]);
    fleet.push(&patient(&fleet, "j"));
    let pid = told(&fleet.path("pid.1")).await;
    let _second = fleet.process("w-1", &[]);
    both_are_known(&fleet).await;
    first.signal(Signal::SIGSTOP);
    runs_on(&fleet, "j", "w-1").await;
    goes_on(&fleet).await;
    assert!(is_frozen(&pid), "its supervisor froze it");
    first.signal(Signal::SIGCONT);
    eventually(SOON, "the first attempt is killed", async || (!lives(&pid)).then_some(())).await;
    goes_on(&fleet).await;
    go(&fleet);
    let job = fleet.ends("j", State::Succeeded, None).await;
    assert_eq!((job.counters.attempt, job.counters.lost), (2, 1));
    let fences = turns(&fleet);
    assert!(fences.is_sorted(), "{fences:?}");
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_lets_the_running_job_end_and_claims_nothing_more() {
    let fleet = Fleet::new().await;
    let worker = fleet.process("w-0", &[]);
    fleet.push(&patient(&fleet, "j"));
    told(&fleet.path("pid.1")).await;
    worker.signal(Signal::SIGTERM);
    drains(&fleet).await;
    fleet.push(&json!({"id": "later", "command": ["true"]}));
    goes_on(&fleet).await;
    go(&fleet);
    fleet.ends("j", State::Succeeded, None).await;
    leaves(worker).await;
    assert_eq!(fleet.redis.ask::<u64>(&["LLEN", QUEUE]), 1);
    assert!(fleet.store.workers().await.unwrap().is_empty());
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_signal_lets_the_one_job_of_once_end_too() {
    let fleet = Fleet::new().await;
    let worker = fleet.process("w-0", &["--once"]);
    fleet.push(&patient(&fleet, "j"));
    told(&fleet.path("pid.1")).await;
    worker.signal(Signal::SIGTERM);
    drains(&fleet).await;
    goes_on(&fleet).await;
    go(&fleet);
    let job = fleet.ends("j", State::Succeeded, None).await;
    assert_eq!(job.counters.attempt, 1);
    leaves(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_hands_back_at_the_head_for_free_and_the_next_worker_continues() {
    let fleet = Fleet::new().await;
    let repo = TestRepo::new();
    // Half of so short a time is for the jobs.
    let worker = fleet.process("w-0", &["--drain-timeout", "1s"]);
    let script = "if [ -e half ]; then cat half; exit 0; fi; echo half > half
        echo $$ > $PIDS; while :; do sleep 0.1; done";
    let pids = fleet.path("pid.1");
    let env = json!({"PIDS": pids.to_str().unwrap()});
    fleet.push(&json!({
        "id": "j", "command": ["sh", "-c", script], "repo": repo.url(), "env": env,
        "timeout_s": 60,
    }));
    let pid = told(&pids).await;
    worker.signal(Signal::SIGTERM);
    leaves(worker).await;
    assert!(!lives(&pid));
    let job = fleet.job("j").await.unwrap();
    assert_eq!((job.state, job.fault), (State::Queued, Some(Fault::Interrupted)));
    assert_eq!((job.counters.charged, job.counters.lost), (0, 0));
    assert!(job.result.checkpoint.is_some());
    // Younger ones wait behind it.
    fleet.push(&json!({"id": "younger", "command": ["true"]}));
    let _next = fleet.process("w-1", &["--slots", "1"]);
    let younger = fleet.ends("younger", State::Succeeded, None).await;
    let job = fleet.ends("j", State::Succeeded, None).await;
    assert_eq!(fleet.output("j", Stdout).await, "half\n");
    assert_eq!(job.counters.charged, 0);
    assert!(job.fence < younger.fence, "the one handed back was claimed first");
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_signal_stops_now_and_hands_back() {
    let fleet = Fleet::new().await;
    let worker = fleet.process("w-0", &[]);
    fleet.push(&patient(&fleet, "j"));
    let pid = told(&fleet.path("pid.1")).await;
    worker.signal(Signal::SIGTERM);
    drains(&fleet).await;
    worker.signal(Signal::SIGINT);
    leaves(worker).await;
    assert!(!lives(&pid));
    let job = fleet.job("j").await.unwrap();
    assert_eq!((job.state, job.fault), (State::Queued, Some(Fault::Interrupted)));
    assert_eq!(job.counters.charged, 0);
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_third_signal_ends_the_process_at_once() {
    let fleet = Fleet::new().await;
    let mut worker = fleet.process("w-0", &["--grace", "60s"]);
    let pid = fleet.path("pid");
    let script =
        format!("trap '' INT TERM; echo $$ > {}; while :; do sleep 0.1; done", pid.display());
    fleet.push(&json!({"id": "j", "command": ["sh", "-c", script]}));
    let pid = told(&pid).await;
    worker.signal(Signal::SIGTERM);
    drains(&fleet).await;
    worker.signal(Signal::SIGTERM);
    // The second one has been taken when the next one ends it.
    let status = eventually(SOON, "the process ends", async || {
        if let Some(status) = worker.exited() {
            return Some(status);
        }
        worker.signal(Signal::SIGTERM);
        None
    })
    .await;
    assert_eq!(status.code(), Some(128 + 15), "{status}");
    eventually(SOON, "the agent is gone", async || (!lives(&pid)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_worker_waits_for_its_signal() {
    let fleet = Fleet::new().await;
    let mut worker = fleet.process("w-0", &[]);
    fleet.push(&patient(&fleet, "j"));
    let pid = told(&fleet.path("pid.1")).await;
    let id = fleet.job("j").await.unwrap().worker.unwrap();
    let within = Duration::from_millis(200);
    fleet.store.control(&Control::Drain { worker: id, within }).await.unwrap();
    let job = fleet.until("j", "is handed back", |job| job.state == State::Queued).await;
    assert_eq!((job.fault, job.counters.charged), (Some(Fault::Interrupted), 0));
    assert!(!lives(&pid));
    // It stays, known and empty, until Kubernetes sends the signal.
    let workers = fleet.store.workers().await.unwrap();
    assert!(workers.len() == 1 && workers[0].draining && workers[0].running == 0, "{workers:?}");
    assert!(worker.exited().is_none());
    assert_eq!(fleet.job("j").await.unwrap().counters.attempt, 1);
    worker.signal(Signal::SIGTERM);
    leaves(worker).await;
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_its_store_leaves_in_bounded_time() {
    let fleet = Fleet::new().await;
    let mut worker = fleet.process("w-0", &["--grace", "100ms", "--drain-timeout", "1s"]);
    fleet.push(&patient(&fleet, "j"));
    let pid = told(&fleet.path("pid.1")).await;
    fleet.redis.sigstop();
    worker.signal(Signal::SIGTERM);
    let status = worker.wait(Duration::from_mins(1)).await;
    assert!(!status.success());
    assert!(!lives(&pid));
    fleet.redis.sigcont();
    let _next = fleet.process("w-1", &[]);
    fleet.until("j", "is tried again", |job| job.counters.attempt == 2).await;
    go(&fleet);
    fleet.ends("j", State::Succeeded, None).await;
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_process_one_it_passes_signals_on_and_reaps_orphans() {
    const OWN_PIDS: [&str; 5] = ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];
    let is_possible = Command::new("unshare").args(OWN_PIDS).arg("true").status();
    if !is_possible.is_ok_and(|status| status.success()) {
        println!("skipped: this host does not let its users make process namespaces");
        return;
    }
    let fleet = Fleet::new().await;
    // A lease that no stall of a busy machine outlasts: an attempt that was lost, or given up for
    // one, would shift the numbers that the files below are named by.
    let inner = fleet.command("w-0", &["--retry-base", "1ms", "--lease", "60s"]);
    let mut command = Command::new("unshare");
    command.args(OWN_PIDS).arg("--kill-child").arg(inner.get_program()).args(inner.get_args());
    let env = inner.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command.env_clear().envs(env).stdin(Stdio::null()).stdout(Stdio::null());
    let mut outer = Process::spawn(&mut command);
    // Beside the job's process, one that is in no session of its supervisor's.
    let mut job = patient(&fleet, "j");
    let script = job["command"][2].as_str().unwrap();
    let stray = fleet.path("stray");
    let alone = format!("setsid sh -c 'echo $$ > {}; exec sleep 300' &", stray.display());
    job["command"][2] = format!("{alone} {script}").into();
    fleet.push(&job);
    told(&stray).await;
    told(&fleet.path("pid.1")).await;

    let one = children(outer.child().id())[0];
    let worker = children(one)[0];
    // What a supervisor leaves behind when it is killed itself falls to process one.
    let template = children(worker)[0];
    let supervisor = children(template)[0];
    kill(pid(supervisor), Signal::SIGKILL).unwrap();
    told(&fleet.path("pid.2")).await;
    let stray = eventually(SOON, "the stray falls to process one", async || {
        let strays: Vec<_> = children(one).into_iter().filter(|child| *child != worker).collect();
        <[u32; 1]>::try_from(strays).ok()
    })
    .await;
    // A real-time signal, for which libraries have no name.
    let sent = Command::new("sh").args(["-c", &format!("kill -40 {}", stray[0])]).status();
    assert!(sent.unwrap().success());
    eventually(SOON, "orphans are reaped", async || (children(one) == [worker]).then_some(()))
        .await;

    kill(pid(one), Signal::SIGTERM).unwrap();
    drains(&fleet).await;
    go(&fleet);
    let job = fleet.ends("j", State::Succeeded, None).await;
    assert_eq!(job.counters.attempt, 2);
    leaves(outer).await;
    fleet.is_sound().await;
}

/// Child processes, ended ones that nobody has waited for included.
fn children(parent: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let texts: String = texts.collect();
    texts.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number.try_into().expect("a pid fits in an i32"))
}
