//! The engine, on a real Redis, with real processes.

mod fleet;
#[path = "worker/repos.rs"]
mod repos;
#[path = "worker/store.rs"]
mod store;
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use sortie::core::event::OutputStream::{Stderr, Stdout};
use sortie::core::{Event, Fault, Policy, Profile, State};
use sortie::store::Change;
use support::{SOON, eventually};

use fleet::{Fleet, QUEUE, lives, told};

fn sh(id: &str, script: &str) -> serde_json::Value {
    json!({"id": id, "command": ["sh", "-c", script]})
}

/// What `seq 1 LAST` writes.
fn numbers(last: u32) -> String {
    (1..=last).flat_map(|number| [number.to_string(), "\n".into()]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pushed_job_runs_and_its_output_is_in_the_log() {
    let fleet = Fleet::new().await;
    fleet.push(&sh("one", "echo out; echo err >&2; echo naïve; pwd"));
    let _worker = fleet.work(fleet.settings("w-0")).await;
    let job = fleet.ends("one", State::Succeeded, None).await;
    assert_eq!((job.result.exit_code, job.counters.attempt), (Some(0), 1));
    let cwd = fleet.path("worktrees-w-0/one/work");
    let out = format!("out\nnaïve\n{}\n", cwd.display());
    assert_eq!(fleet.output("one", Stdout).await, out);
    assert_eq!(fleet.output("one", Stderr).await, "err\n");
    assert_eq!(job.result.output_bytes, out.len() as u64 + 4);
    assert_eq!(job.result.output_dropped, 0);
    assert!(job.worker.unwrap().as_str().starts_with("w-0/"));
    eventually(SOON, "the job's directory is gone", async || {
        let left = std::fs::read_dir(fleet.path("worktrees-w-0")).unwrap().count();
        (left == 0).then_some(())
    })
    .await;
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_job_is_tried_again_and_then_dead() {
    let fleet = Fleet::new().await;
    let _worker = fleet.work(fleet.settings("w-0")).await;
    let twice = |id: &str, script: &str| {
        let mut job = sh(id, script);
        job["max_attempts"] = 2.into();
        job
    };
    fleet.push(&twice("fails", "echo attempt $SORTIE_ATTEMPT; exit 3"));
    let job = fleet.ends("fails", State::Dead, Some(Fault::AgentExit)).await;
    assert_eq!(job.result.exit_code, Some(3));
    assert_eq!(job.result.message.as_deref(), Some("exited with code 3"));
    assert_eq!((job.counters.attempt, job.counters.charged), (2, 2));
    assert_eq!(fleet.output("fails", Stdout).await, "attempt 1\nattempt 2\n");
    fleet.push(&twice("killed", "kill -9 $$"));
    let job = fleet.ends("killed", State::Dead, Some(Fault::AgentExit)).await;
    assert_eq!(job.result.signal, Some(9));
    fleet.push(&sh("once", "exit 3"));
    let job = fleet.ends("once", State::Failed, Some(Fault::AgentExit)).await;
    assert_eq!(job.counters.attempt, 1, "the exit code of a plain command is its answer");
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_cannot_start_fails_at_once() {
    let fleet = Fleet::new().await;
    let _worker = fleet.work(fleet.settings("w-0")).await;
    fleet.push(&json!({"id": "missing", "command": ["/no/such/program"]}));
    let job = fleet.ends("missing", State::Failed, Some(Fault::AgentExit)).await;
    assert_eq!(job.counters.attempt, 1);
    assert!(job.result.message.unwrap().contains("/no/such/program"));
    let huge = "x".repeat(200_000);
    fleet.push(&json!({"id": "huge", "command": ["true", huge]}));
    let job = fleet.ends("huge", State::Failed, Some(Fault::AgentExit)).await;
    assert!(job.result.message.unwrap().contains("argument 1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_over_its_time_is_stopped_with_all_it_started() {
    let fleet = Fleet::new().await;
    let _worker = fleet.work(fleet.settings("w-0")).await;
    let pid = fleet.path("pid");
    let script = format!("setsid sleep 300 & echo $! > {}; wait", pid.display());
    let mut job = sh("slow", &script);
    job["timeout_s"] = 1.into();
    job["max_attempts"] = 1.into();
    fleet.push(&job);
    let job = fleet.ends("slow", State::Failed, Some(Fault::Timeout)).await;
    assert_eq!(job.result.message.as_deref(), Some("over its limit of 1 s"));
    assert!(!lives(&told(&pid).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_job_is_canceled_and_its_processes_are_gone() {
    let fleet = Fleet::new().await;
    let mut settings = fleet.settings("w-0");
    // So that only the poke can be what makes it quick.
    settings.beat = Duration::from_millis(750);
    let _worker = fleet.work(settings).await;
    let pid = fleet.path("pid");
    let script =
        format!("trap '' INT TERM; echo $$ > {}; while :; do sleep 1; done", pid.display());
    fleet.push(&sh("endless", &script));
    let pid = told(&pid).await;
    let cancel = Change::Cancel { by: "ann".into() };
    fleet.store.change(&"endless".parse().unwrap(), &cancel).await.unwrap();
    let job = fleet.ends("endless", State::Canceled, Some(Fault::Canceled)).await;
    assert_eq!(job.result.message.as_deref(), Some("canceled by ann"));
    assert!(!lives(&pid));
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_sees_only_what_it_is_given() {
    let fleet = Fleet::new().await;
    let mut settings = fleet.settings("w-0");
    let profile = Profile {
        command: vec!["env".into()],
        env: BTreeMap::from([("A".into(), "profile".into()), ("B".into(), "profile".into())]),
        ..Profile::default()
    };
    settings.profiles.insert("show".into(), profile);
    let _worker = fleet.work(settings).await;
    fleet.push(&json!({
        "id": "env", "profile": "show", "prompt": "p", "model": "m",
        "env": {"A": "job", "SORTIE_FENCE": "1", "SORTIE_REPO": "x"},
    }));
    let job = fleet.ends("env", State::Succeeded, None).await;
    let output = fleet.output("env", Stdout).await;
    let env: BTreeMap<_, _> = output.lines().map(|line| line.split_once('=').unwrap()).collect();
    let names: Vec<&str> =
        env.keys().copied().filter(|name| !["LANG", "TZ"].contains(name)).collect();
    let given = [
        "A",
        "B",
        "HOME",
        "NO_COLOR",
        "PATH",
        "SORTIE_ATTEMPT",
        "SORTIE_FENCE",
        "SORTIE_JOB_ID",
        "SORTIE_MODEL",
        "SORTIE_PROMPT_FILE",
        "TERM",
        "TMPDIR",
    ];
    assert_eq!(names, given);
    assert_eq!((env["A"], env["B"], env["SORTIE_MODEL"]), ("job", "profile", "m"));
    assert_eq!(env["SORTIE_FENCE"], job.fence.to_string());
    let home = fleet.path("worktrees-w-0/env/home");
    assert_eq!(env["HOME"], home.to_str().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_or_a_script_of_a_megabyte_arrives_whole() {
    let fleet = Fleet::new().await;
    let mut settings = fleet.settings("w-0");
    let profile = Profile { command: vec!["sha256sum".into()], ..Profile::default() };
    settings.profiles.insert("sum".into(), profile);
    settings.default_profile = Some("sum".into());
    let _worker = fleet.work(settings).await;
    let prompt = "0123456789abcdé\n".repeat(70_000);
    assert!(prompt.len() > 1 << 20);
    fleet.push(&json!({"id": "prompt", "prompt": prompt}));
    fleet.push(&sh("script", &format!("# {}\necho $0 done", "x".repeat(1 << 20))));
    fleet.ends("prompt", State::Succeeded, None).await;
    let file = fleet.path("prompt");
    std::fs::write(&file, &prompt).unwrap();
    let sum = std::process::Command::new("sha256sum").arg(&file).output().unwrap().stdout;
    let sum = String::from_utf8(sum).unwrap();
    let output = fleet.output("prompt", Stdout).await;
    assert_eq!(output.split(' ').next(), sum.split(' ').next());
    fleet.ends("script", State::Succeeded, None).await;
    assert_eq!(fleet.output("script", Stdout).await, "sh done\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rule_forbids_is_rejected_and_never_runs() {
    let fleet = Fleet::new().await;
    let mut settings = fleet.settings("w-0");
    let profile = Profile { command: vec!["cat".into()], ..Profile::default() };
    settings.profiles.insert("cat".into(), profile);
    settings.policy = Policy {
        command: false,
        repos: vec!["https://good.example/*".into()],
        max_timeout_s: Some(60),
        ..Policy::default()
    };
    let _worker = fleet.work(settings).await;
    let ran = fleet.path("ran");
    fleet.push(&sh("command", &format!("touch {}", ran.display())));
    fleet.push(
        &json!({"id": "repo", "prompt": "x", "profile": "cat", "repo": "https://bad.example/a"}),
    );
    fleet.push(&json!({"id": "timeout", "prompt": "x", "profile": "cat", "timeout_s": 61}));
    fleet.push(&json!({"id": "profile", "prompt": "x", "profile": "dog"}));
    fleet.push(&json!({"id": "good", "prompt": "x", "profile": "cat"}));
    for (id, said) in [
        ("command", "rule `command`"),
        ("repo", "rule `repos`"),
        ("timeout", "rule `max_timeout_s`"),
        ("profile", "known here: cat, command"),
    ] {
        let job = fleet.ends(id, State::Rejected, Some(Fault::Policy)).await;
        let message = job.result.message.unwrap();
        assert!(message.contains(said), "{id}: {message}");
    }
    fleet.ends("good", State::Succeeded, None).await;
    assert_eq!(fleet.output("good", Stdout).await, "x");
    assert!(!ran.exists());
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_run_four_jobs_at_a_time() {
    let fleet = Fleet::new().await;
    let _low = fleet.work(fleet.settings("w-0")).await;
    let _high = fleet.work(fleet.settings("w-1")).await;
    // None of them ends before all of them have begun.
    let dir = fleet.path("begun");
    std::fs::create_dir(&dir).unwrap();
    for id in ["a", "b", "c", "d"] {
        let script = "cd $D && : > $SORTIE_JOB_ID; until [ -e a -a -e b -a -e c -a -e d ]; do sleep 0.01; done";
        let mut job = sh(id, script);
        job["env"] = json!({"D": dir.to_str().unwrap()});
        fleet.push(&job);
    }
    let mut workers = BTreeMap::<String, u32>::new();
    for id in ["a", "b", "c", "d"] {
        let job = fleet.ends(id, State::Succeeded, None).await;
        *workers.entry(job.worker.unwrap().pod().to_owned()).or_default() += 1;
    }
    assert_eq!(workers, BTreeMap::from([("w-0".into(), 2), ("w-1".into(), 2)]));
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_log_keeps_its_head_and_its_tail() {
    let fleet = Fleet::new().await;
    let _worker = fleet.work(fleet.settings("w-0")).await;
    fleet.push(&sh("long", "seq 1 1000000; sleep 0.3; echo the end"));
    let job = fleet.ends("long", State::Succeeded, None).await;
    let all = numbers(1_000_000) + "the end\n";
    assert_eq!(job.result.output_bytes, all.len() as u64);
    let mut kept = 0;
    let mut last = 0;
    for event in fleet.events("long").await {
        if let Event::Output { offset, text, .. } = event {
            let at = usize::try_from(offset).unwrap();
            assert_eq!(&all[at..at + text.len()], text, "an offset tells what it is of");
            assert!(at >= last, "in order");
            kept += text.len();
            last = at + text.len();
        }
    }
    assert_eq!(last, all.len(), "the end is there");
    assert_eq!(all.len() as u64 - kept as u64, job.result.output_dropped);
    assert!(kept > (256 << 10) + (900 << 10) && kept < (256 << 10) + (1100 << 10), "{kept}");
    let output = fleet.output("long", Stdout).await;
    assert!(output.starts_with("1\n2\n3\n") && output.ends_with("1000000\nthe end\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_arrives_while_the_job_runs() {
    let fleet = Fleet::new().await;
    let _worker = fleet.work(fleet.settings("w-0")).await;
    let go = fleet.path("go");
    let script = format!("printf first; until [ -e {} ]; do sleep 0.01; done", go.display());
    fleet.push(&sh("live", &script));
    eventually(SOON, "output of a running job", async || {
        fleet.job("live").await?;
        (fleet.output("live", Stdout).await == "first").then_some(())
    })
    .await;
    assert_eq!(fleet.job("live").await.unwrap().state, State::Running);
    std::fs::write(&go, "").unwrap();
    fleet.ends("live", State::Succeeded, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_broken_surroundings_stops_claiming() {
    let fleet = Fleet::new().await;
    let settings = fleet.settings("w-0");
    let worktrees = settings.worktrees.clone();
    let _worker = fleet.work(settings).await;
    fleet.push(&sh("fine", "true"));
    fleet.ends("fine", State::Succeeded, None).await;
    // A file where the directory was: even root can make nothing in it.
    eventually(SOON, "the directory is gone", async || {
        std::fs::remove_dir(&worktrees).ok()?;
        std::fs::write(&worktrees, "").ok()
    })
    .await;
    fleet.push(&sh("stuck", "true"));
    let reason = eventually(SOON, "the quarantine is known", async || {
        fleet.store.workers().await.unwrap().into_iter().find_map(|worker| worker.quarantine)
    })
    .await;
    assert!(reason.contains("cannot make a directory"), "{reason}");
    let job = fleet.until("stuck", "waits", |job| job.state == State::Queued).await;
    assert_eq!((job.counters.infrastructure, job.counters.charged), (3, 0));
    // Another worker does it.
    let _other = fleet.work(fleet.settings("w-1")).await;
    fleet.ends("stuck", State::Succeeded, None).await;
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_means_one_job() {
    let fleet = Fleet::new().await;
    fleet.push(&sh("first", "true"));
    fleet.push(&sh("second", "true"));
    let mut settings = fleet.settings("w-0");
    settings.once = true;
    let worker = fleet.work(settings).await;
    let ended = tokio::time::timeout(SOON, worker.0).await.unwrap().unwrap().unwrap();
    assert_eq!(ended, sortie::worker::Ended::Drained);
    assert_eq!(fleet.job("first").await.unwrap().state, State::Succeeded);
    assert_eq!(fleet.redis.ask::<u64>(&["LLEN", QUEUE]), 1);
    assert!(fleet.store.workers().await.unwrap().is_empty());
}
