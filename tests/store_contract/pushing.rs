//! Jobs that any Redis client pushes on the list: run as they are, or shown with what is wrong.

use serde_json::{Value, json};
use sortie::core::spec::SPEC_MAX_BYTES;
use sortie::core::{JobSpec, State};
use sortie::store::{BadAction, BadTicket, Found, Kind};

use crate::bench::{Bench, QUEUE, SUCCEEDED, Worker, id, ids};

/// Pushes at the end of the queue, as any client may.
fn push(bench: &Bench, ticket: &str) {
    bench.redis().ask::<u64>(&["RPUSH", QUEUE, ticket]);
}

fn push_id(bench: &Bench, name: &str) {
    push(bench, &json!({ "id": name, "prompt": "p" }).to_string());
}

async fn bad(bench: &Bench) -> Vec<BadTicket> {
    bench.store.bad(&BadAction::List).await.unwrap()
}

/// The only job that can be claimed, as it was parsed by its worker.
async fn claimed_spec(worker: &Worker) -> JobSpec {
    JobSpec::from_json(&worker.one().await.bytes).unwrap()
}

pub async fn a_pushed_job_runs(bench: &Bench) {
    let worker = bench.worker().await;
    push(bench, r#"{"prompt":"fix it","repo":"https://example.com/r.git"}"#);
    let stats = bench.stats().await;
    assert_eq!((stats.pending, stats.unopened), (1, 1));
    let claimed = worker.one().await;
    let job = bench.job(&claimed.token.id).await;
    assert_eq!((job.state, job.counters.attempt), (State::Running, 1));
    assert_eq!(job.spec.prompt.as_deref(), Some("fix it"));
    worker.end(&claimed, SUCCEEDED).await;
    let stats = bench.stats().await;
    assert_eq!((stats.pending, stats.unopened, stats.done), (0, 0, 1));
    assert_eq!((stats.totals["adopted"], stats.totals["succeeded"]), (1, 1));
}

pub async fn pushed_jobs_without_an_id_are_each_a_job(bench: &Bench) {
    let worker = bench.worker().await;
    for _ in 0..3 {
        push(bench, r#"{"prompt":"same"}"#);
    }
    let held = worker.claim(9).await;
    let mut names = ids(&held);
    names.dedup();
    assert_eq!(names.len(), 3);
    assert!(names.iter().all(|name| name.len() == 36), "{names:?}");
}

pub async fn pushes_and_submits_share_one_order(bench: &Bench) {
    let worker = bench.worker().await;
    push_id(bench, "a");
    bench.submit_ids(&["b"]).await;
    push_id(bench, "c");
    bench.submit_ids(&["d"]).await;
    assert_eq!(bench.stats().await.pending, 4);
    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(worker.one().await.token.id.to_string());
    }
    assert_eq!(order, ["a", "b", "c", "d"]);
}

pub async fn a_push_at_the_head_runs_next(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a", "b"]).await;
    bench.submit(json!({ "id": "urgent", "priority": 1 })).await;
    bench.redis().ask::<u64>(&["LPUSH", QUEUE, r#"{"id":"next","prompt":"p"}"#]);
    assert_eq!(ids(&worker.claim(9).await), ["urgent", "next", "a", "b"]);
}

pub async fn a_push_with_a_known_id_is_no_second_job(bench: &Bench) {
    let worker = bench.worker().await;
    push_id(bench, "a");
    push_id(bench, "a");
    bench.submit_ids(&["b"]).await;
    push_id(bench, "b");
    assert_eq!(ids(&worker.claim(9).await), ["a", "b"]);
    let stats = bench.stats().await;
    assert_eq!((stats.pending, stats.totals["duplicate"], stats.bad), (0, 2, 0));
    push(bench, r#"{"id":"c","prompt":"p","idempotency_key":"k"}"#);
    push(bench, r#"{"id":"d","prompt":"p","idempotency_key":"k"}"#);
    assert_eq!(ids(&worker.claim(9).await), ["c"]);
}

pub async fn a_submit_of_a_pushed_id_is_the_pushed_job(bench: &Bench) {
    let worker = bench.worker().await;
    push(bench, r#"{"id":"a","prompt":"pushed"}"#);
    bench.submit_all([json!({ "id": "a", "prompt": "submitted" })]).await;
    let held = worker.claim(9).await;
    assert_eq!(ids(&held), ["a"], "one job, whichever of the two it is");
    assert_eq!(bench.stats().await.pending, 0);
}

pub async fn pushed_bytes_are_kept_exactly(bench: &Bench) {
    let worker = bench.worker().await;
    let ticket = "{ \"prompt\" : \"\\u00e9\\/\\ud83d\\ude00 é\",\r\n\t\"env\":{\"B\":\"9007199254740993\",\"A\":\"\"} ,\"id\":\"a\"}  ";
    push(bench, ticket);
    let claimed = worker.one().await;
    assert_eq!(String::from_utf8(claimed.bytes).unwrap(), ticket);
    let Found::One(job) = bench.store.get("a").await.unwrap() else { panic!("not found") };
    assert_eq!(job.spec, JobSpec::from_json(ticket.as_bytes()).unwrap());
}

pub async fn space_around_a_push_does_no_harm(bench: &Bench) {
    let worker = bench.worker().await;
    push(bench, "\n  {\"id\":\"a\",\"prompt\":\"p\"}\n");
    assert_eq!(ids(&worker.claim(1).await), ["a"]);
}

pub async fn a_pushed_prompt_may_have_a_megabyte(bench: &Bench) {
    let worker = bench.worker().await;
    let prompt = "p".repeat(1 << 20);
    push(bench, &json!({ "prompt": prompt }).to_string());
    assert_eq!(claimed_spec(&worker).await.prompt, Some(prompt));
}

pub async fn fields_have_their_older_names_too(bench: &Bench) {
    let worker = bench.worker().await;
    push(bench, r#"{"task":"t","repo_url":"r","base_ref":"b","timeout":7}"#);
    let spec = claimed_spec(&worker).await;
    assert_eq!((spec.prompt.as_deref(), spec.repo.as_deref()), (Some("t"), Some("r")));
    assert_eq!((spec.reference.as_deref(), spec.timeout_s), (Some("b"), Some(7)));
}

pub async fn a_field_that_is_null_is_missing(bench: &Bench) {
    let worker = bench.worker().await;
    push(bench, r#"{"prompt":"p","repo":null,"delay_ms":null,"timeout_s":null}"#);
    worker.one().await;
}

pub async fn pushed_fields_have_their_effect(bench: &Bench) {
    let worker = bench.worker().await;
    let push = |spec: Value| push(bench, &spec.to_string());
    push(json!({ "id": "later", "prompt": "p", "delay_ms": 900_000 }));
    push(json!({ "id": "low", "prompt": "p", "priority": -5 }));
    push(json!({ "id": "one", "command": ["true"], "concurrency_key": "k" }));
    push(json!({ "id": "two", "command": ["true"], "concurrency_key": "k" }));
    let mut order = Vec::new();
    for _ in 0..3 {
        order.extend(worker.claim(1).await.into_iter().map(|claimed| claimed.token.id.to_string()));
    }
    order.sort();
    assert_eq!(order, ["low", "one"]);
    let stats = bench.stats().await;
    assert_eq!((stats.later, stats.parked, stats.pending), (1, 1, 0));
    assert_eq!(bench.job(&id("low")).await.spec.priority, -5);
}

/// Each push that is no job, and what its reason must name.
const WRONG: &[(&str, &str)] = &[
    (r#"{"promt":"x"}"#, "promt"),
    (r#"{"prompt":"x","unknown_thing":1}"#, "unknown_thing"),
    (r#"{"prompt":"x"#, "JSON"),
    ("{}", "prompt"),
    ("{", "JSON"),
    ("", "JSON"),
    ("hello", "JSON"),
    ("[1]", "object"),
    (r#"["prompt"]"#, "object"),
    ("12", "object"),
    (r#""prompt""#, "object"),
    ("null", "object"),
    (r#"{"prompt":1}"#, "prompt"),
    (r#"{"prompt":{}}"#, "prompt"),
    (r#"{"prompt":"  "}"#, "prompt"),
    (r#"{"prompt":"p","repo":true}"#, "repo"),
    (r#"{"prompt":"p","priority":"high"}"#, "priority"),
    (r#"{"prompt":"p","priority":11}"#, "priority"),
    (r#"{"prompt":"p","priority":1.5}"#, "priority"),
    (r#"{"prompt":"p","delay_ms":-1}"#, "delay_ms"),
    (r#"{"prompt":"p","delay_ms":1e300}"#, "delay_ms"),
    (r#"{"prompt":"p","timeout_s":0}"#, "timeout_s"),
    (r#"{"prompt":"p","timeout":-3}"#, "timeout"),
    (r#"{"prompt":"p","max_attempts":0}"#, "max_attempts"),
    (r#"{"prompt":"p","concurrency_limit":2}"#, "concurrency_key"),
    (r#"{"prompt":"p","concurrency_key":""}"#, "concurrency_key"),
    (r#"{"prompt":"p","idempotency_key":""}"#, "idempotency_key"),
    (r#"{"prompt":"p","id":"../etc"}"#, "id"),
    (r#"{"prompt":"p","id":""}"#, "id"),
    (r#"{"prompt":"p","id":"a/b"}"#, "id"),
    (r#"{"prompt":"p","id":7}"#, "id"),
    (r#"{"prompt":"p","env":["A"]}"#, "env"),
    (r#"{"prompt":"p","env":{"A":1}}"#, "env"),
    (r#"{"prompt":"p","labels":"x"}"#, "labels"),
    (r#"{"command":"ls"}"#, "command"),
    (r#"{"command":[]}"#, "command"),
    (r#"{"command":[1]}"#, "command"),
    (r#"{"prompt":"p","publish":"everywhere"}"#, "publish"),
];

pub async fn what_is_no_job_is_shown_with_the_reason(bench: &Bench) {
    let worker = bench.worker().await;
    for (ticket, _) in WRONG {
        push(bench, ticket);
    }
    push_id(bench, "good");
    bench.until("the good one runs", async || ids(&worker.claim(9).await) == ["good"]).await;
    let shown = bad(bench).await;
    assert_eq!(shown.len(), WRONG.len());
    for ((ticket, names), shown) in WRONG.iter().zip(&shown) {
        assert_eq!(String::from_utf8_lossy(&shown.bytes), *ticket);
        assert!(shown.reason.contains(names), "{ticket}: {} (no {names:?})", shown.reason);
        assert!(shown.at_ms > 0);
    }
    let stats = bench.stats().await;
    assert_eq!((stats.bad, stats.pending), (WRONG.len() as u64, 0));
    assert_eq!(stats.totals["bad"], WRONG.len() as u64);
}

/// What only the worker's own parser refuses must not get lost or stuck either: it may be handed
/// to a worker, which ends it as rejected.
pub async fn what_two_parsers_see_differently_is_not_lost(bench: &Bench) {
    let worker = bench.worker().await;
    let odd = [
        r#"{"prompt":"p","priority":1.0}"#,
        r#"{"prompt":"p","priority":0x5}"#,
        r#"{"prompt":"p","priority":nan}"#,
        r#"{"prompt":"p","task":"q"}"#,
        r#"{"prompt":"p","prompt":"q"}"#,
        r#"{"command":{}}"#,
        r#"{"prompt":"p","env":{"A-B":"x"}}"#,
        r#"{"prompt":"p","env":[]}"#,
        "{\"prompt\":\"p\u{1}\"}",
        r#"{"prompt":"\ud800"}"#,
    ];
    for ticket in odd {
        push(bench, ticket);
    }
    let mut claimed = 0;
    bench
        .until("all are opened", async || {
            claimed += worker.claim(9).await.len();
            bench.stats().await.pending == 0
        })
        .await;
    assert_eq!(claimed + bad(bench).await.len(), odd.len());
    for job in bench.store.list(&sortie::store::Query::default()).await.unwrap() {
        assert_eq!(job.state, State::Running, "{job:?}");
    }
}

pub async fn bytes_that_are_no_text_are_kept(bench: &Bench) {
    let worker = bench.worker().await;
    let bytes = b"{\"prompt\":\xff\xfe\x00\n}";
    let mut connection =
        redis::Client::open(bench.redis().url()).unwrap().get_connection().unwrap();
    redis::cmd("RPUSH").arg(QUEUE).arg(bytes).query::<u64>(&mut connection).unwrap();
    worker.none().await;
    assert_eq!(bad(bench).await[0].bytes, bytes);
}

pub async fn a_push_that_is_too_large_is_refused(bench: &Bench) {
    let worker = bench.worker().await;
    let prompt = "p".repeat(SPEC_MAX_BYTES);
    push(bench, &json!({ "prompt": prompt }).to_string());
    worker.none().await;
    let shown = bad(bench).await;
    assert!(shown[0].reason.contains("large"), "{}", shown[0].reason);
    assert!(shown[0].bytes.len() > SPEC_MAX_BYTES);
}

pub async fn many_bad_pushes_do_not_block_the_queue(bench: &Bench) {
    let worker = bench.worker().await;
    for _ in 0..300 {
        push(bench, "{]");
    }
    push_id(bench, "good");
    bench.until("the good one runs", async || ids(&worker.claim(1).await) == ["good"]).await;
    assert_eq!(bench.stats().await.totals["bad"], 300);
}

pub async fn a_bad_push_can_be_queued_again_or_dropped(bench: &Bench) {
    let worker = bench.worker().await;
    for ticket in ["{a", "{b", "{c", "{d"] {
        push(bench, ticket);
    }
    worker.none().await;
    let shown = bad(bench).await;
    let names = |tickets: &[BadTicket]| {
        tickets
            .iter()
            .map(|ticket| String::from_utf8_lossy(&ticket.bytes).into_owned())
            .collect::<Vec<_>>()
    };
    let dropped = bench.store.bad(&BadAction::Drop(vec![shown[1].id.clone()])).await.unwrap();
    assert_eq!(names(&dropped), ["{b"]);
    let requeued = bench.store.bad(&BadAction::Requeue(vec![shown[2].id.clone()])).await.unwrap();
    assert_eq!(names(&requeued), ["{c"]);
    assert_eq!(names(&bad(bench).await), ["{a", "{d"]);
    assert_eq!(bench.redis().ask::<Vec<String>>(&["LRANGE", QUEUE, "0", "-1"]), ["{c"]);
    worker.none().await;
    assert_eq!(names(&bad(bench).await), ["{a", "{d", "{c"], "it is still no job");
    let unknown = BadAction::Drop(vec!["4711".into()]);
    assert_eq!(bench.store.bad(&unknown).await.unwrap(), []);
    assert_eq!(bench.store.bad(&BadAction::Requeue(Vec::new())).await.unwrap().len(), 3);
    assert_eq!((bad(bench).await.len(), bench.stats().await.pending), (0, 3));
    worker.none().await;
    assert_eq!(bench.store.bad(&BadAction::Drop(Vec::new())).await.unwrap().len(), 3);
    assert_eq!((bad(bench).await.len(), bench.stats().await.bad), (0, 0));
}

pub async fn a_pushed_job_can_be_canceled_before_it_is_opened(bench: &Bench) {
    let worker = bench.worker().await;
    push_id(bench, "a");
    push_id(bench, "b");
    push_id(bench, "b");
    assert_eq!(bench.cancel(&id("b")).await, State::Canceled);
    assert_eq!(ids(&worker.claim(9).await), ["a"]);
    assert_eq!(bench.state(&id("b")).await, State::Canceled);
    assert_eq!(bench.stats().await.pending, 0);
    let error =
        bench.store.change(&id("p"), &sortie::store::Change::Cancel { by: "x".into() }).await;
    assert_eq!(error.unwrap_err().kind(), Kind::NotFound, "a word of a ticket is not its id");
}

pub async fn a_push_wakes_a_worker(bench: &Bench) {
    let store = std::sync::Arc::clone(&bench.store);
    let limit = std::time::Duration::from_secs(30);
    let waiting = tokio::spawn(async move { store.wake(&sortie::store::Wake::Work, limit).await });
    push_id(bench, "a");
    tokio::time::timeout(limit / 3, waiting).await.expect("woken").unwrap().unwrap();
    assert_eq!(bench.worker().await.one().await.token.id.as_str(), "a");
}

/// Random damage to good jobs: whatever it is, it is claimed or set aside, and the next one runs.
pub async fn no_push_blocks_the_queue(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["first"]).await;
    let good = [
        r#"{"id":"a","prompt":"p","env":{"A":"1"},"command":["x","y"],"priority":-3,"delay_ms":0}"#,
        r#"{"task":"\u00e9 \\","labels":{"a":"b"},"concurrency_key":"k","concurrency_limit":3}"#,
        r#"{"prompt":"p","publish":"branch","timeout_s":5,"max_attempts":1,"repo":null}"#,
    ];
    let spice: &[u8] = b"{}[]\",:\\ \n\0\xff-+.eE019ntfxu_\x7f\xc3\xa9";
    let mut random = fastrand::Rng::with_seed(7);
    let mut connection =
        redis::Client::open(bench.redis().url()).unwrap().get_connection().unwrap();
    for round in 0..40 {
        let mut last = Vec::new();
        for _ in 0..20 {
            last = random.choice(good).unwrap().as_bytes().to_vec();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..last.len());
                match random.u8(..3) {
                    0 => last[at] = *random.choice(spice).unwrap(),
                    1 => last.insert(at, *random.choice(spice).unwrap()),
                    _ => drop(last.drain(at..(at + random.usize(1..9)).min(last.len()))),
                }
                last.push(b' ');
            }
            redis::cmd("RPUSH").arg(QUEUE).arg(&last).query::<u64>(&mut connection).unwrap();
        }
        for _ in 0..20 {
            let claimed = worker.claim(20).await;
            let finished = claimed.iter().map(|one| crate::bench::finish(one, SUCCEEDED)).collect();
            worker.send(&worker.call(0, finished)).await;
        }
        let rest = bench.stats().await.pending;
        let last = String::from_utf8_lossy(&last);
        assert_eq!(rest, 0, "round {round}; the last push was {last:?}");
    }
    let totals = bench.stats().await.totals;
    let all = totals["bad"] + totals["adopted"] + totals["duplicate"];
    assert_eq!(all, 800, "each push is one of these: {totals:?}");
}
