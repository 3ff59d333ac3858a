//! Stores that cannot be used, each with one clear line; and what only reads or writes records.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use tempfile::TempDir;

use crate::support::SOON;
use crate::support::process::Process;

use crate::support::redis::TestRedis;
use crate::{Ran, home, run, run_with_input};

/// A command that fails for the store's sake, said in one line, with a hint in another.
fn refusal(redis: &str) -> String {
    let home = home();
    let ran = run(home.path(), &["jobs", "--redis", redis]).expect(69);
    let lines: Vec<_> = ran.err.lines().collect();
    assert!(lines.len() == 2 && lines[1].starts_with("  next: "), "{ran:?}");
    assert_eq!(ran.out, "");
    lines[0].strip_prefix("error: ").expect("it begins so").to_owned()
}

#[test]
fn nothing_listens() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let line = refusal(&format!("redis://:hush@{free}"));
    assert!(line.contains(&free.to_string()) && !line.contains("hush"), "{line}");
    assert!(refusal("nonsense://x").contains("redis://"));
}

#[test]
fn wrong_password() {
    let redis = TestRedis::on_tcp(&[]);
    redis.ask::<String>(&["CONFIG", "SET", "requirepass", "right"]);
    let line = refusal(&redis.url().replace("redis://", "redis://:wrong@"));
    assert!(line.contains("password") && !line.contains("wrong@"), "{line}");
}

#[test]
fn a_server_that_may_forget_jobs() {
    let redis = TestRedis::with(&["--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"]);
    let line = refusal(&redis.url());
    assert!(line.contains("allkeys-lru") && line.contains("noeviction"), "{line}");
    let home = home();
    let output = crate::sortie(home.path())
        .args(["jobs", "--redis", &redis.url()])
        .env("SORTIE_ALLOW_EVICTION", "true")
        .output();
    Ran::of(output.unwrap()).expect(0);
}

struct Queue {
    redis: TestRedis,
    home: TempDir,
}

impl Queue {
    fn new() -> Self {
        Self { redis: TestRedis::start(), home: home() }
    }

    fn run(&self, words: &[&str]) -> Ran {
        run(self.home.path(), &[&["--redis", &self.redis.url()], words].concat())
    }
}

#[test]
fn jobs_are_found_by_any_prefix_that_is_theirs_alone() {
    let queue = Queue::new();
    for id in ["ab-1", "ab-2", "c-3"] {
        let ran = queue.run(&["submit", "x", "--id", id]).expect(0);
        assert_eq!(ran.out, format!("{id}\n"));
        assert!(ran.err.contains("queued"), "{ran:?}");
    }
    let again = queue.run(&["submit", "x", "--id", "c-3"]).expect(0);
    assert!(again.out == "c-3\n" && again.err.contains("known already"), "{again:?}");
    assert_eq!(queue.run(&["job", "c", "--json"]).expect(0).json()["id"], "c-3");
    assert_eq!(queue.run(&["get", "ab-2", "-o", "id"]).expect(0).out, "ab-2\n");
    let both = queue.run(&["job", "ab"]).expect(3);
    assert!(both.err.contains("ab-1") && both.err.contains("ab-2"), "{both:?}");
    let none = queue.run(&["logs", "zz"]).expect(3);
    assert!(none.err.contains("\"zz\""), "{none:?}");
}

