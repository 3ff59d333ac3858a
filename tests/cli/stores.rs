//! Stores that cannot be used, each with one clear line; and what only reads or writes records.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use tempfile::TempDir;

use crate::support::process::Process;
use crate::support::{SOON, eventually_blocking};

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

#[test]
fn a_push_that_nobody_opened_yet_has_no_age() {
    let queue = Queue::new();
    queue.redis.ask::<u64>(&["RPUSH", "sortie:queue", r#"{"id":"raw","command":["true"]}"#]);
    let row = queue.run(&["jobs"]).expect(0).out.lines().nth(1).unwrap().to_owned();
    let cells: Vec<_> = row.split_whitespace().collect();
    assert_eq!(cells[..6], ["raw", "queued", "command", "-", "-", "-"], "{row}");
    assert!(queue.run(&["job", "raw", "--json"]).expect(0).json()["created_at"].is_null());
    assert!(!queue.run(&["job", "raw"]).expect(0).out.contains("created"));
    let logs = queue.run(&["logs", "raw"]).expect(0);
    assert!(logs.err.contains("nothing is written yet"), "{logs:?}");
}

#[test]
fn who_waits_alone_is_told() {
    let queue = Queue::new();
    assert!(queue.run(&["jobs"]).expect(0).err.contains("no job is kept"));
    let ran = queue.run(&["submit", "x"]).expect(0);
    assert!(ran.err.contains("there is no worker yet; `sortie worker`"), "{ran:?}");
    assert!(queue.run(&["jobs", "--label", "a=b"]).expect(0).err.contains("no job matches"));
    assert_eq!(queue.run(&["submit", "x", "-q"]).expect(0).err, "");
}

#[test]
fn a_store_that_goes_away_does_not_end_the_job() {
    let queue = Queue::new();
    queue.run(&["submit", "x", "--id", "a"]).expect(0);
    for words in [["wait", "a"].as_slice(), &["submit", "--wait", "y", "--id", "b"]] {
        let mut command = crate::sortie(queue.home.path());
        command.args(words).env("SORTIE_REDIS_URL", queue.redis.url()).stderr(Stdio::piped());
        let mut waiting = Process::spawn(command.stdout(Stdio::null()));
        eventually_blocking(SOON, "it waits for its job's log", || {
            let clients: String = queue.redis.ask(&["CLIENT", "LIST"]);
            clients.contains("cmd=xread").then_some(())
        });
        queue.redis.sigkill();
        let code = waiting.wait_blocking(SOON).code();
        let said = std::io::read_to_string(waiting.child().stderr.take().unwrap()).unwrap();
        let id = words.last().unwrap();
        assert_eq!(code, Some(69), "{said}");
        assert!(said.contains(&format!("job {id} goes on; `sortie wait {id}`")), "{said}");
        queue.redis.restart();
        queue.run(&["submit", "x", "--id", "a"]).expect(0);
    }
}

#[test]
fn what_has_ended_and_is_over_its_time_is_collected() {
    let queue = Queue::new();
    queue.run(&["submit", "x", "--id", "a"]).expect(0);
    queue.run(&["cancel", "a"]).expect(0);
    let gc = |words: &[&str]| {
        let mut command = crate::sortie(queue.home.path());
        command.arg("gc").args(words).args(["--json", "--redis", &queue.redis.url()]);
        Ran::of(command.env("SORTIE_JOB_TTL", "1ms").output().unwrap()).expect(0).json()["records"]
            .clone()
    };
    assert_eq!(gc(&["--dry-run"]), 1);
    queue.run(&["job", "a"]).expect(0);
    assert_eq!((gc(&[]), gc(&[])), (1.into(), 0.into()));
    queue.run(&["job", "a"]).expect(3);
}

#[test]
fn a_small_terminal_shows_the_first_jobs() {
    let queue = Queue::new();
    for id in ["one", "two", "three", "four"] {
        queue.run(&["submit", "x", "--id", id]).expect(0);
    }
    // `script` gives the command a terminal, and passes on what it draws there.
    let binary = env!("CARGO_BIN_EXE_sortie");
    let watch = format!("stty rows 3 cols 20; exec {binary} jobs --watch");
    let mut command = std::process::Command::new("script");
    command.args(["-qfec", &watch, "/dev/null"]).env("SORTIE_REDIS_URL", queue.redis.url());
    command.env("HOME", queue.home.path()).env("NO_COLOR", "1").stdin(Stdio::null());
    let mut watching = Process::spawn(command.stdout(Stdio::piped()));
    let mut drawn = BufReader::new(watching.child().stdout.take().unwrap());
    let mut screen = Vec::new();
    // Lines are cut off only while the screen is drawn.
    while !screen.ends_with(b"\x1b[?7h") {
        assert!(drawn.read_until(b'h', &mut screen).unwrap() > 0, "{screen:?}");
    }
    let screen = String::from_utf8(screen).unwrap();
    assert!(screen.starts_with("\x1b[?7l\x1b[2J\x1b[1;1H\x1b[2KID "), "{screen:?}");
    assert!(screen.contains("\x1b[5;1H") && !screen.contains('\n'), "{screen:?}");
}
