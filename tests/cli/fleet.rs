//! Commands beside a worker that runs jobs.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::process::{Process, sortie};
use crate::support::redis::TestRedis;
use crate::support::repo::TestRepo;
use crate::support::{SOON, eventually_blocking};
use crate::{Ran, home, run};

struct Fleet {
    redis: TestRedis,
    home: TempDir,
    /// Killed with the fleet; with it the processes of its jobs.
    _worker: Process,
}

impl Fleet {
    fn new() -> Self {
        let (redis, home) = (TestRedis::start(), home());
        let profiles = home.path().join("profiles");
        std::fs::create_dir(&profiles).expect("a directory for profiles");
        std::fs::write(profiles.join("echo.toml"), "command = ['cat']").expect("a profile");
        let mut command = sortie(home.path());
        command
            .args(["worker", "--name", "cli-0", "--slots", "2", "--redis", &redis.url()])
            .args([
                "--lease",
                "6s",
                "--beat",
                "500ms",
                "--freeze-margin",
                "1s",
                "--grace",
                "2s",
                "--retry-base",
                "10ms",
            ])
            .args(["--default-profile", "echo", "--log-format", "json"])
            .arg("--profiles")
            .arg(profiles)
            .arg("--worktrees")
            .arg(home.path().join("worktrees"))
            .arg("--shared")
            .arg(home.path().join("shared"))
            .stderr(Stdio::null());
        let fleet = Self { _worker: Process::spawn(&mut command), redis, home };
        eventually_blocking(SOON, "the worker is there", || {
            (fleet.run(&["workers", "-o", "id"]).expect(0).out.lines().count() == 1).then_some(())
        });
        fleet
    }

    fn run(&self, words: &[&str]) -> Ran {
        run(self.home.path(), &[&["--redis", &self.redis.url()], words].concat())
    }

    /// Starts a command, to interrupt it.
    fn start(&self, words: &[&str]) -> Process {
        let mut command = sortie(self.home.path());
        command
            .args(words)
            .env("SORTIE_REDIS_URL", self.redis.url())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Process::spawn(&mut command)
    }

    fn until(&self, id: &str, state: &str) {
        eventually_blocking(SOON, state, || {
            let job = self.run(&["job", id, "--json"]).json();
            (job["state"] == state).then_some(())
        });
    }
}

/// Everything a process still says on standard error.
fn rest(process: &mut Process) -> String {
    let pipe = process.child().stderr.take().expect("it is piped");
    std::io::read_to_string(pipe).expect("text")
}

#[test]
fn a_command_ends_as_its_job_ends() {
    let fleet = Fleet::new();
    let ran = fleet.run(&["run", "--", "sh", "-c", "echo out; echo err >&2"]).expect(0);
    assert_eq!(ran.out, "out\n");
    assert!(ran.err.contains("\nerr\n") && ran.err.contains("running on cli-0"), "{ran:?}");
    assert!(ran.err.contains("succeeded after"), "{ran:?}");

    let fails = ["--max-attempts", "1", "--", "sh", "-c", "exit 42"];
    fleet.run(&[&["run"], fails.as_slice()].concat()).expect(1);
    fleet.run(&["run", "--max-attempts", "2", "--", "false"]).expect(5);
    fleet.run(&["run", "--max-attempts", "1", "--timeout", "1s", "--", "sleep", "60"]).expect(4);
    fleet.run(&[&["run", "--agent-exit-code"], fails.as_slice()].concat()).expect(42);
    fleet.run(&["submit", "--wait", "--", "/does/not/exist"]).expect(1);
    assert_eq!(fleet.run(&["run", "from the prompt"]).expect(0).out, "from the prompt");
    fleet.run(&["run", "--profile", "nobody-has-it", "x"]).expect(7);

    let job = fleet.run(&["submit", "--wait", "--json", "--", "true"]).expect(0).json();
    assert_eq!((&job["state"], &job["exit_code"]), (&"succeeded".into(), &0.into()));
    assert_eq!((&job["pod_name"], &job["attempt"]), (&"cli-0".into(), &1.into()));
    let lines = fleet.run(&["run", "-o", "jsonl", "--", "echo", "hi"]).expect(0).out;
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["type"] == "output" && line["text"] == "hi\n"));
    assert_eq!(lines.last().unwrap()["state"], "succeeded");
    assert!(lines.last().unwrap()["type"].is_null());
}