#[test]
fn lists_in_every_form() {
    let queue = Queue::new();
    queue.run(&["submit", "x", "--id", "a", "--label", "k=1", "--delay", "1h"]).expect(0);
    queue.run(&["submit", "--id", "b", "--repo", "https://h/acme/api.git", "--", "x"]).expect(0);
    let list = queue.run(&["jobs", "--json"]).expect(0).json();
    assert_eq!((&list["apiVersion"], &list["next"]), (&"sortie/v1".into(), &().into()));
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    let ids = |words: &[&str]| queue.run(&[&["jobs", "-o", "id"], words].concat()).expect(0).out;
    assert_eq!(ids(&["--label", "k=1"]), "a\n");
    assert_eq!(ids(&["--repo", "acme/api"]), "b\n");
    assert_eq!(ids(&["--state", "running,dead"]), "");
    assert_eq!(ids(&["--since", "1h", "--limit", "1"]).lines().count(), 1);
    let lines = queue.run(&["ls", "-o", "jsonl"]).expect(0).out;
    for line in lines.lines() {
        assert_eq!(serde_json::from_str::<serde_json::Value>(line).unwrap()["state"], "queued");
    }
    assert_eq!(lines.lines().count(), 2);
    assert!(queue.run(&["jobs", "-o", "yaml"]).expect(0).out.contains("- apiVersion: sortie/v1"));
    let text = queue.run(&["jobs"]).expect(0).out;
    assert!(
        text.starts_with("ID") && text.contains("acme/api") && text.contains("due in"),
        "{text}"
    );
}

#[test]
fn many_jobs_from_standard_input_are_queued_or_none() {
    let queue = Queue::new();
    let url = queue.redis.url();
    let submit =
        |input: &str| run_with_input(queue.home.path(), &["submit", "-f", "-", "-q"], &url, input);
    let many = (0..1200)
        .map(|n| format!("{{\"prompt\":\"{n}\",\"id\":\"j{n}\"}}\n"))
        .collect::<Vec<_>>()
        .concat();
    let ran = submit(&many).expect(0);
    assert_eq!(ran.out.lines().count(), 1200);
    assert_eq!((ran.out.lines().next(), ran.err.as_str()), (Some("j0"), ""));
    assert_eq!(queue.redis.ask::<u64>(&["LLEN", "sortie:queue"]), 1200);
    let wrong = submit("{\"prompt\":\"x\"}\n{\"promt\":\"y\"}\n").expect(2);
    assert!(wrong.err.contains("line 2") && wrong.err.contains("`promt`"), "{wrong:?}");
    assert_eq!(queue.redis.ask::<u64>(&["LLEN", "sortie:queue"]), 1200);
    let prompt = run_with_input(queue.home.path(), &["submit", "-", "--json"], &url, "from a pipe");
    assert_eq!(prompt.expect(0).json()["prompt"], "from a pipe");
}

#[test]
fn the_queue_can_be_paused_limited_and_cleaned() {
    let queue = Queue::new();
    let stats = || queue.run(&["queue", "--json"]).expect(0).json();
    queue.run(&["queue", "pause"]).expect(0);
    assert!(stats()["paused_by"].is_string());
    queue.run(&["queue", "resume"]).expect(0);
    assert!(stats()["paused_by"].is_null());
    queue.run(&["queue", "limit", "5"]).expect(0);
    queue.run(&["queue", "limit", "2", "--profile", "claude"]).expect(0);
    assert_eq!(stats()["limits"], serde_json::json!({"fleet": 5, "profile:claude": 2}));
    queue.run(&["queue", "limit", "none"]).expect(0);
    assert_eq!(stats()["limits"], serde_json::json!({"profile:claude": 2}));
    assert_eq!(
        queue.run(&["queue", "bad", "list", "--json"]).expect(0).json()["items"].as_array(),
        Some(&vec![])
    );
    assert!(queue.run(&["queue"]).expect(0).out.contains("limit    profile:claude: 2"));
}

