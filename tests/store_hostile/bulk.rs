//! Queues that are far too long: what a job costs the server in memory, and each call in time.

use sortie::core::JobSpec;
use sortie::store::{Change, Control};

use crate::rig::{QUEUE, Rig, SUCCEEDED, Worker, finish, key};

const MANY: usize = 100_000;

fn plain() -> JobSpec {
    JobSpec { prompt: Some("p".into()), ..JobSpec::default() }
}

fn info(rig: &Rig, section: &str, name: &str) -> String {
    let text: String = rig.ask(&["INFO", section]);
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
}

fn used_memory(rig: &Rig) -> u64 {
    info(rig, "memory", "used_memory").parse().expect("a number")
}

/// Mean time of a script call in µs since the last `CONFIG RESETSTAT`, by the server's own clock.
fn mean_us(rig: &Rig) -> f64 {
    let text: String = rig.ask(&["INFO", "commandstats"]);
    let (mut answered, mut us) = (0.0, 0.0);
    for line in text.lines().filter(|line| line.starts_with("cmdstat_eval")) {
        let number = |name: &str| -> f64 {
            let field = line.split([',', ':']).find_map(|field| field.strip_prefix(name));
            field.expect("a field of every command").parse().expect("a number")
        };
        // A script that the server does not know yet is sent twice.
        answered += number("calls=") - number("failed_calls=");
        us += number("usec=");
    }
    us / answered
}

/// 100,000 pushes that nobody opened yet, in front of everything.
fn push_many(rig: &Rig) {
    let fill =
        "for i = 1, ARGV[1] do redis.call('RPUSH', KEYS[1], '{\"prompt\":\"' .. i .. '\"}') end";
    rig.ask::<Option<u64>>(&["EVAL", fill, "1", QUEUE, &MANY.to_string()]);
}

/// Ends what it holds and claims the next, as a busy worker does.
async fn run(worker: &Worker, rounds: usize) {
    let mut held = worker.one().await;
    for _ in 0..rounds {
        let answer = worker.send(&worker.call(1, vec![finish(&held, SUCCEEDED)])).await;
        held = answer.claimed.into_iter().next().expect("there is more");
    }
    worker.end(&held, SUCCEEDED).await;
}

#[tokio::test]
async fn a_queued_job_takes_no_more_than_600_bytes_beside_its_own() {
    let rig = Rig::new().await;
    let worker = rig.worker("w", None, 1).await;
    worker.beat(&[]).await;
    rig.submit_many(1, &plain()).await;
    let before = used_memory(&rig);
    rig.submit_many(MANY, &plain()).await;
    let bytes = (used_memory(&rig) - before) / MANY as u64;
    let payload = plain().to_json().len() as u64;
    assert!(bytes - payload <= 600, "{} bytes beside the payload of {payload}", bytes - payload);
}

/// The hot path costs the same with 100,000 jobs behind it as with a few hundred.
#[tokio::test]
async fn an_exchange_does_not_grow_with_the_queue() {
    let rig = Rig::new().await;
    let worker = rig.worker("w-0", Some(0), 1).await;
    let mut means = Vec::new();
    for waiting in [1_000, MANY] {
        rig.submit_many(waiting, &plain()).await;
        run(&worker, 20).await;
        // The least of several: on a busy machine the server itself is made to wait.
        let mut least = f64::MAX;
        for _ in 0..8 {
            rig.ask::<String>(&["CONFIG", "RESETSTAT"]);
            run(&worker, 50).await;
            least = least.min(mean_us(&rig));
        }
        means.push(least);
    }
    assert!(means[1] < 4.0 * means[0] + 100.0, "µs a call: {means:?}");
}

/// The longest single call of each kind, in µs by the server's clock, with 100,000 of everything.
#[tokio::test]
async fn no_call_stops_the_server() {
    let rig = Rig::new().await;
    let mut fleet = Vec::new();
    for n in 0..300 {
        fleet.push(rig.worker(&format!("w-{n}"), Some(n), 2).await);
    }
    rig.submit_many(MANY, &plain()).await;
    push_many(&rig);
    let fill = "for i = 1, 300000 do redis.call('ZADD', KEYS[1], 1, i) end";
    rig.ask::<Option<u64>>(&["EVAL", fill, "1", &key("done")]);
    let mut slow: Vec<(&str, f64)> = Vec::new();
    let mut step = |name: &'static str| {
        slow.push((name, mean_us(&rig)));
        rig.ask::<String>(&["CONFIG", "RESETSTAT"]);
    };
    rig.ask::<String>(&["CONFIG", "RESETSTAT"]);
    fleet[299].beat(&[]).await;
    step("beat");
    let held = fleet[299].claim(2).await;
    step("claim");
    fleet[299].end(&held[0], SUCCEEDED).await;
    step("finish");
    rig.worker("w-299", Some(299), 2).await;
    step("register");
    let jobs = rig.ask::<Vec<String>>(&["ZRANGE", &key("pending"), "50000", "50019"]);
    for id in &jobs {
        rig.cancel(&id.parse().unwrap()).await;
    }
    step("cancel");
    for id in &jobs {
        rig.change(&id.parse().unwrap(), Change::Retry { fresh: false }).await;
    }
    step("retry");
    let unknown = "nobody".parse().unwrap();
    rig.store.change(&unknown, &Change::Cancel { by: "x".into() }).await.unwrap_err();
    step("cancel of an unknown job");
    rig.limit(Some("q"), Some(1)).await;
    step("limit");
    rig.store.control(&Control::Pause { by: "x".into() }).await.unwrap();
    step("pause");
    let longest = slow.iter().map(|(_, mean)| *mean).fold(0.0, f64::max);
    assert!(longest < 100_000.0, "µs a call: {slow:?}");
}

/// Tickets are all the same; the one to take away is not looked for behind 100,000 pushes.
#[tokio::test]
async fn a_cancel_does_not_search_the_list() {
    let rig = Rig::new().await;
    push_many(&rig);
    rig.submit_many(40, &plain()).await;
    let jobs = rig.ask::<Vec<String>>(&["ZRANGE", &key("pending"), "0", "-1"]);
    let mut least = f64::MAX;
    for some in jobs.chunks(5) {
        rig.ask::<String>(&["CONFIG", "RESETSTAT"]);
        for id in some {
            rig.cancel(&id.parse().unwrap()).await;
        }
        least = least.min(mean_us(&rig));
    }
    assert!(least < 500.0, "{least} µs a cancel");
    assert_eq!(rig.pending(), MANY as u64);
    rig.assert_sound().await;
}