#[test]
fn logs_of_a_job_that_has_ended() {
    let fleet = Fleet::new();
    let script = "for i in 1 2 3; do echo $i; done; echo problem >&2";
    fleet.run(&["submit", "--wait", "--id", "a", "--", "sh", "-c", script]).expect(0);
    let logs = |words: &[&str]| fleet.run(&[&["logs", "a"], words].concat()).expect(0);
    let all = logs(&[]);
    assert_eq!(all.out, "1\n2\n3\n");
    assert!(all.err.contains("problem\n") && all.err.contains("· succeeded"), "{all:?}");
    assert_eq!(
        (logs(&["--raw"]).err.as_str(), logs(&["-f"]).out.as_str()),
        ("problem\n", "1\n2\n3\n")
    );
    assert_eq!(logs(&["--only", "stdout", "--tail", "2"]).out.lines().count(), 2);
    assert_eq!(logs(&["--attempt", "2"]).out, "");
    assert_eq!(logs(&["--since", "2100-01-01T00:00:00Z"]).out, "");
    let items = logs(&["--json"]).json()["items"].as_array().unwrap().len();
    assert_eq!(logs(&["-o", "jsonl"]).out.lines().count(), items);
    let events = fleet.run(&["events", "-o", "jsonl"]).expect(0).out;
    let last: serde_json::Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    assert_eq!((&last["job"], &last["state"]), (&"a".into(), &"succeeded".into()));
}

#[test]
fn an_interrupt_leaves_the_job_alone_or_cancels_it() {
    let fleet = Fleet::new();
    let script = "echo begun; exec sleep 600";
    for (flags, code, state) in [
        (["run", "--id", "a"].as_slice(), 130, "running"),
        (&["run", "--id", "b", "--cancel-on-interrupt"], 6, "canceled"),
    ] {
        let mut waiting = fleet.start(&[flags, &["--", "sh", "-c", script]].concat());
        let mut line = String::new();
        let mut out = BufReader::new(waiting.child().stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "begun\n", "output is shown while the job runs");
        waiting.signal(Signal::SIGINT);
        let status = waiting.wait_blocking(SOON);
        let said = rest(&mut waiting);
        assert_eq!(status.code(), Some(code), "{said}");
        assert_eq!(said.contains("sortie logs -f a"), code == 130, "{said}");
        assert_eq!(fleet.run(&["job", flags[2], "--json"]).json()["state"], state);
    }
    fleet.run(&["cancel", "a"]).expect(0);
    fleet.run(&["wait", "a"]).expect(6);
}

#[test]
fn a_drain_hands_back_what_does_not_end_and_may_be_repeated() {
    let fleet = Fleet::new();
    fleet.run(&["submit", "--id", "a", "--", "sleep", "600"]).expect(0);
    fleet.until("a", "running");
    let unknown = fleet.run(&["drain", "--worker", "nobody"]).expect(2);
    assert!(unknown.err.contains("cli-0/"), "{unknown:?}");
    // Without a name it finds the worker of this host.
    let drained = fleet.run(&["drain", "--timeout", "2s"]).expect(3);
    assert_eq!(drained.out, "a\n", "{drained:?}");
    let job = fleet.run(&["job", "a", "--json"]).json();
    assert_eq!((&job["state"], &job["fault"]), (&"queued".into(), &"interrupted".into()));
    assert_eq!((&job["attempt"], &job["charged"]), (&1.into(), &0.into()));
    fleet.run(&["drain", "--worker", "cli-0", "--timeout", "2s"]).expect(0);
    let workers = fleet.run(&["workers", "--json"]).expect(0).json();
    assert_eq!(workers["items"][0]["state"], "draining");
}

#[test]
fn a_pod_whose_worker_has_left_has_nothing_to_drain() {
    let redis = TestRedis::start();
    let home = home();
    let drain = |pod: Option<&str>| {
        let mut command = sortie(home.path());
        command.args(["drain", "--redis", &redis.url()]);
        Ran::of(command.envs(pod.map(|pod| ("POD_NAME", pod))).output().unwrap())
    };
    drain(Some("sortie-0")).expect(0);
    assert!(drain(None).expect(2).err.contains("no worker is registered"));
}