#[test]
fn waiting_can_end_before_the_job_does() {
    let queue = Queue::new();
    queue.run(&["submit", "x", "--id", "a"]).expect(0);
    queue.run(&["submit", "x", "--id", "b"]).expect(0);
    for words in [
        ["wait", "a", "--timeout", "100ms"].as_slice(),
        &["wait", "a", "b", "--any", "--timeout", "100ms"],
        &["submit", "x", "--id", "third", "--wait-timeout", "100ms"],
    ] {
        let ran = queue.run(words).expect(75);
        assert!(ran.err.contains("sortie logs -f"), "{ran:?}");
    }
    queue.run(&["cancel", "b"]).expect(0);
    assert!(queue.run(&["wait", "a", "b", "--any"]).expect(6).err.contains("job b canceled"));
    queue.run(&["cancel", "a", "nobody"]).expect(3);
    queue.run(&["wait", "a", "b"]).expect(6);
    // Its log has one entry, its end; then it is retried, deleted only when it has ended again.
    assert!(queue.run(&["logs", "-f", "a"]).expect(0).err.contains("canceled"));
    queue.run(&["retry", "a"]).expect(0);
    assert!(queue.run(&["delete", "a"]).expect(1).err.contains("sortie cancel a"));
    queue.run(&["cancel", "a"]).expect(0);
    assert!(queue.run(&["delete", "a"]).expect(0).out.contains("forgotten"));
    queue.run(&["job", "a"]).expect(3);
}

#[test]
fn a_retried_jobs_log_goes_on_after_its_first_end() {
    let queue = Queue::new();
    queue.run(&["submit", "x", "--id", "one"]).expect(0);
    queue.run(&["cancel", "one"]).expect(0);
    queue.run(&["retry", "one"]).expect(0);
    let mut command = crate::sortie(queue.home.path());
    command.args(["logs", "-f", "one"]).env("SORTIE_REDIS_URL", queue.redis.url());
    let mut following = Process::spawn(command.stderr(Stdio::piped()));
    let mut lines = BufReader::new(following.child().stderr.take().unwrap()).lines();
    let mut next = || lines.next().map(Result::unwrap).unwrap_or_default();
    assert!(next().starts_with("· canceled"));
    assert!(next().starts_with("· queued"));
    queue.run(&["cancel", "one"]).expect(0);
    assert!(next().starts_with("· canceled"));
    assert_eq!(following.wait_blocking(SOON).code(), Some(0));
}

#[test]
fn changes_are_shown_as_they_happen() {
    let queue = Queue::new();
    for (words, state) in [
        (["jobs", "--watch", "-o", "jsonl"], "canceled"),
        (["events", "-f", "-o", "jsonl"], "canceled"),
    ] {
        queue.run(&["submit", "x", "--id", "a"]).expect(0);
        let mut command = crate::sortie(queue.home.path());
        command.args(words).env("SORTIE_REDIS_URL", queue.redis.url()).stdout(Stdio::piped());
        let mut watching = Process::spawn(&mut command);
        let out = watching.child().stdout.take().unwrap();
        let mut states = BufReader::new(out).lines().map(|line| {
            let json: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            json["state"].as_str().unwrap().to_owned()
        });
        // What is there already comes first; then the change is not missed.
        assert_eq!(states.next().unwrap(), "queued");
        queue.run(&["cancel", "a"]).expect(0);
        assert!(states.any(|new| new == state), "{words:?}");
        watching.sigkill();
        queue.run(&["delete", "a"]).expect(0);
        queue.redis.ask::<String>(&["FLUSHALL"]);
    }
}

#[test]
fn upkeep_finds_nothing_to_complain_about() {
    let queue = Queue::new();
    queue.run(&["submit", "x"]).expect(0);
    queue.run(&["fsck"]).expect(0);
    assert_eq!(queue.run(&["gc", "--dry-run", "--json"]).expect(0).json()["records"], 0);
    let doctor = queue.run(&["doctor"]).expect(0);
    assert!(doctor.out.contains("git version") && doctor.out.contains("Redis"), "{doctor:?}");
    let ran = queue.run(&["doctor", "--shared", "/proc/nowhere"]).expect(1);
    assert!(ran.out.contains("--shared") && ran.out.contains("SORTIE_SHARED"), "{ran:?}");
    queue.redis.ask::<u64>(&["ZADD", "{sortie:queue}:pending", "1", "stray"]);
    assert!(queue.run(&["fsck"]).expect(1).out.contains("stray"));
}