#[test]
fn a_reader_who_leaves_does_not_make_a_job_a_success() {
    let fleet = Fleet::new();
    let script = "while echo more; do sleep 0.1; done";
    let mut run = fleet.start(&["run", "--id", "a", "--", "sh", "-c", script]);
    let mut out = BufReader::new(run.child().stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    drop(out);
    assert_eq!(run.wait_blocking(SOON).code(), Some(130));
    fleet.until("a", "running");
    fleet.run(&["cancel", "a"]).expect(0);
    fleet.run(&["wait", "a"]).expect(6);
    // The end is known before it is printed.
    let mut command = sortie(fleet.home.path());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.args(["wait", "a", "--json", "--redis", &fleet.redis.url()]).stdout(writer);
    Ran::of(command.output().unwrap()).expect(6);
}

#[test]
fn a_retry_goes_on_or_starts_afresh() {
    let (fleet, repo) = (Fleet::new(), TestRepo::new());
    let script = "ls; test -f half && exit 0; echo x >half; echo no >&2; exit 1";
    let job = ["--id", "a", "--max-attempts", "1", "--repo", &repo.url(), "--", "sh", "-c", script];
    fleet.run(&[&["submit", "--wait"], job.as_slice()].concat()).expect(1);
    let retried = fleet.run(&["retry", "a"]).expect(0);
    assert!(retried.out.contains("refs/sortie/a/1"), "{retried:?}");
    fleet.run(&["wait", "a"]).expect(0);
    assert!(fleet.run(&["retry", "a", "--fresh"]).expect(0).out.contains("from the start"));
    fleet.run(&["wait", "a"]).expect(1);

    let logs = |words: &[&str]| fleet.run(&[&["logs", "a"], words].concat()).expect(0);
    assert_eq!(logs(&["--attempt", "1", "--raw"]).out, "README\n");
    assert_eq!(logs(&["--attempt", "2", "--raw"]).out, "README\nhalf\n");
    assert_eq!(logs(&["--attempt", "3", "--raw"]).out, "README\n");
    assert_eq!(logs(&["--tail", "1", "--only", "stdout"]).out, "README\n");
    let errors = logs(&["--only", "stderr"]);
    assert_eq!((errors.out.as_str(), errors.err.as_str()), ("", "no\nno\n"));
    let events = logs(&["--only", "events"]);
    assert!(events.out.is_empty() && events.err.contains("retried by"), "{events:?}");
    let recent = logs(&["--since", "1h"]);
    assert_eq!(recent.out, "README\nREADME\nhalf\nREADME\n");
    let row = fleet.run(&["jobs"]).expect(0).out;
    assert!(!row.contains("3/1"), "more attempts than are allowed: {row}");
    assert!(fleet.run(&["delete", "a"]).expect(0).out.contains("forgotten"));
    fleet.run(&["logs", "a"]).expect(3);
}

#[test]
fn bad_pushes_are_queued_again_or_dropped() {
    let fleet = Fleet::new();
    let push = |text: &str| fleet.redis.ask::<u64>(&["RPUSH", "sortie:queue", text]);
    let bad = || -> Vec<String> {
        let ids = fleet.run(&["queue", "bad", "list", "-o", "id"]).expect(0).out;
        ids.lines().map(ToOwned::to_owned).collect()
    };
    let until = |count: usize| {
        eventually_blocking(SOON, "so many bad pushes", || Some(bad()).filter(|b| b.len() == count))
    };
    push("nonsense");
    push(r#"{"promt":"x"}"#);
    let first = until(2);
    let list = fleet.run(&["queue", "bad", "list"]).expect(0).out;
    assert!(list.contains("nonsense") && list.contains("unknown field `promt`"), "{list}");
    // It is opened again, and as bad as before; the other one stays where it is.
    let ran = fleet.run(&["queue", "bad", "requeue", &first[0]]).expect(0);
    assert_eq!(ran.out, "1 push queued again\n");
    let second = eventually_blocking(SOON, "it is bad again", || {
        Some(bad()).filter(|ids| ids.len() == 2 && !ids.contains(&first[0]))
    });
    assert!(second.contains(&first[1]));
    let ran = fleet.run(&["queue", "bad", "drop", &first[1], "nobody"]).expect(3);
    assert_eq!(ran.out, "1 push removed\n");
    assert!(ran.err.contains("nobody") && !ran.err.contains(&first[1]), "{ran:?}");
    assert_eq!(fleet.run(&["queue", "bad", "drop", "--all"]).expect(0).out, "1 push removed\n");
    until(0);
}

#[test]
fn a_limit_on_a_profile_holds_its_jobs_back() {
    let fleet = Fleet::new();
    fleet.run(&["queue", "limit", "1", "--profile", "command"]).expect(0);
    fleet.run(&["submit", "--id", "a", "--", "sleep", "600"]).expect(0);
    fleet.until("a", "running");
    fleet.run(&["submit", "--id", "b", "--", "true"]).expect(0);
    // Another profile is not held back.
    fleet.run(&["run", "from the prompt"]).expect(0);
    let held = eventually_blocking(SOON, "it is held back", || {
        let job = fleet.run(&["job", "b", "--json"]).json();
        job["held_by"].as_str().map(ToOwned::to_owned)
    });
    assert_eq!(held, "limit of profile command");
    fleet.run(&["queue", "limit", "none", "--profile", "command"]).expect(0);
    assert!(fleet.run(&["wait", "--any", "a", "b"]).expect(0).err.contains("job b succeeded"));
}
